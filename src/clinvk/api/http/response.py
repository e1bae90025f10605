"""Reading a request and answering it, down at the ASGI level, where a leaving client is noticed."""

import asyncio
import math
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from typing import TypeVar
from urllib.parse import quote

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from clinvk.config.model import ServerSettings
from clinvk.dialects.dialect import BodyTooLarge, BodyTooSlow, BudgetSpent, Dialect, NoSuchPath, WrongMediaType
from clinvk.runtime.process.waiting import beside_loop
from clinvk.types.errors import ClinvkError, ResourcesExhausted, exhausted
from clinvk.types.text import MAX_JSON_VALUES, json_values

Header = tuple[bytes, bytes]

NO_BUFFERING: Header = (b"x-accel-buffering", b"no")
"""Asks a proxy to pass a stream on as it comes."""

NO_RETRY: Header = (b"x-should-retry", b"false")
"""Keeps the vendors' SDKs from asking again by themselves: an agent would do all it did once more."""

NO_STORE = b"no-store"
NO_TRANSFORM = b"no-cache, no-transform"
"""What caches may do: keep nothing; ask before they use it, and pass a stream on as it is."""

T = TypeVar("T")

_PREPARED_WITHIN_S = 30.0
_CHUNK_BYTES = 64 * 1024
_BASES = "the base URL of OpenAI's clients ends in /openai/v1, that of Anthropic's in /anthropic"

_encoder = msgspec.json.Encoder()


class ClientGone(Exception):
    """The client closed its connection, or stopped taking what it is sent."""


def headers_of(scope: Scope) -> Mapping[str, str]:
    """Give the headers of a request, names in lower case; of a repeated one the last. Decoded once for each request."""
    state: dict[str, Mapping[str, str]] = scope.setdefault("state", {})
    headers = state.get("headers")
    if headers is None:
        pairs: Iterable[Header] = scope["headers"]
        headers = state["headers"] = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
    return headers


def forget_headers(scope: Scope) -> None:
    """Let go of the decoded headers of a request; who asks for them again has them decoded again."""
    scope["state"].pop("headers", None)


def document(value: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a JSON document that no cache may keep."""
    fixed = {"cache-control": "no-store", **(headers or {})}
    return Response(_encoder.encode(value), status, fixed, media_type="application/json")


def path_of(scope: Scope) -> str:
    """Give the path of a request as it may be shown: a client can put any character into it, also a line's end."""
    return quote(scope["path"])


def _require_json(headers: Mapping[str, str]) -> None:
    """Refuse a body that does not say that it is JSON, or that is compressed.

    A web page can make a browser send any text to this server without asking, but not with this media type.
    """
    said = headers.get("content-type", "")
    media_type = said.partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        got = f"got {said!r}" if said else "got none"
        raise WrongMediaType(f"the header content-type must be 'application/json', {got}")
    if (encoding := headers.get("content-encoding", "identity")).strip().lower() != "identity":
        raise WrongMediaType(f"the body must not be compressed; the header content-encoding is {encoding!r}")


async def read_json(scope: Scope, receive: Receive, settings: ServerSettings) -> bytes:
    """Read the body of a request, which must say that it is JSON, within the limits of the settings.

    Raises:
        WrongMediaType: it says something else, or nothing.
        BodyTooLarge: it has more bytes than `server.max_request_body_bytes`, declared or not; or too many values.
        BodyTooSlow: it was not there after `server.read_timeout_secs`.
        ClientGone: the client left before its end.
    """
    headers = headers_of(scope)
    _require_json(headers)
    body = await _read_body(headers, receive, settings.max_request_body_bytes, settings.read_timeout_secs)
    if await beside_loop(len(body), json_values, body) > MAX_JSON_VALUES:
        raise BodyTooLarge(f"the body has more than {MAX_JSON_VALUES} JSON values")
    return body


async def prepared(work: Awaitable[T]) -> T:
    """Return what the preparation of a request returns, before anything runs.

    Raises:
        ResourcesExhausted: it took longer than `_PREPARED_WITHIN_S`.
    """
    try:
        async with asyncio.timeout(_PREPARED_WITHIN_S):
            return await work
    except TimeoutError:
        raise ResourcesExhausted(f"the request could not be prepared within {_PREPARED_WITHIN_S:g} s") from None


async def _read_body(headers: Mapping[str, str], receive: Receive, max_bytes: int, timeout_s: float) -> bytes:
    """Read a body; 0 is no limit."""
    declared = headers.get("content-length", "")
    if max_bytes and declared.isdigit() and int(declared) > max_bytes:
        raise too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s or None):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("before the end of its request")
                body += message.get("body", b"")
                if max_bytes and len(body) > max_bytes:
                    raise too_large(max_bytes)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise BodyTooSlow(f"the body was not there within {timeout_s:g} s (server.read_timeout_secs)") from None


