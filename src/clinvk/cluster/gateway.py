"""A gateway of a cluster: find the node for each request, and pass the request on.

A session stays on its node, which has the agent's files and the login. A new run goes to the least loaded node that has
its agents and labels. If a node refuses the directory, or is full, the next node gets the request.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace
from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.api.endpoints import continuation
from clinvk.api.endpoints.prompts import PromptEndpoint
from clinvk.api.endpoints.runs import LiveEventsEndpoint
from clinvk.api.endpoints.services import Owner, Services
from clinvk.api.endpoints.worktrees import WorktreeItem, WorktreeList
from clinvk.api.http.response import (
    DisconnectWatch,
    HttpResponse,
    document,
    headers_of,
    read_json,
    send_error,
    within_prepare_timeout,
)
from clinvk.backends import registry as backends
from clinvk.cluster.carrier import Carrier
from clinvk.cluster.members import Member, Members, Target, Undelivered, is_retryable
from clinvk.cluster.remote_response import RemoteResponse
from clinvk.cluster.signing import call_subject
from clinvk.dialects import sse
from clinvk.dialects.dialect import Call, renamed
from clinvk.dialects.openai.responses import stored
from clinvk.dialects.rest import batch_answers
from clinvk.dialects.rest.unified import UnifiedEncoder
from clinvk.remote.messages import Client, HttpPiece, HttpRequest
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.runtime.worktrees import folders
from clinvk.types.choices import UNDER_WAY
from clinvk.types.errors import AmbiguousId, ClinvkError, InvalidRequest, NodeUnavailable, RunNotFound, StoreUnavailable
from clinvk.types.events import RunFailed
from clinvk.types.orchestration import Chain, may_move
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts

if TYPE_CHECKING:
    from clinvk.api.endpoints.batch import BatchEndpoint

_WORKTREES = "/api/v1/worktrees"
_CALL_TIMEOUT_S = 2.0
_CHECK_CLIENT_S = 5.0
_OWN_HEADERS = (b"x-request-id", b"request-id", b"connection")
"""Headers of a response that the gateway sets itself."""
_DROPPED_HEADERS = (
    *(b"authorization", b"x-api-key", b"x-goog-api-key", b"cookie"),
    *(b"x-request-id", b"content-length", b"transfer-encoding"),
)
"""Headers of a request that no node gets as they are."""

ProcessAt = Callable[[str, float], Awaitable[str]]
"""Returns the id of the process that answers at a subject within a time; see `Broker.process_at`."""

_StreamError = Callable[[ClinvkError, str, int], bytes]
"""Returns the end of a stream that breaks off, for the error, the id of the run, and the number of lines so far."""


class Gateway:
    """Passes the requests of a server on to the nodes."""

    def __init__(self, services: Services, carrier: Carrier, members: Members, process_at: ProcessAt) -> None:
        self._services = services
        self._carrier = carrier
        self._members = members
        self._process_at = process_at

    def wrap(self, owner: Owner, app: ASGIApp) -> ASGIApp:
        """Return the application for an endpoint that has the application `app` on one machine."""
        wrapped: ASGIApp = app
        match owner:
            case "prompt":
                assert isinstance(app, PromptEndpoint)
                wrapped = partial(self._prompt, app)
            case "batch":
                from clinvk.api.endpoints.batch import BatchEndpoint

                assert isinstance(app, BatchEndpoint)
                wrapped = partial(self._batch, app)
            case "run":
                wrapped = partial(self._run, app, str)
            case "response":
                wrapped = partial(self._run, app, stored.run_id)
            case "events":
                assert isinstance(app, LiveEventsEndpoint)
                wrapped = app._replace(run_events=partial(self._run, app.run_events, str))
            case "session":
                wrapped = self._session
            case "worktree":
                wrapped = self._worktree
            case "worktrees":
                wrapped = self._list_worktrees
            case "store":
                pass
        return wrapped

    async def _prompt(self, endpoint: PromptEndpoint, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = endpoint.of_request(scope)
        body = await read_json(scope, receive, self._services.settings.server)
        if endpoint.expand_references and (names := await run_in_loop_thread(len(body), stored.references, body)):
            node = await self._node_of_run(stored.run_id(stored.response_id(next(iter(names)))))
            await self._pass_on(Target(node), body, scope, receive, send, _no_error)
            return
        call = await run_in_loop_thread(len(body), endpoint.dialect.parse, body, headers_of(scope))
        try:
            target = await within_prepare_timeout(self._target_of_call(call, endpoint.dialect.is_model_api, scope))
        except ClinvkError as error:
            raise renamed(error, endpoint.dialect.fields) from None

        def stream_error(error: ClinvkError, run_id: str, lines: int) -> bytes:
            if not call.stream:
                return endpoint.dialect.error(error, scope["state"]["request_id"])[1]
            encoder = endpoint.dialect.encoder(call, RunFacts(run_id=run_id, backend=call.request.backend))
            if isinstance(encoder, UnifiedEncoder):
                encoder.sequence = lines
            events = encoder.feed(RunFailed(error.code, error.message), time.time())
            return events.rstrip(b"\n").rpartition(b"\n\n")[2] + events[len(events.rstrip(b"\n")) :]

        await self._pass_on(target, body, scope, receive, send, stream_error)

    async def _batch(self, endpoint: "BatchEndpoint", scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the node that leads it: that of the chain to resume, or of the parts that cannot move."""
        from clinvk.orchestrate.admission import complete_plan

        body = await read_json(scope, receive, self._services.settings.server)
        parsed = await endpoint.parse(body, reads_resumed=False)
        plan = complete_plan(parsed.plan, self._services.settings)
        target = Target(await self._node_of_run(plan.resumed) if isinstance(plan, Chain) and plan.resumed else "")
        for part in plan.parts:
            if not may_move(plan, part):
                node, backends = await self._node_of_session(part.request), {part.request.backend, *target.backends}
                if target.node and node not in ("", target.node):
                    names = ", ".join(sorted((node, target.node)))
                    raise InvalidRequest(f"the sessions of the parts are on several nodes: {names}")
                target = target._replace(node=target.node or node, backends=backends).placed(part.placement)

        def stream_error(error: ClinvkError, _: str, __: int) -> bytes:
            line = batch_answers.error_line(error, time.time())
            is_sse = batch_answers.stream_type(headers_of(scope)) == sse.MEDIA_TYPE
            return sse.frame(line) if is_sse else line

        target = target.placed(parsed.placement.with_headers(headers_of(scope)))
        await self._pass_on(target, body, scope, receive, send, stream_error)

    async def _run(
        self, app: ASGIApp, run_id: Callable[[str], str | None], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Pass a request for a run under way to its node; everything else about runs is in the store.

        `run_id` returns the id of the run, or a prefix of it, for the id in the path.
        """
        reference = run_id(scope["path_params"]["id"])
        node = ""
        with suppress(RunNotFound):  # the endpoint reports it
            run = await self._services.store.run(reference or "")
            node = run.node if run.state in UNDER_WAY else ""
        if node and (self._members.node(node) or scope["method"] == "POST"):
            try:
                await self._pass_on(Target(node), b"", scope, receive, send, _no_error)
            except Undelivered:
                if scope["method"] == "POST":
                    raise
            else:
                return
        await app(scope, receive, send)

    async def _session(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request for the directory of a session to the node of the session."""
        node = (await self._services.store.session(scope["path_params"]["id"])).node
        await self._pass_on(Target(node), b"", scope, receive, send, _no_error)

    async def _worktree(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request for a worktree to the node that has the worktree; without one, any node reports that."""
        nodes = {item.id: node for node, item in await self._worktrees(scope)}
        found = folders.match(nodes, scope["path_params"]["id"])
        has_body = "content-type" in headers_of(scope)
        body = await read_json(scope, receive, self._services.settings.server) if has_body else b""
        await self._pass_on(Target(nodes[found] if found else ""), body, scope, receive, send, _no_error)

    async def _list_worktrees(self, scope: Scope, receive: Receive, send: Send) -> None:
        """List the worktrees of all nodes."""
        items = sorted((item for _, item in await self._worktrees(scope)), key=lambda item: item.made_at)
        await document(WorktreeList(worktrees=items))(scope, receive, send)

    async def _worktrees(self, scope: Scope) -> list[tuple[str, WorktreeItem]]:
        """Return the worktrees of the nodes that answer, each with its node. Nodes of one machine may share a home."""
        found: dict[str, tuple[str, WorktreeItem]] = {}
        listing = {**scope, "method": "GET", "path": _WORKTREES, "query_string": b""}

        async def add(member: Member) -> None:
            with suppress(NodeUnavailable):
                async with self._request(member, b"", listing) as response:
                    head = await response.head()
                    data = await response.read()
                if head.status == 200:
                    items = msgspec.json.decode(data, type=WorktreeList).worktrees
                    found.update({item.id: (member.announcement.node, item) for item in items})

        async with asyncio.TaskGroup() as group:
            for member in self._members.nodes():
                group.create_task(add(member))
        return [*found.values()]

    async def _target_of_call(self, call: Call, is_model_api: bool, scope: Scope) -> Target:
        """Return where a prompt may run.

        Raises:
            ClinvkError: the session or the earlier run is unknown.
        """
        request = call.request
        if call.tool_turn and (process := await self._process_of_call(call, scope["state"]["key_name"])):
            return Target(process)
        node = await self._node_of_session(request)
        if is_model_api:
            default = request.backend or self._services.settings.default_backend
            name, model = backends.resolve_model(request.model or "", default, self._services.registry)
            request = replace(request, backend=name, model=model)
        if call.previous:
            node = await self._node_of_run(call.previous.run_id)
        elif call.chat and not node:
            found = await continuation.find_session(self._services.store, request, call.chat)
            node = await self._node_of_session(found)
        backend = request.backend or self._services.settings.default_backend
        return Target(node, {backend}).placed(call.placement.with_headers(headers_of(scope)))

    async def _process_of_call(self, call: Call, key_name: str) -> str:
        """Return the id of the process in which the call waits whose output a request has; empty if there is none."""
        turn = call.tool_turn
        if not turn or not turn.last_call:
            return ""
        subject = f"call.{call_subject(key_name, turn.last_call)}"
        return await self._process_at(subject, _CALL_TIMEOUT_S)

    async def _node_of_session(self, request: RunRequest) -> str:
        return (await self._services.store.session(request.session_id)).node if request.session_id else ""

    async def _node_of_run(self, run_id: str | None) -> str:
        with suppress(RunNotFound, AmbiguousId):  # the node reports it
            return (await self._services.store.run(run_id or "")).node
        return ""

    async def _pass_on(
        self, target: Target, body: bytes, scope: Scope, receive: Receive, send: Send, stream_error: _StreamError
    ) -> None:
        """Pass a request to the best node; to the next if that refuses for a reason that others may not have."""
        members = self._members.candidates(target)
        response = HttpResponse(send)
        async with DisconnectWatch(receive, response, lambda: _CHECK_CLIENT_S, _ignore_quiet) as disconnect:
            disconnect.watch()
            without_store = 0  # with a second such node, the database itself is away
            for member in members:
                is_last = member is members[-1]
                try:
                    async with self._request(member, body, scope) as answer:
                        head = await answer.head()
                        without_store += head.error_code == StoreUnavailable.code
                        if is_last or without_store > 1 or not is_retryable(head.error_code, head.error_field):
                            await _relay(head, answer, response, member.announcement.node, stream_error)
                            return
                except Undelivered:
                    if is_last:
                        raise
                except NodeUnavailable as error:
                    if response.opened:
                        raise
                    if scope["method"] in ("GET", "HEAD"):  # no harm is done by asking twice
                        raise Undelivered(error.message) from error
                    error.may_have_acted = True
                    await send_error(error, scope, send)
                    return

    def _request(self, member: Member, body: bytes, scope: Scope) -> AbstractAsyncContextManager[RemoteResponse]:
        """Pass a request on to a node."""
        member.assigned += 1
        state = scope["state"]
        own = ((b"x-request-id", state["request_id"].encode()), (b"content-length", b"%d" % len(body)))
        request = HttpRequest(
            run_id=os.urandom(16).hex(),
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"],
            headers=(*(each for each in scope["headers"] if each[0] not in _DROPPED_HEADERS), *own),
            address=scope["client"] and tuple(scope["client"]),
            server=scope["server"] and tuple(scope["server"]),
            scheme=scope["scheme"],
            client=Client(state["key_name"], state["client"], state.get("depth", 0)),
            origin_named=state.get("origin_named"),
            body=body,
        )
        return self._carrier.request(member, request)


async def _relay(
    head: HttpPiece, answer: RemoteResponse, response: HttpResponse, node: str, stream_error: _StreamError
) -> None:
    """Send the response of a node to the client. A stream whose node is lost ends with an error of its format."""
    headers = [*(each for each in head.headers if each[0] not in _OWN_HEADERS), (b"x-clinvk-node", node.encode())]
    await response.relay({"type": "http.response.start", "status": head.status, "headers": headers})
    lines = 0
    try:
        async for data, has_more in answer.body():
            lines += data.count(b"\n")
            await response.relay({"type": "http.response.body", "body": data, "more_body": has_more})
    except NodeUnavailable as error:
        if any(name == b"content-length" for name, _ in headers):
            raise
        run_id = next((value.decode() for name, value in headers if name == b"x-clinvk-run-id"), "")
        await response.end(stream_error(error, run_id, lines))


def _no_error(_: ClinvkError, __: str, ___: int) -> bytes:
    """Return nothing: the client of an event stream connects again."""
    return b""


async def _ignore_quiet() -> None:
    """Do nothing; the node keeps the response alive."""
