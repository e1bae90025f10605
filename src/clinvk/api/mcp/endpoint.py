"""`POST /mcp`, and requests to the REST API inside this process."""

import asyncio
import os
from contextlib import aclosing, suppress
from functools import partial
from typing import NamedTuple

import anyio
import msgspec
from starlette import types
from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.api.access.client_process import nesting_of_client
from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.exchange import TICK_S
from clinvk.api.endpoints.services import Services
from clinvk.api.http import response as http
from clinvk.api.http.middleware import REST
from clinvk.api.mcp.calls import SESSION_HEADER, Calls, http_key
from clinvk.api.mcp.protocol import McpServer, Message, Response, is_stateless, parse
from clinvk.api.mcp.tools import RestApi
from clinvk.dialects import sse
from clinvk.policy import rules
from clinvk.remote.messages import RestRequest, RestResponse

_JSON = "application/json"
_HEADERS = [(b"content-type", b"application/json"), (b"prefer", b"respond-async")]
_IDENTITY = ("request_id", "key_name", "client", "peer", "is_authenticated")
_STARTING_PATHS = ("/api/v1/prompt", "/api/v1/compare")


class InProcessRest(NamedTuple):
    """The REST API inside this process. `app` has the endpoints without the layers that check the client."""

    app: ASGIApp
    services: Services

    async def send(self, request: RestRequest, client: Scope | None = None) -> RestResponse:
        """Send a request, and return the response. Runs start in the background.

        The scope `client` is a request whose client was checked; None stands for the user of this machine. A run is as
        deep as the process of the client is nested in agents of clinvk.

        Raises:
            InvalidRequest: the run would be nested too deeply.
        """
        state: dict[str, object] = {"request_id": os.urandom(16).hex(), "key_name": "", "dialect": REST}
        if client:
            state |= {name: client["state"][name] for name in _IDENTITY if name in client["state"]}
        path, _, query = request.path.partition("?")
        await self._wait_for_run(path.rpartition("/")[2], request.wait_s)
        if path in _STARTING_PATHS:
            depth = rules.nesting_depth(self.services.environ)
            if client:
                depth = max(depth, await self.services.look_up_client(partial(nesting_of_client, client)))
            rules.check_nesting_depth(depth, self.services.settings.unified_flags.max_depth)
            state["depth"] = depth
        scope: Scope = {
            "type": "http",
            "scheme": client["scheme"] if client else "http",
            "method": request.method,
            "path": path,
            "query_string": query.encode(),
            "headers": _HEADERS,
            "client": client and client["client"],
            "server": client and client["server"],
            "state": state,
        }
        bodies = [request.body]
        status, body = 0, bytearray()

        async def receive() -> types.Message:
            if bodies:
                return {"type": "http.request", "body": bodies.pop()}
            return await asyncio.get_running_loop().create_future()  # the client stays until the answer

        async def send(message: types.Message) -> None:
            nonlocal status
            status = message.get("status", status)
            body.extend(message.get("body", b""))

        await self.app(scope, receive, send)
        return RestResponse(status, bytes(body))

    async def _wait_for_run(self, run_id: str, wait_s: float) -> None:
        """Wait until a run of this process has ended or asks something; return at once for other runs."""
        runs = self.services.runs
        if wait_s > 0 and (run := runs.live(run_id)):
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s), aclosing(run.log.batches()) as batches:
                    async for _ in batches:
                        if run_id in runs.interactions.waiting_runs:
                            return


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
