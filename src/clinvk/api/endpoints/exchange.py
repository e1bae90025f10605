"""One request and its response, watched for a disconnect of the client: the base of prompts, batches and events."""

import logging
from abc import ABC, abstractmethod

from starlette.types import Receive, Scope, Send

from clinvk.api.http import response
from clinvk.dialects.dialect import Dialect
from clinvk.types.errors import ClinvkError, exhausted

logger = logging.getLogger(__name__)

TICK_S = 5.0
"""How often a quiet response is checked. A keep-alive is sent after two quiet ticks, so within 15 s."""


class Exchange(ABC):
    """A request and its response. If the client disconnects, `_answer` is cancelled, and so is its run.

    `_headers` are headers of every response, errors included. `_stream_type` is the media type of the stream, or empty
    for a response in one piece.
    """

    __slots__ = ("_dialect", "_headers", "_receive", "_response", "_scope", "_stream_type", "_tick_s")

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, dialect: Dialect, stream_type: str, tick_s: float
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._response = response.HttpResponse(send)
        self._dialect = dialect
        self._stream_type = stream_type
        self._tick_s = tick_s
        self._headers: list[response.Header] = []

    async def serve(self) -> None:
        """Send the response, or until the client disconnects."""
        try:
            async with response.DisconnectWatch(
                self._receive, self._response, self._wait_s, self._keep_alive
            ) as disconnect:
                try:
                    await self._answer(disconnect)
                except ClinvkError as error:
                    await self._refuse(error)
                except response.ClientDisconnected:
                    raise
                except Exception as exc:
                    if not self._response.ended:
                        await self._refuse(self._internal(exc))
                    raise
        except response.ClientDisconnected as gone:
            logger.debug("client left: %s", gone)

    @abstractmethod
    async def _answer(self, disconnect: response.DisconnectWatch) -> None:
        """Send the response. Call `disconnect.watch` once the body has been read."""

    @abstractmethod
    async def _keep_alive(self) -> None:
        """Send insignificant bytes if the response has been quiet for long. Called every `_wait_s()`."""

    @abstractmethod
    def _error_piece(self, error: ClinvkError) -> bytes:
        """Return the last piece of a stream that ends with an error."""

    def _wait_s(self) -> float:
        return self._tick_s

    def _internal(self, error: Exception) -> ClinvkError:
        """Return the error to report for an error inside clinvk."""
        return exhausted(error) or response.internal_error()

    async def _open(self, cache: bytes = response.NO_STORE) -> None:
        if self._stream_type:
            await self._response.open(200, self._stream_type, [response.NO_BUFFERING, *self._headers], cache)
        else:
            await self._response.open(200, self._dialect.result_type, self._headers)

    async def _refuse(self, error: ClinvkError) -> None:
        if self._response.opened and self._stream_type:
            await self._response.end(self._error_piece(error))
            return
        status, body, headers = response.refusal(error, self._dialect, self._scope)
        await self._response.send(status, self._dialect.error_type, body, [*headers, *self._headers])
