"""Requests for several agents: parallel, chain and compare, answered with one JSON object or with a stream of events.

The agents live inside the request: if the client disconnects, all agents are stopped, except with `detach`.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from clinvk.api.endpoints.exchange import TICK_S, Exchange
from clinvk.api.endpoints.prompts import accepted_headers
from clinvk.api.endpoints.request_admission import Caller
from clinvk.api.endpoints.services import Services
from clinvk.api.http.response import DisconnectWatch, chunked, headers_of, internal_error, read_json
from clinvk.backends import registry as backends
from clinvk.dialects import json_bodies, sse
from clinvk.dialects.dialect import Call
from clinvk.dialects.rest import batch_answers, batch_bodies, unified
from clinvk.dialects.rest.rest import Accepted, Rest, prefers_async
from clinvk.orchestrate.admission import Admission, complete_plan
from clinvk.orchestrate.chain import resume_chain
from clinvk.orchestrate.observers import EventStream
from clinvk.orchestrate.orchestration import Orchestration, Resources
from clinvk.runtime.process import executables
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.types.errors import ClinvkError, InvalidRequest, ResourcesExhausted
from clinvk.types.events import RunFailed
from clinvk.types.orchestration import Chain, Compare, Kind, Plan, Summary, is_dry_run
from clinvk.types.request import Placement, RunRequest

_parallel = json_bodies.decoder(batch_bodies.ParallelBody)
_chain = json_bodies.decoder(batch_bodies.ChainBody)
_compare = json_bodies.decoder(batch_bodies.CompareBody)


class BatchRequest(NamedTuple):
    """A parsed body. With `detach` the agents continue when the client disconnects."""

    plan: Plan
    detach: bool | None
    placement: Placement


class BatchEndpoint(NamedTuple):
    """Answers requests for several agents of one kind, as an ASGI application."""

    kind: Kind
    services: Services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request until the answer is complete or the client disconnects."""
        await _BatchRequest(self, scope, receive, send).serve()

    async def parse(self, body: bytes, reads_resumed: bool = True) -> BatchRequest:
        """Parse a body. Without `reads_resumed`, a chain to resume has no steps: its node has the directories.

        Raises:
            InvalidRequest: names the field.
            RunNotFound, AmbiguousId: there is no such chain to resume.
        """
        match self.kind:
            case "parallel":
                requested = json_bodies.decode(body, _parallel)
                plan = await run_in_loop_thread(len(body), batch_bodies.parallel, requested)
            case "chain":
                requested = json_bodies.decode(body, _chain)
                if requested.resume_from and not reads_resumed:
                    plan = Chain(parts=(), resumed=requested.resume_from)
                elif requested.resume_from:
                    plan = await self._resume_chain(requested, requested.resume_from)
                else:
                    plan = await run_in_loop_thread(len(body), batch_bodies.chain, requested)
            case "compare":
                requested = json_bodies.decode(body, _compare)
                plan = await run_in_loop_thread(len(body), batch_bodies.compare, requested)
        return BatchRequest(plan, requested.detach, batch_bodies.placement(requested))

    def admission(self, state: Mapping[str, Any], spread: Placement | None = None) -> Admission:
        """Return what completes the parts of a plan from the settings, and admits them by the same rules as a prompt.

        `state` is that of the request's scope. With `spread`, the nodes of a cluster that fit may run the parts.
        """
        services, caller = self.services, Caller.of(state)

        async def complete(request: RunRequest) -> RunRequest:
            return (await services.admission.admit(Call(request=request), caller)).request

        def require(backend: str) -> None:
            found = backends.backend_named(backend, services.registry)
            executables.require(found, services.settings, services.environ)

        resources = services.orchestrations.resources
        if spread is not None and services.cluster and services.cluster.part_nodes:
            resources = resources._replace(nodes=services.cluster.part_nodes(spread, complete, state))
        return Admission(complete, cache(require), resources, set())

    async def _resume_chain(self, body: batch_bodies.ChainBody, run_id: str) -> Plan:
        if body.steps is not None or body.input is not None:
            raise InvalidRequest("resume_from continues with the steps and the input of its chain; omit both", "steps")
        chain = await resume_chain(self.services.store, run_id)
        parts = tuple(replace(part, dry_run=bool(body.dry_run or part.dry_run)) for part in chain.parts)
        stop = chain.stop_on_failure if body.stop_on_failure is None else body.stop_on_failure
        return replace(chain, parts=parts, stop_on_failure=stop)


