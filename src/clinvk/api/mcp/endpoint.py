"""`POST /mcp`."""

import os
from contextlib import suppress
from functools import partial

import anyio
import msgspec
from starlette.types import Receive, Scope, Send

from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.exchange import TICK_S
from clinvk.api.http import response as http
from clinvk.api.mcp.calls import SESSION_HEADER, Calls, http_key
from clinvk.api.mcp.in_process_rest import InProcessRest
from clinvk.api.mcp.protocol import McpServer, Message, Response, is_stateless, parse
from clinvk.api.mcp.tools import RestApi
from clinvk.dialects import sse

_JSON = "application/json"


class McpEndpoint:
    """Answers `POST /mcp`, as an ASGI application. Between two requests, only the ids of calls and runs are kept.

    The session id that a client gets serves only to find the call that a later notification cancels.
    """

    def __init__(self, rest: InProcessRest) -> None:
        backend = rest.services.settings.default_backend
        self._settings = rest.services.settings.server
        self._calls = Calls()
        self._server = McpServer(
            lambda client, awaited: RestApi(partial(rest.send, client=client), awaited, backend), self._calls
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. The response is a stream if the client gets notifications or has to wait long."""
        refuse_foreign(scope)
        message = parse(await http.read_json(scope, receive, self._settings))
        response = http.HttpResponse(send)
        if isinstance(message, Response):
            await response.send(400, _JSON, msgspec.json.encode(message))
        elif message.is_request:
            await self._respond(message, scope, receive, response)
        else:
            if (cancelled := message.cancelled_id) is not None and (key := http_key(scope, cancelled)):
                await self._calls.cancel(key)
            await response.send(202, _JSON, b"")

    async def _respond(self, request: Message, scope: Scope, receive: Receive, response: http.HttpResponse) -> None:
        can_stream = sse.MEDIA_TYPE in http.headers_of(scope).get("accept", "")
        answers: list[Response] = []

        async def open_stream() -> None:
            await response.open(200, sse.MEDIA_TYPE, [http.NO_BUFFERING], http.NO_TRANSFORM)

        async def notify(notification: bytes) -> None:
            if can_stream:
                with suppress(http.ClientDisconnected):  # the response reports it
                    await open_stream()
                    await response.write(sse.frame(notification))

        async def respond() -> None:
            answers.append(await self._server.respond(request, scope, notify))

        async def keep_alive() -> None:
            if can_stream and response.is_quiet(TICK_S):
                await open_stream()
                await response.keep_alive(sse.PULSE)

        async with http.DisconnectWatch(receive, response, lambda: TICK_S, keep_alive) as disconnect:
            disconnect.watch()
            if can_stream and request.method == "tools/call" and not is_stateless(request, scope):
                await open_stream()  # of the status, earlier clients learn nothing
            async with anyio.create_task_group() as group:  # a disconnect does not cancel what a tool shields
                group.start_soon(respond)
            [answer] = answers
            body = msgspec.json.encode(answer)
            if response.opened:
                await response.end(sse.frame(body))
                return
            is_new = request.method == "initialize"
            headers = [(SESSION_HEADER.encode(), os.urandom(16).hex().encode())] if is_new else []
            await response.send(answer.status(request, scope), _JSON, body, headers)
