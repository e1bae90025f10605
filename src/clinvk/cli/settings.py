"""The settings as the command line sees them: its flags beat the environment and the file."""

from collections.abc import Mapping
from pathlib import Path

from clinvk import backends
from clinvk.cli.arguments import Flags, is_utf8
from clinvk.config import Settings
from clinvk.config.loading import load
from clinvk.errors import InvalidRequest


def settings_of(flags: Flags, environ: Mapping[str, str], more: Mapping[str, object]) -> Settings:
    """Load the settings under the flags that are settings too; `more` are those of one command, None is not given.

    Raises:
        ConfigError: a source has an unknown key or a wrong value.
        BackendUnavailable: `--backend` names none.
    """
    if flags.backend is not None:
        backends.named(flags.backend)
    given: dict[str, object] = {
        "default_backend": flags.backend,
        "output.format": flags.output_format,
        "unified_flags.dry_run": flags.dry_run or None,
        **more,
    }
    return load(flags.config, environ, given, backends.BACKENDS)


def directory(path: str, flag: str) -> str:
    """Make a directory that a flag names absolute.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        absolute = Path(path).absolute()
        is_there = absolute.is_dir() and path != ""
    except OSError as exc:
        raise InvalidRequest(f"{flag}: {path!r} cannot be used: {exc.strerror}", flag) from exc
    if not is_there:
        raise InvalidRequest(f"{flag}: no directory {path!r}", flag)
    if not is_utf8(str(absolute)):
        raise InvalidRequest(f"{flag}: the name of {str(absolute)!r} is not UTF-8", flag)
    return str(absolute)
