"""YAML files as JSON, and the position of each value in a YAML or JSON text.

Format: https://yaml.org/spec/1.1/ as PyYAML reads it.
"""

import re
from collections.abc import Callable, Sequence

import msgspec
import yaml

from clinvk.cli.orchestrate.task_files import TextPosition

# PyYAML is built without libyaml on some machines.
_LOADER: type[yaml.CSafeLoader | yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_JSON_ONLY = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}|[\t\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON allows and YAML does not: surrogates as escapes, tabs between values, and some characters."""


class NotYaml(Exception):
    """The text is no valid YAML, or has a value without a JSON equivalent."""

    def __init__(self, message: str, place: TextPosition) -> None:
        super().__init__(message)
        self.place = place


def load(text: str) -> tuple[bytes, Callable[[Sequence[str]], TextPosition]]:
    """Return the JSON of a YAML text, and a function that returns the position of a path.

    Raises:
        NotYaml: the text has no JSON equivalent.
    """
    loader = _LOADER(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise NotYaml("has no content", TextPosition(1, 1))
        _refuse_duplicates(root, set())
        value: object = loader.construct_document(root)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # the stubs say nothing
        body = msgspec.json.encode(value)
    except yaml.MarkedYAMLError as exc:
        raise NotYaml(f"is not valid YAML: {exc.problem or exc.context}", _at(exc.problem_mark)) from exc
    except yaml.YAMLError as exc:
        raise NotYaml(f"is not valid YAML: {' '.join(str(exc).split())}", TextPosition(1, 1)) from exc
    except RecursionError:
        raise NotYaml("is nested too deeply, or in itself", TextPosition(1, 1)) from None
    except (TypeError, ValueError) as exc:
        raise NotYaml(f"has a value that JSON has not: {exc}", TextPosition(1, 1)) from exc
    return body, lambda path: _find(root, path)


def json_position(text: str, path: Sequence[str]) -> TextPosition:
    """Return the position of a key or item in valid JSON; the beginning if the text is no YAML."""
    root = _json_root(text)
    return _find(root, path) if root else TextPosition(1, 1)


def json_duplicate(text: str) -> NotYaml:
    """Return the error of the first duplicate key, in valid JSON with a duplicate key."""
    try:
        if root := _json_root(text):
            _refuse_duplicates(root, set())
    except NotYaml as exc:
        return exc
    return NotYaml("a key is duplicated", TextPosition(1, 1))


def _json_root(text: str) -> yaml.Node | None:
    try:
        return _LOADER(_JSON_ONLY.sub(lambda found: " " * len(found[0]), text)).get_single_node()
    except (yaml.YAMLError, RecursionError):
        return None


def _refuse_duplicates(node: yaml.Node, seen: set[int]) -> None:
    """Refuse duplicate keys, e.g. after a forgotten dash: a task would be lost silently."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(item, seen)
    elif isinstance(node, yaml.MappingNode):
        known: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and str(key.value) in known and not key.tag.endswith(":merge"):
                raise NotYaml(f"{key.value!r} is duplicated", _at(key.start_mark))
            known.add(str(key.value))
            _refuse_duplicates(value, seen)


def _find(node: yaml.Node, path: Sequence[str]) -> TextPosition:
    """Return the position of a key or item; if it is missing, of the innermost enclosing value."""
    place = _at(node.start_mark)
    for part in path:
        inside = _inside(node, part)
        if inside is None:
            break
        at, node = inside
        place = _at(at.start_mark)
    return place


def _inside(node: yaml.Node, part: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the node where a child begins, and the node of its value."""
    match node:
        case yaml.MappingNode():
            return next(((key, value) for key, value in reversed(node.value) if str(key.value) == part), None)
        case yaml.SequenceNode() if part.isdigit() and int(part) < len(node.value):
            item: yaml.Node = node.value[int(part)]
            return item, item
        case _:
            return None


def _at(mark: yaml.Mark | None) -> TextPosition:
    return TextPosition(int(mark.line) + 1, int(mark.column) + 1) if mark else TextPosition(1, 1)
