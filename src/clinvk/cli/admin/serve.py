"""`clinvk serve`."""

from collections.abc import Mapping
from contextlib import suppress
from threading import Thread

from clinvk.cli.parse.flags import ServeFlags
from clinvk.cli.parse.settings import directory, settings_of
from clinvk.cli.terminal.output import Notes, print_text
from clinvk.config.model import Settings
from clinvk.types.errors import ClinvkError, InvalidRequest


def serve(flags: ServeFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Serve until a signal arrives; return the exit code.

    Raises:
        ClinvkError: the server did not start.
    """
    if flags.ephemeral:
        raise InvalidRequest("serve has no --ephemeral: each request says it for itself")
    more: dict[str, object] = {
        "server.host": flags.host,
        "server.port": flags.port,
        "server.default_workdir": None if flags.workdir is None else directory(flags.workdir, "--workdir"),
    }

    def load() -> Settings:
        settings = settings_of(flags, environ, more, notes)
        if flags.model is None:
            return settings
        return settings_of(flags, environ, {**more, f"backends.{settings.default_backend}.model": flags.model}, notes)

    settings = load()
    from clinvk.api.server import server

    return server.serve(settings, environ, _announce, load, flags.insecure)


def _announce(text: str) -> None:
    """Print the greeting in a thread, so that a stalled reader of stdout does not stop the server."""
    Thread(target=_print, args=(text,), daemon=True).start()


def _print(text: str) -> None:
    with suppress(OSError, ClinvkError):
        print_text(text)
