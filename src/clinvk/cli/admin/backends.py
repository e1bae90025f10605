"""`clinvk backends` and `clinvk models`: the agents of this machine and their models."""

from collections.abc import Mapping

from clinvk.backends.base import Backend
from clinvk.backends.registry import Backends
from clinvk.cli.parse.flags import JsonFlags
from clinvk.cli.parse.settings import settings_of
from clinvk.cli.terminal.output import Notes, columns, print_json, print_text
from clinvk.cli.terminal.table import Column, table
from clinvk.config.model import Settings
from clinvk.runtime.process import executables


def backends(flags: JsonFlags, environ: Mapping[str, str], notes: Notes, backends: Backends) -> int:
    """Print every agent with its state, and its path or install command.

    Raises:
        ClinvkError: the settings are invalid, or the backend does not exist.
    """
    settings = settings_of(flags, environ, {}, notes, backends)
    chosen = [backend for name, backend in backends.items() if flags.backend in (None, name)]
    found = {backend.name: executables.find(backend, settings, environ) for backend in chosen}
    if flags.wants_json:
        print_json({"backends": [_as_json(backend, settings, found[backend.name]) for backend in chosen]})
        return 0
    rows = [
        [
            backend.name + (" (default)" if backend.name == settings.default_backend else ""),
            _state(backend, settings, found[backend.name]),
            found[backend.name] or f"install: {backend.install}",
        ]
        for backend in chosen
    ]
    print_text("\n".join(table([Column("BACKEND"), Column("STATE"), Column("PROGRAM", 12)], rows, columns())))
    notes.info("clinvk doctor checks versions and logins")
    return 0


def models(flags: JsonFlags, environ: Mapping[str, str], notes: Notes, backends: Backends) -> int:
    """Print the known models of every agent; other names are passed on to the agent.

    Raises:
        ClinvkError: the settings are invalid, or the backend does not exist.
    """
    settings_of(flags, environ, {}, notes, backends)
    found = [
        (name, model) for name, backend in backends.items() if flags.backend in (None, name) for model in backend.models
    ]
    if flags.wants_json:
        print_json({"models": [{"backend": name, "model": model} for name, model in found]})
        return 0
    print_text("\n".join(table([Column("BACKEND"), Column("MODEL")], [list(row) for row in found], columns())))
    notes.info("fast, balanced and best choose a model of any agent; other names are passed on unchanged")
    return 0


def _state(backend: Backend, settings: Settings, path: str | None) -> str:
    if not settings.backend(backend.name).enabled:
        return "disabled"
    return "installed" if path else "not installed"


def _as_json(backend: Backend, settings: Settings, path: str | None) -> dict[str, object]:
    enabled = settings.backend(backend.name).enabled
    return {
        "name": backend.name,
        "available": enabled and path is not None,
        "enabled": enabled,
        "models": backend.models,
        "path": path,
        "install": None if path else backend.install,
    }
