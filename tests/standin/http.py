"""As much of an HTTP/1.1 server as model APIs need: a body in, JSON or server-sent events out."""

import asyncio
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import responses
from urllib.parse import unquote, urlsplit

from standin.document import JSON, Record, dumps
from standin.wire import Frame

LINE_BYTES = 1 << 20
LOOK_S = 0.05
"""How often a pause looks whether the client is still there."""


class Cut(ConnectionError):
    """The stand-in itself ends the connection in the middle."""


@dataclass(frozen=True)
class Request:
    """A request: `path` is decoded and has no query."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    data: bytes

    def body(self) -> Record:
        """Return the body if it is a JSON object, otherwise an empty object."""
        try:
            value: JSON = json.loads(self.data or b"{}")
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


class Connection:
    """One client. Every write raises `ConnectionError` after the client has disconnected."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self) -> Request | None:
        """Read the next request; None when the client has closed."""
        line = await self._reader.readline()
        if not line.strip():
            return None
        method, target, _ = line.decode("latin-1").split(" ", 2)
        headers: dict[str, str] = {}
        while header := (await self._reader.readline()).decode("latin-1").strip():
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        data = await self._content(headers)
        url = urlsplit(target)
        return Request(method, unquote(url.path), url.query, headers, data)

    async def _content(self, headers: Mapping[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", ""):
            pieces: list[bytes] = []
            while size := int((await self._reader.readline()).partition(b";")[0], 16):
                pieces.append(await self._reader.readexactly(size))
                await self._reader.readline()
            await self._reader.readline()
            data = b"".join(pieces)
        else:
            data = await self._reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("content-encoding") in ("gzip", "deflate"):
            return zlib.decompress(data, wbits=zlib.MAX_WBITS | 32)
        return data

    async def answer(
        self, status: int, body: JSON, headers: Mapping[str, str] | None = None, *, head: bool = False
    ) -> None:
        """Send a whole answer; to a HEAD request without its body."""
        data = dumps(body).encode()
        lines = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        start = f"HTTP/1.1 {status} {responses.get(status, 'Error')}\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in lines.items()
        )
        await self._write(start.encode() + b"\r\n" + (b"" if head else data))

    async def begin_stream(self, headers: str = "") -> None:
        """Send the head of an event stream; `headers` are more of them, as `name: value, name: value`."""
        more = "".join(f"{header.strip()}\r\n" for header in headers.split(",") if header)
        await self._write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
            b"transfer-encoding: chunked\r\n" + more.encode() + b"\r\n"
        )

    async def send(self, frame: Frame) -> None:
        """Send one event."""
        name = f"event: {frame.event}\n" if frame.event else ""
        data = f"{name}data: {dumps(frame.data)}\n\n".encode()
        await self._write(b"%x\r\n%s\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        """Send the end of an event stream."""
        await self._write(b"0\r\n\r\n")

    async def pause(self, seconds: float) -> None:
        """Wait, unless the client leaves meanwhile."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            self._look()
            await asyncio.sleep(min(left, LOOK_S))
        self._look()

    def close(self) -> None:
        """Close in an orderly way, after what was written is sent."""
        self._writer.close()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._writer.transport.abort()

    async def _write(self, data: bytes) -> None:
        self._look()
        self._writer.write(data)
        await self._writer.drain()

    def _look(self) -> None:
        if self._reader.at_eof() or self._writer.is_closing():
            raise ConnectionResetError("the client has gone")
