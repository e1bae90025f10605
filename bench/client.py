"""An HTTP client that can do what clients should not: leave in the middle, read slowly, send half a request."""

import asyncio
import json
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

_PATIENCE_S = 60.0
_SMALL_BUFFER = 8192
_TOLD = 200

Body = dict[str, object]


class Answer(NamedTuple):
    """The bytes to the end of the connection, or until the client left."""

    status: int
    body: bytes

    def text(self, field: str) -> str:
        """Return a field of a JSON document that came whole or chunked."""
        document = json.loads(self.body[self.body.index(b"{") : self.body.rindex(b"}") + 1])
        return str(document[field])


class Unexpected(Exception):
    """A visit was not answered as it must be."""


class Client:
    """Sends requests, each over a connection of its own."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key

    async def ask(
        self,
        path: str,
        body: Body | bytes | None = None,
        *,
        method: str = "",
        headers: Mapping[str, str] | None = None,
        leaves_after: int | None = None,
        pause_s: float = 0.0,
    ) -> Answer:
        """Ask, and read the answer to its end, or until so many bytes have come; with a pause before each piece."""
        async with asyncio.timeout(_PATIENCE_S):
            limit = _SMALL_BUFFER if pause_s else 65536
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=limit)
            try:
                writer.write(self._request(path, body, method, headers or {}))
                came = bytearray()
                while leaves_after is None or len(came) < leaves_after:
                    await asyncio.sleep(pause_s)
                    if not (data := await reader.read(_SMALL_BUFFER if pause_s else 65536)):
                        break
                    came += data
                return _answer(bytes(came))
            finally:
                await _leave(writer, abruptly=leaves_after is not None)

    async def leave(self, path: str, body: Body, after_s: float, share: float = 1.0) -> None:
        """Send a request, or a share of its bytes, and go without having read anything."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        data = self._request(path, body, "", {})
        writer.write(data[: round(len(data) * share)])
        await writer.drain()
        await asyncio.sleep(after_s)
        await _leave(writer, abruptly=bool(round(after_s * 1e4) % 2))

    def _request(self, path: str, body: Body | bytes | None, method: str, headers: Mapping[str, str]) -> bytes:
        data = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        sent = {
            "host": "127.0.0.1",
            "connection": "close",
            "content-type": "application/json",
            "content-length": str(len(data)),
            "x-api-key": self._key,
            **headers,
        }
        lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items() if value]
        return "\r\n".join((*lines, "", "")).encode() + data


async def _leave(writer: asyncio.StreamWriter, abruptly: bool) -> None:
    if abruptly:
        writer.transport.abort()
        return
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        return


def _answer(came: bytes) -> Answer:
    head, _, body = came.partition(b"\r\n\r\n")
    return Answer(int(head[9:12] or 0), body)


def must(answer: Answer, *statuses: int, told: bytes = b"", untold: bytes = b"\0") -> Answer:
    """Check that an answer has one of these statuses, contains this text, and does not contain that one."""
    if answer.status not in statuses or told not in answer.body or untold in answer.body:
        last = answer.body[-_TOLD:].decode(errors="replace")
        raise Unexpected(f"{answer.status}, not {statuses} with {told.decode()!r}: {last}")
    return answer
