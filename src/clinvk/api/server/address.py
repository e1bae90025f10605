"""The address of a server: listen there, or ask the server that listens for its `/health`."""

import asyncio
import errno
import socket
from contextlib import suppress

import msgspec

_MAX_BYTES = 1024 * 1024


class Capacity(msgspec.Struct):
    """The run limit in a health document."""

    max_concurrent_runs: int
    reason: str


class Health(msgspec.Struct):
    """The response of `GET /health`."""

    status: str
    version: str
    uptime: str = ""
    capacity: Capacity | None = None


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


def listen(host: str, port: int) -> list[socket.socket]:
    """Bind every address of `host`. With port 0 all sockets have the same free port.

    Raises:
        OSError: an address is in use or not local, or the name is not a valid host name.
    """
    sockets: list[socket.socket] = []
    flags = socket.AI_PASSIVE
    name = host.encode() if host.isascii() else host  # bytes: a str would import the IDNA codec
    try:
        found = socket.getaddrinfo(name or None, port, type=socket.SOCK_STREAM, flags=flags)
    except ValueError as exc:  # a label is too long, or has invalid characters
        raise OSError(errno.EINVAL, "no host can have this name") from exc
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound_port: int = port or (sockets[0].getsockname()[1] if len(sockets) > 1 else 0)
            sock.bind((address[0], bound_port, *address[2:]))
            sock.listen(2048)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def listen_error(port: int, error: OSError) -> str:
    """Return why the server cannot listen."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use; use --port to choose another"
    return error.strerror or str(error)
