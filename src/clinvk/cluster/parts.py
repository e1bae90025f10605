"""The parts of an orchestration on several nodes: each runs where a prompt with the same options would run.

One node leads an orchestration. It sends a part to another node as the part was before admission, so that the settings
of that node, and the policy of the key, complete and limit the part there. The answer is a stream of `RunUpdate`
messages. Clients cannot reach this endpoint: a gateway passes on only paths of its API.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from clinvk.api.endpoints.batch import BatchEndpoint
from clinvk.api.endpoints.exchange import TICK_S, Exchange
from clinvk.api.endpoints.services import Services
from clinvk.api.http.response import DisconnectWatch, read_json
from clinvk.cluster.gateway_end import GatewayEnd, Response, Undelivered
from clinvk.cluster.members import ANNOUNCE_INTERVAL_S, Member, Members, Target, is_retryable
from clinvk.cluster.messages import RequestHead
from clinvk.dialects import json_bodies
from clinvk.dialects.rest.bodies import PromptBody
from clinvk.dialects.rest.rest import Problem, Rest
from clinvk.orchestrate.admission import Admit
from clinvk.orchestrate.observers import PartRun
from clinvk.remote.frames import RunUpdate, run_update
from clinvk.types.errors import ClinvkError, NodeUnavailable, refusal
from clinvk.types.events import Ending, Logged, RunFailed, RunResult, gather
from clinvk.types.orchestration import Part
from clinvk.types.request import Placement, RunRequest

_T = TypeVar("_T")

PATH = "/part"
"""The path of the endpoint."""

_CANCEL_TIMEOUT_S = 5.0
"""How long after its cancellation a run may take to end."""

_FIELDS_OF_CLIENTS = {*PromptBody.__struct_fields__, "timeout_s", "literal"} - {"on_limit"}

_encode = msgspec.json.Encoder().encode


class PartBody(msgspec.Struct, frozen=True):
    """A part to run, or with `is_check` only to admit."""

    request: RunRequest
    is_check: bool = False


_bodies = msgspec.json.Decoder(PartBody)
_updates = msgspec.json.Decoder(RunUpdate)
_requests = msgspec.json.Decoder(RunRequest)
_problems = msgspec.json.Decoder(Problem)


@dataclass
class ClusterNodes:
    """The `Nodes` of a request, as `Cluster.part_nodes` returns them; `process` is this process."""

    services: Services
    gateway_end: GatewayEnd
    members: Members
    process: str
    placement: Placement
    complete: Admit
    state: Mapping[str, Any]
    admitted: dict[bytes, RunRequest] = field(default_factory=dict[bytes, RunRequest])

    @property
    def slots(self) -> int:
        """The number of agents that may run at once."""
        return max(1, sum(member.announcement.max_runs for member in self.members.nodes()))

    async def admit(self, part: Part, admit_here: Callable[[Part], Awaitable[Part]]) -> Part:
        """Return a part as this or another node admits it. Raise the error of the last node if none does.

        Parts that differ only in their prompts are examined once by other nodes.
        """
        prompt, images = part.request.prompt, part.request.images
        body = _encode(PartBody(replace(part.request, prompt="", images=()), is_check=True))
        key = body + _encode(part.placement)
        if admitted := self.admitted.get(key):
            return replace(part, request=replace(admitted, prompt=prompt, images=images))

        async def admit_on(member: Member) -> Part:
            if member.announcement.process == self.process:
                return await admit_here(part)
            async with self._send(member, PATH, body) as response:
                await _check_accepted(response)
                request = self.admitted[key] = _requests.decode(await response.read())
            return replace(part, request=replace(request, prompt=prompt, images=images))

        members = await self._candidates(part)
        here_first = sorted(members, key=lambda member: member.announcement.process != self.process)
        return await _first_able(here_first, admit_on)

    @asynccontextmanager
    async def begin(self, part: Part) -> AsyncGenerator[PartRun]:
        """Run a part, as it was before admission, on the best node. Raise the error of the last node if none can."""

        async def begin_on(member: Member) -> PartRun:
            member.assigned += 1
            if member.announcement.process == self.process:
                request = replace(await self.complete(part.request), part=part.request.part)
                return await stack.enter_async_context(self.services.runs.run(request))
            return await stack.enter_async_context(self._run_on(member, part.request))

        async with AsyncExitStack() as stack:
            yield await _first_able(await self._candidates(part), begin_on)

    async def wait_for_capacity(self) -> None:
        """Wait until the nodes have announced how much they have to do."""
        await asyncio.sleep(ANNOUNCE_INTERVAL_S)

    async def _candidates(self, part: Part) -> Sequence[Member]:
        request, node = part.request, ""
        if request.session_id:
            session = await self.services.store.session(request.session_id)
            node, request = session.node, replace(request, backend=request.backend or session.backend)
        target = Target(node, {request.backend}).placed(self.placement).placed(part.placement)
        return self.members.candidates(target)

    @asynccontextmanager
    async def _run_on(self, member: Member, request: RunRequest) -> AsyncGenerator["RemotePart"]:
        async with self._send(member, PATH, _encode(PartBody(request))) as response:
            run = RemotePart(request, member.announcement.node, response, lambda: self._cancel(member, run.id))
            await _check_accepted(response)
            await run.receive()
            yield run

    async def _cancel(self, member: Member, run_id: str) -> None:
        async with self._send(member, f"/api/v1/runs/{run_id}/cancel", b"{}") as response:
            await response.head()

    def _send(self, member: Member, path: str, body: bytes) -> AbstractAsyncContextManager[Response]:
        head = RequestHead(
            method="POST",
            path=path,
            headers=((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))),
            key_name=self.state["key_name"],
            client=self.state.get("client", ""),
            depth=self.state.get("depth", 0),
            body_bytes=len(body),
        )
        return self.gateway_end.request(head, member.announcement.process, member.announcement.node, body)


async def _first_able(members: Sequence[Member], attempt: Callable[[Member], Awaitable[_T]]) -> _T:
    """Return the result of the first node that accepts. Raise a refusal that other nodes would share."""
    for member in members[:-1]:
        try:
            return await attempt(member)
        except ClinvkError as exc:
            if not (isinstance(exc, Undelivered) or is_retryable(exc.code, exc.field or "")):
                raise
    return await attempt(members[-1])


async def _check_accepted(response: Response) -> None:
    """Raise the error with which a node refuses a request."""
    if (await response.head()).status != 200:
        problem = _problems.decode(await response.read())
        raise refusal(problem.code, problem.detail, problem.field)


class RemotePart:
    """The run of a part on another node, as the node reports it. `cancel` asks the node to cancel the run."""

    def __init__(
        self, request: RunRequest, node: str, response: Response, cancel: Callable[[], Awaitable[None]]
    ) -> None:
        self.id = ""
        self.request = request
        self.node = node
        self.session_id: str | None = None
        self.created_at = time.time()
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self._response = response
        self._cancel = cancel
        self._lines = self._read()
        self._entries: list[Logged] = []
        self._is_over = False

    async def receive(self) -> None:
        """Wait for the next update. The loss of the node ends a run that the node has accepted."""
        try:
            update = _updates.decode(await anext(self._lines))
        except NodeUnavailable as exc:
            if not self.id:
                raise
            self._fail(exc)
            return
        self.id, self.session_id, self.created_at = update.run_id, update.session_id, update.created_at
        self.started_at, self.ended_at, self._is_over = update.started_at, update.ended_at, update.is_last
        agent = {"backend": update.backend, "model": update.model, "fell_back": update.fell_back}
        self.request = replace(self.request, **agent, workdir=update.workdir)
        self._entries += update.events

    def _fail(self, error: ClinvkError) -> None:
        """End the run, unless its ending is known."""
        self._is_over = True
        self.ended_at = self.ended_at or time.time()
        if not (self._entries and isinstance(self._entries[-1].event, Ending)):
            failed = RunFailed(error.code, error.message)
            self._entries.append(Logged(len(self._entries) + 1, self.ended_at, failed))

    async def _read(self) -> AsyncGenerator[bytes]:
        """Yield the lines of the response."""
        pending: list[bytes] = []
        async for piece, _ in self._response.body():
            first, *rest = piece.split(b"\n")
            pending.append(first)
            for line in rest:
                yield b"".join(pending)
                pending = [line]
        raise NodeUnavailable(f"node {self.node!r} broke off the run")

    @property
    def used_tokens(self) -> int:
        """0: nodes report the tokens with the ending."""
        return 0

    async def left_queue(self) -> None:
        """Wait until the run leaves the queue, which its second update reports."""
        await self.receive()

    async def batches(self) -> AsyncIterator[Sequence[Logged]]:
        """Yield the events until the ending, and until the agent has exited."""
        sent = 0
        while sent < len(self._entries) or not self._is_over:
            if batch := self._entries[sent:]:
                sent += len(batch)
                yield batch
            else:
                await self.receive()

    async def result(self) -> RunResult:
        """Wait until the agent has exited, and return the whole result."""
        async for _ in self.batches():
            pass
        return gather([entry.event for entry in self._entries])

    async def cancel(self) -> None:
        """Stop the run unless it has ended. A node that does not report the end in time counts as lost."""
        if not self._is_over:
            with suppress(NodeUnavailable):
                await self._cancel()
            fail = self._response.fail
            asyncio.get_running_loop().call_later(_CANCEL_TIMEOUT_S, fail, "does not report the end of the run")


async def serve_part(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Run a part for another node, until the part ends or that node cancels the request."""
    await _PartExchange(services, scope, receive, send).serve()


