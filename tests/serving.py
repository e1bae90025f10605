"""A real server on a real socket inside a test's own event loop."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
from msgspec.structs import replace

from clinvk.api.access.auth import Access, Logins
from clinvk.api.access.clients import RateLimits
from clinvk.api.access.hosts import AllowedHosts
from clinvk.api.access.keys import ApiKeys
from clinvk.api.endpoints.inventory import BackendInventory
from clinvk.api.endpoints.parked_runs import Answer, ParkedRuns
from clinvk.api.endpoints.request_admission import RequestAdmission
from clinvk.api.endpoints.services import Services, Setup
from clinvk.api.http.middleware import RequestMiddleware, ServerState
from clinvk.api.observe.live import LiveEvents
from clinvk.api.observe.observers import Observers, observe
from clinvk.api.push.messages import FILE, Push
from clinvk.api.server.address import listen
from clinvk.api.server.server import RunningServer, open_server
from clinvk.backends.base import Backend
from clinvk.backends.registry import BACKENDS
from clinvk.config.load import home
from clinvk.config.model import (
    BackendSettings,
    ClusterSettings,
    InteractionSettings,
    LogSettings,
    NotificationSettings,
    PolicySettings,
    ServerSettings,
    Settings,
    TracingSettings,
    UnifiedFlags,
    WarmSettings,
)
from clinvk.dialects.conversation import ToolTurn
from clinvk.dialects.dialect import Call
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run.task import RunTask
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import SessionStore
from clinvk.store.sqlite.sqlite import SqliteStore
from polling import until


@dataclass(frozen=True)
class LiveServer:
    """A running server, and a client that keeps no connection."""

    port: int
    app: RequestMiddleware
    state: ServerState
    runs: LocalRuns
    parked_runs: ParkedRuns
    logins: Logins
    client: httpx.AsyncClient
    is_cluster: bool = False

    async def prompt(self, **body: object) -> httpx.Response:
        """Send a prompt. The default backend is `claude`."""
        return await self.client.post("/api/v1/prompt", json={"backend": "claude", "prompt": "hi", **body})

    async def detached(self, **body: object) -> dict[str, str]:
        """Start a detached run. Return its `run_id`, `session_id` and `state`."""
        response = await self.client.post(
            "/api/v1/prompt",
            json={"backend": "claude", "prompt": "hi", "detach": True, **body},
            headers={"prefer": "respond-async"},
        )
        assert response.status_code == 202, response.text
        return response.json()

    async def ended(self, run_id: str) -> None:
        """Wait until a detached run has ended."""
        await until(lambda: not self.runs.live(run_id))

    async def raw(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send bytes over a new connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await writer.drain()
        return reader, writer


@asynccontextmanager
async def serving(
    environ: Mapping[str, str],
    registry: Mapping[str, Backend] = BACKENDS,
    backends: dict[str, BackendSettings] | None = None,
    unified_flags: UnifiedFlags | None = None,
    store: SessionStore | None = None,
    keys: ApiKeys | None = None,
    log: LogSettings | None = None,
    tracing: bool = False,
    policy: PolicySettings | None = None,
    warm: WarmSettings | None = None,
    interactions: InteractionSettings | None = None,
    notifications: NotificationSettings | None = None,
    cluster: ClusterSettings | None = None,
    **server: object,
) -> AsyncGenerator[LiveServer]:
    """Serve with these settings of `server`. The default store is in the home of the environment.

    Agent processes are kept warm only with `warm`: a scripted agent serves one prompt.
    """
    settings = Settings(
        warm=warm or WarmSettings(enabled=False),
        server=ServerSettings(**server),  # pyright: ignore[reportArgumentType]  # a wrong name or type fails the test
        backends=backends or {},
        unified_flags=unified_flags or UnifiedFlags(),
        log=log or LogSettings(),
        policy=policy or PolicySettings(),
        interactions=interactions or InteractionSettings(),
        tracing=TracingSettings(enabled=tracing),
        notifications=notifications or NotificationSettings(),
        cluster=cluster or ClusterSettings(),
    )
    sockets = listen("127.0.0.1", 0)
    port: int = sockets[0].getsockname()[1]
    async with AsyncExitStack() as stack:
        nodes: list[RunningServer] = []
        is_limited = any(name.startswith("max_") for name in server)  # the limits of each node count together
        for node in NODES[: 1 if is_limited else None] if broker_url else ():
            of_node = replace(settings, cluster=ClusterSettings(url=broker_url, node=node))
            nodes.append(await stack.enter_async_context(_running(of_node, environ, [], store, keys, registry)))
        if broker_url:
            settings = replace(settings, cluster=ClusterSettings(url=broker_url), warm=WarmSettings(enabled=False))
        running = await stack.enter_async_context(_running(settings, environ, sockets, store, keys, registry))
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                limits=httpx.Limits(max_keepalive_connections=0),
                timeout=60,  # an agent may take long until it says anything, on a busy machine
            )
        )
        if cluster_of_gateway := running.services.cluster:
            await until(lambda: len(cluster_of_gateway.nodes()) == len(nodes))
        services = running.services
        runs, parked = services.runs, services.parked_runs
        if nodes:
            runs = cast(LocalRuns, _RunsOfNodes([each.services.runs for each in nodes]))
            parked = cast(ParkedRuns, _ParkedRunsOfNodes([each.services.parked_runs for each in nodes]))
        yield LiveServer(port, running.app, services.state, runs, parked, services.access.logins, client, bool(nodes))


broker_url = ""
"""The broker of a cluster: if set, tests go through a gateway with two workers."""

NODES = ("one", "two")


class _RunsOfNodes:
    """The runs of all workers of a cluster; what concerns no single run is that of the first."""

    def __init__(self, runs: Sequence[LocalRuns]) -> None:
        self._runs = runs

    @property
    def busy(self) -> int:
        return sum(each.busy for each in self._runs)

    @property
    def queued(self) -> int:
        return sum(each.queued for each in self._runs)

    def live(self, run_id: str) -> RunTask | None:
        return next((run for each in self._runs if (run := each.live(run_id))), None)

    async def cancel(self, run_id: str) -> None:
        for each in self._runs:
            await each.cancel(run_id)

    async def __aexit__(self) -> None:
        for each in self._runs:
            await each.__aexit__()

    def __getattr__(self, name: str) -> object:
        return getattr(self._runs[0], name)


class _ParkedRunsOfNodes:
    """The parked runs of all workers of a cluster; for all else, those of the first."""

    def __init__(self, parked_runs: Sequence[ParkedRuns]) -> None:
        self._parked_runs = parked_runs

    @property
    def count(self) -> int:
        return sum(each.count for each in self._parked_runs)

    def has(self, turn: ToolTurn, key_name: str) -> bool:
        return any(each.has(turn, key_name) for each in self._parked_runs)

    def answer(self, call: Call, turn: ToolTurn) -> AbstractAsyncContextManager[Answer]:
        having = (each for each in self._parked_runs if each.has(turn, call.request.key_name))
        return next(having, self._parked_runs[0]).answer(call, turn)

    def __getattr__(self, name: str) -> object:
        return getattr(self._parked_runs[0], name)


@asynccontextmanager
async def _running(
    settings: Settings,
    environ: Mapping[str, str],
    sockets: list[socket.socket],
    store: SessionStore | None,
    keys: ApiKeys | None,
    registry: Mapping[str, Backend],
) -> AsyncGenerator[RunningServer]:
    """Run one server in this process: a gateway or a worker if the settings name a cluster."""
    cluster = None
    if settings.cluster.url:
        from clinvk.cluster.membership import SECRET_VARIABLE, Membership

        cluster = Membership(settings, {**environ, SECRET_VARIABLE: "secret"}, listens=bool(sockets))
    async with (
        cluster or nullcontext(),
        observe(settings, registry) as watching,
        nullcontext(store) if store else SqliteStore(home(environ)) as kept,
        open_server(Setup(settings, environ, registry, sockets, keys or ApiKeys(), cluster), kept, watching) as running,
    ):
        yield running


def services_of(
    runs: LocalRuns,
    store: SessionStore | None = None,
    settings: Settings | None = None,
    environ: Mapping[str, str] | None = None,
    registry: Mapping[str, Backend] = BACKENDS,
    access: Access | None = None,
) -> Services:
    """Return the services of endpoints that are called without a server. By default, no key is required."""
    settings, environ, store = settings or Settings(), environ or {}, store or MemoryStore()
    keys, server = ApiKeys(), settings.server
    access = access or Access(keys, AllowedHosts(server), RateLimits(server), Logins(keys), open_warning="")
    admission = RequestAdmission(settings, environ, registry, store, access.keys)
    inventory = BackendInventory(settings, environ, registry, admission.policy, runs.version)
    live = LiveEvents()
    push = Push(settings.notifications, Path(FILE), environ, runs.spawner, access.keys, store, live)
    return Services(
        settings,
        environ,
        registry,
        store,
        runs,
        admission,
        inventory,
        access,
        Observers((), live),
        push,
        asyncio.TaskGroup(),
    )
