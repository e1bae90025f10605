"""The registry of agent CLIs, with one entry per CLI."""

from collections.abc import Mapping

from clinvk.backends.base import Backend
from clinvk.backends.claude import Claude
from clinvk.backends.codex import Codex
from clinvk.backends.gemini import Gemini
from clinvk.types.errors import BackendUnavailable, ModelNotFound
from clinvk.types.text import unknown_name

_ALL: tuple[Backend, ...] = (Claude(), Codex(), Gemini())
BACKENDS = {backend.name: backend for backend in _ALL}


def backend_named(name: str, registry: Mapping[str, Backend] = BACKENDS) -> Backend:
    """Return the backend with this name.

    Raises:
        BackendUnavailable: no backend has this name.
    """
    if name in registry:
        return registry[name]
    raise BackendUnavailable(unknown_name("backend", name, registry))


def resolve_model(model: str, default: str, registry: Mapping[str, Backend] = BACKENDS) -> tuple[str, str | None]:
    """Return the backend for a model name and the model to request, or None for the backend's default model.

    `claude` names a backend, `claude/opus` a model of a backend, and `opus` or `gpt-5.5` a model that a backend claims.
    Any other name selects the `default` backend and its default model, because clients send names of foreign models.

    Raises:
        ModelNotFound: the name before the slash is not a backend.
    """
    owner, slash, name = model.partition("/")
    if owner in registry:
        return owner, name or None
    if slash:
        raise ModelNotFound(f"unknown model {model!r:.100}: {unknown_name('backend', owner, registry)}")
    claimed = next((backend.name for backend in registry.values() if backend.claims_model(model)), None)
    return (claimed, model) if claimed else (default, None)
