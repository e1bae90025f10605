"""The services of a server for its endpoints: settings, store, runs, admission, access and observers."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from socket import socket
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, TypeVar

from starlette.requests import Request
from starlette.types import ASGIApp

from clinvk.api.access.auth import Access, access_of
from clinvk.api.access.keys import ApiKeys
from clinvk.api.endpoints.inventory import BackendInfo, BackendInventory, NodeInfo
from clinvk.api.endpoints.parked_runs import ParkedRuns
from clinvk.api.endpoints.prompt_runs import PromptRuns
from clinvk.api.endpoints.request_admission import RequestAdmission
from clinvk.api.http.middleware import ServerState
from clinvk.api.observe.live import LiveEvents
from clinvk.api.observe.observers import Observers
from clinvk.api.push.messages import FILE, Push
from clinvk.backends.base import Backend
from clinvk.config.load import home
from clinvk.config.model import Settings
from clinvk.runtime.local import LocalRuns, without_trace
from clinvk.runtime.process import executables
from clinvk.runtime.process.waiting import in_background
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees
from clinvk.store.protocol import SessionStore
from clinvk.types.request import Placement

if TYPE_CHECKING:
    from clinvk.orchestrate.admission import Admit
    from clinvk.orchestrate.live import Orchestrations
    from clinvk.orchestrate.orchestration import Nodes

T = TypeVar("T")


Owner = Literal["store", "prompt", "batch", "session", "run", "response", "events", "worktree", "worktrees"]
"""How a gateway of a cluster finds the node that has what a request is about; `store` asks no node."""


class Cluster(Protocol):
    """The role of a server in a cluster. The context connects to the broker."""

    listens: bool
    """Whether the server is a gateway: it listens on a port."""

    runs_agents: bool
    """Whether the server is a worker."""

    part_nodes: "Callable[[Placement, Admit, Mapping[str, Any]], Nodes] | None"
    """Returns the nodes for the parts of a request, for the placement, the completion and the state of the request.

    None for a server that is no worker.
    """

    @property
    def role(self) -> str:
        """The role, for the startup message."""
        ...

    async def __aenter__(self) -> Self:
        """Connect. Raises `ConfigError`."""
        ...

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        ...

    def wrap(self, services: "Services", owner: Owner, app: ASGIApp) -> ASGIApp:
        """Return the application for an endpoint: its own, or one that passes the requests to nodes."""
        ...

    def joined(self, services: "Services") -> AbstractAsyncContextManager[None]:
        """Take part in the cluster inside the context."""
        ...

    def nodes(self) -> list[NodeInfo]:
        """Return the machines that run agents."""
        ...


@dataclass(frozen=True)
class Services:
    """The services of one server for its endpoints. The owner of the server opens and closes the services."""

    settings: Settings
    environ: Mapping[str, str]
    registry: Mapping[str, Backend]
    store: SessionStore
    runs: LocalRuns
    admission: RequestAdmission
    inventory: BackendInventory
    access: Access
    observers: Observers
    push: Push
    background: asyncio.TaskGroup
    cluster: Cluster | None = None
    state: ServerState = field(default_factory=ServerState)
    client_lookups: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "clinvk-clients"))

    async def look_up_client(self, lookup: Callable[[], T]) -> T:
        """Return what `lookup` finds out about the process of a client.

        Each look-up reads all processes of the machine. One thread does them all, so that no number of them delays what
        else needs a thread.
        """
        return await asyncio.get_running_loop().run_in_executor(self.client_lookups, lookup)

    @property
    def live(self) -> LiveEvents:
        """The live events, for viewers of all runs."""
        return self.observers.live

    def backends(self, request: Request) -> list[BackendInfo]:
        """Return the agent CLIs that the key of a request may run."""
        key_name: str = request.state.key_name
        has_backend = self.admission.key_policy.has_backend
        return [info for info in self.inventory.backends() if has_backend(key_name, info.name)]

    @cached_property
    def parked_runs(self) -> ParkedRuns:
        """The runs with client tools."""
        return ParkedRuns(self.runs, self.settings.server, self.background)

    @cached_property
    def prompt_runs(self) -> PromptRuns:
        """What begins the runs of prompts."""
        return PromptRuns(self.runs, self.admission, self.parked_runs)

    @cached_property
    def orchestrations(self) -> "Orchestrations":
        """The requests for several agents, imported late: a megabyte that few servers need."""
        from clinvk.orchestrate.live import Orchestrations

        return Orchestrations(
            self.runs,
            self.store,
            self.runs.spawner,
            executables.needed_variables(self.environ),
            rule=self.admission.check_repository,
            background=self.background,
            cluster=self.settings.cluster,
        )

    @cached_property
    def worktrees(self) -> KeptWorktrees:
        """The worktrees of the clinvk home."""
        return KeptWorktrees(self.runs.spawner, home(self.environ), self.environ)

    @property
    def is_orchestrating(self) -> bool:
        """Whether several agents run for one request."""
        return "orchestrations" in vars(self) and self.orchestrations.is_busy

    async def end_orchestrations(self) -> None:
        """End all orchestrations. Call before `runs` is closed: worktrees and checks need the runs."""
        if "orchestrations" in vars(self):
            await self.orchestrations.end()


class Setup(NamedTuple):
    """What a server is opened with. `open_files` is the former limit of open files, for the agents."""

    settings: Settings
    environ: Mapping[str, str]
    registry: Mapping[str, Backend]
    sockets: list[socket]
    api_keys: ApiKeys
    cluster: Cluster | None = None
    open_files: int | None = None


@asynccontextmanager
async def open_services(
    setup: Setup, store: SessionStore, observers: Observers, background: asyncio.TaskGroup, keeps_warm: bool = False
) -> AsyncGenerator[Services]:
    """Open the services of a server inside the context; `keeps_warm` is as in `LocalRuns`."""
    settings, environ, registry, sockets, api_keys, cluster, open_files = setup
    access = await access_of(settings.server, api_keys, sockets)
    admission = RequestAdmission(settings, environ, registry, store, access.keys)
    async with (
        in_background(admission.key_policy.refresh()),
        LocalRuns(
            settings,
            store,
            without_trace(environ),
            registry,
            admission.admit_start,
            observers.observers,
            keeps_warm=keeps_warm,
            open_files=open_files,
            max_runs_of=admission.key_policy.max_runs,
            home=home(environ),
            lookups=admission.lookups,
            on_interaction=observers.on_interaction,
            check_source=admission.check_repository,
        ) as runs,
    ):
        inventory = BackendInventory(settings, environ, registry, admission.policy, runs.version)
        live, file = observers.live, home(environ) / FILE
        push = Push(settings.notifications, file, environ, runs.spawner, access.keys, store, live)
        services = Services(
            settings, environ, registry, store, runs, admission, inventory, access, observers, push, background, cluster
        )
        try:
            async with push.sending():
                yield services
        finally:
            services.client_lookups.shutdown(wait=False, cancel_futures=True)
