"""The registry of agent CLIs, with one entry per CLI."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from clinvk.types.errors import BackendUnavailable, ModelNotFound
from clinvk.types.text import unknown_name

if TYPE_CHECKING:
    from clinvk.backends.base import Backend


class Definition(NamedTuple):
    """A backend of the settings: the argv of an ACP agent, or of a program that prints text.

    Without either, the definition is that of the preset with the name of the backend.
    """

    acp: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


class _Registry(Mapping[str, "Backend"]):
    """Backends by name, each imported at its first use: most commands of the command line need the names only."""

    def __init__(self, definitions: Mapping[str, str | Definition]) -> None:
        self._definitions = definitions
        self._backends: dict[str, Backend] = {}

    def __getitem__(self, name: str) -> "Backend":
        if name not in self._backends:
            self._backends[name] = _backend(name, self._definitions[name])
        return self._backends[name]

    def __contains__(self, name: object) -> bool:
        return name in self._definitions

    def __iter__(self) -> Iterator[str]:
        return iter(self._definitions)

    def __len__(self) -> int:
        return len(self._definitions)


def _backend(name: str, definition: str | Definition) -> "Backend":
    if isinstance(definition, str):
        return getattr(import_module(f"clinvk.backends.{name}"), definition)()
    if definition.command:
        from clinvk.backends.text import TextBackend

        return TextBackend(name, definition.command)
    from clinvk.backends.acp import AcpBackend

    return AcpBackend(name, definition.acp, definition.folders)


Backends = Mapping[str, "Backend"]

BUILT_IN = {"claude": "Claude", "codex": "Codex", "gemini": "Gemini"}
"""The classes of the backends that are built in; the module of a backend has its name."""

BACKENDS: Backends = _Registry(BUILT_IN)
"""The backends that are built in, by name."""


def with_definitions(definitions: Mapping[str, Definition]) -> Backends:
    """Return the built-in backends and the backends of the settings."""
    return _Registry({**BUILT_IN, **definitions})


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
