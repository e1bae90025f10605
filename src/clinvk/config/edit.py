"""Change one setting in the text of a settings file; refuse a change that would affect other settings."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import yaml

from clinvk.config import setting_values as schema
from clinvk.config.load import settings_of
from clinvk.config.model import Settings
from clinvk.config.setting_values import OnInvalid, SourcedValue, Value, checked, converted
from clinvk.config.yaml_edit import with_value, without_value
from clinvk.config.yaml_file import parse
from clinvk.types.errors import ConfigError

_PLACE = "config set"

Found = dict[tuple[str, ...], object]


class SettingChange(NamedTuple):
    """A setting and a new value.

    Attributes:
        keys: from the top down.
        value: as written into the file; None is `null`.
        means: the value that the settings then have, paths expanded; None is the default.
    """

    keys: tuple[str, ...]
    value: Value
    means: object


def setting_change(dotted: str, text: str, backends: Collection[str], environ: Mapping[str, str]) -> SettingChange:
    """Parse a key and a value of the command line.

    Raises:
        ConfigError: the key is unknown, or the value is invalid.
    """
    keys = schema.split(dotted)
    given = SourcedValue(keys, text, _PLACE, text, is_text=True)
    kind = schema.kind_of(given, backends)
    if schema.is_section(kind):
        raise ConfigError(f"{dotted} is a section; name a key in it, such as {dotted}.{_example(kind, backends)}")
    if text == "null" and not schema.is_variable(keys):
        return SettingChange(keys, None, None)
    means = dict(checked(given, backends, environ))[keys]
    value = converted(given, kind)
    if value is None:
        return SettingChange(keys, "all" if schema.is_list(kind) else "", None)
    return SettingChange(keys, msgspec.convert(value, Value), means)


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

    def with_setting(self, change: SettingChange, left: OnInvalid = _ignore) -> str:
        """Return the text with a changed setting; pass each mistake that remains to `left`.

        Raises:
            ConfigError: the change corrects none of the mistakes in the file, or would change other settings too.
        """
        before = self._values(_ignore)
        wanted = {**before, change.keys: change.means}
        if _set_in(before) == _set_in(wanted):
            return self._edited(change.keys, wanted, lambda: self.text, left)
        return self._edited(change.keys, wanted, lambda: with_value(self.text, change.keys, change.value), left)

    def without_setting(self, dotted: str, left: OnInvalid = _ignore) -> str:
        """Return the text without a key or section, which may be unknown; the same text if the key is not set.

        Raises:
            ConfigError: the key is unknown and not set; or as for `with_setting`.
        """
        keys = schema.split(dotted)
        wanted = {name: value for name, value in self._values(_ignore).items() if name[: len(keys)] != keys}
        without = self._edited(keys, wanted, lambda: without_value(self.text, keys), left)
        if without == self.text:
            schema.kind_of(SourcedValue(keys, None, "config unset", ""), self.backends)
        return without

    def _values(self, reject: OnInvalid) -> Found:
        found: Found = {}
        for given in parse(self.text, self.path, reject):
            try:
                found |= checked(given, self.backends, self.environ)
            except ConfigError as exc:
                reject(exc)
        return found

    def _edited(self, keys: tuple[str, ...], wanted: Found, edit: Callable[[], str], left: OnInvalid) -> str:
        """Return the edited text; check that the text has the wanted values, and no new mistakes."""
        mistakes: list[ConfigError] = []
        try:
            after = edit()
            values = self._replace(text=after)._values(mistakes.append)
        except ConfigError as exc:
            raise self._stuck(keys, exc.message) from exc
        except (yaml.YAMLError, RecursionError) as exc:
            raise self._stuck(keys, f"its layout does not allow it ({' '.join(str(exc).split())})") from exc
        before: list[ConfigError] = []
        self._values(before.append)
        if mistakes and len(mistakes) >= len(before):
            raise before[0] if before else self._stuck(keys, mistakes[0].message)
        if _set_in(values) != _set_in(wanted):
            raise self._stuck(keys, "other settings would change with it, by an anchor or otherwise")
        for mistake in mistakes:
            left(mistake)
        return after

    def _stuck(self, keys: tuple[str, ...], why: str) -> ConfigError:
        return ConfigError(f"{self.path}: {'.'.join(keys)} cannot be changed there: {why}; edit the file instead")


def _set_in(values: Found) -> Found:
    return {keys: value for keys, value in values.items() if value is not None}
