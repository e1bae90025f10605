"""The gateway's end of HTTP over NATS: send requests to workers, and receive their responses."""

import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

from clinvk.cluster import messages
from clinvk.cluster.broker import Broker, Received
from clinvk.cluster.members import LOST_AFTER_S, Members
from clinvk.cluster.messages import WINDOW_BYTES, Frame, InvalidMessage, Kind, RequestHead, ResponseHead, Signer
from clinvk.runtime.process.waiting import WakeUp
from clinvk.types.errors import NodeUnavailable

logger = logging.getLogger(__name__)


class Undelivered(NodeUnavailable):
    """The worker has not received the request, or the request changes nothing: it may be answered elsewhere."""


class Response:
    """The response of a worker, as the gateway receives it."""

    def __init__(self, name: str, process: str, send: Callable[[Frame], None], request: list[Frame]) -> None:
        self.process = process
        self.is_over = False
        self._name = name
        self._send = send
        self._request = request
        self._frames: deque[Frame] = deque()
        self._received = self._acknowledged = self._unacknowledged = 0
        self._gap = -1
        self._wake = WakeUp()
        self._is_resumed = self._is_refused = False
        self._error: NodeUnavailable | None = None

    def feed(self, frame: Frame) -> None:
        """Take a frame of the worker; skip frames that were received before, and request lost ones once.

        Send a lost request once more.
        """
        if frame.kind == Kind.LOST:
            frames, self._request = self._request, []
            for each in frames:
                self._send(each)
            if not frames:
                self.fail("does not know the request")
        elif frame.number == self._received + 1:
            self._received += 1
            self._frames.append(frame)
            self._wake.set()
        elif frame.number > self._received + 1 and self._received != self._gap:
            self._gap = self._received
            self.resume()

    def resume(self) -> None:
        """Repeat the last acknowledgement, and request the frames that an interruption has lost."""
        self._is_resumed = True
        self._send(Frame(Kind.ACK, self._acknowledged))
        self._send(Frame(Kind.RESUME, self._received))

    def fail(self, reason: str) -> None:
        """End the response: the worker is lost."""
        kind = Undelivered if self._is_refused and self._request else NodeUnavailable
        self._error = self._error or kind(f"node {self._name!r} {reason}")
        self._wake.set()

    def refuse(self, may_return: bool) -> None:
        """Note that nobody receives the subject of the worker.

        The worker `may_return`, and then resumes the stream, or is lost later. So may a worker that has received the
        request.
        """
        if not (self._received or self._is_resumed):
            self._is_refused = True
            if not may_return:
                self.fail("is away")

    async def head(self) -> ResponseHead:
        """Return status and headers.

        Raises:
            NodeUnavailable: the worker was lost before.
        """
        frame = await self._next()
        self._request = []  # it has arrived
        return messages.decode_response(frame.payload)

    async def body(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Yield the pieces of the body, each with whether more follow. A piece is acknowledged when the next is wanted.

        Raises:
            NodeUnavailable: the worker was lost, or broke off the response.
        """
        while not self.is_over:
            frame = await self._next()
            is_last = frame.kind == Kind.END
            yield frame.payload, not is_last
            self.is_over = is_last
            self._unacknowledged += len(frame.payload)
            if self.is_over or self._unacknowledged >= WINDOW_BYTES / 2:
                self._acknowledged, self._unacknowledged = frame.number, 0
                self._send(Frame(Kind.ACK, frame.number))

    async def read(self) -> bytes:
        """Return the whole body. Raises as `body`."""
        return b"".join([piece async for piece, _ in self.body()])

    async def _next(self) -> Frame:
        while not self._frames:
            if self._error:
                raise self._error
            await self._wake.wait()
        frame = self._frames.popleft()
        if frame.kind == Kind.FAILED:
            self.is_over = True
            self._send(Frame(Kind.ACK, frame.number))
            raise NodeUnavailable(f"node {self._name!r} broke off the response")
        return frame


class GatewayEnd:
    """Sends requests to workers, and receives their responses."""

    def __init__(self, broker: Broker, signer: Signer, members: Members, process: str) -> None:
        self._broker = broker
        self._signer = signer
        self._members = members
        self._process = process
        self._streams: dict[str, Response] = {}
        self._numbers = count(1)
        self._interrupted_at = -math.inf

    async def open(self) -> None:
        """Receive responses."""
        await self._broker.subscribe(f"reply.{self._process}.*", self._receive)
        self._broker.on_reconnect.append(self._resume_all)

    @asynccontextmanager
    async def request(self, head: RequestHead, process: str, node: str, body: bytes) -> AsyncGenerator[Response]:
        """Send a request to the process of a node, and yield the response. Leaving early cancels the request.

        Raises:
            Undelivered: the broker or the node is away.
        """
        if not self._broker.is_connected:
            raise Undelivered("the NATS server of the cluster (cluster.url) is away")
        if process not in self._members:  # `on_lost` has been called already
            raise Undelivered(f"node {node!r} is away")
        reply = f"reply.{self._process}.{next(self._numbers)}"
        send = partial(self._send, f"to.{process}", reply)
        frames = [*messages.request_frames(head, body)]
        response = self._streams[reply] = Response(node, process, send, frames)
        try:
            for frame in frames:
                send(frame)
            yield response
        finally:
            del self._streams[reply]
            if not response.is_over:
                send(Frame(Kind.CANCEL, 0))

    async def process_at(self, subject: str, timeout_s: float) -> str:
        """Return the id of the process that answers at a subject; empty if none of this cluster answers in time."""
        return await self._broker.process_at(subject, self._signer, timeout_s)

    def on_lost(self, process: str) -> None:
        """End the streams of a worker that is lost."""
        for response in self._streams.values():
            if response.process == process:
                response.fail("is away")

    def resume(self, process: str | None = None) -> None:
        """Request the frames that an interruption has lost, of one worker or of all."""
        for response in self._streams.values():
            if process in (None, response.process):
                response.resume()

    def _resume_all(self) -> None:
        self._interrupted_at = time.monotonic()
        self.resume()

    def _receive(self, received: Received) -> None:
        response = self._streams.get(received.subject)
        if received.is_refused:
            if response:  # after an interruption, workers may connect later than this gateway
                response.refuse(may_return=time.monotonic() - self._interrupted_at < LOST_AFTER_S)
            return
        worker = f"to.{response.process}" if response else received.reply
        try:
            frame = self._signer.frame(received.data, received.subject, worker)
        except InvalidMessage as exc:
            logger.debug("a frame is ignored: %s", exc)
            return
        if response:
            response.feed(frame)
        elif frame.kind in (Kind.END, Kind.FAILED, Kind.PROBE):
            self._send(worker, received.subject, Frame(Kind.CANCEL, 0))

    def _send(self, worker: str, reply: str, frame: Frame) -> None:
        self._broker.send(worker, self._signer.sign_frame(frame, reply, worker), reply)
