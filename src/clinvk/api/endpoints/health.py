"""The endpoints that report health, backends and versions of the CLIs."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from clinvk import __version__
from clinvk.api.access.key_policy import KeyPolicy
from clinvk.api.access.request_policy import RequestPolicy
from clinvk.api.http.response import document
from clinvk.backends.base import Backend, Capabilities
from clinvk.config.model import Settings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process import executables
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import ClinvkError

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


class BackendInventory:
    """Finds the installed CLIs at each request, which takes microseconds, and asks each file for its version once.

    Backends that the policy excludes are not reported.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        ask_version: AskVersion,
        registry: Mapping[str, Backend],
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._ask_version = ask_version
        self._registry = registry
        self._policy = RequestPolicy(settings, registry)
        self._versions: dict[tuple[str, str, int], str | None] = {}
        self._unknown: asyncio.Queue[tuple[str, str, int]] = asyncio.Queue()

    def backends(self) -> list[BackendInfo]:
        """Return the current state of all backends that requests may run."""
        return [self._info(each) for each in self._registry.values() if self._policy.has_backend(each.name)]

    def has_model(self, backend: str, model: str) -> bool:
        """Return whether requests may choose a model of a backend."""
        return self._policy.has_model(backend, model)

    async def query_versions(self) -> None:
        """Query the versions of the CLIs found by `look`, one CLI at a time, until cancelled."""
        self.backends()
        while True:
            name, path, mtime = await self._unknown.get()
            self._versions[name, path, mtime] = await self._ask_version(self._registry[name], path)

    def _info(self, backend: Backend) -> BackendInfo:
        settings = self._settings.backend(backend.name)
        path = executables.find(backend, self._settings, self._environ)
        return BackendInfo(
            name=backend.name,
            available=settings.enabled and path is not None,
            enabled=settings.enabled,
            models=tuple(model for model in backend.models if self.has_model(backend.name, model)),
            capabilities=backend.capabilities,
            path=path,
            version=self._version(backend, path) if path else None,
            install=None if path else backend.install,
        )

    def _version(self, backend: Backend, path: str) -> str | None:
        try:
            key = (backend.name, path, os.stat(path).st_mtime_ns)
        except OSError:  # removed a moment ago, or in a folder without access
            return None
        if key not in self._versions:
            self._versions[key] = None
            self._unknown.put_nowait(key)
        return self._versions[key]


logger = logging.getLogger(__name__)

_DAMAGE = "Some sessions or runs cannot be read: the database is damaged. `clinvk doctor` says how to repair it."
_LEADING_PATH = re.compile(r"/.*?: ")


class BackendList(msgspec.Struct, frozen=True):
    """All backends that requests with this key may run."""

    backends: list[BackendInfo]


class BackendHealth(msgspec.Struct, frozen=True):
    """Whether a backend can be used."""

    name: str
    available: bool


class StoreHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether sessions can be kept."""

    available: bool
    session_count: int
    error: str | None = None


class KeptHealth(msgspec.Struct, frozen=True):
    """The agent processes of a backend that are up for prompts to come."""

    processes: int
    ready: Annotated[int, Meta(description="Processes that can take a prompt without a session at once.")]
    runs: Annotated[int, Meta(description="Active runs.")]
    hits: Annotated[int, Meta(description="Runs that used a warm process, since the server started.")]
    misses: Annotated[int, Meta(description="Runs that needed a new process.")]
    memory_mb: Annotated[int, Meta(description="As measured a few seconds ago.")]


class WarmHealth(KeptHealth, frozen=True):
    """The agent processes that are up for prompts to come: all, and by backend."""

    backends: Annotated[dict[str, KeptHealth], Meta(description="Backends whose processes may stay warm.")]
    one_shot: Annotated[
        tuple[str, ...], Meta(description="Backends whose program does not support a long-lived process.")
    ]


class CapacityHealth(msgspec.Struct, frozen=True):
    """How many runs go at once."""

    max_concurrent_runs: int
    reason: Annotated[str, Meta(description="The setting, or the machine's resources.")]


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of the server.

    It is ok; degraded (no backend is available, or some sessions cannot be read); unhealthy (sessions cannot be kept).
    """

    status: Literal["ok", "degraded", "unhealthy"]
    version: Annotated[str, Meta(description="Of clinvk.")]
    uptime: Annotated[str, Meta(description="For people.", examples=["2h5m12s"])]
    uptime_ms: int
    backends: list[BackendHealth]
    session_store: StoreHealth
    capacity: CapacityHealth
    warm: Annotated[WarmHealth | None, Meta(description="Absent where no agent processes are kept.")] = None
    warnings: Annotated[
        list[str], Meta(description="Warnings for the operator, e.g. that no API key is required.")
    ] = []


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class HealthEndpoints:
    """The endpoints for the state of one server. The uptime counts from the construction of the object."""

    def __init__(
        self,
        runs: LocalRuns,
        store: SessionStore,
        inventory: BackendInventory,
        key_policy: KeyPolicy,
        warning: Callable[[], str],
    ) -> None:
        """`warning` returns a warning for the health report, or an empty text."""
        self._runs = runs
        self._store = store
        self._inventory = inventory
        self._key_policy = key_policy
        self._warning = warning
        self._since = time.monotonic()
        self._last_error = ""

    async def backends(self, request: Request) -> BackendList:
        """List the agent CLIs."""
        key_name: str = request.state.key_name
        found = [info for info in self._inventory.backends() if self._key_policy.has_backend(key_name, info.name)]
        return BackendList(found)

    async def health(self, _: Request) -> Response:
        """Report the state of the server."""
        health = await self._health()
        return document(health, 503 if health.status == "unhealthy" else 200)

    async def ready(self, _: Request) -> Response:
        """Report whether prompts should be sent here."""
        health = await self._health()
        can_run = any(backend.available for backend in health.backends)
        return document(health, 200 if health.session_store.available and can_run else 503)

    async def live(self, _: Request) -> Alive:
        """Report that the process answers."""
        return Alive()

    async def _health(self) -> Health:
        backends = [BackendHealth(info.name, info.available) for info in self._inventory.backends()]
        store = await self._store_health()
        damage = self._store.damage
        any_backend = any(backend.available for backend in backends)
        uptime_s = time.monotonic() - self._since
        return Health(
            status="unhealthy" if not store.available else "ok" if any_backend and not damage else "degraded",
            version=__version__,
            uptime=_format_uptime(int(uptime_s)),
            uptime_ms=int(uptime_s * 1000),
            backends=backends,
            session_store=store,
            capacity=CapacityHealth(*self._runs.capacity),
            warm=msgspec.convert(self._runs.warm_stats, WarmHealth | None, from_attributes=True),
            warnings=[text for text in (self._warning(), damage and _DAMAGE) if text],
        )

    async def _store_health(self) -> StoreHealth:
        """Check the store. Health needs no key, so the path of the store, which names the user, is logged only."""
        try:
            count = await self._store.count()
        except (ClinvkError, OSError) as exc:
            self._log("unhealthy", str(exc))
            message = exc.message if isinstance(exc, ClinvkError) else exc.strerror or type(exc).__name__
            return StoreHealth(available=False, session_count=0, error=_without_path(message))
        self._log("degraded", self._store.damage)
        return StoreHealth(available=True, session_count=count)

    def _log(self, status: str, error: str) -> None:
        """Log trouble of the store once."""
        if error and error != self._last_error:
            logger.warning("%s: %s", status, error)
        self._last_error = error


def _without_path(message: str) -> str:
    """Return a message of the store without the path at its beginning."""
    path = _LEADING_PATH.match(message)
    return message[path.end() :] if path else message


def _format_uptime(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    shown = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{shown}{seconds}s"
