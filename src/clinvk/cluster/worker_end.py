"""The worker's end of HTTP over NATS: serve the requests of gateways with an ASGI application.

The worker sends the frames of a response as far as `WINDOW_BYTES` ahead of the client, so a slow client holds its agent
back as it would over TCP. The worker keeps these frames until the client has them: after an interruption of the broker
they are sent again, and nothing is lost. A gateway that does not announce itself counts as a client that disconnected.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Self

from starlette.types import ASGIApp, Message, Scope

from clinvk.cluster import messages
from clinvk.cluster.broker import Broker, Received
from clinvk.cluster.messages import (
    PROTOCOL,
    WINDOW_BYTES,
    Frame,
    InvalidMessage,
    Kind,
    RequestHead,
    ResponseHead,
    Signer,
)
from clinvk.runtime.process.waiting import WakeUp
from clinvk.types.errors import ClinvkError

logger = logging.getLogger(__name__)

_REPEAT_S = 5.0

_REMEMBERED_STREAMS = 10_000
"""How many ended streams a worker remembers. A request whose stream may be older is not run: it may be a copy."""


class _Request:
    """A request that a worker serves, with the frames of its response that the client does not have yet."""

    def __init__(self, head: RequestHead, send: Callable[[Frame], None]) -> None:
        self.head = head
        self.task: asyncio.Task[None] | None = None
        self._send = send
        self._body = bytearray()
        self._body_frames = 0
        self._is_body_sent = self._is_ended = False
        self._number = 0
        self._unacknowledged: deque[Frame] = deque()
        self._bytes = 0
        self._room = WakeUp()
        self._gone = asyncio.Event()

    @property
    def is_gone(self) -> bool:
        """Whether the client has disconnected."""
        return self._gone.is_set()

    @property
    def is_over(self) -> bool:
        """Whether the request has been served, and the client has the whole response or is gone."""
        is_at_work = not self.task.done() if self.task else not self.is_gone
        return not (is_at_work or self._unacknowledged)

    def add_body(self, frame: Frame) -> bool:
        """Add a part of the body unless it is a copy, and return whether the body is complete."""
        if frame.number == self._body_frames + 1:
            self._body_frames += 1
            self._body += frame.payload
        return len(self._body) >= self.head.body_bytes

    def acknowledge(self, number: int) -> None:
        """Drop the frames up to a number: the client has them."""
        while self._unacknowledged and self._unacknowledged[0].number <= number:
            self._bytes -= len(self._unacknowledged.popleft().payload)
        self._room.set()

    def resume(self, number: int) -> None:
        """Send the frames after a number again."""
        for frame in self._unacknowledged:
            if frame.number > number:
                self._send(frame)

    def repeat_end(self) -> None:
        """Send the last frame of an ended response again: the gateway may not have received it."""
        if self.task and self.task.done() and self._unacknowledged:
            self._send(self._unacknowledged[-1])

    def probe(self) -> None:
        """Let the gateway cancel the request if it does not know the stream."""
        self._send(Frame(Kind.PROBE, 0))

    def disconnect(self) -> None:
        """Record that the client has disconnected."""
        self._gone.set()
        self._unacknowledged.clear()
        self._room.set()

    async def serve(self, app: ASGIApp) -> None:
        """Call the application."""
        scope = self._scope()
        try:
            await app(scope, self._receive, partial(self._send_message, scope["state"]))
        except Exception:
            logger.exception("a request of the cluster failed inside clinvk")
        finally:
            if not (self._is_ended or self.is_gone):
                self._send_numbered(Kind.FAILED, b"")

    def _scope(self) -> Scope:
        head = self.head
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": head.method,
            "scheme": head.scheme,
            "path": head.path,
            "raw_path": head.path.encode(),
            "query_string": head.query,
            "root_path": "",
            "headers": [*head.headers],
            "client": head.address,
            "server": head.server,
            "state": {"head": head},
        }

    async def _receive(self) -> Message:
        if not self._is_body_sent:
            self._is_body_sent = True
            body, self._body = bytes(self._body), bytearray()
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send_message(self, state: Mapping[str, object], message: Message) -> None:
        if message["type"] == "http.response.start":
            error = state.get("error")
            code, field = (error.code, error.field or "") if isinstance(error, ClinvkError) else ("", "")
            head = ResponseHead(message["status"], tuple(message.get("headers", ())), code, field)
            self._send_numbered(Kind.HEAD, messages.encode(head))
            return
        *parts, last = messages.chunks(message.get("body", b""))
        for part in parts:
            await self._send_when_room(Kind.DATA, part)
        self._is_ended = not message.get("more_body", False)
        if last or self._is_ended:
            await self._send_when_room(Kind.END if self._is_ended else Kind.DATA, last)

    async def _send_when_room(self, kind: Kind, payload: bytes) -> None:
        while self._bytes >= WINDOW_BYTES and not self.is_gone:
            await self._room.wait()
        self._send_numbered(kind, payload)

    def _send_numbered(self, kind: Kind, payload: bytes) -> None:
        if self.is_gone:
            return
        self._number += 1
        frame = Frame(kind, self._number, payload)
        self._unacknowledged.append(frame)
        self._bytes += len(payload)
        self._send(frame)


class WorkerEnd:
    """Serves the requests of gateways with an ASGI application, inside this context."""

    def __init__(self, broker: Broker, signer: Signer, process: str, app: ASGIApp, max_body_bytes: int = 0) -> None:
        self._broker = broker
        self._max_body_bytes = max_body_bytes
        self._signer = signer
        self._subject = f"to.{process}"
        self._app = app
        self._requests: dict[str, _Request] = {}
        self._over: dict[str, None] = {}
        self._forgotten: dict[str, int] = {}
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        await self._broker.subscribe(self._subject, self._receive)
        self._broker.on_reconnect.append(self.probe)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect the clients that are left."""
        for request in self._requests.values():
            request.disconnect()
        await self._tasks.__aexit__(None, None, None)

    def on_lost(self, process: str) -> None:
        """Disconnect the clients of a lost gateway, and report that to the gateway, which may still be alive."""
        for reply in [each for each in self._requests if _parts_of(each)[0] == process]:
            self._requests[reply].disconnect()
            self._reply(reply, Frame(Kind.LOST, 0))
            self._forget_if_over(reply)

    def probe(self, process: str | None = None) -> None:
        """Find out which clients have left during an interruption, those of one gateway or of all."""
        for reply, request in self._requests.items():
            if process in (None, _parts_of(reply)[0]):
                request.probe()

    async def repeat_ends(self) -> None:
        """Repeat the last frames of ended responses, since no later frame shows the gateway that it lost them."""
        while True:
            await asyncio.sleep(_REPEAT_S)
            for request in self._requests.values():
                request.repeat_end()

    def _receive(self, received: Received) -> None:
        if received.is_refused:
            return  # the gateway is gone; its silence disconnects its clients
        try:
            frame = self._signer.frame(received.data, received.reply, self._subject)
            if frame.kind == Kind.REQUEST:
                self._begin(received.reply, messages.decode_request(frame.payload))
            elif request := self._requests.get(received.reply):
                self._continue(received.reply, request, frame)
            elif frame.kind == Kind.RESUME:
                self._reply(received.reply, Frame(Kind.LOST, 0))
        except InvalidMessage as exc:
            logger.debug("a frame is ignored: %s", exc)

    def _begin(self, reply: str, head: RequestHead) -> None:
        known = self._requests.get(reply)
        gateway, stream = _parts_of(reply)
        is_old = reply in self._over or stream <= self._forgotten.get(gateway, 0)
        if head.protocol != PROTOCOL or is_old or (known and known.is_gone):
            self._reply(reply, Frame(Kind.LOST, 0))  # it may have run: it does not run again
            return
        if known and known.task:
            return  # a copy
        request = self._requests[reply] = _Request(head, partial(self._reply, reply))
        if not head.body_bytes or 0 < self._max_body_bytes < head.body_bytes:  # the application refuses the length
            self._start(reply, request)

    def _continue(self, reply: str, request: _Request, frame: Frame) -> None:
        match frame.kind:
            case Kind.BODY:
                if request.task is None and request.add_body(frame):
                    self._start(reply, request)
            case Kind.ACK:
                request.acknowledge(frame.number)
            case Kind.RESUME if request.task is None or request.is_gone:
                if request.task is None:
                    del self._requests[reply]
                self._reply(reply, Frame(Kind.LOST, 0))
            case Kind.RESUME:
                request.resume(frame.number)
            case Kind.CANCEL:
                request.disconnect()
            case _:
                pass
        self._forget_if_over(reply)

    def _start(self, reply: str, request: _Request) -> None:
        request.task = self._tasks.create_task(request.serve(self._app))
        request.task.add_done_callback(lambda _: self._forget_if_over(reply))

    def _forget_if_over(self, reply: str) -> None:
        request = self._requests.get(reply)
        if request and request.is_over:
            del self._requests[reply]
            self._over[reply] = None
            if len(self._over) > _REMEMBERED_STREAMS:
                oldest = next(iter(self._over))
                del self._over[oldest]
                gateway, stream = _parts_of(oldest)
                self._forgotten[gateway] = max(stream, self._forgotten.get(gateway, 0))

    def _reply(self, reply: str, frame: Frame) -> None:
        self._broker.send(reply, self._signer.sign_frame(frame, reply, self._subject), self._subject)


def _parts_of(reply: str) -> tuple[str, int]:
    """Return gateway and number of a stream."""
    _, gateway, number = reply.split(".")
    return gateway, int(number)
