"""Change one setting in the text of a settings file; refuse a change that would affect other settings."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import yaml

from clinvk.config import setting_values as schema
from clinvk.config.load import settings_of
from clinvk.config.model import Settings
from clinvk.config.setting_values import OnInvalid, SourcedValue, Value, checked_values, converted
from clinvk.config.yaml_edit import with_value, without_value
from clinvk.config.yaml_file import parse
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


def _ignore(error: ConfigError) -> None:
    """Ignore a mistake: the change may correct it."""


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
        return settings_of(self._values(_ignore))

    def with_setting(self, change: SettingChange, on_remaining: OnInvalid = _ignore) -> str:
        """Return the text with a changed setting; pass each mistake that remains to `on_remaining`.

        Raises:
            ConfigError: the change corrects none of the mistakes in the file, or would change other settings too.
        """
        before = self._values(_ignore)
        expected = {**before, change.keys: change.effective}
        is_set = _without_defaults(before) == _without_defaults(expected)
        edit = (lambda: self.text) if is_set else (lambda: with_value(self.text, change.keys, change.value))
        return self._edited(change.keys, expected, edit, on_remaining)

    def without_setting(self, dotted: str, on_remaining: OnInvalid = _ignore) -> str:
        """Return the text without a key or section, which may be unknown; the same text if the key is not set.

        Raises:
            ConfigError: the key is unknown and not set; or as for `with_setting`.
        """
        keys = schema.split(dotted)
        expected = {name: value for name, value in self._values(_ignore).items() if name[: len(keys)] != keys}
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
