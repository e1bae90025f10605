"""The registry of agent CLIs, with one entry per CLI."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from clinvk.types.errors import BackendUnavailable, ModelNotFound
from clinvk.types.text import unknown_name

if TYPE_CHECKING:
    from clinvk.backends.base import Backend


class _Registry(Mapping[str, "Backend"]):
    """Backends by name, each imported at its first use: most commands of the command line need the names only."""

    def __init__(self, classes: Mapping[str, str]) -> None:
        self._classes = classes
        self._backends: dict[str, Backend] = {}

    def __getitem__(self, name: str) -> "Backend":
        if name not in self._backends:
            kind = getattr(import_module(f"clinvk.backends.{name}"), self._classes[name])
            self._backends[name] = kind()
        return self._backends[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


Backends = Mapping[str, "Backend"]

BACKENDS: Backends = _Registry({"claude": "Claude", "codex": "Codex", "gemini": "Gemini"})
"""All backends by name, with their classes: the module of a backend has its name."""

KEPT_BY_DEFAULT = ("claude", "codex")
"""The backends whose processes a server keeps unless the settings say otherwise: a kept process of Gemini CLI reports
less than a process of one prompt.
"""


def backend_named(name: str, registry: Backends) -> "Backend":
    """Return the backend with this name.

    Raises:
        BackendUnavailable: no backend has this name.
    """
    if name in registry:
        return registry[name]
    raise BackendUnavailable(unknown_name("backend", name, registry))


def resolve_model(model: str, default: str, registry: Backends) -> tuple[str, str | None]:
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
