"""Change the text of a settings file and leave every other character of it alone. Pure: text in, text out.

The layout has the place of every node in the text: PyYAML's own nodes do not distinguish an alias from what it stands
for, and their ends lie behind the comments that follow. Format: https://yaml.org/spec/1.1/ as PyYAML reads it.

What cannot be changed is reported; the caller checks whether the result says what it should.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

import yaml

from clinvk.config.yaml_text import Value, nested, nested_flow, written
from clinvk.types.errors import ConfigError


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


class YamlSequence(NamedTuple):
    """A list, in brackets (flow) or with dashes."""

    start: int
    end: int
    is_flow: bool
    items: "tuple[Node, ...]"


class YamlMapping(NamedTuple):
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


Node = Scalar | Alias | YamlSequence | YamlMapping


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
            return YamlSequence(start, closed_at if is_flow or not items else items[-1].end, is_flow, items)
        case yaml.MappingStartEvent():
            parts, closed_at = _content(text, rest)
            entries = tuple(Entry(*pair) for pair in zip(parts[::2], parts[1::2], strict=True))
            is_flow = bool(event.flow_style)
            return YamlMapping(start, closed_at if is_flow or not parts else parts[-1].end, is_flow, entries)
        case _:
            raise AssertionError(f"no content: {event!r}")


def _content(text: str, rest: Iterator[yaml.Event]) -> tuple[tuple[Node, ...], int]:
    found: list[Node] = []
    for event in rest:
        if isinstance(event, yaml.CollectionEndEvent):
            return tuple(found), int(event.end_mark.index)
        found.append(_node(text, event, rest))
    raise AssertionError("a collection without an end")


Order = Callable[[tuple[str, ...]], Sequence[str]]
"""Gives the names that may stand in a section, in the order in which they should."""

_COMMENT = re.compile(r"(?<=\s)#[^\r\n]*")
_LINE_END = re.compile(r"\s*,?\s*(#.*)?")
_NULLS = ("", "~", "null", "Null", "NULL")


class _Change(NamedTuple):
    start: int
    end: int
    text: str


def put(text: str, keys: tuple[str, ...], value: Value, order: Order, blocks: bool = True) -> str:
    """Give the text with another value for a key, which is added where it is missing.

    With `blocks` a text of several lines is written as such; a comment that follows it, indented as deep, would then
    be part of it.

    Raises:
        ConfigError: it cannot be done so; says why.
    """
    return _Editor(text, blocks).put(keys, value, order)


def remove(text: str, keys: tuple[str, ...]) -> str:
    """Give the text without a key, which may be a section; the same text where it has none.

    Raises:
        ConfigError: it cannot be done so; says why.
    """
    return _Editor(text, blocks=False).remove(keys)


class _Editor:
    """One text and its layout. Positions are those of the text; changes are made from the last to the first."""

    def __init__(self, text: str, blocks: bool) -> None:
        self._text = text
        self._blocks = blocks
        self._root = layout(text)
        self._newline = "\r\n" if "\r\n" in text else "\n"
        self._step = self._usual_step()

    def put(self, keys: tuple[str, ...], value: Value, order: Order) -> str:
        node = self._root
        if node is None or _is_empty(node):
            return self._appended(self._nested(keys, value, 0))
        above: Entry | None = None
        for depth, key in enumerate(keys):
            if above and _is_null(node):
                return self._done(self._opened(above, keys[depth:], value, self._is_in_flow(keys[:depth])))
            section = self._section(node, keys[:depth])
            above = next((entry for entry in section.entries if entry.name == key), None)
            if above is None:
                return self._done([self._inserted(section, keys[depth:], value, order(keys[:depth]))])
            node = above.value
        assert above is not None
        return self._done(self._replaced(above, value, self._is_in_flow(keys[:-1])))

    def remove(self, keys: tuple[str, ...]) -> str:
        node = self._root
        if node is None or _is_null(node):
            return self._text
        for depth, key in enumerate(keys):
            if _is_null(node):
                return self._text
            section = self._section(node, keys[:depth])
            number = next((number for number, entry in enumerate(section.entries) if entry.name == key), None)
            if number is None:
                return self._text
            if depth == len(keys) - 1:
                return self._done([self._removed(section, number)])
            node = section.entries[number].value
        return self._text

    def _section(self, node: Node, keys: tuple[str, ...]) -> YamlMapping:
        if isinstance(node, YamlMapping):
            return node
        what = f"{'.'.join(keys)} is" if keys else "the file is"
        raise ConfigError(f"{what} {'an alias of another section' if isinstance(node, Alias) else 'no section'}")

    def _is_in_flow(self, keys: tuple[str, ...]) -> bool:
        """Say whether what stands in the section of these keys stands in braces."""
        node = self._root
        for key in (*keys, None):
            if not isinstance(node, YamlMapping):
                return False
            if node.is_flow:
                return True
            node = next((entry.value for entry in node.entries if entry.name == key), None)
        return False

    def _appended(self, lines: str) -> str:
        gap = "" if not self._text or self._text.endswith("\n") else self._newline
        return f"{self._text}{gap}{self._broken(lines)}{self._newline}"

    def _inserted(self, section: YamlMapping, keys: tuple[str, ...], value: Value, order: Sequence[str]) -> _Change:
        if section.is_flow:
            at = section.entries[-1].value.end if section.entries else section.start + 1
            gap = ", " if section.entries else ""
            return _Change(at, at, gap + nested_flow(keys, value))
        at = self._end_of_line(_before(section, keys[0], order).value.end)
        return _Change(at, at, self._nested(keys, value, self._column(section.start), "\n"))

    def _nested(self, keys: tuple[str, ...], value: Value, column: int, before: str = "") -> str:
        return before + nested(keys, value, column, self._step, self._blocks)

    def _opened(self, above: Entry, keys: tuple[str, ...], value: Value, in_flow: bool) -> list[_Change]:
        """Fill a section that has no value."""
        start, end = above.value.start, above.value.end
        if in_flow:
            return [_Change(start, end, f"{'' if start < end else ' '}{{{nested_flow(keys, value)}}}")]
        column = self._column(above.key.start) + self._step
        at = self._end_of_line(end)
        start -= len(self._text[:start]) - len(self._text[:start].rstrip(" "))
        return [_Change(start, end, ""), _Change(at, at, self._nested(keys, value, column, "\n"))]

    def _replaced(self, entry: Entry, value: Value, in_flow: bool) -> list[_Change]:
        old = entry.value
        if isinstance(old, YamlSequence) and not old.is_flow:
            return list(self._replaced_items(entry, old, value))
        if isinstance(old, YamlMapping) and not old.is_flow:
            raise ConfigError("it is a section there")
        indent = self._column(entry.key.start) + self._step
        style = old.style if isinstance(old, Scalar) else ""
        new = written(value, style, in_flow, indent if self._blocks else None)
        gap = " " if old.start == old.end else ""
        return [_Change(old.start, old.end, gap + self._with_comments(old, new, indent))]

    def _with_comments(self, old: Node, new: str, indent: int) -> str:
        """Give the new text with the comments inside the old one: behind `|`, or between the items of a list."""
        match old:
            case Scalar(style="|" | ">"):
                header = self._text[old.start : old.end].splitlines()[0]
                first, newline, rest = new.partition("\n")
                return "  ".join([first, *_COMMENT.findall(header)]) + newline + rest
            case YamlSequence(items=items):
                bounds = [old.start, *(edge for item in items for edge in (item.start, item.end)), old.end]
                gaps = [self._text[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
                comments = [comment for gap in gaps for comment in _COMMENT.findall(gap)]
                if comments and new.startswith("["):
                    return "[" + "".join(f"  {comment}\n{' ' * indent}" for comment in comments) + new[1:]
                return new
            case _:
                return new

    def _replaced_items(self, entry: Entry, old: YamlSequence, value: Value) -> Iterator[_Change]:
        """Change a list with dashes line by line, so that comments stay where they are."""
        if isinstance(value, tuple) and value:
            yield from self._merged_items(old, value)
            return
        after_colon = self._text.index(":", entry.key.end) + 1
        yield _Change(after_colon, after_colon, f" {written(value)}")
        yield from (self._without_item(item) for item in old.items)

    def _merged_items(self, old: YamlSequence, value: tuple[str, ...]) -> Iterator[_Change]:
        had = [item.value if isinstance(item, Scalar) else None for item in old.items]
        indent = " " * self._column(self._dash(old.items[0]))
        for kind, start, end, wanted, until in SequenceMatcher(None, had, value, autojunk=False).get_opcodes():
            if kind == "equal":
                continue
            both = min(end - start, until - wanted)
            for item, text in zip(old.items[start : start + both], value[wanted : wanted + both], strict=True):
                style = item.style if isinstance(item, Scalar) else ""
                yield _Change(item.start, item.end, written(text, style, in_flow=True))
            yield from (self._without_item(item) for item in old.items[start + both : end])
            lines = [f"{indent}- {written(text, in_flow=True)}" for text in value[wanted + both : until]]
            if lines and start + both:
                at = self._end_of_line(old.items[start + both - 1].end)
                yield _Change(at, at, "".join(f"\n{line}" for line in lines))
            elif lines:
                at = self._start_of_line(old.items[0].start)
                yield _Change(at, at, "".join(f"{line}\n" for line in lines))

    def _without_item(self, item: Node) -> _Change:
        """Take an item out, with its line unless a comment stands there too."""
        rest = self._text[item.end : self._end_of_line(item.end)]
        if "#" in rest:
            return _Change(self._dash(item), item.end + len(rest) - len(rest.lstrip()), "")
        return _Change(self._start_of_line(item.start), self._next_line(item.end), "")

    def _removed(self, section: YamlMapping, number: int) -> _Change:
        entry = section.entries[number]
        if not section.is_flow or self._has_own_lines(entry):
            return _Change(self._start_of_line(entry.key.start), self._next_line(entry.value.end), "")
        start, end = entry.key.start, entry.value.end
        gap = ""
        if number:
            start = section.entries[number - 1].value.end
            gap = self._text[start : entry.key.start]
        elif len(section.entries) > 1:
            end = section.entries[1].key.start
            gap = self._text[entry.value.end : end]
        if "#" in gap:
            raise ConfigError("a comment stands beside it")
        return _Change(start, end, "")

    def _has_own_lines(self, entry: Entry) -> bool:
        """Say whether nothing else stands on the lines of an entry in braces; a comment behind it is its own."""
        before = self._text[self._start_of_line(entry.key.start) : entry.key.start]
        behind = self._text[entry.value.end : self._end_of_line(entry.value.end)]
        return not before.strip() and _LINE_END.fullmatch(behind) is not None

    def _done(self, changes: list[_Change]) -> str:
        text = self._text
        for change in sorted(changes, key=lambda change: (change.start, change.end), reverse=True):
            text = text[: change.start] + self._broken(change.text) + text[change.end :]
        return text

    def _broken(self, text: str) -> str:
        return text.replace("\n", self._newline)

    def _usual_step(self) -> int:
        """Give how many columns a section is indented in this file."""
        if isinstance(self._root, YamlMapping) and not self._root.is_flow:
            for entry in self._root.entries:
                if isinstance(entry.value, YamlMapping) and not entry.value.is_flow:
                    return max(self._column(entry.value.start) - self._column(entry.key.start), 1)
        return 2

    def _dash(self, item: Node) -> int:
        return self._text.rindex("-", 0, item.start or 1)

    def _column(self, at: int) -> int:
        return at - self._start_of_line(at)

    def _start_of_line(self, at: int) -> int:
        return self._text.rfind("\n", 0, at) + 1

    def _end_of_line(self, at: int) -> int:
        end = self._text.find("\n", at)
        end = len(self._text) if end < 0 else end
        return end - (self._text[at:end].endswith("\r"))

    def _next_line(self, at: int) -> int:
        end = self._text.find("\n", at)
        return len(self._text) if end < 0 else end + 1


def _before(section: YamlMapping, key: str, order: Sequence[str]) -> Entry:
    """Give the entry behind which a key belongs: the last of those that come before it, else the last of all."""
    earlier = set(order[: order.index(key)]) if key in order else set[str]()
    return next((entry for entry in reversed(section.entries) if entry.name in earlier), section.entries[-1])


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.style == "" and node.value in _NULLS


def _is_empty(node: Node) -> bool:
    return isinstance(node, Scalar) and node.start == node.end
