"""`clinvk backends` and `clinvk models`: the agents of this machine and their models."""

import os
import shutil
from collections.abc import Iterator, Mapping

from clinvk.backends.base import Backend
from clinvk.backends.registry import PRESETS, Backends, enabling_command
from clinvk.cli.parse.flags import JsonFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.sessions.answers import print_answer
from clinvk.cli.sessions.session_text import BACKEND, STATE, Fields
from clinvk.cli.terminal.table import Column, table
from clinvk.config.model import Settings
from clinvk.runtime.process import executables


def backends(flags: JsonFlags, context: CommandContext) -> int:
    """Print every agent with its state, and its path or install command.

    Raises:
        ClinvkError: the settings are invalid, or the backend does not exist.
    """
    settings = context.settings
    chosen = _chosen(flags, context)
    found = {backend.name: executables.find(backend, settings, context.environ) for backend in chosen}
    fields: Fields[Backend] = (
        (BACKEND, lambda each: f"{each.name}{' (default)' if each.name == settings.default_backend else ''}"),
        (STATE, lambda each: _state(each, settings, found[each.name])),
        (Column("PROGRAM", 12), lambda each: each.error or found[each.name] or f"install: {each.install}"),
    )
    presets = disabled_presets(context.backends, context.environ) if flags.backend is None else ()
    return print_answer(
        flags,
        context,
        lambda: {"backends": [_as_json(backend, settings, found[backend.name]) for backend in chosen]},
        lambda view: view.table(fields, chosen),
        *(f"{name} is installed; to enable it: {command}" for name, _, command in presets),
        "clinvk doctor checks versions and logins",
    )


def _chosen(flags: JsonFlags, context: CommandContext) -> list[Backend]:
    return [backend for name, backend in context.backends.items() if flags.backend in (None, name)]


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
    chosen = _chosen(flags, context)

    def answer() -> dict[str, object]:
        models = [{"backend": each.name, "model": model} for each in chosen for model in each.models]
        aliases = [(each.name, alias, model) for each in chosen for alias, model in each.aliases.items()]
        fields = "backend", "alias", "model"
        return {"models": models, "aliases": [dict(zip(fields, row, strict=True)) for row in aliases]}

    rows = [row for backend in chosen for row in _model_rows(backend)]
    own = [each.name for each in chosen if not each.models and not context.settings.backend(each.name).command]
    unknown = f"not known to clinvk: the models of {', '.join(own)}; --model takes the ids and names of the agent"
    return print_answer(
        flags,
        context,
        answer,
        lambda view: table([BACKEND, Column("MODEL"), Column("ALIASES")], rows, view.most),
        unknown if own else "",
        "an alias chooses a model of any agent; other names are passed on unchanged",
    )


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
