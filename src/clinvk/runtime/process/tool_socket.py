"""The Unix socket of one agent process, to which the CLI's tool bridge connects."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

from clinvk.runtime.process.process import MAX_LINE_BYTES, LineSplitter, LineTooLong
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.types.errors import ClinvkError


class ToolSocket(asyncio.Protocol):
    """The connection of a tool bridge; `wake` is called after new lines. A later connection replaces an earlier one."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lines: list[bytes] = []
        self._splitter = LineSplitter(MAX_LINE_BYTES)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept a bridge."""
        self.close()
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are of no class of asyncio
        self._splitter = LineSplitter(MAX_LINE_BYTES)

    def data_received(self, data: bytes) -> None:
        """Split the data into lines; hang up after a line that is too long."""
        try:
            self._lines += self._splitter.feed(data)
        except LineTooLong:
            self.close()
        self._wake()

    def take(self) -> list[bytes]:
        """Return the lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def write(self, data: bytes) -> None:
        """Write to the bridge. The agent waits for nothing if its bridge has ended."""
        if self._transport:
            self._transport.write(data)

    def close(self) -> None:
        """Hang up, which ends the bridge."""
        if self._transport:
            self._transport.abort()


@asynccontextmanager
async def tool_socket(path: str, wake: Callable[[], None]) -> AsyncGenerator[ToolSocket]:
    """Listen at a path inside this context.

    Raises:
        ClinvkError: the socket cannot be created.
        TimeoutError: the disk hangs.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            await finish_shielded(asyncio.to_thread(_bind, listener, path))
        except OSError as exc:
            raise ClinvkError(f"cannot listen for the agent's tool calls at {path!r}: {exc}") from exc
        connection = ToolSocket(wake)
        server = await asyncio.get_running_loop().create_unix_server(lambda: connection, sock=listener)
        try:
            yield connection
        finally:
            server.close()
            connection.close()


def _bind(listener: socket.socket, path: str) -> None:
    with suppress(FileNotFoundError):  # the socket of an earlier process with the same folder
        os.unlink(path)
    listener.bind(path)
    os.chmod(path, 0o600)
