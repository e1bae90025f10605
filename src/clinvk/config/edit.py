"""Changing one setting in the text of a settings file: the value is checked, and so is what the file then says."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec
import yaml

from clinvk.config import setting_values as schema
from clinvk.config.load import settings_of
from clinvk.config.model import Settings
from clinvk.config.setting_values import Given, Reject, checked, converted
from clinvk.config.yaml_edit import put, remove
from clinvk.config.yaml_file import parse
from clinvk.config.yaml_text import Value
from clinvk.types.errors import ConfigError

_PLACE = "config set"
_LINES = re.compile(r"^\d+|(?<=first on line )\d+$")


class Change(msgspec.Struct, frozen=True):
    """A setting, and what it shall be.

    Attributes:
        keys: from the top down.
        value: as it is written into the file; None is `null`.
        means: what the file then says, paths opened; None is the default.
    """

    keys: tuple[str, ...]
    value: Value
    means: object


def change_to(dotted: str, text: str, backends: Collection[str], environ: Mapping[str, str]) -> Change:
    """Read a key and a value of the command line.

    Raises:
        ConfigError: there is no such key, or it cannot have this value; says what is allowed.
    """
    keys = schema.split(dotted)
    given = Given(keys, text, _PLACE, text, is_text=True)
    kind = schema.kind_of(given, backends)
    if schema.is_section(kind):
        raise ConfigError(f"{dotted} is a section; name a key in it, such as {dotted}.{_example(keys, backends)}")
    if text == "null" and not schema.is_variable(keys):
        return Change(keys, None, None)
    if schema.is_list(kind) and text.startswith("["):
        given = given._replace(value=_flow_list(given, text))
    means = dict(checked(given, backends, environ))[keys]
    value = converted(given, kind)
    if value is None:
        return Change(keys, "all" if schema.is_list(kind) else "", None)
    return Change(keys, msgspec.convert(value, Value), means)


def _flow_list(given: Given, text: str) -> list[str]:
    """Read `[a, "b, c"]`: the items are texts, whatever they look like."""
    try:
        node = yaml.SafeLoader(text).get_single_node()
    except yaml.YAMLError:
        node = None
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return [str(item.value) for item in node.value]
    raise ConfigError(f"{_PLACE}: {given.said}: must be texts with commas, or [a, b] where an item has a comma")


def _example(keys: tuple[str, ...], backends: Collection[str]) -> str:
    names = schema.order(keys, backends) or ("NAME",)
    return f"{names[0]}.model" if len(keys) == 1 and names[0] in backends else names[0]


def _ignore(error: ConfigError) -> None:
    """Go on: what is wrong before a change may be what it mends."""


def changed(
    text: str,
    path: Path,
    change: Change,
    backends: Collection[str],
    environ: Mapping[str, str],
    left: Reject = _ignore,
) -> str:
    """Give the text of a settings file after a change; `left` gets each mistake that stays where one was mended.

    Raises:
        ConfigError: what is wrong in the file would stay, or something else in it would change too.
    """
    file = _File(path, backends, environ, left)
    wanted = {**file.says(text, _ignore), change.keys: change.means}
    try:
        return file.edited(text, change.keys, wanted, lambda: put(text, change.keys, change.value, file.order))
    except ConfigError:
        if not isinstance(change.value, str) or "\n" not in change.value:
            raise
    return file.edited(
        text, change.keys, wanted, lambda: put(text, change.keys, change.value, file.order, blocks=False)
    )


def without(
    text: str,
    path: Path,
    dotted: str,
    backends: Collection[str],
    environ: Mapping[str, str],
    left: Reject = _ignore,
) -> str:
    """Give the text of a settings file without a key or a section; the same text where it has none.

    A key that is unknown can be taken out too. `left` gets each mistake that stays where one was mended.

    Raises:
        ConfigError: there is no such key, what is wrong in the file would stay, or something else would change too.
    """
    file = _File(path, backends, environ, left)
    keys = schema.split(dotted)
    wanted = {name: value for name, value in file.says(text, _ignore).items() if name[: len(keys)] != keys}
    without = file.edited(text, keys, wanted, lambda: remove(text, keys))
    if without == text:
        schema.kind_of(Given(keys, None, "config unset", ""), backends)
    return without


def settings_in(text: str, path: Path, backends: Collection[str], environ: Mapping[str, str]) -> Settings:
    """Give the settings of a text; what is wrong in it says nothing."""
    return settings_of(_File(path, backends, environ).says(text, _ignore))


class _File:
    """A settings file, whatever its text."""

    def __init__(
        self, path: Path, backends: Collection[str], environ: Mapping[str, str], left: Reject = _ignore
    ) -> None:
        self._path = path
        self._backends = backends
        self._environ = environ
        self._left = left

    def order(self, above: tuple[str, ...]) -> tuple[str, ...]:
        return schema.order(above, self._backends)

    def says(self, text: str, reject: Reject) -> dict[tuple[str, ...], object]:
        found: dict[tuple[str, ...], object] = {}
        for given in parse(text, self._path, reject):
            try:
                found |= checked(given, self._backends, self._environ)
            except ConfigError as exc:
                reject(exc)
        return found

    def edited(
        self, text: str, keys: tuple[str, ...], wanted: dict[tuple[str, ...], object], edit: Callable[[], str]
    ) -> str:
        """Edit a text, and check that it then says what is wanted and nothing else, and fewer mistakes or none."""
        try:
            after = edit()
        except ConfigError as exc:
            raise self._stuck(keys, exc.message) from exc
        left: list[ConfigError] = []
        try:
            said = self.says(after, left.append)
        except ConfigError as exc:
            raise self._stuck(keys, "its layout does not allow it") from exc
        if left:
            self._check_mended(text, keys, left)
        if _set_in(said) != _set_in(wanted):
            raise self._stuck(keys, "other settings would change with it, by an anchor or otherwise")
        for error in left:
            self._left(error)
        return after

    def _check_mended(self, text: str, keys: tuple[str, ...], left: list[ConfigError]) -> None:
        """Refuse a change unless what is left afterwards is less than is wrong in the text before."""
        before: list[ConfigError] = []
        self.says(text, before.append)
        had, has = (Counter(map(self._without_line, errors)) for errors in (before, left))
        if had == has:
            raise before[0]
        if not has < had:
            raise self._stuck(keys, "its layout does not allow it")

    def _without_line(self, error: ConfigError) -> str:
        """Give what is wrong without its line, which a change above it moves."""
        return _LINES.sub("", error.message.removeprefix(f"{self._path}:"))

    def _stuck(self, keys: tuple[str, ...], why: str) -> ConfigError:
        return ConfigError(f"{self._path}: {'.'.join(keys)} cannot be changed there: {why}; edit the file instead")


def _set_in(said: dict[tuple[str, ...], object]) -> dict[tuple[str, ...], object]:
    return {keys: value for keys, value in said.items() if value is not None}
