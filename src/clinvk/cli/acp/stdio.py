"""The connection to an editor that has started clinvk: one message a line, from stdin and to stdout."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from clinvk.acp.connection import EditorConnection
from clinvk.cli.terminal import streams
from clinvk.types.errors import InvalidRequest

_FLUSH_TIMEOUT_S = 5.0
"""How long an editor that has closed stdin may take to read stdout."""


class StdioConnection(EditorConnection):
    """One message a line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """Return the next line; empty once the editor has closed stdin.

        Raises:
            ValueError: the line is too long.
        """
        if not (line := await self._reader.readline()):
            asyncio.get_running_loop().call_later(_FLUSH_TIMEOUT_S, self._writer.transport.abort)
        return line

    def write(self, message: bytes) -> None:
        """Queue a line, unless the editor is gone."""
        if not self._writer.is_closing():
            self._writer.write(message + b"\n")

    async def drain(self) -> None:
        """Wait while the editor does not read."""
        with suppress(ConnectionError):
            await self._writer.drain()


@asynccontextmanager
async def connected() -> AsyncGenerator[StdioConnection]:
    """Connect to the editor over stdin and stdout inside the context.

    Raises:
        InvalidRequest: stdin or stdout is neither a pipe nor a socket.
    """
    if not (streams.is_pipe(0) and streams.is_pipe(1)):
        raise InvalidRequest(
            "an editor starts clinvk acp, and speaks with it over stdin and stdout: see docs/editors.md"
        )
    loop = asyncio.get_running_loop()
    stdout = os.fdopen(1, "wb", 0, closefd=False)
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    sink, _ = await loop.connect_write_pipe(lambda: protocol, stdout)
    writer = asyncio.StreamWriter(sink, protocol, None, loop)
    try:
        async with streams.stdin() as reader:
            yield StdioConnection(reader, writer)
    finally:
        writer.close()
        with suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(writer.wait_closed(), _FLUSH_TIMEOUT_S)
