"""The agent CLIs of this machine, with their versions."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.api.access.request_policy import RequestPolicy
from clinvk.backends.base import Backend, Capabilities
from clinvk.config.model import Settings
from clinvk.runtime.process import executables

_LOCATE_INTERVAL_S = 30.0

AskVersion = Callable[[Backend, str], Awaitable[str | None]]


class BackendInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent CLI that clinvk can run."""

    name: Annotated[str, Meta(description="The value of `backend` in a prompt.", examples=["claude"])]
    available: Annotated[bool, Meta(description="Whether a prompt for it can be run: enabled and installed.")]
    enabled: Annotated[bool, Meta(description="`backends.<name>.enabled` of the settings.")]
    models: Annotated[tuple[str, ...], Meta(description="Models known to work, best known first; others may.")]
    capabilities: Annotated[Capabilities, Meta(description="Supported options; others are refused.")]
    path: Annotated[str | None, Meta(description="Path of the program, if installed.")] = None
    version: Annotated[str | None, Meta(description="The version that the program reports; absent until known.")] = None
    install: Annotated[str | None, Meta(description="Install command, if missing.")] = None
    error: Annotated[str | None, Meta(description="Why it cannot be used, such as a plug-in that is broken.")] = None
    error_code: Annotated[
        str | None,
        Meta(
            description="In a cluster, why the account refused the last run on the node, if that was within ten "
            "minutes: agent_unauthenticated, agent_rate_limited or agent_unpaid. Other nodes are preferred."
        ),
    ] = None


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of the cluster that runs agents."""

    node: Annotated[str, Meta(description="The value of the header `x-clinvk-node`.")]
    state: Annotated[
        Literal["up", "stopping", "incompatible"],
        Meta(description="stopping, incompatible (another version or another store): the node gets no new runs."),
    ]
    version: Annotated[str, Meta(description="Of clinvk.")]
    labels: Annotated[tuple[str, ...], Meta(description="Values of the header `x-clinvk-labels`.")]
    backends: tuple[BackendInfo, ...]
    running: Annotated[int, Meta(description="Active runs.")]
    queued: Annotated[int, Meta(description="Waiting runs.")]
    max_concurrent_runs: int


class BackendInventory:
    """Finds the installed CLIs at each request, which takes microseconds, and asks each file for its version once.

    Backends that the policy excludes are not reported. A gateway of a cluster reports those `of_cluster`, if not None.
    """

    of_cluster: Callable[[], list[BackendInfo]] | None = None

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        registry: Mapping[str, Backend],
        policy: RequestPolicy,
        ask_version: AskVersion,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._ask_version = ask_version
        self._registry = registry
        self._policy = policy
        self._versions: dict[tuple[str, str, int], str | None] = {}
        self._located: dict[str, tuple[str | None, int]] = {}
        self._unknown: asyncio.Queue[tuple[str, str, int]] = asyncio.Queue()

    def backends(self) -> list[BackendInfo]:
        """Return the current state of all backends that requests may run."""
        found = self.of_cluster() if self.of_cluster else self.own()
        return [info for info in found if self._policy.has_backend(info.name)]

    def own(self) -> list[BackendInfo]:
        """Return the current state of all backends on this machine."""
        return self._infos(self._locate())

    def last_own(self) -> list[BackendInfo]:
        """Return the state of all backends on this machine as last found by `locate_regularly`."""
        self._located = self._located or self._locate()
        return self._infos(self._located)

    async def locate_regularly(self) -> None:
        """Find the CLIs in a thread, since a folder of PATH may hang, until cancelled."""
        while True:
            await asyncio.sleep(_LOCATE_INTERVAL_S)
            self._located = await asyncio.to_thread(self._locate)

    def _locate(self) -> dict[str, tuple[str | None, int]]:
        """Return path and time of change of each CLI. Blocks."""
        found: dict[str, tuple[str | None, int]] = {}
        for name, backend in self._registry.items():
            path = executables.find(backend, self._settings, self._environ)
            try:
                found[name] = path, os.stat(path).st_mtime_ns if path else 0
            except OSError:  # removed a moment ago, or in a folder without access
                found[name] = path, 0
        return found

    def _infos(self, located: Mapping[str, tuple[str | None, int]]) -> list[BackendInfo]:
        return [self._info(each, *located[name]) for name, each in self._registry.items()]

    async def query_versions(self) -> None:
        """Query the versions of the CLIs found by `backends`, one CLI at a time, until cancelled."""
        self.own()
        while True:
            name, path, mtime = await self._unknown.get()
            self._versions[name, path, mtime] = await self._ask_version(self._registry[name], path)

    def _info(self, backend: Backend, path: str | None, mtime: int) -> BackendInfo:
        settings = self._settings.backend(backend.name)
        return BackendInfo(
            name=backend.name,
            available=settings.enabled and path is not None and not backend.error,
            enabled=settings.enabled,
            models=tuple(model for model in backend.models if self._policy.has_model(backend.name, model)),
            capabilities=backend.capabilities,
            path=path,
            version=self._version((backend.name, path, mtime)) if path and mtime else None,
            install=None if path else backend.install or None,
            error=backend.error or None,
        )

    def _version(self, key: tuple[str, str, int]) -> str | None:
        if key not in self._versions:
            self._versions[key] = None
            self._unknown.put_nowait(key)
        return self._versions[key]
