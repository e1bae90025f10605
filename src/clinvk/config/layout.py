"""Where in the text of a settings file everything stands: YAML's events as a tree of places.

PyYAML's own nodes do not tell an alias from what it stands for, and their ends lie behind the comments that follow.
Format: https://yaml.org/spec/1.1/ as PyYAML reads it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import yaml

from clinvk.errors import ConfigError


class Scalar(NamedTuple):
    """A plain, quoted or block text; its anchor and tag belong to it. `start` is `end` where there is none."""

    start: int
    end: int
    value: str
    style: str


class Alias(NamedTuple):
    """`*name`."""

    start: int
    end: int


class Sequence(NamedTuple):
    """A list, in brackets (flow) or with dashes."""

    start: int
    end: int
    is_flow: bool
    items: "tuple[Node, ...]"


class Mapping(NamedTuple):
    """A section, in braces (flow) or by indentation."""

    start: int
    end: int
    is_flow: bool
    entries: "tuple[Entry, ...]"


class Entry(NamedTuple):
    """A key with its value."""

    key: "Node"
    value: "Node"

    @property
    def name(self) -> str | None:
        """The key, where it is a word."""
        return self.key.value if isinstance(self.key, Scalar) else None


Node = Scalar | Alias | Sequence | Mapping


def layout(text: str) -> Node | None:
    """Give the tree of a text; None where it has no content.

    Raises:
        ConfigError: the text is no YAML, or several documents.
    """
    try:
        # Not libyaml's parser, if only for its marks: they are to be positions in this text.
        events: list[yaml.Event] = list(yaml.parse(text, yaml.SafeLoader))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # the stubs say nothing
    except yaml.YAMLError as exc:
        raise ConfigError(f"is not valid YAML: {' '.join(str(exc).split())}") from exc
    if sum(isinstance(event, yaml.DocumentStartEvent) for event in events) > 1:
        raise ConfigError("has several documents; clinvk reads one")
    content = (event for event in events if not isinstance(event, _AROUND))
    first = next(content, None)
    return _node(text, first, content) if first else None


_AROUND = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)


def _node(text: str, event: yaml.Event, rest: Iterator[yaml.Event]) -> Node:
    start, end = int(event.start_mark.index), int(event.end_mark.index)
    match event:
        case yaml.ScalarEvent():
            style = str(event.style or "")
            if style in ("|", ">"):  # its end lies behind the empty lines that follow
                end = start + len(text[start:end].rstrip())
            return Scalar(start, end, str(event.value), style)
        case yaml.AliasEvent():
            return Alias(start, end)
        case yaml.SequenceStartEvent():
            items, closed_at = _content(text, rest)
            is_flow = bool(event.flow_style)
            return Sequence(start, closed_at if is_flow or not items else items[-1].end, is_flow, items)
        case yaml.MappingStartEvent():
            parts, closed_at = _content(text, rest)
            entries = tuple(Entry(*pair) for pair in zip(parts[::2], parts[1::2], strict=True))
            is_flow = bool(event.flow_style)
            return Mapping(start, closed_at if is_flow or not parts else parts[-1].end, is_flow, entries)
        case _:
            raise AssertionError(f"no content: {event!r}")


def _content(text: str, rest: Iterator[yaml.Event]) -> tuple[tuple[Node, ...], int]:
    found: list[Node] = []
    for event in rest:
        if isinstance(event, yaml.CollectionEndEvent):
            return tuple(found), int(event.end_mark.index)
        found.append(_node(text, event, rest))
    raise AssertionError("a collection without an end")
