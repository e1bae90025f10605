"""The settings as the command line sees them: its flags beat the environment and the file."""

from collections.abc import Mapping
from pathlib import Path

from clinvk.backends import registry
from clinvk.cli.parse.arguments import is_utf8
from clinvk.cli.parse.flags import Flags
from clinvk.cli.terminal.output import Notes
from clinvk.config.load import Trace, trace
from clinvk.config.model import Settings
from clinvk.config.setting_values import Reject, refuse
from clinvk.types.errors import InvalidRequest


def settings_of(flags: Flags, environ: Mapping[str, str], more: Mapping[str, object], notes: Notes) -> Settings:
    """Load the settings under the flags that are settings too, and hold the notes to them.

    `more` are the flags of one command, by dotted key; None is not given.

    Raises:
        ConfigError: a source has an unknown key or a wrong value.
        BackendUnavailable: `--backend` names none.
    """
    settings = trace_of(flags, environ, more).settings
    notes.allow_color(settings.output.color)
    return settings


def trace_of(flags: Flags, environ: Mapping[str, str], more: Mapping[str, object], reject: Reject = refuse) -> Trace:
    """Load what `settings_of` gives, with the place of each; `reject` gets what is wrong with them."""
    if flags.backend is not None:
        registry.named(flags.backend)
    given: dict[str, object] = {
        "default_backend": flags.backend,
        "output.format": flags.output_format,
        "unified_flags.dry_run": flags.dry_run or None,
        **more,
    }
    return trace(flags.config, environ, given, registry.BACKENDS, reject)


def directory(path: str, flag: str) -> str:
    """Make a directory that a flag names absolute.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        absolute = Path(path).absolute()
        is_there = absolute.is_dir() and path != ""
    except FileNotFoundError as exc:  # absolute() needs it; a path that is missing is_dir() passes over
        raise InvalidRequest("the current directory is gone; change to another one") from exc
    except OSError as exc:
        raise InvalidRequest(f"{flag}: {path!r} cannot be used: {exc.strerror}", flag) from exc
    if not is_there:
        raise InvalidRequest(f"{flag}: no directory {path!r}", flag)
    if not is_utf8(str(absolute)):
        raise InvalidRequest(f"{flag}: the name of {str(absolute)!r} is not UTF-8", flag)
    return str(absolute)
