"""The address of a server, and the program that listens there: a clinvk introduces itself in `/health`."""

import asyncio
from contextlib import suppress

import msgspec

_MAX_BYTES = 1024 * 1024


class Warm(msgspec.Struct):
    """The warm agent processes in a health document."""

    processes: int = 0
    ready: int = 0
    hits: int = 0
    misses: int = 0
    memory_mb: int = 0
    one_shot: list[str] = []


class Capacity(msgspec.Struct):
    """The run limit in a health document."""

    max_concurrent_runs: int


class Health(msgspec.Struct):
    """The response of `GET /health`."""

    status: str
    version: str
    uptime: str = ""
    capacity: Capacity | None = None
    warm: Warm | None = None


def local_host(host: str) -> str:
    """Return the host by which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # not an address to listen on


def address(host: str, port: int) -> str:
    """Return the URL of a server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host or '*'}:{port}"


async def health_of(host: str, port: int, timeout_s: float) -> Health | None:
    """Return the health of the clinvk that listens; None if another program or no program listens."""
    response = b""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(local_host(host), port)
            try:
                writer.write(f"GET /health HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n".encode())
                while len(response) < _MAX_BYTES and (piece := await reader.read(_MAX_BYTES)):
                    response += piece
            finally:
                writer.close()
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(response.partition(b"\r\n\r\n")[2], type=Health)
    return None
