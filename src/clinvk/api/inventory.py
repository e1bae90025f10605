"""Which agent CLIs are on the machine, and their versions as far as they are known."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from clinvk.api.allowance import Allowance
from clinvk.backends import BACKENDS
from clinvk.backends.base import Backend, Capabilities
from clinvk.config import Settings
from clinvk.runtime import executables

AskVersion = Callable[[Backend, str], Awaitable[str | None]]


class BackendInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent CLI that clinvk can run."""

    name: Annotated[str, Meta(description="What `backend` of a prompt calls it.", examples=["claude"])]
    available: Annotated[bool, Meta(description="Whether a prompt for it can be run: enabled and installed.")]
    enabled: Annotated[bool, Meta(description="`backends.<name>.enabled` of the settings.")]
    models: Annotated[tuple[str, ...], Meta(description="Models known to work, best known first; others may.")]
    capabilities: Annotated[Capabilities, Meta(description="What it honours; what is missing is refused.")]
    path: Annotated[str | None, Meta(description="The program, where it is installed.")] = None
    version: Annotated[str | None, Meta(description="As the program tells it; absent until it has.")] = None
    install: Annotated[str | None, Meta(description="What installs it, where it is missing.")] = None


class Inventory:
    """Looks for the CLIs anew each time, which takes microseconds; asks each file for its version only once.

    What the policy keeps from requests is not told of.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        ask_version: AskVersion,
        registry: Mapping[str, Backend] = BACKENDS,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._ask_version = ask_version
        self._registry = registry
        self._allowance = Allowance(settings, registry)
        self._versions: dict[tuple[str, str, int], str | None] = {}
        self._unknown: asyncio.Queue[tuple[str, str, int]] = asyncio.Queue()

    def look(self) -> list[BackendInfo]:
        """Give all backends that requests may run, as they are at this moment."""
        return [self._info(each) for each in self._registry.values() if self._allowance.has_backend(each.name)]

    def has_model(self, backend: str, model: str) -> bool:
        """Say whether a model of a backend may be chosen, known or not."""
        return self._allowance.has_model(backend, model)

    async def learn(self) -> None:
        """Ask the CLIs that `look` finds for their versions, one after another, for as long as the server runs."""
        self.look()
        while True:
            name, path, mtime = await self._unknown.get()
            self._versions[name, path, mtime] = await self._ask_version(self._registry[name], path)

    def _info(self, backend: Backend) -> BackendInfo:
        own = self._settings.backend(backend.name)
        path = executables.find(backend, self._settings, self._environ)
        return BackendInfo(
            name=backend.name,
            available=own.enabled and path is not None,
            enabled=own.enabled,
            models=tuple(model for model in backend.models if self.has_model(backend.name, model)),
            capabilities=backend.capabilities,
            path=path,
            version=self._version(backend, path) if path else None,
            install=None if path else backend.install,
        )

    def _version(self, backend: Backend, path: str) -> str | None:
        try:
            key = (backend.name, path, os.stat(path).st_mtime_ns)
        except OSError:  # removed a moment ago, or its folder was closed
            return None
        if key not in self._versions:
            self._versions[key] = None
            self._unknown.put_nowait(key)
        return self._versions[key]
