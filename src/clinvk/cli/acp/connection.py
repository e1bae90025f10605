"""JSON-RPC 2.0 with an editor: one message a line, from stdin and to stdout."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec

from clinvk.backends.jsonrpc import Message
from clinvk.cli.terminal import streams
from clinvk.types.errors import AgentUnauthenticated, InvalidRequest, SessionNotFound

_FLUSH_TIMEOUT_S = 5.0
"""How long an editor that has closed stdin may take to read stdout."""

METHOD_NOT_FOUND = -32601
_PARSE_ERROR = -32700
_INTERNAL_ERROR = -32603
_INVALID_PARAMS = -32602
_CODES = {
    AgentUnauthenticated: -32000,
    SessionNotFound: -32002,
    InvalidRequest: _INVALID_PARAMS,
    msgspec.ValidationError: _INVALID_PARAMS,
}

Incoming = Message[object, object]
_MESSAGES = msgspec.json.Decoder(Incoming)

Id = int | str | None


class EditorConnection:
    """The connection to an editor. A sender waits while the editor does not read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._answers: dict[Id, asyncio.Future[object]] = {}

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield requests and notifications until the editor closes stdin; refuse lines that are not messages."""
        while True:
            try:
                line = await self._reader.readline()
                message = _MESSAGES.decode(line) if line.strip() else None
            except (ValueError, RecursionError) as exc:  # readline raises ValueError for a line that is too long
                await self.refuse(None, _PARSE_ERROR, f"not a message: {exc}")
                continue
            if message and message.method:
                yield message
            elif message and (answer := self._answers.pop(message.id, None)):
                if not answer.cancelled():
                    answer.set_result(message.result)
            elif not line:
                asyncio.get_running_loop().call_later(_FLUSH_TIMEOUT_S, self._writer.transport.abort)
                return

    async def send(self, **message: object) -> None:
        """Send a message, unless the editor is gone."""
        self._write(message)
        with suppress(ConnectionError):
            await self._writer.drain()

    async def ask(self, id_: str, method: str, params: object) -> object:
        """Send a request, and wait for the result; None for an error. Cancelling the wait cancels the request."""
        answer = self._answers[id_] = asyncio.get_running_loop().create_future()
        try:
            await self.send(id=id_, method=method, params=params)
            return await answer
        except asyncio.CancelledError:
            self._answers.pop(id_, None)
            self._write({"method": "$/cancel_request", "params": {"requestId": id_}})
            raise

    async def fail(self, id_: Id, error: Exception) -> None:
        """Answer a request with an error."""
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), _INTERNAL_ERROR)
        await self.refuse(id_, code, str(error))

    async def refuse(self, id_: Id, code: int, message: str) -> None:
        """Answer a request with an error of JSON-RPC."""
        await self.send(id=id_, error={"code": code, "message": message})

    def _write(self, message: dict[str, object]) -> None:
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n")


@asynccontextmanager
async def connected() -> AsyncGenerator[EditorConnection]:
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
            yield EditorConnection(reader, writer)
    finally:
        writer.close()
        with suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(writer.wait_closed(), _FLUSH_TIMEOUT_S)
