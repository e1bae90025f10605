"""`clinvk backends` and `clinvk models`: the agents of this machine and their models."""

import os
import shutil
from collections.abc import Iterator, Mapping

from clinvk.backends.base import Backend
from clinvk.backends.registry import PRESETS, Backends, enabling_command
from clinvk.cli.parse.flags import JsonFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.terminal.output import columns, print_json, print_text
from clinvk.cli.terminal.table import Column, table
from clinvk.config.model import Settings
from clinvk.runtime.process import executables


def backends(flags: JsonFlags, context: CommandContext) -> int:
    """Print every agent with its state, and its path or install command.

    Raises:
        ClinvkError: the settings are invalid, or the backend does not exist.
    """
    settings = context.settings
    chosen = [backend for name, backend in context.backends.items() if flags.backend in (None, name)]
    found = {backend.name: executables.find(backend, settings, context.environ) for backend in chosen}
    if flags.wants_json:
        print_json({"backends": [_as_json(backend, settings, found[backend.name]) for backend in chosen]})
        return 0
    rows = [
        [
            backend.name + (" (default)" if backend.name == settings.default_backend else ""),
            _state(backend, settings, found[backend.name]),
            backend.error or found[backend.name] or f"install: {backend.install}",
        ]
        for backend in chosen
    ]
    print_text("\n".join(table([Column("BACKEND"), Column("STATE"), Column("PROGRAM", 12)], rows, columns())))
    for name, _, command in disabled_presets(context.backends, context.environ) if flags.backend is None else ():
        context.notes.info(f"{name} is installed; to enable it: {command}")
    context.notes.info("clinvk doctor checks versions and logins")
    return 0


def disabled_presets(backends: Backends, environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the name and path of each installed agent that the settings could name, and the command that enables it."""
    for name, preset in PRESETS.items():
        path = shutil.which(preset.argv[0], path=environ.get("PATH", os.defpath))
        if path and name not in backends:
            yield name, path, enabling_command(name)


def models(flags: JsonFlags, context: CommandContext) -> int:
    """Print the known models of every agent with their aliases; other names are passed on to the agent.

    Raises:
        ClinvkError: the settings are invalid, or the backend does not exist.
    """
    settings = context.settings
    chosen = [backend for name, backend in context.backends.items() if flags.backend in (None, name)]
    if flags.wants_json:
        print_json(
            {
                "models": [{"backend": backend.name, "model": model} for backend in chosen for model in backend.models],
                "aliases": [
                    {"backend": backend.name, "alias": alias, "model": model}
                    for backend in chosen
                    for alias, model in backend.aliases.items()
                ],
            }
        )
        return 0
    rows = [row for backend in chosen for row in _model_rows(backend)]
    print_text("\n".join(table([Column("BACKEND"), Column("MODEL"), Column("ALIASES")], rows, columns())))
    if own := [each.name for each in chosen if not each.models and not settings.backend(each.name).command]:
        context.notes.info(
            f"not known to clinvk: the models of {', '.join(own)}; --model takes the ids and names of the agent"
        )
    context.notes.info("an alias chooses a model of any agent; other names are passed on unchanged")
    return 0


def _model_rows(backend: Backend) -> list[list[str]]:
    """Return a row for each known model, and for the agent's own default if an alias means that."""
    aliases = backend.aliases.items()
    shown = [*backend.models, *([None] if None in backend.aliases.values() else [])]
    return [
        [backend.name, model or "(its own default)", ", ".join(alias for alias, meant in aliases if meant == model)]
        for model in shown
    ]


def _state(backend: Backend, settings: Settings, path: str | None) -> str:
    if not settings.backend(backend.name).enabled:
        return "disabled"
    if backend.error:
        return "unusable"
    return "installed" if path else "not installed"


def _as_json(backend: Backend, settings: Settings, path: str | None) -> dict[str, object]:
    enabled = settings.backend(backend.name).enabled
    return {
        "name": backend.name,
        "available": enabled and path is not None and not backend.error,
        "enabled": enabled,
        "models": backend.models,
        "path": path,
        "install": None if path else backend.install or None,
        "error": backend.error or None,
    }
