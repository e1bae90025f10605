"""JSON-RPC 2.0 with an editor, over any connection that carries messages."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

import msgspec

from clinvk.backends.jsonrpc import Message
from clinvk.types.errors import AgentUnauthenticated, InvalidRequest, SessionNotFound

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


class EditorConnection(ABC):
    """The connection to an editor. A sender waits while the editor does not read."""

    def __init__(self) -> None:
        self._answers: dict[Id, asyncio.Future[object]] = {}

    @abstractmethod
    async def read(self) -> bytes:
        """Return the next message; empty at the end of the connection.

        Raises:
            ValueError: the message cannot be read.
        """

    @abstractmethod
    def write(self, message: bytes) -> None:
        """Queue a message, unless the editor is gone."""

    @abstractmethod
    async def drain(self) -> None:
        """Send the queued messages, and wait while the editor does not read."""

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield requests and notifications until the end of the connection; refuse what is no message."""
        while True:
            try:
                line = await self.read()
                message = _MESSAGES.decode(line) if line.strip() else None
            except (ValueError, RecursionError) as exc:
                await self.refuse(None, _PARSE_ERROR, f"not a message: {exc}")
                continue
            if message and message.method:
                yield message
            elif message and (answer := self._answers.pop(message.id, None)):
                if not answer.cancelled():
                    answer.set_result(message.result)
            elif not line:
                return

    async def send(self, **message: object) -> None:
        """Send a message, unless the editor is gone."""
        self._queue(message)
        await self.drain()

    async def ask(self, id_: str, method: str, params: object) -> object:
        """Send a request, and wait for the result; None for an error. Cancelling the wait cancels the request."""
        answer = self._answers[id_] = asyncio.get_running_loop().create_future()
        try:
            await self.send(id=id_, method=method, params=params)
            return await answer
        except asyncio.CancelledError:
            self._answers.pop(id_, None)
            self._queue({"method": "$/cancel_request", "params": {"requestId": id_}})
            raise

    async def fail(self, id_: Id, error: Exception) -> None:
        """Answer a request with an error."""
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), _INTERNAL_ERROR)
        await self.refuse(id_, code, str(error))

    async def refuse(self, id_: Id, code: int, message: str) -> None:
        """Answer a request with an error of JSON-RPC."""
        await self.send(id=id_, error={"code": code, "message": message})

    def _queue(self, message: dict[str, object]) -> None:
        self.write(msgspec.json.encode({"jsonrpc": "2.0", **message}))