class _PartExchange(Exchange):
    """The answer to a part."""

    __slots__ = ("_services",)

    def __init__(self, services: Services, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send, Rest(), "application/json", TICK_S)
        self._services = services

    async def _answer(self, disconnect: DisconnectWatch) -> None:
        services = self._services
        body = json_bodies.decode(await read_json(self._scope, self._receive, services.settings.server), _bodies)
        disconnect.watch()
        admission = BatchEndpoint("parallel", services).admission(self._scope["state"])
        part = await admission.admit_here(Part(request=_as_of_client(body.request)))
        if body.is_check:
            await self._response.send(200, Rest.result_type, _encode(part.request))
            return
        request = replace(part.request, part=body.request.part)
        with services.runs.reserved([request]):
            async with services.runs.run(request) as run:
                await self._open()
                await self._response.write(_line(run_update(run)))
                await run.left_queue()
                await self._response.write(_line(run_update(run)))
                async for batch in run.batches():
                    await self._response.write(_line(run_update(run, batch)))
                await run.cancel()  # the run has ended: this waits until the agent has exited
        await self._response.end(_line(replace(run_update(run), is_last=True)))

    async def _keep_alive(self) -> None:
        """Do nothing: the nodes announce themselves."""

    def _error_piece(self, error: ClinvkError) -> bytes:
        return b""


def _line(update: RunUpdate) -> bytes:
    return _encode(update) + b"\n"


def _as_of_client(request: RunRequest) -> RunRequest:
    """Return a request with only what a client can set over the REST API, and what orchestrations set."""
    fields = {name: getattr(request, name) for name in RunRequest.__struct_fields__ if name in _FIELDS_OF_CLIENTS}
    if fallback := request.fallback:
        agents = (RunRequest(prompt="", backend=each.backend, model=each.model) for each in fallback)
        fields["fallback"] = tuple(agents)
    return RunRequest(**fields)
