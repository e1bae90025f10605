"""The outermost layer: request ids, normalized paths, the access log, and refusal while the server stops."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, urlencode

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinvk import logs
from clinvk.api.http.response import Header, headers_of, path_of
from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.dialect import Dialect
from clinvk.dialects.google import Google
from clinvk.dialects.openai.chat import OpenAIChat
from clinvk.dialects.rest.rest import Rest
from clinvk.types.request import trace_context

logger = logging.getLogger(__name__)

UNKNOWN = "none"
"""The template for a path without an endpoint."""

REST: Dialect = Rest()
OPENAI = OpenAIChat()
ANTHROPIC = Anthropic()
GOOGLE = Google()

_OPENAI_PATHS = ("/v1/chat/", "/v1/completions", "/v1/responses")

OnResponse = Callable[[str, str, int | None, float], None]
"""Callback for a response: method, path, status (None: the client left before the status), and duration in seconds."""

_LINE = "%(method)s %(path)s %(status)s, %(bytes)d bytes in %(duration_ms).1f ms, request %(request_id)s"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# The name of a key is logged without the word "key", which would trigger a search for secrets: see redaction.py.
_OPTIONAL = {"run_id": ", run %(run_id)s", "key": ", by %(key)s", "client": ", from %(client)s"}
_DEBUG_PATHS = ("/health", "/metrics")
_OPEN_WHILE_STOPPING = ("/health", "/health/live")
_CLOSE: Header = (b"connection", b"close")
_SLASHES = re.compile(r"/{2,}")
_REPEATED_V1 = re.compile(r"^(/openai|/anthropic|)/v1/v1/")
_GOOGLE_VERSIONS = re.compile(r"^/gemini/(v1(alpha|beta)?/)+")
_PROBE_PATHS = frozenset(
    base + path or "/"
    for base in ("", "/v1", "/openai", "/openai/v1", "/anthropic", "/anthropic/v1")
    for path in ("", "/api/hello")
)
"""The paths that clients probe with HEAD and without a key, to check that the server is up."""


class ServerState:
    """What changes while a server runs.

    Once `stopping` is set, requests are refused, unless the server `is_handed_over` to its successor. `store_error` is
    the last logged error of the store. `started_at` is a time of `time.monotonic`.
    """

    def __init__(self) -> None:
        self.active_requests = self.total_requests = 0
        self.stopping = asyncio.Event()
        self.is_handed_over = False
        self.store_error = ""
        self.started_at = time.monotonic()


class RequestMiddleware:
    """Sets the id of each request (`x-request-id`, the client's if sent), normalizes the path, and logs the request.

    Errors have the wire format `dialect` of the scope's state. Probes of clients are answered here, and not logged.
    While the server stops, each request is the last of its connection, and `is_refused` makes `AuthMiddleware` refuse
    the request, except health checks. `on_response` is called for each response.
    """

    def __init__(self, app: ASGIApp, state: ServerState, on_response: OnResponse | None = None) -> None:
        self.app = app
        self._state = state
        self._on_response = on_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "websocket":
            scope["method"], send = "GET", _refusing_upgrade(send)
        elif scope["type"] != "http":
            return
        path = _normalized(scope["path"])
        request_id = _id_of(headers_of(scope))
        server, is_stopping = self._state, self._state.stopping.is_set()
        is_refused = is_stopping and not server.is_handed_over and path not in _OPEN_WHILE_STOPPING
        scope["path"] = path
        dialect, trace = dialect_of(path, headers_of(scope)), trace_context(headers_of(scope))
        scope.setdefault("state", {}).update(request_id=request_id, dialect=dialect, is_refused=is_refused, trace=trace)
        if dialect is GOOGLE:
            _take_query_key(scope)
        logs.add_fields(request_id=request_id)
        log = _AccessLogEntry(scope, send, is_last=is_stopping)
        server.active_requests += 1
        server.total_requests += 1
        try:
            if log.is_probe and not is_refused:
                await Response()(scope, receive, log.send)
            else:
                await self.app(scope, receive, log.send)
        finally:
            server.active_requests -= 1
            seconds = log.write()
            if self._on_response:
                self._on_response(scope["method"], path, log.status or None, seconds)


def _refusing_upgrade(send: Send) -> Send:
    """Return a `send` for a WebSocket that is not accepted yet: a response of HTTP refuses the upgrade."""

    async def send_message(message: Message) -> None:
        is_http = message["type"].startswith("http.")
        await send({"body": b"", **message, "type": f"websocket.{message['type']}"} if is_http else message)

    return send_message


def dialect_of(path: str, headers: Mapping[str, str]) -> Dialect:
    """Return the format of a normalized path, or of `*`. Two vendors share `/v1`: there path or header decides."""
    match path.partition("/")[2].partition("/")[0]:
        case "openai":
            return OPENAI
        case "anthropic":
            return ANTHROPIC
        case "v1":
            is_anthropic = "anthropic-version" in headers and not path.startswith(_OPENAI_PATHS)
            return ANTHROPIC if is_anthropic or path.startswith("/v1/messages") else OPENAI
        case _:
            return GOOGLE if path.startswith("/gemini/") else REST


def _take_query_key(scope: Scope) -> None:
    """Move the API key out of the query, where Google's clients may have it, so that nothing else shows the key."""
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    scope["query_string"] = urlencode([pair for pair in pairs if pair[0] != "key"]).encode()
    scope["state"]["query_key"] = next((value for name, value in pairs if name == "key"), "")


def _id_of(headers: Mapping[str, str]) -> str:
    request_id = headers.get("x-request-id", "")
    return request_id if request_id and _REQUEST_ID.fullmatch(request_id) else os.urandom(16).hex()


def _normalized(path: str) -> str:
    """Return a path without empty parts, and without a second version, which some clients add to the base URL.

    All versions of Google's API are served alike.
    """
    if "//" in path or path.endswith("/"):
        path = _SLASHES.sub("/", path).rstrip("/") or "/"
    return _GOOGLE_VERSIONS.sub("/gemini/v1beta/", _REPEATED_V1.sub(r"\1/v1/", path))


class _AccessLogEntry:
    """A line of the access log. Adds the request id to the response, and `connection: close` to the last one."""

    __slots__ = ("_bytes", "_extra_headers", "_scope", "_send", "_started_at", "is_probe", "status")

    def __init__(self, scope: Scope, send: Send, is_last: bool) -> None:
        self._extra_headers: list[Header] = [_CLOSE] if is_last else []
        self.is_probe = scope["method"] == "HEAD" and scope["path"] in _PROBE_PATHS
        self._scope = scope
        self._send = send
        self._started_at = time.monotonic()
        self.status = 0
        self._bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            state = self._scope["state"]
            request_id: bytes = state["request_id"].encode()
            names = (b"x-request-id", b"request-id") if state["dialect"].is_model_api else (b"x-request-id",)
            ids = ((name, request_id) for name in names)  # clients of Anthropic read the second
            message = {**message, "headers": [*message.get("headers", ()), *ids, *self._extra_headers]}
        elif message["type"] == "websocket.accept":
            self.status = 101
        else:
            self._bytes += len(message.get("body") or message.get("text") or b"")
        await self._send(message)

    def write(self) -> float:
        """Write the line. Return the duration of the request, in seconds."""
        seconds = time.monotonic() - self._started_at
        level = logging.DEBUG if self._scope["path"].startswith(_DEBUG_PATHS) else logging.INFO
        if self.is_probe or not logger.isEnabledFor(level):
            return seconds
        state, client = self._scope["state"], self._scope["client"]
        fields: dict[str, object] = {
            "method": self._scope["method"],
            "path": path_of(self._scope),
            "status": self.status or "gone",
            "bytes": self._bytes,
            "duration_ms": round(seconds * 1000, 1),
            "request_id": state["request_id"],
            "run_id": logs.current_fields().get("run_id"),
            "key": state.get("key_name"),
            "client": client and client[0],
        }
        fields = {name: value for name, value in fields.items() if value or name not in _OPTIONAL}
        logger.log(level, _LINE + "".join(_OPTIONAL[name] for name in _OPTIONAL if name in fields), fields)
        return seconds
