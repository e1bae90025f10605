"""Change one setting in the text of a settings file; refuse a change that would affect other settings.

PyYAML marks where each key and value begins and ends. Only the marked text is replaced, so the rest of the file stays
as it is. Pure: text in, text out.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import yaml

from clinvk.config import setting_values as schema
from clinvk.config.load import nested, settings_of
from clinvk.config.model import Settings
from clinvk.config.setting_values import OnInvalid, SourcedValue, Value, checked_values, converted, ignore_invalid
from clinvk.config.yaml_file import document, parse, written
from clinvk.types.errors import ConfigError

_PLACE = "config set"

Values = dict[tuple[str, ...], object]


class SettingChange(NamedTuple):
    """A setting and a new value.

    Attributes:
        keys: from the top down.
        value: as written into the file; None is `null`.
        effective: the value that the settings then have, paths expanded; None is the default.
    """

    keys: tuple[str, ...]
    value: Value
    effective: object


def setting_change(dotted: str, text: str, backends: Collection[str], environ: Mapping[str, str]) -> SettingChange:
    """Parse a key and a value of the command line.

    Raises:
        ConfigError: the key is unknown, or the value is invalid.
    """
    keys = schema.split(dotted)
    entry = SourcedValue(keys, text, _PLACE, text, is_text=True)
    kind = schema.kind_of(entry, backends)
    if schema.is_section(kind):
        raise ConfigError(f"{dotted} is a section; name a key in it, such as {dotted}.{_example(kind, backends)}")
    if text == "null" and not schema.is_agent_variable(keys):
        return SettingChange(keys, None, None)
    effective = dict(checked_values(entry, backends, environ))[keys]
    value = converted(entry, kind)
    if value is None:
        return SettingChange(keys, "all" if schema.is_list(kind) else "", None)
    return SettingChange(keys, msgspec.convert(value, Value), effective)


def _example(section: object, backends: Collection[str]) -> str:
    name = next(iter(schema.members(section, backends)), "NAME")
    return f"{name}.model" if name in backends else name


class SettingsText(NamedTuple):
    """The text of a settings file, which may have mistakes.

    Attributes:
        text: the content.
        path: the file, for messages.
        backends: the names of all backends.
        environ: the environment, for `~` in paths.
    """

    text: str
    path: Path
    backends: Collection[str]
    environ: Mapping[str, str]

    def settings(self) -> Settings:
        """Return the valid settings of the text."""
        return settings_of(self._values(ignore_invalid))

    def with_setting(self, change: SettingChange, on_remaining: OnInvalid = ignore_invalid) -> str:
        """Return the text with a changed setting; pass each mistake that remains to `on_remaining`.

        Raises:
            ConfigError: the change corrects none of the mistakes in the file, or would change other settings too.
        """
        before = self._values(ignore_invalid)
        expected = {**before, change.keys: change.effective}
        is_set = _without_defaults(before) == _without_defaults(expected)
        edit = (lambda: self.text) if is_set else (lambda: with_value(self.text, change.keys, change.value))
        return self._edited(change.keys, expected, edit, on_remaining)

    def without_setting(self, dotted: str, on_remaining: OnInvalid = ignore_invalid) -> str:
        """Return the text without a key or section, which may be unknown; the same text if the key is not set.

        Raises:
            ConfigError: the key is unknown and not set; or as for `with_setting`.
        """
        keys = schema.split(dotted)
        expected = {name: value for name, value in self._values(ignore_invalid).items() if name[: len(keys)] != keys}
        without = self._edited(keys, expected, lambda: without_value(self.text, keys), on_remaining)
        if without == self.text:
            schema.kind_of(SourcedValue(keys, None, "config unset", ""), self.backends)
        return without

    def _values(self, reject: OnInvalid) -> Values:
        found: Values = {}
        for entry in parse(self.text, self.path, reject):
            try:
                found |= checked_values(entry, self.backends, self.environ)
            except ConfigError as exc:
                reject(exc)
        return found

    def _edited(self, keys: tuple[str, ...], expected: Values, edit: Callable[[], str], on_remaining: OnInvalid) -> str:
        """Return the edited text; check that the text has the expected values, and no new mistakes."""
        mistakes: list[ConfigError] = []
        try:
            after = edit()
            values = self._replace(text=after)._values(mistakes.append)
        except ConfigError as exc:
            raise self._refusal(keys, exc.message) from exc
        except (yaml.YAMLError, RecursionError) as exc:
            raise self._refusal(keys, f"its layout does not allow it ({' '.join(str(exc).split())})") from exc
        before: list[ConfigError] = []
        self._values(before.append)
        if mistakes and len(mistakes) >= len(before):
            raise before[0] if before else self._refusal(keys, mistakes[0].message)
        if _without_defaults(values) != _without_defaults(expected):
            raise self._refusal(keys, "other settings would change with it, by an anchor or otherwise")
        for mistake in mistakes:
            on_remaining(mistake)
        return after

    def _refusal(self, keys: tuple[str, ...], why: str) -> ConfigError:
        return ConfigError(f"{self.path}: {'.'.join(keys)} cannot be changed there: {why}; edit the file instead")


def _without_defaults(values: Values) -> Values:
    return {keys: value for keys, value in values.items() if value is not None}


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
