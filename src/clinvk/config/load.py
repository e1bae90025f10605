"""Load the settings: flags over environment over file. Each value is checked with its source."""

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec

from clinvk.config.model import Settings
from clinvk.config.setting_values import (
    OnInvalid,
    SourcedValue,
    checked_values,
    expand_home,
    ignore_invalid,
    raise_invalid,
    user_home,
)
from clinvk.types.errors import ConfigError

_MODEL = re.compile("CLINVK_([A-Z][A-Z0-9-]*)_MODEL")
"""The short name of the variable for the model of a backend."""

WORKTREES = "worktrees"
"""The folder of the home in which agents have git worktrees of their own."""


def may_lie_in_worktree(directory: str) -> bool:
    """Return whether a directory may be in a worktree, by the path alone: every run asks."""
    return f"/{WORKTREES}/" in directory


class SettingsTrace(NamedTuple):
    """The settings, and the source of each value that is not a default."""

    settings: Settings
    places: dict[tuple[str, ...], str]


def home(environ: Mapping[str, str]) -> Path:
    """Return the home of clinvk: `CLINVK_HOME`, else `~/.clinvk`.

    Raises:
        ConfigError: there is no home directory.
    """
    if moved := environ.get("CLINVK_HOME"):
        return _absolute(expand_home(moved, environ))
    return user_home(environ) / ".clinvk"


def settings_file(path: str | None, environ: Mapping[str, str]) -> tuple[Path, bool]:
    """Return the settings file, and whether the user named the file: a named file must exist.

    Args:
        path: the file that `--config` names; None is `CLINVK_CONFIG`, else `config.yaml` in the home.
        environ: the environment.

    Raises:
        ConfigError: there is no home directory.
    """
    if named := path or environ.get("CLINVK_CONFIG"):
        return _absolute(expand_home(named, environ)), True
    return home(environ) / "config.yaml", False


def _absolute(path: str) -> Path:
    try:
        return Path(path).absolute()
    except FileNotFoundError as exc:
        raise ConfigError(f"{path!r} is in the current directory, which is gone") from exc


def load(
    path: str | None, environ: Mapping[str, str], flags: Mapping[str, object], backends: Collection[str]
) -> Settings:
    """Return the settings of all sources; arguments as for `trace`.

    Raises:
        ConfigError: an unknown key or a wrong value; names its place, the key, the value and what is allowed.
    """
    return trace(path, environ, flags, backends).settings


def trace(
    path: str | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    backends: Collection[str],
    reject: OnInvalid = raise_invalid,
    defaults: Mapping[tuple[str, ...], object] = {},
) -> SettingsTrace:
    """Read all sources; return the settings with the source of each value.

    Args:
        path: the file that `--config` names; see `settings_file`.
        environ: the environment.
        flags: values by dotted key, e.g. `{"server.port": 3000}`; they override all others.
        backends: the names that exist.
        reject: callback for errors; reading continues if the callback returns.
        defaults: values by key that replace those of `Settings`.
    """
    found = dict(defaults)
    places: dict[tuple[str, ...], str] = {}
    for entry in chain(_values_from_file(path, environ, reject), _environment(environ, backends), _flags(flags)):
        try:
            values = dict(checked_values(entry, backends, environ))
        except ConfigError as exc:
            reject(exc)
            continue
        found |= values
        places |= dict.fromkeys(values, entry.place)
    return SettingsTrace(settings_of(found), places)


def settings_of(found: dict[tuple[str, ...], object]) -> Settings:
    """Return settings from checked values by key."""
    return msgspec.convert(nested(found), Settings)


def _values_from_file(path: str | None, environ: Mapping[str, str], reject: OnInvalid) -> Iterator[SourcedValue]:
    try:
        file, is_named = settings_file(path, environ)
        if not is_named and not _may_be_there(file):
            return
        # Importing PyYAML is a third of the start-up of a prompt, so it is imported only if there is a file.
        from clinvk.config.yaml_file import read

        yield from read(file, reject)
    except ConfigError as exc:
        reject(exc)


def _may_be_there(file: Path) -> bool:
    """Return whether to read a file; reading a file without access raises the error that says so."""
    try:
        return file.exists()
    except OSError:
        return True


def backend_keys(path: str | None, environ: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the name of each backend in the settings, with the keys of its section. Ignore invalid settings."""
    found: dict[str, set[str]] = {}
    for entry in chain(_values_from_file(path, environ, ignore_invalid), _environment(environ, ())):
        if entry.keys[0] == "backends" and len(entry.keys) > 1:
            found.setdefault(entry.keys[1], set()).update(entry.keys[2:3])
    return found


def _environment(environ: Mapping[str, str], backends: Collection[str]) -> Iterator[SourcedValue]:
    """Yield values of short names first: `CLINVK_<SECTION>__<KEY>` overrides them. Skip empty variables."""
    short = {
        "CLINVK_DEFAULT_BACKEND": ("default_backend",),
        "CLINVK_BACKEND": ("default_backend",),
        "CLINVK_API_KEYS_GOPASS_PATH": ("server", "api_keys_gopass_path"),
        **{
            found[0]: ("backends", name, "model")
            for found in map(_MODEL.fullmatch, environ)
            if found and (name := found[1].lower()) in backends
        },
    }
    long = {name: _keys(name) for name in sorted(environ) if name.startswith("CLINVK_") and "__" in name}
    for name, keys in {**short, **long}.items():
        if value := environ.get(name):
            yield SourcedValue(keys, value, name, value, is_text=True)


def _keys(variable: str) -> tuple[str, ...]:
    """Split `CLINVK_BACKENDS__CLAUDE__ENV__NAME` into lower-case keys; keep the case of an agent's variable."""
    parts = variable.removeprefix("CLINVK_").split("__", 3)
    lower = tuple(part.lower() for part in parts)
    return (*lower[:3], parts[3]) if lower[:1] == ("backends",) and lower[2:3] == ("env",) and len(parts) > 3 else lower


def _flags(flags: Mapping[str, object]) -> Iterator[SourcedValue]:
    for key, value in flags.items():
        yield SourcedValue(tuple(key.split(".")), value, "command line", str(value))


def nested(found: Mapping[tuple[str, ...], object]) -> dict[str, object]:
    """Return values by key as sections inside sections."""
    result: dict[str, object] = {}
    for head in dict.fromkeys(keys[0] for keys in found):
        inner = {keys[1:]: value for keys, value in found.items() if keys[0] == head}
        result[head] = inner[()] if () in inner else nested(inner)
    return result
