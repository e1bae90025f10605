"""Requests to the REST API inside this process."""

import asyncio
import os
from contextlib import aclosing, suppress
from functools import partial
from typing import NamedTuple

from starlette import types
from starlette.types import ASGIApp, Scope

from clinvk.api.access.client_process import nesting_of_client
from clinvk.api.endpoints.services import Services
from clinvk.api.http.middleware import REST
from clinvk.policy import rules
from clinvk.remote.messages import RestRequest, RestResponse

_HEADERS = [(b"content-type", b"application/json"), (b"prefer", b"respond-async")]
_IDENTITY = ("request_id", "key_name", "client", "peer", "is_authenticated", "trace")
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
        state |= {"trace": request.trace} if request.trace else {}
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
