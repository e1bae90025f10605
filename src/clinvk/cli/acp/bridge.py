"""`clinvk acp --server`: connect an editor that has no WebSockets to `/acp` of a server."""

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from clinvk.cli.acp.stdio import connected
from clinvk.types.errors import ClinvkError, InvalidRequest

KEY_VARIABLE = "CLINVK_API_KEY"

_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


async def bridge(server: str, key: str) -> None:
    """Pass messages on between the editor and a server until the editor closes stdin.

    Raises:
        InvalidRequest: the address is invalid.
        ClinvkError: the server cannot be reached, refuses the connection, or closes the connection.
    """
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

    url, headers = _address(server), {"authorization": f"Bearer {key}"} if key else {}
    try:
        web_socket = await connect(url, additional_headers=headers, max_size=None, compression=None)
    except InvalidStatus as exc:
        body = exc.response.body.decode(errors="replace")
        raise ClinvkError(f"{url} refuses the connection: {exc.response.status_code} {body:.500}") from exc
    except (InvalidHandshake, EOFError, TimeoutError) as exc:
        raise ClinvkError(f"{url} does not answer as a WebSocket: {exc}") from exc
    except OSError as exc:
        raise ClinvkError(f"cannot connect to {url}: {_reason(exc)} (the key is in {KEY_VARIABLE})") from exc
    error: ClinvkError | None = None
    async with connected() as editor, web_socket, asyncio.TaskGroup() as group:

        async def send() -> None:
            with suppress(ConnectionClosed):
                while line := await editor.read():
                    await web_socket.send(line.strip().decode(errors="replace"))
                await web_socket.close()

        sending = group.create_task(send())
        try:
            while True:
                editor.write(await web_socket.recv(decode=False))
                await editor.drain()
        except ConnectionClosed as exc:
            if not (exc.rcvd and exc.rcvd.code == 1000):
                reason = exc.rcvd and (exc.rcvd.reason or exc.rcvd.code)
                error = ClinvkError(f"{url} has closed the connection: {reason or 'the connection is lost'}")
        sending.cancel()
    if error:
        raise error


def _address(server: str) -> str:
    """Return the address of the WebSocket of a server, whose address may be that of `/acp` already."""
    parts = urlsplit(server)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise InvalidRequest(f"--server must be an address such as https://agents.example.com, got {server!r}")
    path = parts.path.rstrip("/").removesuffix("/acp")
    return f"{_SCHEMES[parts.scheme]}://{parts.netloc}{path}/acp"


def _reason(error: OSError) -> str:
    """Return an error of the system in words."""
    if isinstance(error, socket.gaierror | ssl.SSLError) or not error.errno:
        return error.strerror or "no address of the host answers"
    return os.strerror(error.errno)
