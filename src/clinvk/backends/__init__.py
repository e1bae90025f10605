"""The registry of agent CLIs: one entry each."""

from collections.abc import Mapping
from difflib import get_close_matches

from clinvk.backends.base import Backend
from clinvk.backends.claude import Claude
from clinvk.backends.codex import Codex
from clinvk.backends.gemini import Gemini
from clinvk.errors import BackendUnavailable

_ALL: tuple[Backend, ...] = (Claude(), Codex(), Gemini())
BACKENDS = {backend.name: backend for backend in _ALL}


def named(name: str, registry: Mapping[str, Backend] = BACKENDS) -> Backend:
    """Give the backend of this name.

    Raises:
        BackendUnavailable: there is none.
    """
    if name in registry:
        return registry[name]
    near = get_close_matches(name, registry, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise BackendUnavailable(f"no backend {name!r}; have {', '.join(registry)}{hint}")
