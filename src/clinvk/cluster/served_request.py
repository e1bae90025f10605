"""A node's end of an HTTP request that a gateway passes on: serve the request with an ASGI application.

The pieces of the response are sent as far as `ROOM_BYTES` ahead of the client, so a slow client holds its agent back as
it would over TCP. The pieces are kept until the gateway has them.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Message, Scope

from clinvk.remote.messages import ROOM_BYTES, HttpPiece, HttpRequest
from clinvk.runtime.process.waiting import WakeUp
from clinvk.types.errors import ClinvkError

logger = logging.getLogger(__name__)


class ServedRequest:
    """A request that this node serves, and the pieces of its response that the gateway lacks; see `Sender`."""

    def __init__(self, request: HttpRequest, send: Callable[[HttpPiece], object]) -> None:
        self._id = request.run_id
        self._body = request.body  # not the whole request: the body is freed once it is read
        self._scope = _scope_of(request)
        self._send = send
        self._number = 0
        self._unread: deque[HttpPiece] = deque()
        self._ahead = 0
        self._held = -1
        self._room = WakeUp()
        self._is_body_read = self._has_ended = False
        self._gone = asyncio.Event()

    def read(self, after: int) -> None:
        """Note that the gateway has the pieces up to a number."""
        while self._unread and self._unread[0].number <= after:
            self._ahead -= len(self._unread.popleft().data)
        self._room.set()

    def hold(self, after: int) -> None:
        """Note what the gateway has, as it does regularly. Send again what it still lacks since the last call."""
        if self._gone.is_set():  # the gateway was lost, and is back
            self._send(HttpPiece(run_id=self._id, number=after + 1, ending="broken"))
        self.read(after)
        if after == self._held:
            self.send_again(after)
        self._held = after

    def send_again(self, after: int) -> None:
        """Send the pieces after a number again."""
        for piece in self._unread:
            if piece.number > after:
                self._send(piece)

    def stop(self, at_once: bool = False) -> None:
        """Note that the client has disconnected."""
        self._gone.set()
        self._unread.clear()
        self._room.set()

    def close(self) -> None:
        """Do nothing: the pieces that the gateway lacks are kept."""

    async def serve(self, app: ASGIApp) -> None:
        """Call the application."""
        try:
            await app(self._scope, self._receive, self._send_message)
        except Exception:
            logger.exception("a request of the cluster failed inside clinvk")
        finally:
            if not self._has_ended:
                self._send_piece(HttpPiece(run_id=self._id, number=self._number + 1, ending="broken"))

    async def _receive(self) -> Message:
        if not self._is_body_read:
            self._is_body_read = True
            body, self._body = self._body, b""
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send_message(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            state: Mapping[str, object] = self._scope["state"]
            error = state.get("error")
            code, field = (error.code, error.field or "") if isinstance(error, ClinvkError) else ("", "")
            self._send_piece(
                HttpPiece(
                    run_id=self._id,
                    number=self._number + 1,
                    status=message["status"],
                    headers=tuple(message.get("headers", ())),
                    error_code=code,
                    error_field=field,
                )
            )
            return
        data: bytes = message.get("body", b"")
        has_more: bool = message.get("more_body", False)
        for start in range(0, len(data) or not has_more, ROOM_BYTES):
            while self._ahead >= ROOM_BYTES and not self._gone.is_set():
                await self._room.wait()
            is_last = not has_more and start + ROOM_BYTES >= len(data)
            self._has_ended = is_last
            self._send_piece(
                HttpPiece(
                    run_id=self._id,
                    number=self._number + 1,
                    data=data[start : start + ROOM_BYTES],
                    ending="complete" if is_last else "",
                )
            )

    def _send_piece(self, piece: HttpPiece) -> None:
        if self._gone.is_set():
            return
        self._number = piece.number
        self._unread.append(piece)
        self._ahead += len(piece.data)
        self._send(piece)


def _scope_of(request: HttpRequest) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "root_path": "",
        "headers": [*request.headers],
        "client": request.address,
        "server": request.server,
        "state": {"signed": (request.client, request.origin_named)},
    }
