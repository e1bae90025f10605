"""Read a request, send a response, and notice a disconnect, at the ASGI level."""

import asyncio
import gzip
import math
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from clinvk.config.model import ServerSettings
from clinvk.dialects.dialect import Dialect
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.types import errors
from clinvk.types.text import MAX_JSON_VALUES, has_too_many_values

Header = tuple[bytes, bytes]

NO_BUFFERING: Header = (b"x-accel-buffering", b"no")
"""Ask a proxy not to buffer a stream."""

NO_RETRY: Header = (b"x-should-retry", b"false")
"""Keep the vendors' SDKs from retrying: the agent would repeat its work."""

NO_STORE = b"no-store"
NO_TRANSFORM = b"no-cache, no-transform"
"""Values of cache-control: store nothing; or revalidate, and do not transform a stream."""

T = TypeVar("T")

_PREPARE_TIMEOUT_S = 30.0
_CHUNK_BYTES = 64 * 1024
_MIN_GZIP_BYTES = 2048
_GZIP_LEVEL = 1
_GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")
_BASES = "the base URL of OpenAI's clients ends in /openai/v1, that of Anthropic's in /anthropic, Google's in /gemini"
_UNDER_BASE = re.compile(r"(/openai|/anthropic)?/v1/(?!chat/|completions|messages|responses)|/gemini/v1beta/")
"""Matches a path below a base URL, but not an endpoint of one vendor below the base URL of the other."""


_encoder = msgspec.json.Encoder()


class ClientDisconnected(Exception):
    """The client disconnected. A client that stops reading is disconnected by `Http1Protocol`."""


def headers_of(scope: Scope) -> Mapping[str, str]:
    """Return the headers of a request, with lower-case names, decoded once. The last of repeated headers counts."""
    state: dict[str, Mapping[str, str]] = scope.setdefault("state", {})
    headers = state.get("headers")
    if headers is None:
        pairs: Iterable[Header] = scope["headers"]
        headers = state["headers"] = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
    return headers


def drop_decoded_headers(scope: Scope) -> None:
    """Drop the decoded headers of a request, to free memory. `headers_of` decodes them again."""
    scope["state"].pop("headers", None)


