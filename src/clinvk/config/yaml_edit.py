"""Change one value in the text of a settings file. Pure: text in, text out.

PyYAML marks where each key and value begins and ends. Only the marked text is replaced, so the rest of the file stays
as it is. The caller checks that the edited text has the wanted values.
"""

import re
from collections import Counter
from typing import NamedTuple

import yaml

from clinvk.config.load import nested
from clinvk.config.setting_values import Value
from clinvk.config.yaml_file import document, written
from clinvk.types.errors import ConfigError

_STEP = 2


class _Entry(NamedTuple):
    """A key with its value, and the section around them."""

    section: yaml.MappingNode
    key: yaml.Node
    value: yaml.Node


def with_value(text: str, keys: tuple[str, ...], value: Value) -> str:
    """Return the text with another value for a key; add the key and its sections where they are missing.

    Raises:
        ConfigError: the layout of the file does not allow the change.
    """
    root = yaml.SafeLoader(text).get_single_node()
    path = _path(root, keys)
    missing = keys[len(path) :]
    section = path[-1].value if path else root
    if not missing:
        edited = _replaced(text, path[-1], written(value, in_flow=bool(path[-1].section.flow_style)))
    elif isinstance(section, yaml.MappingNode) and section.value:
        edited = _with_entry(text, section, missing, value, is_root=not path)
    elif not path:
        edited = _with_lines(text, len(text), missing, value)
    elif path[-1].section.flow_style:
        edited = _replaced(text, path[-1], written(nested({missing: value})))
    else:
        above = path[-1].key
        edited = _replaced(text, path[-1], "")
        edited = _with_lines(edited, above.end_mark.index, missing, value, above.start_mark.column + _STEP)
    _check_comments(text, edited)
    return edited


def without_value(text: str, keys: tuple[str, ...]) -> str:
    """Return the text without a key, its comment, and sections that are then empty; the same text if it is not set.

    Raises:
        ConfigError: the layout of the file does not allow the change.
    """
    path = _path(yaml.SafeLoader(text).get_single_node(), keys)
    if len(path) < len(keys):
        return text
    entry = path.pop()
    while path and len(entry.section.value) == 1:
        entry = path.pop()
    if not entry.section.flow_style:
        return text[: text.rfind("\n", 0, entry.key.start_mark.index) + 1] + text[_next_line(text, _end(text, entry)) :]
    entries = [_Entry(entry.section, *pair) for pair in entry.section.value]
    position = entries.index(entry)
    start, end = entry.key.start_mark.index, entry.value.end_mark.index
    if position + 1 < len(entries):
        end = entries[position + 1].key.start_mark.index
    elif position:
        start = entries[position - 1].value.end_mark.index
    edited = text[:start] + text[end:]
    _check_comments(text, edited)
    return edited


def _path(root: yaml.Node | None, keys: tuple[str, ...]) -> list[_Entry]:
    """Return the entries along the keys, from the top down, as far as they exist."""
    path: list[_Entry] = []
    section = root
    for name in keys:
        if not isinstance(section, yaml.MappingNode):
            break
        found = next((_Entry(section, key, value) for key, value in section.value if key.value == name), None)
        if not found:
            break
        path.append(found)
        section = found.value
    return path


def _replaced(text: str, entry: _Entry, new: str) -> str:
    """Return the text with another value for an entry. A comment behind the key or the value stays."""
    if isinstance(entry.value, yaml.CollectionNode) and not entry.value.flow_style:
        start = text.index(":", entry.key.end_mark.index) + 1
        behind = text[start : _next_line(text, start)].rstrip()
        return f"{text[:start]} {new}{behind}{text[_end(text, entry) :]}"
    start = entry.value.start_mark.index
    before = text[:start] if new else text[:start].rstrip()
    return f"{before}{'' if before[-1:].isspace() or not new else ' '}{new}{text[_end(text, entry) :]}"


def _with_entry(text: str, section: yaml.MappingNode, keys: tuple[str, ...], value: Value, is_root: bool) -> str:
    """Return the text with another entry at the end of a section that has entries."""
    first, last = section.value[0][0], _Entry(section, *section.value[-1])
    if not section.flow_style:
        return _with_lines(text, len(text) if is_root else _end(text, last), keys, value, first.start_mark.column)
    end = _end(text, last)
    return f"{text[:end]}, {written(nested({keys: value}))[1:-1]}{text[end:]}"


def _with_lines(text: str, index: int, keys: tuple[str, ...], value: Value, column: int = 0) -> str:
    """Return the text with a setting in lines of its own, below the line of an index."""
    newline = "\r\n" if "\r\n" in text else "\n"
    at = _next_line(text, index)
    before = text[:at] + (newline if at and text[at - 1] != "\n" else "")
    lines = (f"{' ' * column}{line}{newline}" for line, _ in document({keys: value}))
    return "".join([before, *lines, text[at:]])


def _next_line(text: str, index: int) -> int:
    return text.find("\n", index) + 1 or len(text)


def _end(text: str, entry: _Entry) -> int:
    """Return the index behind an entry, without the comments and blank lines that follow."""
    node = entry.value
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return _end(text, _Entry(node, *node.value[-1]))
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        node = node.value[-1]
    start = node.start_mark.index
    return max(entry.key.end_mark.index, start + len(text[start : node.end_mark.index].rstrip()))


def _check_comments(before: str, after: str) -> None:
    """Raise ConfigError if a comment is lost."""
    if _comments(before) - _comments(after):
        raise ConfigError("a comment would be lost")


def _comments(text: str) -> Counter[str]:
    """Return the comments; a `#` in a text is none."""
    outside: list[str] = []
    position = 0
    for token in yaml.scan(text, yaml.SafeLoader):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # the stubs say nothing
        if isinstance(token, yaml.ScalarToken):
            start = token.start_mark.index
            is_block = token.style in ("|", ">")  # a comment may stand behind the indicator
            outside.append(text[position : _next_line(text, start) if is_block else start])
            position = token.end_mark.index
    return Counter(re.findall(r"#[^\r\n]*", "\n".join([*outside, text[position:]])))
