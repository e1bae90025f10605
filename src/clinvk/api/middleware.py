"""What every request passes first: its id, its path, the log, and the door that closes when the server stops."""

import asyncio
import logging
import re
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinvk.api.reply import headers_of, path_of, refuse
from clinvk.errors import ShuttingDown

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_OPEN_WHILE_STOPPING = ("/health", "/health/live")
_SLASHES = re.compile(r"/{2,}")


class Front:
    """Gives each request an id (`x-request-id`, the client's own where it sends one), tidies its path, logs it.

    `active` is the number of requests under way, `app` what they are passed on to. Once `stopping` is set, what comes
    is refused, health checks apart.
    """

    def __init__(self, app: ASGIApp, stopping: asyncio.Event) -> None:
        self.active = 0
        self.stopping = stopping
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            return
        path: str = _SLASHES.sub("/", scope["path"])
        scope["path"] = path.rstrip("/") or "/"
        given = headers_of(scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        log = _Entry(scope, send, request_id)
        self.active += 1
        try:
            if self.stopping.is_set() and scope["path"] not in _OPEN_WHILE_STOPPING:
                error = ShuttingDown("the server is stopping and takes no new requests")
                await refuse(error, scope, log.send, [(b"connection", b"close")])
            else:
                await self.app(scope, receive, log.send)
        finally:
            self.active -= 1
            log.write()


class _Entry:
    """A line of the access log; also puts the request id on the answer."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope = scope
        self._send = send
        self._request_id = request_id
        self._began = time.monotonic()
        self._status = 0
        self._bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self._request_id.encode())]
            message = {**message, "headers": headers}
        else:
            self._bytes += len(message.get("body", b""))
        await self._send(message)

    def write(self) -> None:
        level = logging.DEBUG if self._scope["path"].startswith("/health") else logging.INFO
        logger.log(
            level,
            "%s %s %s, %d bytes in %.1f ms, request %s",
            self._scope["method"],
            path_of(self._scope),
            self._status or "gone",
            self._bytes,
            (time.monotonic() - self._began) * 1000,
            self._request_id,
        )
