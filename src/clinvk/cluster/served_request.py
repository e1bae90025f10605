"""A node's end of an HTTP request that a gateway passes on: serve the request with an ASGI application.

The pieces of the response are sent about `ROOM_BYTES` ahead of the client, so a slow client holds its agent back as it
would over TCP. The pieces are kept until the gateway has them.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from clinvk.remote.log_reader import Sender
from clinvk.remote.messages import ROOM_BYTES, HttpPiece, HttpRequest
from clinvk.types.errors import ClinvkError

logger = logging.getLogger(__name__)


class ServedRequest(Sender):
    """A request to this node, with the unacknowledged pieces of the response."""

    def __init__(self, request: HttpRequest, app: ASGIApp, send: Callable[[HttpPiece], object]) -> None:
        super().__init__()
        self._id = request.run_id
        self._body = request.body  # not the whole request: the body is freed once it is read
        self._scope = _scope_of(request)
        self._app = app
        self._send = send
        self._pieces: deque[HttpPiece] = deque()
        self._sending = asyncio.Lock()
        self._is_body_read = self._has_ended = False
        self._gone = asyncio.Event()

    def read(self, after: int) -> None:
        """Note that the gateway has the pieces up to a number."""
        super().read(after)
        while self._pieces and self._pieces[0].number <= after:
            self._pieces.popleft()

    def hold(self, after: int) -> None:
        """As `Sender.hold`. A gateway that was lost, and is back, learns that the response breaks off."""
        if self._gone.is_set():
            self._send(HttpPiece(run_id=self._id, number=after + 1, ending="broken"))
        super().hold(after)

    def send_again(self, after: int) -> None:
        """Send the pieces after a number again."""
        for piece in self._pieces:
            if piece.number > after:
                self._send(piece)

    def stop(self, at_once: bool) -> None:
        """Note that the client has disconnected."""
        self._gone.set()
        self.read(self._sent)  # frees the pieces, and whoever waits for room

    async def serve(self) -> None:
        """Call the application, unless the client has disconnected already."""
        if self._gone.is_set():
            return
        try:
            await self._app(self._scope, self._receive, self._send_message)
        except Exception:
            logger.exception("a request of the cluster failed inside clinvk")
        finally:
            if not self._has_ended:
                self._send_piece(ending="broken")

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
            headers = tuple(message.get("headers", ()))
            self._send_piece(status=message["status"], headers=headers, error_code=code, error_field=field)
            return
        async with self._sending:  # a keep-alive does not split a piece of the endpoint
            await self._send_body(message.get("body", b""), message.get("more_body", False))

    async def _send_body(self, data: bytes, has_more: bool) -> None:
        if has_more and not data:
            return
        starts = range(0, max(1, len(data)), ROOM_BYTES)
        for start in starts:
            await self._wait_for_room()
            self._has_ended = not has_more and start == starts[-1]
            self._send_piece(data=data[start : start + ROOM_BYTES], ending="complete" if self._has_ended else "")

    def _send_piece(self, **fields: Any) -> None:
        if self._gone.is_set():
            return
        piece = HttpPiece(run_id=self._id, number=self._sent + 1, **fields)
        self._pieces.append(piece)
        self._note_sent(piece.number, len(piece.data))
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