def too_large(max_bytes: int, what: str = "the body") -> BodyTooLarge:
    """Say that a body is beyond the limit of the settings."""
    return BodyTooLarge(f"{what} has more than {max_bytes} bytes (server.max_request_body_bytes)")


def refusal(error: ClinvkError, dialect: Dialect, scope: Scope) -> tuple[int, bytes, list[Header]]:
    """Return status, body and headers of an error: 503 if a lack of resources caused it, whatever kind it is."""
    error = exhausted(error) or error
    status, body = dialect.error(error, scope["state"]["request_id"])
    retry_after = [(b"retry-after", b"%d" % math.ceil(error.retry_after_s))] if error.retry_after_s else []
    return status, body, [*retry_after, NO_RETRY] if isinstance(error, BudgetSpent) else retry_after


def broken() -> ClinvkError:
    """Give what is answered where an error inside clinvk ended a request; the error itself is for the server's log."""
    return ClinvkError("clinvk itself failed; its log has the details under this request id")


def no_such_path(scope: Scope) -> NoSuchPath:
    """Return the error for a path that is not served, with a hint where to look."""
    hint = _BASES if scope["state"]["dialect"].is_model_api else "GET /docs lists what there is"
    if scope["path"] == "/metrics":
        hint = "metrics are kept with the setting server.metrics_enabled"
    return NoSuchPath(f"{scope['method']} {path_of(scope)}: there is nothing here; {hint}")


async def refuse(error: ClinvkError, scope: Scope, send: Send, headers: Iterable[Header] = ()) -> None:
    """Answer a request that gets no further, in the dialect of its path."""
    dialect: Dialect = scope["state"]["dialect"]
    status, body, retry = refusal(error, dialect, scope)
    fixed = [(b"content-type", dialect.error_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *retry, *headers]})
    await send({"type": "http.response.body", "body": body})


def chunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Put pieces together, so that what is there leaves at once, but never much at a time."""
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= _CHUNK_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
    if size:
        yield b"".join(gathered)


class Reply:
    """One HTTP answer, from its status line to its end.

    The status line waits for `open`, so that an error can still have its own. `opened` and `ended` are set right before
    it, or the last piece, is sent: who answers and who watches may come to that at once. A client that takes nothing
    for `write_timeout_s` (0: no limit) counts as gone: its watcher looks, since a timer for each write would cost more
    than the write.
    """

    __slots__ = ("_now", "_put_at", "_send", "_sending", "_write_timeout_s", "ended", "opened")

    def __init__(self, send: Send, write_timeout_s: float) -> None:
        self.opened = False
        self.ended = False
        self._write_timeout_s = write_timeout_s or None
        self._send = send
        self._sending = False
        self._now = asyncio.get_running_loop().time
        self._put_at = self._now()

    async def open(self, status: int, media_type: str, headers: Iterable[Header] = (), cache: bytes = NO_STORE) -> None:
        """Send status and headers, once; `cache` is what caches may do."""
        if not self.opened:
            self.opened = True
            fixed = ((b"content-type", media_type.encode()), (b"cache-control", cache))
            await self._put({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})

    def write(self, data: bytes) -> Awaitable[None]:
        """Send a piece of the body as soon as the client takes it."""
        return self._put({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last piece."""
        self.ended = True
        await self._put({"type": "http.response.body", "body": data, "more_body": False})

    async def whole(self, status: int, media_type: str, body: bytes, headers: Iterable[Header] = ()) -> None:
        """Send an answer of known length; of one that is open already, the rest."""
        await self.open(status, media_type, [(b"content-length", str(len(body)).encode()), *headers])
        await self.end(body)

    def is_quiet(self, quiet_s: float) -> bool:
        """Say whether nothing was sent for so long."""
        return not self._sending and self._now() - self._put_at >= quiet_s

    async def pulse(self, data: bytes) -> None:
        """Send what keeps an answer alive that has begun and not ended; for its watcher, which looks at no other write.

        Raises:
            ClientGone: it takes nothing.
        """
        if not self.opened or self.ended:
            return
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self.write(data)
        except TimeoutError:
            raise self._stuck() from None

    def look_within(self, wait_s: float) -> float:
        """Give how long its watcher may wait."""
        return min(wait_s, self._write_timeout_s) if self._write_timeout_s else wait_s

    def refuse_stuck(self) -> None:
        """Look whether the client takes what it is sent.

        Raises:
            ClientGone: it has not for too long.
        """
        if self._sending and self._write_timeout_s and self._now() - self._put_at >= self._write_timeout_s:
            raise self._stuck()

    def _stuck(self) -> ClientGone:
        return ClientGone(f"took nothing for {self._write_timeout_s:g} s (server.write_timeout_secs)")

    async def _put(self, message: Message) -> None:
        self._sending = True
        self._put_at = self._now()
        try:
            await self._send(message)
        finally:
            self._sending = False
            self._put_at = self._now()
