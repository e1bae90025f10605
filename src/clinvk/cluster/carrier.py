"""The messages about runs and HTTP requests over NATS, between processes of a cluster: see `clinvk.remote.messages`.

A message is split into pieces, and dropped if a piece is lost. The signature of a piece covers its subject, which names
both processes, and the number of the message increases: a copy does nothing.
"""

import asyncio
import logging
import math
import struct
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Protocol, Self

import msgspec
from starlette.types import ASGIApp

from clinvk.cluster.broker import Broker, Received
from clinvk.cluster.members import LOST_AFTER_S, Member, Members, Undelivered
from clinvk.cluster.remote_response import RemoteResponse
from clinvk.cluster.served_request import ServedRequest
from clinvk.cluster.signing import InvalidMessage, Signer, chunks
from clinvk.remote import messages
from clinvk.remote.messages import HOLD_INTERVAL_S, Admitted, BeginPart, Holding, HttpRequest, Message
from clinvk.remote.remote_run import RemoteRun
from clinvk.remote.run_owner import RunOwner
from clinvk.runtime.runs import Run
from clinvk.types.errors import Cancelled, NodeUnavailable

logger = logging.getLogger(__name__)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode

_PIECE = struct.Struct(">QH?")
"""The number of the message, the number of the piece from 0, and whether the piece is the last."""

_KEPT_S = 30.0
"""How long a caller that is lost may return, and learn how its runs have ended."""


class PartRunner(Protocol):
    """Runs the parts of orchestrations of other nodes here."""

    def run(self, part: BeginPart) -> AbstractAsyncContextManager[Run]:
        """Admit and run a part; leaving the context stops the run."""
        ...

    async def admit(self, part: BeginPart) -> Admitted:
        """Return the part as this node would run it."""
        ...


class _Peer:
    """Another process: joins the pieces of its messages, and owns the runs that it has begun here."""

    def __init__(self, owner: RunOwner) -> None:
        self.owner = owner
        self._last = (0, 0)
        self._data = b""

    def join(self, signed: bytes) -> bytes | None:
        """Take a piece; return the message if the piece completes it."""
        number, index, is_last = _PIECE.unpack_from(signed)
        if (number, index) <= self._last:
            return None
        is_next = index == 0 or (self._data and (number, index - 1) == self._last)
        self._last = number, index
        self._data = (self._data if index else b"") + signed[_PIECE.size :] if is_next else b""
        if not (is_next and is_last):
            return None
        data, self._data = self._data, b""
        return data


@dataclass
class _Held:
    """A run of another node, or the response to a request.

    `sent` counts the messages to begin it that the node may have received.
    """

    process: str
    node: str
    command: BeginPart | HttpRequest
    run: RemoteRun | RemoteResponse
    sent: int = 0

    def lose(self) -> None:
        """End the run: the node is lost."""
        is_undelivered = not (self.sent or self.run.is_begun)
        self.run.lose((Undelivered if is_undelivered else NodeUnavailable)(f"node {self.node!r} is away"))


