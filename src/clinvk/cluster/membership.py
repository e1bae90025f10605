"""The role of a server in a cluster: gateway, worker, or both."""

import asyncio
import hmac
import logging
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from msgspec.structs import replace
from starlette.types import ASGIApp

from clinvk import __version__
from clinvk.api.endpoints.inventory import BackendInfo, NodeInfo
from clinvk.api.endpoints.services import Owner, Services
from clinvk.cluster.announcements import Announcement, Change
from clinvk.cluster.broker import Broker, Received, connected, without_password
from clinvk.cluster.carrier import Carrier
from clinvk.cluster.gateway import Gateway
from clinvk.cluster.members import ANNOUNCE_INTERVAL_S, CHECK_INTERVAL_S, Member, Members
from clinvk.cluster.node_app import node_app
from clinvk.cluster.parked_calls import ParkedCalls
from clinvk.cluster.parts import ClusterNodes, PartsHere
from clinvk.cluster.signing import CHUNK_BYTES, InvalidMessage, Signer
from clinvk.config.load import home
from clinvk.config.model import Settings
from clinvk.config.saving import replace_file
from clinvk.orchestrate.admission import Admit
from clinvk.orchestrate.orchestration import Nodes
from clinvk.runtime.process.waiting import in_background
from clinvk.runtime.slots import Slots
from clinvk.store.opening import store_name
from clinvk.types.errors import ConfigError, StoreUnavailable
from clinvk.types.request import Placement

logger = logging.getLogger(__name__)

SECRET_VARIABLE = "CLINVK_CLUSTER_SECRET"  # noqa: S105  # a name

_ANSWER_TIMEOUT_S = 2.0
_STORE_TIMEOUT_S = 1.0
_MIN_INTERVAL_S = 0.05
"""A server does not announce itself more often."""

_FIRST_ANNOUNCEMENTS_S = 0.3
"""How long a gateway waits at its start for the nodes, which announce themselves to a new server at once."""


