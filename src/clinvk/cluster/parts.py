"""The parts of an orchestration on several nodes: each runs where a prompt with the same options would run.

One node leads an orchestration. It sends a part to another node as the part was before admission, so that the settings
of that node, and the policy of the key, complete and limit the part there.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from clinvk.api.endpoints.batch import BatchEndpoint
from clinvk.api.endpoints.services import Services
from clinvk.cluster.carrier import Carrier
from clinvk.cluster.members import ANNOUNCE_INTERVAL_S, Member, Members, Target, Undelivered, is_retryable
from clinvk.dialects.rest.bodies import PromptBody
from clinvk.orchestrate.admission import Admit
from clinvk.remote.messages import Admitted, BeginPart, Client
from clinvk.remote.remote_run import RemoteRun, attached
from clinvk.runtime.runs import Run
from clinvk.types.errors import ClinvkError, ShuttingDown
from clinvk.types.orchestration import Part
from clinvk.types.request import Placement, RunRequest

_T = TypeVar("_T")

_FIELDS_OF_CLIENTS = {*PromptBody.__struct_fields__, "timeout_s", "literal"} - {"on_limit"}

_encode = msgspec.json.Encoder().encode


@dataclass
class ClusterNodes:
    """The `Nodes` of a request, as `Cluster.part_nodes` returns them; `process` is this process."""

    services: Services
    carrier: Carrier
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
        bare = replace(part.request, prompt="", images=())
        key = _encode((bare, part.placement))
        if admitted := self.admitted.get(key):
            return replace(part, request=replace(admitted, prompt=prompt, images=images))

        async def admit_on(member: Member) -> Part:
            if member.announcement.process == self.process:
                return await admit_here(part)
            async with self.carrier.begin(member, self._command(bare, is_check=True)) as run:
                answer = await run.answer()
            assert isinstance(answer, Admitted)
            request = self.admitted[key] = answer.request
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
        async with self.carrier.begin(member, self._command(request)) as run, attached(run):
            yield run

    def _command(self, request: RunRequest, is_check: bool = False) -> BeginPart:
        state = self.state
        client = Client(state["key_name"], state.get("client", ""), state.get("depth", 0))
        return BeginPart(os.urandom(16).hex(), request, client, is_check)


async def _first_able(members: Sequence[Member], attempt: Callable[[Member], Awaitable[_T]]) -> _T:
    """Return the result of the first node that accepts. Raise a refusal that other nodes would share."""
    for member in members[:-1]:
        try:
            return await attempt(member)
        except ClinvkError as exc:
            if not (isinstance(exc, Undelivered) or is_retryable(exc.code, exc.field or "")):
                raise
    return await attempt(members[-1])


class PartsHere:
    """Runs the parts of orchestrations that other nodes lead; see `PartRunner`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @asynccontextmanager
    async def run(self, part: BeginPart) -> AsyncGenerator[Run]:
        """Admit and run a part; leaving the context stops the run."""
        services = self._services
        request = replace((await self.admit(part)).request, part=part.request.part)
        services.state.active_requests += 1  # a server that stops waits until the events are sent
        try:
            with services.runs.reserved([request]):
                async with services.runs.run(request, part.run_id) as run:
                    yield run
        finally:
            services.state.active_requests -= 1

    async def admit(self, part: BeginPart) -> Admitted:
        """Return the part as this node would run it."""
        services = self._services
        if services.state.stopping.is_set():
            raise ShuttingDown("the node is stopping and takes no new requests")
        admission = BatchEndpoint("parallel", services).admission(msgspec.structs.asdict(part.client))
        admitted = await admission.admit_here(Part(request=_as_of_client(part.request)))
        return Admitted(part.run_id, admitted.request)


def _as_of_client(request: RunRequest) -> RunRequest:
    """Return a request with only what a client can set over the REST API, and what orchestrations set."""
    fields = {name: getattr(request, name) for name in RunRequest.__struct_fields__ if name in _FIELDS_OF_CLIENTS}
    if fallback := request.fallback:
        agents = (RunRequest(prompt="", backend=each.backend, model=each.model) for each in fallback)
        fields["fallback"] = tuple(agents)
    return RunRequest(**fields)