class Carrier:
    """Carries messages to and from the other processes, inside this context.

    A node runs the parts of others with `runner`, and serves the requests of gateways with `app`.
    """

    def __init__(
        self,
        broker: Broker,
        signer: Signer,
        members: Members,
        process: str,
        runner: PartRunner | None = None,
        app: ASGIApp | None = None,
    ) -> None:
        self._broker = broker
        self._signer = signer
        self._members = members
        self._process = process
        self._runner = runner
        self._app = app
        self._peers: dict[str, _Peer] = {}
        self._owners: set[str] = set()
        self._held: dict[str, _Held] = {}
        self._numbers = count(1)
        self._reconnected_at = -math.inf
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._unsubscribe = await self._broker.subscribe(f"runs.{self._process}.*", self._receive)
        self._broker.on_reconnect.append(self._resume)
        self._members.on_interrupted.append(self._resume)
        self._members.on_lost.append(self._on_lost)
        self._repeating = self._tasks.create_task(self._repeat())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the runs of the other nodes."""
        self._unsubscribe()
        self._repeating.cancel()
        for peer in self._peers.values():
            peer.owner.leave()
        await self._tasks.__aexit__(None, None, None)

    @asynccontextmanager
    async def begin(self, member: Member, command: BeginPart) -> AsyncGenerator[RemoteRun]:
        """Ask a node to begin a run, and hold the run inside the context.

        Raises:
            Undelivered: the broker or the node is away.
        """
        process = member.announcement.process
        run = RemoteRun(command.run_id, command.request, partial(self._send, process), logger.warning)
        with self._hold_run(member, command, run):
            try:
                yield run
            finally:
                run.lose(Cancelled(Cancelled.DEFAULT_MESSAGE))  # nobody learns any more how the run ends

    @asynccontextmanager
    async def request(self, member: Member, request: HttpRequest) -> AsyncGenerator[RemoteResponse]:
        """Pass a request on to a node, and yield the response. Leaving the context early stops the response.

        Raises:
            Undelivered: the broker or the node is away.
        """
        process, node = member.announcement.process, member.announcement.node
        response = RemoteResponse(request.run_id, node, partial(self._send, process))
        with self._hold_run(member, request, response):
            try:
                yield response
            finally:
                response.leave()

    @contextmanager
    def _hold_run(
        self, member: Member, command: BeginPart | HttpRequest, run: RemoteRun | RemoteResponse
    ) -> Generator[None]:
        process, node = member.announcement.process, member.announcement.node
        if not self._broker.is_connected:
            raise Undelivered("the NATS server of the cluster (cluster.url) is away")
        if process not in self._members:  # `on_lost` has been called already
            raise Undelivered(f"node {node!r} is away")
        held = self._held[run.id] = _Held(process, node, command, run)
        self._owners.add(process)
        try:
            self._begin(held)
            yield
        finally:
            del self._held[run.id]

    def _begin(self, held: _Held) -> None:
        held.sent += 1
        self._send(held.process, held.command, f"runs.{self._process}.{held.run.id}")

    async def _repeat(self) -> None:
        """Repeat regularly what may be lost, and tell each owner which of its runs this process holds."""
        while True:
            await asyncio.sleep(HOLD_INTERVAL_S)
            is_sending = self._broker.is_sending  # then a copy of a request would hold up the request itself
            for process in filter(self._members.__contains__, self._owners):
                runs = {held.run.id: held for held in self._held.values() if held.process == process}
                for held in runs.values():
                    if held.run.stopping:
                        self._send(process, held.run.stopping)
                    elif not (held.run.is_begun or is_sending):
                        self._begin(held)
                self._send(process, Holding({run_id: held.run.received for run_id, held in runs.items()}))

    def _on_lost(self, process: str) -> None:
        for held in [held for held in self._held.values() if held.process == process]:
            held.lose()
        if peer := self._peers.get(process):
            peer.owner.leave()
            asyncio.get_running_loop().call_later(_KEPT_S, self._forget, process)

    def _forget(self, process: str) -> None:
        """Forget the runs of a process that has not returned."""
        if process not in self._members:
            self._peers[process].owner.forget()
            self._owners.discard(process)

    def _resume(self, process: str | None = None) -> None:
        """Ask one node, or after an interruption here all, for the events that the interruption has lost."""
        self._reconnected_at = self._reconnected_at if process else time.monotonic()
        for held in self._held.values():
            if process in (None, held.process) and held.run.is_begun:
                held.run.read_again()

    def _send(self, process: str, message: Message, reply: str = "") -> int:
        """Send a message, and return its size. The broker refuses it at `reply` if nobody receives it."""
        data, subject, number = _encode(message), f"runs.{process}.{self._process}", next(self._numbers)
        pieces = [*chunks(data)]
        for index, piece in enumerate(pieces):
            is_last = index == len(pieces) - 1
            signed = self._signer.sign_piece(_PIECE.pack(number, index, is_last) + piece, subject)
            self._broker.send(subject, signed, reply if is_last else "")
        return len(data)

    def _receive(self, received: Received) -> None:
        sender = received.subject.rpartition(".")[2]
        if received.is_refused:
            self._on_refused(run_id=sender)
        elif sender in self._members:
            try:
                piece = self._signer.piece(received.data, received.subject)
                peer = self._peers.get(sender) or self._add_peer(sender)
                if data := peer.join(piece):
                    self._take(sender, peer.owner, _decode(data), len(data))
            except (InvalidMessage, msgspec.MsgspecError) as exc:
                logger.debug("a message is ignored: %s", exc)

    def _add_peer(self, process: str) -> _Peer:
        owner = RunOwner(partial(self._send, process), self._tasks)
        peer = self._peers[process] = _Peer(owner)
        return peer

    def _on_refused(self, run_id: str) -> None:
        """Nobody receives the request to begin a run. After an interruption the node may connect later."""
        if held := self._held.get(run_id):
            held.sent -= 1  # while the node may have received another one, only its silence tells that it is lost
            if not (held.sent or held.run.is_begun) and time.monotonic() - self._reconnected_at >= LOST_AFTER_S:
                held.lose()

    def _take(self, sender: str, owner: RunOwner, message: Message, size: int) -> None:
        match message:
            case HttpRequest() if self._app:
                served = ServedRequest(message, self._app, partial(self._send, sender))
                owner.serve(message.run_id, served, served.serve)
            case BeginPart(is_check=True) if self._runner:
                runner = self._runner
                owner.work(message.run_id, lambda _: runner.admit(message))
            case BeginPart() if self._runner:
                owner.begin(message.run_id, partial(self._runner.run, message))
            case messages.Read() | messages.Stop() | Holding():
                owner.take(message)
            case _ if isinstance(message, messages.Answer):
                held = self._held.get(message.run_id)
                if held and held.process == sender:
                    held.run.feed(message, size)
            case _:
                pass