class Membership:
    """The role of one server in the cluster of its settings. The context connects to the broker.

    A server that `listens` is a gateway; one whose settings name a node runs agents.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], listens: bool) -> None:
        self.listens = listens
        self.runs_agents = bool(settings.cluster.node)
        self._settings = settings
        self._environ = environ
        self._process = os.urandom(8).hex()
        self._signer = Signer(b"")
        self._members = Members()
        self._announce_soon = asyncio.Event()
        self._has_warned = False
        self._started_at = time.time()
        self._namesake = asyncio.Event()
        self._exits = AsyncExitStack()
        self._broker: Broker | None = None
        self._gateway: Gateway | None = None
        self._slots: Slots | None = None
        self.part_nodes: Callable[[Placement, Admit, Mapping[str, Any]], Nodes] | None = None

    @property
    def role(self) -> str:
        """The role, for the startup message."""
        cluster = self._settings.cluster
        roles = [*(["gateway"] if self.listens else []), *([f"node {cluster.node}"] if cluster.node else [])]
        return f"{' and '.join(roles)} of {without_password(cluster.url)}"

    async def __aenter__(self) -> Self:
        """Connect to the broker.

        Raises:
            ConfigError: the broker cannot be used, there is no secret, or another server has the name of the node.
        """
        secret = await asyncio.to_thread(read_secret, self._environ)
        self._signer = Signer(secret)
        self._broker = await self._exits.enter_async_context(connected(self._settings.cluster, broker_password(secret)))
        try:
            await self._refuse_duplicate(self._broker)
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()
        if self._namesake.is_set():
            raise self._name_is_used()

    def wrap(self, services: Services, owner: Owner, app: ASGIApp) -> ASGIApp:
        """Return the application for an endpoint: of a gateway one that passes the requests to nodes."""
        return self._gateway.wrap(owner, app) if self._gateway else app

    def nodes(self) -> list[NodeInfo]:
        """Return the machines that run agents, by name."""
        return sorted((self._node_info(member) for member in self._members.all_nodes()), key=lambda info: info.node)

    @asynccontextmanager
    async def joined(self, services: Services) -> AsyncGenerator[None]:
        """Announce this server, and serve or pass on requests, inside the context."""
        assert self._broker, "the context of this object is open"
        broker, signer, members = self._broker, self._signer, self._members
        await self._identify_store()
        await broker.subscribe("members", self._note)
        async with AsyncExitStack() as stack:
            runner, app = None, None
            if self.runs_agents:
                answer = partial(broker.answer, self._process, signer)
                parked_calls = ParkedCalls(broker, answer, services.background)
                services.parked_runs.on_call = parked_calls.change
                runner, app = PartsHere(services), parked_calls.wrap(node_app(services))
                name = f"node.{self._settings.cluster.node}"
                await broker.subscribe(name, answer)
            carrier = Carrier(broker, signer, members, self._process, runner, app)
            await stack.enter_async_context(carrier)
            if self.runs_agents:
                self.part_nodes = partial(ClusterNodes, services, carrier, members, self._process)
                services.access.keys.trusts_gateways = True
                services.live.forward = partial(self._forward_change, broker)
                self._slots = services.runs.slots
                self._slots.on_limited = self._announce_soon.set
                members.on_lost.append(self._count_elsewhere)
            if self.listens:
                self._gateway = Gateway(services, carrier, members, partial(broker.process_at, signer))
                services.inventory.of_cluster = partial(self._backends, broker)
                services.live.only_forwarded = not self.runs_agents
                broker.on_reconnect.append(services.live.reset)
                await broker.subscribe("changes", partial(self._show_change, services))
            announcing = in_background(self._announce(services, broker))
            stopping, refusing = in_background(self._stop(services)), in_background(self._refuse_namesake())
            locating = in_background(services.inventory.locate_regularly())
            async with announcing, locating, in_background(self._check(broker)), stopping, refusing:
                if self.listens:
                    await asyncio.sleep(_FIRST_ANNOUNCEMENTS_S)
                yield
        broker.send("members", signer.sign(self._announcement(services, broker, has_left=True)))

    async def observe(self) -> list[NodeInfo]:
        """Listen for a moment, and return the nodes that have announced themselves."""
        assert self._broker, "the context of this object is open"
        await self._identify_store()
        await self._broker.subscribe("members", self._note)
        await asyncio.sleep(ANNOUNCE_INTERVAL_S * 1.2)
        return self.nodes()

    async def _announce(self, services: Services, broker: Broker) -> None:
        """Announce this server every second, and at once when another server has started or a limit is concerned."""
        while True:
            await self._identify_store()
            self._announce_soon.clear()
            broker.send("members", self._signer.sign(self._announcement(services, broker)))
            await asyncio.sleep(_MIN_INTERVAL_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(ANNOUNCE_INTERVAL_S):
                    await self._announce_soon.wait()

    async def _identify_store(self) -> None:
        """Learn the name of the store, as soon as its database answers."""
        if not self._members.store:
            with suppress(StoreUnavailable):
                self._members.store = await store_name(self._settings, self._environ, _STORE_TIMEOUT_S)

    def _announcement(self, services: Services, broker: Broker, has_left: bool = False) -> Announcement:
        common = Announcement(
            process=self._process, version=__version__, store=self._members.store, connections=broker.connections
        )
        if has_left or not self.runs_agents:
            return replace(common, state="left" if has_left else "up")
        runs = services.runs
        codes, now = runs.refusals.codes(), time.monotonic()
        return replace(
            common,
            node=self._settings.cluster.node,
            labels=self._settings.cluster.labels,
            started_at=self._started_at,
            backends=tuple(replace(info, error_code=codes.get(info.name)) for info in services.inventory.last_own()),
            running=runs.busy,
            queued=runs.queued,
            max_runs=runs.capacity.runs,
            clients={name: (held, now - since) for name, (held, since) in runs.slots.clients().items()},
            state="stopping" if services.state.stopping.is_set() else "up",
        )

    async def _stop(self, services: Services) -> None:
        """Announce the stop of this server without delay."""
        await services.state.stopping.wait()
        self._announce_soon.set()

    async def _check(self, broker: Broker) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self._members.check(broker.is_connected)

    def _note(self, received: Received) -> None:
        try:
            announcement = self._signer.announcement(received.data)
        except InvalidMessage as exc:
            if not self._has_warned:
                logger.warning("a process on the same broker is not of this cluster: %s", exc)
            self._has_warned = True
            return
        if self._members.note(announcement) and announcement.process != self._process:
            self._announce_soon.set()
        if announcement.process != self._process:
            self._count_elsewhere()
        is_namesake = self.runs_agents and announcement.node == self._settings.cluster.node
        if is_namesake and (announcement.started_at, announcement.process) < (self._started_at, self._process):
            self._namesake.set()

    def _count_elsewhere(self, _: str = "") -> None:
        if self._slots:
            self._slots.count_elsewhere(self._members.clients_elsewhere(self._process))

    async def _refuse_namesake(self) -> None:
        """Raise an error if an older worker has the name of this node. Both may have started at the same time."""
        await self._namesake.wait()
        raise self._name_is_used()

    def _name_is_used(self) -> ConfigError:
        node = self._settings.cluster.node
        return ConfigError(f"another worker of this cluster is named {node!r}; --node chooses another name")

    def _forward_change(self, broker: Broker, kind: str, data: bytes) -> None:
        """Send a change of a run or an interaction to the viewers at gateways; if it is long, without its data."""
        shown = data if len(data) <= CHUNK_BYTES else b""
        broker.send("changes", self._signer.sign(Change(self._process, kind, shown)))

    def _show_change(self, services: Services, received: Received) -> None:
        """Show the viewers at this gateway a change of a worker."""
        with suppress(InvalidMessage):
            change = self._signer.change(received.data)
            if change.process == self._process:
                return
            if change.data:
                services.live.publish_data(change.kind, change.data)
            else:
                services.live.reset()

    async def _refuse_duplicate(self, broker: Broker) -> None:
        node = self._settings.cluster.node
        if node and await broker.process_at(self._signer, f"node.{node}", _ANSWER_TIMEOUT_S):
            raise self._name_is_used()

    def _backends(self, broker: Broker) -> list[BackendInfo]:
        """Return the agents of the cluster: of each the one that is available, if any, on the least loaded node.

        While the broker is away, none is available.
        """
        found: dict[str, BackendInfo] = {}
        for member in self._members.nodes():
            for info in member.announcement.backends:
                if info.name not in found or (info.available and not found[info.name].available):
                    found[info.name] = info
        return [replace(info, available=info.available and broker.is_connected) for info in found.values()]

    def _node_info(self, member: Member) -> NodeInfo:
        announcement = member.announcement
        return NodeInfo(
            node=announcement.node,
            state=self._members.state_of(member),
            version=announcement.version,
            labels=announcement.labels,
            backends=announcement.backends,
            running=announcement.running,
            queued=announcement.queued,
            max_concurrent_runs=announcement.max_runs,
        )


async def list_nodes(settings: Settings, environ: Mapping[str, str]) -> list[NodeInfo]:
    """Return the nodes that announce themselves, without taking part in the cluster. Raises `ConfigError`."""
    async with Membership(replace(settings, cluster=replace(settings.cluster, node="")), environ, False) as observer:
        return await observer.observe()


def secret_file(environ: Mapping[str, str]) -> Path:
    """Return the file with the secret of the cluster."""
    return home(environ) / "cluster.secret"


def read_secret(environ: Mapping[str, str]) -> bytes:
    """Return the secret that all processes of a cluster share. Blocks.

    Raises:
        ConfigError: there is no secret, or the file cannot be read or is readable for other users.
    """
    if secret := environ.get(SECRET_VARIABLE):
        return secret.encode()
    file = secret_file(environ)
    try:
        mode, secret = file.stat().st_mode, file.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigError(
            f"a cluster needs a secret: set {SECRET_VARIABLE}, or copy {file} from another machine of the cluster "
            f"({exc.strerror}); on its first machine: (umask 077; openssl rand -base64 32 > {file})"
        ) from exc
    if mode & 0o077:
        raise ConfigError(f"{file}: others may read or write it; chmod 600 it")
    if not secret:
        raise ConfigError(f"{file}: is empty")
    return secret.encode()


def broker_password(secret: bytes) -> str:
    """Return the password at a NATS server of `clinvk cluster up`. It does not reveal the secret."""
    return hmac.digest(secret, b"broker", "sha256").hex()


def create_secret(environ: Mapping[str, str]) -> Path:
    """Create the file with the secret, unless it exists, and return it. Blocks."""
    file = secret_file(environ)
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(file, f"{secrets.token_urlsafe(32)}\n".encode())
    return file
