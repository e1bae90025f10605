"""The HTTP/1.1 protocol of uvicorn, hardened against upgrade offers and clients that never finish."""

import asyncio
import re
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
"""The limit for the head of a request, and for the framing between chunks of a body: uvicorn's parser has no limit."""

_OFFER = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_OFFER_START = re.compile(rb"\r(\n(u(p(g(r(a(d(e)?)?)?)?)?)?)?)?\Z", re.IGNORECASE)
"""Matches a possible beginning of an upgrade offer at the end of the received bytes."""

_WEBSOCKET = re.compile(rb"(GET )?(/api/v1)?/acp[ ?]")
"""Matches the beginning of a request, or its target, that may become a WebSocket."""

_HIDDEN = b"\r\nx-upgrd:"
_END_OF_HEAD = b"\r\n\r\n"
_PARTIAL_END = b"\r\n\r"
_TIMED_OUT = b"408 Request Timeout"
_TOO_LARGE = b"431 Request Header Fields Too Large"


class Http1Protocol(HttpToolsProtocol):
    """Hides upgrade offers from the parser, and closes connections that do not finish a request.

    Java's HTTP client offers h2c with every request over plain HTTP. httptools assumes that such a request has no body,
    so the prompt would be lost. The server upgrades a connection for `/acp` only.

    A client must send a head, and the rest of a body after the response, within `read_timeout_s`. A client that reads
    nothing for `write_timeout_s` is disconnected; 0 is no limit. The readers of bodies have a separate timeout.
    Pipelined bytes wait in this class, up to `MAX_HEAD_BYTES`: uvicorn would stop reading and miss a disconnect.
    Trailers are dropped, because uvicorn would treat trailers as headers.
    """

    __slots__ = (
        "_active",
        "_framing_bytes",
        "_head_bytes",
        "_held",
        "_in_body",
        "_in_head",
        "_pipelined",
        "_read_timer",
        "_write_timer",
    )
    # slots: instances share the keys of their dictionaries only up to 30 attributes, including uvicorn's

    read_timeout_s: float = 0
    write_timeout_s: float = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Start the idle timer of a new connection."""
        super().connection_made(transport)
        if self.client:  # a socket for IPv6 and IPv4 maps the addresses of IPv4
            self.client = (self.client[0].removeprefix("::ffff:"), self.client[1])
        self._head_bytes = self._framing_bytes = 0
        self._held = self._pipelined = b""
        self._in_head = self._in_body = False
        self._active: RequestResponseCycle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._start_idle_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel timers, and wake the running request."""
        self._unset_keepalive_if_required()
        self._cancel_read_timer()
        self.resume_writing()
        super().connection_lost(exc)
        self.pipeline.clear()
        if self._active:  # uvicorn wakes only the last request of the connection, which may be a pipelined one
            self._active.disconnected = self._active.disconnected or not self._active.response_complete
            self._active.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Process bytes from the client."""
        data, self._pipelined = self._pipelined + data, b""
        if self._is_busy and (self.pipeline or not self._in_body):
            self._buffer(data)
            return
        was_body = self._in_body
        if not was_body:
            data = self._held + data
            if len(data) > MAX_HEAD_BYTES and data.find(_END_OF_HEAD, 0, MAX_HEAD_BYTES) < 0:
                self._close_with(_TOO_LARGE)
                return
            if _OFFER.search(data) and not self._may_upgrade(data):
                head, end, rest = data.partition(_END_OF_HEAD)
                data = _OFFER.sub(_HIDDEN, head) + end + rest  # of the same length, because a body may match too
            data, self._held = _split_offer(data)
        self._framing_bytes += len(data)
        super().data_received(data)
        if self.transport.get_protocol() is not self:  # the connection is a WebSocket
            return
        if self._in_body and self._framing_bytes > MAX_HEAD_BYTES:
            self._close_with(_TOO_LARGE)
        elif self.pipeline:
            self.flow.resume_reading()
        elif not self._is_busy:
            self._start_read_timer(was_body, len(data))

    def _may_upgrade(self, data: bytes) -> bool:
        """Return whether a head, or the rest of one, belongs to a request for a WebSocket."""
        if self._in_head:
            return self._should_upgrade_to_ws() and self.parser is not None and self.parser.get_method() == b"GET"
        return data.startswith(b"GET") and bool(_WEBSOCKET.match(data))

    def _should_upgrade_to_ws(self) -> bool:
        return bool(_WEBSOCKET.match(self.url + b" "))

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the protocol of WebSockets, which is imported with the first one."""
        from clinvk.api.http.websocket import WebSocketProtocol

        self.ws_protocol_class = WebSocketProtocol
        self.app_state = {**self.app_state, "peer": self.client}
        self._unset_keepalive_if_required()
        self._cancel_read_timer()
        super().handle_websocket_upgrade()

    def _buffer(self, data: bytes) -> None:
        """Buffer a pipelined request: the head, and the received part of the body."""
        self._pipelined = data
        if len(data) > MAX_HEAD_BYTES:
            if self.pipeline or _END_OF_HEAD in data:
                self.flow.pause_reading()
            else:
                self._close_with(_TOO_LARGE)

    @property
    def _is_busy(self) -> bool:
        """Whether a request is not answered yet."""
        return self._active is not None and not self._active.response_complete

    def on_message_begin(self) -> None:
        """Note the start of a request head, and the other end of the connection, which may be a proxy."""
        super().on_message_begin()
        self.scope.setdefault("state", {})["peer"] = self.client
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Pass on a header without the white space that follows the value; drop trailers."""
        if not self._in_body:
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Note the end of a request head."""
        self._in_head, self._in_body = False, True
        self._head_bytes = self._framing_bytes = 0
        if self._read_timer:
            self._cancel_read_timer()
        is_pipelined = self._is_busy
        super().on_headers_complete()
        if not is_pipelined:
            self._active = self.cycle

    def on_body(self, body: bytes) -> None:
        """Pass on a part of a body."""
        self._framing_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a body."""
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the next request, or watch that the client reads the last bytes of the connection."""
        if self.pipeline:
            self._active, _ = self.pipeline[-1]
        super().on_response_complete()
        if self.transport.is_closing():
            self._start_write_timer()
        elif self._pipelined:
            self.loop.call_soon(self._process_pipelined)

    def _process_pipelined(self) -> None:
        if self._pipelined and not self.transport.is_closing():
            self.data_received(b"")

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if the client does not read the last response."""
        super().timeout_keep_alive_handler()
        self._start_write_timer()

    def pause_writing(self) -> None:
        """Start the write timer: the client reads more slowly than the server writes."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """Cancel the write timer: the client has caught up."""
        super().resume_writing()
        if self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None

    def _start_read_timer(self, was_body: bool, size: int) -> None:
        """Start the timer for the rest of a head, or of a body whose response was sent."""
        if was_body and not (self._in_head or self._in_body):
            self._cancel_read_timer()
            self._start_idle_timer()
            return
        if not self._in_body:
            self._head_bytes += size
            if self._head_bytes > MAX_HEAD_BYTES:
                self._close_with(_TOO_LARGE)
                return
        if not self._read_timer and self.read_timeout_s:
            self._read_timer = self.loop.call_later(self.read_timeout_s, self._close_with, _TIMED_OUT)

    def _cancel_read_timer(self) -> None:
        if self._read_timer:
            self._read_timer.cancel()
            self._read_timer = None

    def _start_idle_timer(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _close_with(self, status: bytes) -> None:
        """Close the connection, with a status unless another response is under way."""
        if self.transport.is_closing():
            return
        if self._is_busy:
            self.transport.abort()
            return
        if not self._in_body:
            self.transport.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        self.transport.close()
        self._start_write_timer()

    def _start_write_timer(self) -> None:
        if not self._write_timer and self.write_timeout_s:
            self._check_unsent(unsent=0)

    def _check_unsent(self, unsent: int) -> None:
        """Abort the connection if the client has read nothing since the last check, with `unsent` bytes pending."""
        now_unsent = self.transport.get_write_buffer_size()
        if now_unsent and unsent and now_unsent >= unsent:
            self.transport.abort()
        elif now_unsent:
            self._write_timer = self.loop.call_later(self.write_timeout_s, self._check_unsent, now_unsent)


def _split_offer(data: bytes) -> tuple[bytes, bytes]:
    """Split an incomplete head before a possible beginning of an upgrade offer."""
    offer_start = _OFFER_START.search(data, max(0, len(data) - len(_HIDDEN)))
    if not offer_start or _END_OF_HEAD in data or data.endswith(_PARTIAL_END):
        return data, b""
    return data[: offer_start.start()], data[offer_start.start() :]


def with_timeouts(read_timeout_s: float, write_timeout_s: float) -> type[Http1Protocol]:
    """Return a protocol class with limits: uvicorn creates the protocol of each connection without arguments."""
    limits = {"read_timeout_s": read_timeout_s, "write_timeout_s": write_timeout_s}
    return type("TimedProtocol", (Http1Protocol,), {"__slots__": (), **limits})