def document(value: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with a JSON document, which no cache may store."""
    base = {"cache-control": "no-store", **(headers or {})}
    return Response(_encoder.encode(value), status, base, media_type="application/json")


async def compressed(response: Response, scope: Scope) -> Response:
    """Compress the body of a response, if the body is large and the client accepts gzip."""
    body = bytes(response.body)
    if len(body) >= _MIN_GZIP_BYTES and accepts_gzip(scope):
        response.body = await run_in_loop_thread(len(body), gzip.compress, body, _GZIP_LEVEL)
        size = str(len(response.body))
        response.headers.update({"content-encoding": "gzip", "content-length": size, "vary": "accept-encoding"})
    return response


def accepts_gzip(scope: Scope) -> bool:
    """Return whether the client accepts gzip."""
    return bool(_GZIP.search(headers_of(scope).get("accept-encoding", "")))


class Compressor:
    """Compresses a body in pieces. `HEADERS` belong to its response."""

    HEADERS: tuple[Header, ...] = ((b"content-encoding", b"gzip"), (b"vary", b"accept-encoding"))

    def __init__(self) -> None:
        self._stream = zlib.compressobj(_GZIP_LEVEL, wbits=16 + zlib.MAX_WBITS)

    async def compress(self, piece: bytes) -> bytes:
        """Compress a piece, and return the compressed bytes that are ready."""
        return await run_in_loop_thread(len(piece), self._stream.compress, piece)

    def end(self) -> bytes:
        """Return the rest of the body."""
        return self._stream.flush()


def path_of(scope: Scope) -> str:
    """Return the quoted path of a request, for messages: a path can contain any character, such as a newline."""
    return quote(scope["path"], safe="/:")


def _require_json(headers: Mapping[str, str]) -> None:
    """Refuse a body that is compressed or whose content-type is not JSON.

    A web page can make a browser send any text to this server without a preflight, but not with a JSON content-type.
    """
    content_type = headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        received_type = f"got {content_type!r}" if content_type else "got none"
        raise errors.WrongMediaType(f"the header content-type must be 'application/json', {received_type}")
    if (encoding := headers.get("content-encoding", "identity")).strip().lower() != "identity":
        raise errors.WrongMediaType(f"the body must not be compressed; the header content-encoding is {encoding!r}")


async def read_json(scope: Scope, receive: Receive, settings: ServerSettings, max_bytes: int | None = None) -> bytes:
    """Return the body of a request, which must be JSON by its content-type.

    Raises:
        WrongMediaType: the content-type is another, or missing.
        BodyTooLarge: the body exceeds `max_bytes`, by default `server.max_request_body_bytes` (0: no limit), or has too
            many JSON values.
        BodyTooSlow: the body was incomplete after `server.read_timeout_secs`.
        ClientDisconnected: the client disconnected before the end of the body.
    """
    headers = headers_of(scope)
    _require_json(headers)
    limit, timeout_s = max_bytes or settings.max_request_body_bytes, settings.read_timeout_secs
    error = errors.BodyTooLarge(f"the body has more than {limit} bytes") if max_bytes else too_large(limit)
    declared = headers.get("content-length", "")
    if limit and declared.isdigit() and int(declared) > limit:
        raise error
    received, has_more = bytearray(), True
    try:
        async with asyncio.timeout(timeout_s or None):
            while has_more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected("before the end of its request")
                received += message.get("body", b"")
                if limit and len(received) > limit:
                    raise error
                has_more = message.get("more_body", False)
    except TimeoutError:
        raise errors.BodyTooSlow(f"the body did not arrive within {timeout_s:g} s (server.read_timeout_secs)") from None
    body = bytes(received)
    if await run_in_loop_thread(len(body), has_too_many_values, body):
        raise errors.BodyTooLarge(f"the body has more than {MAX_JSON_VALUES} JSON values")
    return body


async def within_prepare_timeout(work: Awaitable[T]) -> T:
    """Await the preparation of a request, before an agent starts, and return its result.

    Raises:
        ResourcesExhausted: it took longer than `_PREPARE_TIMEOUT_S`.
    """
    try:
        async with asyncio.timeout(_PREPARE_TIMEOUT_S):
            return await work
    except TimeoutError:
        raise errors.ResourcesExhausted(f"the request could not be prepared within {_PREPARE_TIMEOUT_S:g} s") from None


def too_large(max_bytes: int, name: str = "the body") -> errors.BodyTooLarge:
    """Return the error for a body above the configured limit."""
    return errors.BodyTooLarge(f"{name} has more than {max_bytes} bytes (server.max_request_body_bytes)")


def refusal(error: errors.ClinvkError, dialect: Dialect, scope: Scope) -> tuple[int, bytes, list[Header]]:
    """Return status, body and headers of an error: 503 for any error caused by a lack of resources.

    The state of the scope receives the error, for a gateway of a cluster.
    """
    error = scope["state"]["error"] = errors.exhausted(error) or error
    status, body = dialect.error(error, scope["state"]["request_id"])
    retry_after = [(b"retry-after", b"%d" % math.ceil(error.retry_after_s))] if error.retry_after_s else []
    is_final = isinstance(error, errors.BudgetSpent) or (dialect.is_model_api and error.may_have_acted)
    return status, body, [*retry_after, NO_RETRY] if is_final else retry_after


def internal_error() -> errors.ClinvkError:
    """Return the error for a failure inside clinvk. The failure itself is logged, not sent."""
    return errors.ClinvkError("clinvk itself failed; its log has the details under this request id")


def no_such_path(scope: Scope) -> errors.NoSuchPath:
    """Return the error for a path that is not served, with a hint where to look."""
    has_base = not scope["state"]["dialect"].is_model_api or _UNDER_BASE.match(scope["path"])
    hint = "GET /docs lists what there is" if has_base else _BASES
    if scope["path"] == "/metrics":
        hint = "metrics are kept with the setting server.metrics_enabled"
    return errors.NoSuchPath(f"{scope['method']} {path_of(scope)}: there is nothing here; {hint}")


async def send_error(error: errors.ClinvkError, scope: Scope, send: Send, headers: Iterable[Header] = ()) -> None:
    """Send an error response in the wire format of the path."""
    dialect: Dialect = scope["state"]["dialect"]
    status, body, retry = refusal(error, dialect, scope)
    base = [(b"content-type", dialect.error_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*base, *retry, *headers]})
    await send({"type": "http.response.body", "body": body})


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join pieces to chunks of about 64 KiB, without waiting for more pieces."""
    chunk: list[bytes] = []
    size = 0
    for piece in pieces:
        chunk.append(piece)
        size += len(piece)
        if size >= _CHUNK_BYTES:
            yield b"".join(chunk)
            chunk, size = [], 0
    if size:
        yield b"".join(chunk)


class HttpResponse:
    """One HTTP response, from the status line to the end of the body.

    `open` sends the status line, so an earlier error can have another status. `opened` and `ended` are set before the
    status line or the last piece is sent, because the handler and the disconnect watcher may send at the same time.
    """

    __slots__ = ("_now", "_send", "_sending", "_sent_at", "ended", "opened")

    def __init__(self, send: Send) -> None:
        self.opened = False
        self.ended = False
        self._send = send
        self._sending = False
        self._now = asyncio.get_running_loop().time
        self._sent_at = self._now()

    async def open(self, status: int, media_type: str, headers: Iterable[Header] = (), cache: bytes = NO_STORE) -> None:
        """Send status and headers, once. `cache` is the value of cache-control."""
        if not self.opened:
            self.opened = True
            base = ((b"content-type", media_type.encode()), (b"cache-control", cache))
            await self._send_message({"type": "http.response.start", "status": status, "headers": [*base, *headers]})

    def write(self, data: bytes) -> Awaitable[None]:
        """Send a piece of the body."""
        return self._send_message({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece of the body."""
        self.ended = True
        await self._send_message({"type": "http.response.body", "body": data, "more_body": False})

    async def send(self, status: int, media_type: str, body: bytes, headers: Iterable[Header] = ()) -> None:
        """Send a response of known length. If the status was sent already, send only the body."""
        await self.open(status, media_type, [(b"content-length", str(len(body)).encode()), *headers])
        await self.end(body)

    async def relay(self, message: Message) -> None:
        """Send a message of another server's response as it is."""
        self.opened = True
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send_message(message)

    def is_quiet(self, quiet_s: float) -> bool:
        """Return whether the last write was at least `quiet_s` seconds ago."""
        return not self._sending and self._now() - self._sent_at >= quiet_s

    async def keep_alive(self, data: bytes) -> None:
        """Send a keep-alive if the response has begun and not ended. Only the disconnect watcher may call this."""
        if self.opened and not self.ended:
            await self.write(data)

    async def _send_message(self, message: Message) -> None:
        self._sending = True
        self._sent_at = self._now()
        try:
            await self._send(message)
        finally:
            self._sending = False
            self._sent_at = self._now()


_WATCH_AFTER_S = 0.1


class DisconnectWatch:
    """Cancels the task of this context when the client disconnects; awaits `on_quiet` every `wait_s()` seconds.

    Watching begins with `watch`, after the body was read: both read from the client.

    Raises:
        ClientDisconnected: the client disconnected.
    """

    __slots__ = ("_on_quiet", "_reason", "_receive", "_response", "_task", "_timer", "_wait_s", "_watcher")

    def __init__(
        self,
        receive: Receive,
        response: HttpResponse,
        wait_s: Callable[[], float],
        on_quiet: Callable[[], Awaitable[None]],
    ) -> None:
        self._receive = receive
        self._response = response
        self._wait_s = wait_s
        self._on_quiet = on_quiet
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._task: asyncio.Task[object] | None = None
        self._reason: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._timer:
            self._timer.cancel()
        if self._watcher:
            self._watcher.remove_done_callback(self._watched)
            self._watcher.cancel()
            self._watcher = None  # its error refers to this object: a cycle would keep the request in memory
        if self._reason and self._task and isinstance(error, asyncio.CancelledError) and not self._task.uncancel():
            raise self._reason from None

    def watch(self) -> None:
        """Start watching soon: a fast response then saves the cost of a watcher."""
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._start)

    def _start(self) -> None:
        self._timer = None
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        self._watcher.add_done_callback(self._watched)

    def _watched(self, watcher: asyncio.Task[None]) -> None:
        if not watcher.cancelled() and (reason := watcher.exception()) and self._task:
            self._reason = reason
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._wait_s()):
                    message = await self._receive()
            except TimeoutError:
                if not self._response.ended:
                    await self._on_quiet()
            else:
                if message["type"] == "http.disconnect":
                    if self._response.ended:
                        return
                    raise ClientDisconnected("before the end of its answer")
