"""The registry of agent CLIs: one entry each."""

from collections.abc import Mapping

from clinvk.backends.base import Backend
from clinvk.backends.claude import Claude
from clinvk.backends.codex import Codex
from clinvk.backends.gemini import Gemini
from clinvk.types.errors import BackendUnavailable, ModelNotFound
from clinvk.types.text import nearest

_ALL: tuple[Backend, ...] = (Claude(), Codex(), Gemini())
BACKENDS = {backend.name: backend for backend in _ALL}


def named(name: str, registry: Mapping[str, Backend] = BACKENDS) -> Backend:
    """Give the backend of this name.

    Raises:
        BackendUnavailable: there is none.
    """
    if name in registry:
        return registry[name]
    near = nearest(name, registry)
    hint = f"; did you mean {near!r}?" if near else ""
    raise BackendUnavailable(f"no backend {name!r}; have {', '.join(registry)}{hint}")


def resolve(model: str, default: str, registry: Mapping[str, Backend] = BACKENDS) -> tuple[str, str | None]:
    """Give the backend that a model's name stands for, and the model to ask it for; None is the one it takes itself.

    `claude` is a backend, `claude/opus` a model of it, and `opus` or `gpt-5.5` one that a backend claims. Any other
    name is answered by the `default` backend with its own model: clients send names of models that are not here.

    Raises:
        ModelNotFound: the name is that of a model of a backend that is not there.
    """
    owner, slash, name = model.partition("/")
    if owner in registry:
        return owner, name or None
    if slash:
        raise ModelNotFound(f"no model {model!r:.100}: there is no backend {owner!r:.50}; have {', '.join(registry)}")
    claimed = next((backend.name for backend in registry.values() if backend.claims(model)), None)
    return (claimed, model) if claimed else (default, None)
