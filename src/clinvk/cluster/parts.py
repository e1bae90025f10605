"""The parts of an orchestration on several nodes: each runs where a prompt with the same options would run.

One node leads an orchestration. It sends a part to another node as the part was before admission, so that the settings
of that node, and the policy of the key, complete and limit the part there. The answer is a stream of `Events`
messages. Clients cannot reach this endpoint: a gateway passes on only paths of its API.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
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
from clinvk.remote.messages import Events, Stop
from clinvk.remote.remote_run import RemoteRun
from clinvk.runtime.runs import Run
from clinvk.types.errors import Cancelled, ClinvkError, NodeUnavailable, error_from_code
from clinvk.types.events import Logged
from clinvk.types.orchestration import Part
from clinvk.types.request import Placement, RunRequest

_T = TypeVar("_T")

PATH = "/part"
"""The path of the endpoint."""

_BROKEN_OFF = "the node broke off the run"

_CANCEL_TIMEOUT_S = 5.0
"""How long after its cancellation a run may take to end."""

_FIELDS_OF_CLIENTS = {*PromptBody.__struct_fields__, "timeout_s", "literal"} - {"on_limit"}

_encode = msgspec.json.Encoder().encode


class PartBody(msgspec.Struct, frozen=True):
    """A part to run, or with `is_check` only to admit."""

    request: RunRequest
    is_check: bool = False


_bodies = msgspec.json.Decoder(PartBody)
_updates = msgspec.json.Decoder(Events)
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
    async def begin(self, part: Part) -> AsyncGenerator[Run]:
        """Run a part, as it was before admission, on the best node. Raise the error of the last node if none can."""

        async def begin_on(member: Member) -> Run:
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
    async def _run_on(self, member: Member, request: RunRequest) -> AsyncGenerator[RemoteRun]:
        async with self._send(member, PATH, _encode(PartBody(request))) as response:
            await _check_accepted(response)
            async with RemotePart(request, response, partial(self._cancel, member)) as run:
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
        raise error_from_code(problem.code, problem.detail, problem.field)


class RemotePart:
    """The context of the run of a part on another node, as the node reports it. `cancel` asks the node to cancel it."""

    def __init__(self, request: RunRequest, response: Response, cancel: Callable[[str], Awaitable[None]]) -> None:
        self._response = response
        self._cancel = cancel
        self._request = request
        self._stopping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> RemoteRun:
        self._lines = self._read()
        if not (line := await anext(self._lines, b"")):
            raise NodeUnavailable(_BROKEN_OFF)
        first = _updates.decode(line)
        self._run = RemoteRun(first.run_id, self._request, self._take)
        self._run.feed(first)
        self._receiving = asyncio.create_task(self._receive())
        return self._run

    async def __aexit__(self, *_: object) -> None:
        self._receiving.cancel()
        self._run.lose(Cancelled.code, Cancelled.DEFAULT_MESSAGE)  # nobody learns any more whether the agent has exited
        if self._stopping:
            await self._stopping

    async def _receive(self) -> None:
        """Take the updates of the node. The loss of the node ends the run, unless its ending is known."""
        try:
            async for line in self._lines:
                self._run.feed(_updates.decode(line), len(line))
        except NodeUnavailable as exc:
            self._run.lose(exc.code, exc.message)
        self._run.lose(NodeUnavailable.code, _BROKEN_OFF)

    def _take(self, message: object) -> None:
        """Ask the node to stop the run. The response needs no reading messages."""
        if isinstance(message, Stop) and not self._stopping:
            self._stopping = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        """Stop the run. A node that does not report the end in time counts as lost."""
        with suppress(NodeUnavailable):
            await self._cancel(self._run.id)
        fail = self._response.fail
        asyncio.get_running_loop().call_later(_CANCEL_TIMEOUT_S, fail, "does not report the end of the run")

    async def _read(self) -> AsyncGenerator[bytes]:
        """Yield the lines of the response."""
        pending: list[bytes] = []
        async for piece, _ in self._response.body():
            first, *rest = piece.split(b"\n")
            pending.append(first)
            for line in rest:
                yield b"".join(pending)
                pending = [line]


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
                await self._response.write(_line(run))
                await run.left_queue()
                await self._response.write(_line(run))
                async for batch in run.log.batches():
                    await self._response.write(_line(run, batch))
                await run.cancel()  # the run has ended: this waits until the agent has exited
        await self._response.end(_line(run))

    async def _keep_alive(self) -> None:
        """Do nothing: the nodes announce themselves."""

    def _error_piece(self, error: ClinvkError) -> bytes:
        return b""


def _line(run: Run, events: Sequence[Logged] = ()) -> bytes:
    return _encode(Events(run.id, [*events], run.facts)) + b"\n"


def _as_of_client(request: RunRequest) -> RunRequest:
    """Return a request with only what a client can set over the REST API, and what orchestrations set."""
    fields = {name: getattr(request, name) for name in RunRequest.__struct_fields__ if name in _FIELDS_OF_CLIENTS}
    if fallback := request.fallback:
        agents = (RunRequest(prompt="", backend=each.backend, model=each.model) for each in fallback)
        fields["fallback"] = tuple(agents)
    return RunRequest(**fields)