class _BatchRequest(Exchange):
    """The answer to a request for several agents."""

    __slots__ = ("_endpoint", "_is_sse", "_orchestration")

    def __init__(self, endpoint: BatchEndpoint, scope: Scope, receive: Receive, send: Send) -> None:
        stream_type = batch_answers.stream_type(headers_of(scope))
        super().__init__(scope, receive, send, Rest(), stream_type, TICK_S)
        self._endpoint = endpoint
        self._is_sse = stream_type == sse.MEDIA_TYPE
        self._orchestration: Orchestration | None = None

    async def _answer(self, disconnect: DisconnectWatch) -> None:
        endpoint, state = self._endpoint, self._scope["state"]
        requested, detach, placement = await self._read(disconnect)
        if isinstance(requested, Compare) and requested.check:
            endpoint.services.admission.check_command(state["key_name"])
        admission = endpoint.admission(state, placement)
        plan, resources = await admission.admit(requested), admission.resources
        if detach and not is_dry_run(plan):
            await self._answer_detached(plan, requested, resources, disconnect)
            return
        async with endpoint.services.orchestrations.start(plan, requested, resources) as self._orchestration:
            if self._orchestration.id:
                self._headers = [(b"x-clinvk-run-id", self._orchestration.id.encode())]
            if self._stream_type:
                await self._open()
                if self._is_sse:
                    await self._response.write(sse.OPENING)
                summary = await self._orchestration.drive(EventStream(plan, self._write))
            else:
                summary = await self._orchestration.drive()
        await self._end(summary)

    async def _answer_detached(
        self, plan: Plan, requested: Plan, resources: Resources, disconnect: DisconnectWatch
    ) -> None:
        """Begin the orchestration in the background; wait for its end unless the client prefers otherwise."""
        orchestrations = self._endpoint.services.orchestrations
        orchestration = self._orchestration = await orchestrations.launch(plan, requested, resources)
        disconnect.watch()  # only now: a client that leaves earlier still has its agents started
        self._headers = [(b"x-clinvk-run-id", orchestration.id.encode())]
        self._stream_type = ""
        if prefers_async(headers_of(self._scope)):
            body = msgspec.json.encode(Accepted(run_id=orchestration.id, session_id=None, state="running"))
            await self._response.send(
                202, Rest.result_type, body, [*self._headers, *accepted_headers(orchestration.id)]
            )
            return
        await orchestration.over.wait()
        if orchestration.summary is None:
            raise internal_error()
        await self._end(orchestration.summary)

    async def _read(self, disconnect: DisconnectWatch) -> BatchRequest:
        """Read the request, then watch for a disconnect. The body is freed on return."""
        body = await read_json(self._scope, self._receive, self._endpoint.services.settings.server)
        services = self._endpoint.services
        requested = await self._endpoint.parse(body)
        headers = headers_of(self._scope)
        services.admission.check_placement(requested.placement, headers)
        if not requested.detach:
            disconnect.watch()
        plan, placement = complete_plan(requested.plan, services.settings), requested.placement.with_headers(headers)
        return requested._replace(plan=plan, placement=placement)

    async def _write(self, lines: Iterable[bytes]) -> None:
        for data in chunked(map(self._frame, lines)):
            await self._response.write(data)

    async def _end(self, summary: Summary) -> None:
        """Send the answer, or the last line of the stream. The outcome is recorded by then."""
        if (error := _error_if_none_started(summary)) and not self._response.opened:
            raise error
        encode = batch_answers.last_line if self._stream_type else batch_answers.encoded
        answer = await asyncio.to_thread(encode, summary)
        if self._stream_type:
            await self._response.end(self._frame(answer))
        else:
            await self._response.send(200, Rest.result_type, answer, self._headers)

    def _internal(self, error: Exception) -> ClinvkError:
        return internal_error() if self._orchestration else super()._internal(error)  # as for a prompt

    def _error_piece(self, error: ClinvkError) -> bytes:
        return self._frame(batch_answers.error_line(error, time.time()))

    def _frame(self, lines: bytes) -> bytes:
        """Return lines of JSON in the format of the stream."""
        return b"".join(map(sse.frame, lines.splitlines())) if self._is_sse else lines

    async def _keep_alive(self) -> None:
        """Send the status 200 and then insignificant bytes while the answer takes long."""
        if self._orchestration and self._response.is_quiet(2 * self._tick_s):
            await self._response.keep_alive(sse.PULSE if self._is_sse else unified.PULSE)
            await self._open()


def _error_if_none_started(summary: Summary) -> ClinvkError | None:
    """Return the error of an orchestration for which the machine could start no agent at all; None for others."""
    endings = [part.result.ending for part in summary.results]
    failures = [
        ending for ending in endings if isinstance(ending, RunFailed) and ending.code == ResourcesExhausted.code
    ]
    return ResourcesExhausted(failures[0].message) if failures and len(failures) == len(endings) else None
