"""`POST /mcp`, and requests to the REST API inside this process. The SDK is imported for the first request."""

import asyncio
import os
from contextlib import aclosing, suppress
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinvk.api.access.client_process import nesting_of_client
from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.services import Services
from clinvk.api.http.middleware import REST
from clinvk.api.http.response import read_json
from clinvk.api.mcp.calls import SESSION_HEADER, Calls, cancelled_request, http_key, method_of
from clinvk.policy import rules
from clinvk.remote.messages import RestRequest, RestResponse
from clinvk.types.errors import NoSuchPath

if TYPE_CHECKING:
    from clinvk.api.mcp.protocol import McpServer

_HEADERS = [(b"content-type", b"application/json"), (b"prefer", b"respond-async")]
_IDENTITY = ("request_id", "key_name", "client", "peer", "is_authenticated")
_STARTING_PATHS = ("/api/v1/prompt", "/api/v1/compare")


def require_sdk() -> None:
    """Refuse to serve MCP without the SDK.

    Raises:
        NoSuchPath: the SDK is not installed.
    """
    if not find_spec("mcp_types"):
        raise NoSuchPath("MCP needs the package mcp, 2.3 or later; run `pip install 'clinvk[mcp]'`")


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

        async def receive() -> Message:
            if bodies:
                return {"type": "http.request", "body": bodies.pop()}
            return await asyncio.get_running_loop().create_future()  # the client stays until the answer

        async def send(message: Message) -> None:
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
        self._rest = rest
        self._calls = Calls()
        self._server: McpServer | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        require_sdk()
        refuse_foreign(scope)
        body = await read_json(scope, receive, self._rest.services.settings.server)
        bodies = [body]

        async def replay() -> Message:
            return {"type": "http.request", "body": bodies.pop()} if bodies else await receive()

        if self._server is None:
            self._server = await asyncio.to_thread(self._create_server)
        from clinvk.api.mcp.protocol import serve_request

        async def send_with_session(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (SESSION_HEADER.encode(), os.urandom(16).hex().encode())]
            await send(message)

        if (cancelled := cancelled_request(body)) is not None and (key := http_key(scope, cancelled)):
            await self._calls.cancel(key)
        is_initialize = method_of(body) == "initialize"
        await serve_request(self._server, scope, replay, send_with_session if is_initialize else send)

    def _create_server(self) -> "McpServer":
        from clinvk.api.mcp import protocol
        from clinvk.api.mcp.tools import RestApi

        backend = self._rest.services.settings.default_backend
        return protocol.create_server(
            lambda client, awaited: RestApi(partial(self._rest.send, client=client), awaited, backend), self._calls
        )
