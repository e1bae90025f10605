"""Load the settings of a command, where flags override the environment and the file, and check values of flags."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import msgspec

from clinvk.backends import registry
from clinvk.backends.registry import BUILT_IN, PRESETS, Backends
from clinvk.cli.parse.arguments import is_utf8
from clinvk.cli.parse.flags import Flags
from clinvk.cli.terminal.output import Notes
from clinvk.config.load import SettingsTrace, backend_keys, home, trace
from clinvk.config.model import Settings
from clinvk.config.setting_values import DEFINING, OnInvalid, all_keys, ignore_invalid, raise_invalid, split_list
from clinvk.types.errors import ConfigError, InvalidRequest
from clinvk.types.redaction import without_secrets
from clinvk.types.text import BACKEND_NAME, nearest


def backends_of(config: str | None, environ: Mapping[str, str], built_in: Backends) -> Backends:
    """Return the built-in backends and those of the settings; `CommandContext.trace` reports invalid definitions."""
    keys = backend_keys(config, environ)
    names = sorted(
        name
        for name in keys.keys() - BUILT_IN.keys()
        if BACKEND_NAME.fullmatch(name) and (keys[name] & DEFINING or name in PRESETS)
    )
    if not names:
        return built_in
    settings = trace(config, environ, {}, [*BUILT_IN, *names], ignore_invalid).settings
    own = {name: settings.backend(name) for name in names}
    return registry.with_definitions(
        {
            name: registry.Definition(each.acp, each.command, each.folders)
            for name, each in own.items()
            if each.acp or each.command or name in PRESETS
        }
    )


class CommandContext(msgspec.Struct, frozen=True, dict=True):
    """The settings, the environment and the notes of a command.

    Attributes:
        flags: the flags of the command, which override the other sources of the settings.
        environ: the environment.
        notes: writes on stderr.
        backends: the built-in backends, and those of the settings.
        more: further settings that flags override, by dotted key; None is not given.
    """

    flags: Flags
    environ: Mapping[str, str]
    notes: Notes
    backends: Backends
    more: Mapping[str, object] = {}

    def __repr__(self) -> str:
        """Return a text without the environment, which has secrets."""
        return f"CommandContext({self.flags!r})"

    @property
    def home(self) -> Path:
        """The folder of clinvk's own files."""
        return home(self.environ)

    @cached_property
    def settings(self) -> Settings:
        """The settings. They are loaded at the first use, and then apply to the color of the notes.

        Raises:
            ConfigError: a source has an unknown key or an invalid value.
            BackendUnavailable: the backend of `--backend` does not exist.
        """
        settings = self.trace().settings
        self.notes.allow_color(settings.output.color)
        for message in variables_without_effect(self.environ, self.backends):
            self.notes.info(f"warning: {message}")
        return settings

    def load(self) -> None:
        """Load the settings now. Raises like `settings`."""
        _ = self.settings

    def trace(self, reject: OnInvalid = raise_invalid) -> SettingsTrace:
        """Load the settings with the source of each one; pass every error to `reject`."""
        flags = self.flags
        if flags.backend is not None:
            registry.backend_named(flags.backend, self.backends)
        given: dict[str, object] = {
            "default_backend": flags.backend,
            "output.format": flags.output_format,
            "unified_flags.dry_run": flags.dry_run or None,
            "warm.command_line": False if getattr(flags, "no_server", False) else None,
            **self.more,
        }
        defaults = {("warm", "kept_backends"): registry.KEPT_BY_DEFAULT}
        found = trace(flags.config, self.environ, given, self.backends, reject, defaults)
        for keys, mistake in redefinitions(found.settings).items():
            reject(ConfigError(f"{found.places[keys]}: {mistake}"))
        return found


def variables_without_effect(environ: Mapping[str, str], backends: Backends) -> Iterator[str]:
    """Yield a message about each variable such as `CLINVK_SERVER_PORT`: the section must end with two underscores."""
    sections = tuple(f"CLINVK_{field.upper()}_" for field in Settings.__struct_fields__)
    for name in (name for name in without_secrets(environ) if name.startswith(sections) and "__" not in name):
        known = ["CLINVK_" + "__".join(keys).upper() for keys, _ in all_keys(backends)]
        if near := nearest(name, known, likeness=0.8):
            yield f"{name} has no effect; did you mean {near}?"


def redefinitions(settings: Settings) -> dict[tuple[str, ...], str]:
    """Return the keys that define a built-in backend, each with an error message."""
    return {
        ("backends", name, key): f"backends.{name}.{key}: {name} is built in; choose another name"
        for name in settings.backends.keys() & BUILT_IN.keys()
        for key in sorted({*DEFINING, "folders"})
        if getattr(settings.backend(name), key)
    }


def backend_names(given: Sequence[str], backends: Backends) -> list[str]:
    """Return the names in the values of `--backends`.

    Raises:
        InvalidRequest: there is no name.
        BackendUnavailable: a backend does not exist.
    """
    names = [*split_list(given)]
    if not names:
        raise InvalidRequest("--backends is empty; list at least one agent", "--backends")
    for name in names:
        registry.backend_named(name, backends)
    return names


def directory(path: str, flag: str) -> str:
    """Return the absolute path of a flag's directory.

    Raises:
        InvalidRequest: the path is not a directory.
    """
    try:
        absolute = Path(path).absolute()
        is_there = absolute.is_dir() and path != ""
    except FileNotFoundError as exc:  # from absolute(); is_dir() returns False for a missing path
        raise InvalidRequest("the current directory is gone; change to another one") from exc
    except OSError as exc:
        raise InvalidRequest(f"{flag}: {path!r} cannot be used: {exc.strerror}", flag) from exc
    if not is_there:
        raise InvalidRequest(f"{flag}: no directory {path!r}", flag)
    if not is_utf8(str(absolute)):
        raise InvalidRequest(f"{flag}: the name of {str(absolute)!r} is not UTF-8", flag)
    return str(absolute)


_AGE = re.compile(r"([0-9]{1,6}) *([hdw]?)")
_HOURS = {"h": 1, "d": 24, "": 24, "w": 7 * 24}


def age_s(text: str, flag: str) -> float:
    """Parse a duration, `12h`, `30d`, `2w`, or a number of days, and return its seconds.

    Raises:
        InvalidRequest: the text is not a duration, or is 0.
    """
    match = _AGE.fullmatch(text.strip().lower())
    if not match:
        raise InvalidRequest(f"{flag}: {text!r} is not a duration; use 12h, 30d, 2w, or a number of days", flag)
    seconds = int(match[1]) * _HOURS[match[2]] * 3600.0
    if not seconds:
        raise InvalidRequest(f"{flag}: {text!r} is too short; the least is 1h", flag)
    return seconds
