"""Several agents with one request: parallel, chain and compare, whole or event by event.

All of it lives inside the request: a client that leaves ends all of its agents.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from clinvk import backends
from clinvk.api.reply import (
    NO_BUFFERING,
    ClientGone,
    Header,
    Reply,
    chunked,
    headers_of,
    read_body,
    require_json,
    retry_headers,
    watch,
)
from clinvk.api.runs import RunEndpoint, facts_of
from clinvk.backends.base import Backend
from clinvk.dialects import sse, strict, unified
from clinvk.dialects.base import Call, Facts
from clinvk.dialects.batch import answers, bodies
from clinvk.dialects.rest import Rest
from clinvk.errors import ClinvkError, InvalidRequest
from clinvk.events import Logged, RunFailed, RunStarted, TextDelta
from clinvk.orchestrate.admission import settled
from clinvk.orchestrate.live import Orchestration, Orchestrations
from clinvk.orchestrate.resuming import resumed
from clinvk.plan import Chain, Compare, Kind, Part, PartResult, Plan
from clinvk.request import RunRequest
from clinvk.runtime import executables
from clinvk.runtime.runs import Run

logger = logging.getLogger(__name__)

_parallel = msgspec.json.Decoder(bodies.ParallelBody)
_chain = msgspec.json.Decoder(bodies.ChainBody)
_compare = msgspec.json.Decoder(bodies.CompareBody)


class BatchEndpoint:
    """Answers requests for several agents of one kind, as an ASGI application.

    `prompts` is what answers a single prompt: what it lets in, comes in here as well.
    """

    def __init__(
        self,
        kind: Kind,
        prompts: RunEndpoint,
        orchestrations: Orchestrations,
        environ: Mapping[str, str],
        registry: Mapping[str, Backend] = backends.BACKENDS,
    ) -> None:
        self.prompts = prompts
        self.orchestrations = orchestrations
        self._kind: Kind = kind
        self._environ = environ
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request to its end, or until its client leaves."""
        visit = _Visit(self, scope, receive, Reply(send, self.prompts.settings.server.write_timeout_secs))
        try:
            async with asyncio.TaskGroup() as group:
                await visit.serve(group)
        except* ClientGone as gone:
            logger.debug("client left: %s", gone.exceptions[0])

    async def asked(self, body: bytes) -> Plan:
        """Read a body.

        Raises:
            InvalidRequest: names the field.
            RunNotFound, AmbiguousId: there is no such chain to go on from.
        """
        return settled(await self._read(body), self.prompts.settings)

    async def admitted(self, plan: Plan, key_name: str) -> Plan:
        """Complete all of a plan from the settings, or refuse it whole; `key_name` is the key that it came with.

        Raises:
            ClinvkError: a part cannot be run; its field says which.
        """

        async def admit(request: RunRequest) -> RunRequest:
            return await self.prompts.admit(Call(request=request), key_name)

        if isinstance(plan, Compare) and plan.check:
            self.prompts.allowance.check_command()
            self.prompts.grants.check_command(key_name)
        return await self.orchestrations.admitted(plan, admit, self._require)

    async def _read(self, body: bytes) -> Plan:
        match self._kind:
            case "parallel":
                return bodies.parallel(strict.decode(body, _parallel))
            case "chain":
                return await self._chain(strict.decode(body, _chain))
            case "compare":
                return bodies.compare(strict.decode(body, _compare))

    async def _chain(self, body: bodies.ChainBody) -> Chain:
        if not body.resume_from:
            return bodies.chain(body)
        if body.steps is not None or body.input is not None:
            raise InvalidRequest("resume_from goes on with the steps and the input of its chain", "steps")
        chain = await resumed(self.prompts.store, body.resume_from)
        parts = tuple(replace(part, dry_run=bool(body.dry_run or part.dry_run)) for part in chain.parts)
        stop = chain.stop_on_failure if body.stop_on_failure is None else body.stop_on_failure
        return replace(chain, parts=parts, stop_on_failure=stop)

    def _require(self, backend: str) -> None:
        named = backends.named(backend, self._registry)
        executables.require(named, self.prompts.settings, self._environ)


class _Visit:
    """One request and its answer."""

    def __init__(self, endpoint: BatchEndpoint, scope: Scope, receive: Receive, reply: Reply) -> None:
        self._endpoint = endpoint
        self._scope = scope
        self._receive = receive
        self._reply = reply
        self._stream = ""
        self._has_begun = False

    async def serve(self, group: asyncio.TaskGroup) -> None:
        """Answer the request, watching in `group` for a client that leaves."""
        server = self._endpoint.prompts.settings.server
        headers = headers_of(self._scope)
        watcher: asyncio.Task[None] | None = None
        try:
            require_json(headers)
            body = await read_body(headers, self._receive, server.max_request_body_bytes, server.read_timeout_secs)
            watcher = group.create_task(watch(self._receive, self._reply, self._tick_s, self._keep_alive))
            self._stream = answers.stream_of(headers)
            asked = await self._endpoint.asked(body)
            del body
            plan = await self._endpoint.admitted(asked, self._scope["state"]["key_name"])
            async with self._endpoint.orchestrations.begun(plan, asked) as one:
                self._has_begun = True
                await self._answer(one)
        except ClinvkError as error:
            await self._refuse(error)
        finally:
            if watcher:
                watcher.cancel()

    async def _answer(self, one: Orchestration) -> None:
        headers: list[Header] = [(b"x-clinvk-run-id", one.id.encode())] if one.id else []
        if not self._stream:
            summary = await one.drive()
            await self._reply.whole(200, Rest.result_type, answers.whole(summary), headers)
            return
        await self._reply.open(200, self._stream, [NO_BUFFERING, *headers])
        lines = _Lines(self._reply, one.plan, is_sse=self._stream == sse.MEDIA_TYPE)
        if lines.is_sse:
            await self._reply.write(sse.OPENING)
        summary = await one.drive(lines)
        await self._reply.end(lines.framed(answers.last_line(summary)))

    async def _refuse(self, error: ClinvkError) -> None:
        status, body = Rest().error(error, self._scope["state"]["request_id"])
        await self._reply.whole(status, Rest.error_type, body, retry_headers(error))

    def _tick_s(self) -> float:
        return self._endpoint.prompts.tick_s

    async def _keep_alive(self) -> None:
        """Say 200 when the answer takes long; then send what means nothing."""
        if not self._has_begun:
            return
        pulse = sse.PULSE if self._stream == sse.MEDIA_TYPE else unified.PULSE
        if await self._reply.pulse(pulse, 2 * self._endpoint.prompts.tick_s):
            await self._reply.open(200, self._stream or Rest.result_type)


class _Lines:
    """Writes the events of all parts into one stream, each with the part that it is of."""

    def __init__(self, reply: Reply, plan: Plan, is_sse: bool) -> None:
        self.is_sse = is_sse
        self._reply = reply
        self._plan = plan
        self._encoders: dict[int, unified.UnifiedEncoder] = {}
        self._turn = asyncio.Lock()

    async def heard(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Write events of a run."""
        encoder = self._encoders.get(index)
        if encoder is None:
            encoder = self._encoders[index] = unified.UnifiedEncoder(facts_of(run), self._tag(index, part))
        for data in chunked(self.framed(encoder.feed(event, at)) for _, at, event in batch):
            async with self._turn:
                await self._reply.write(data)

    async def ended(self, result: PartResult) -> None:
        """Write what stands for the events of a part whose agent was not started."""
        if self._encoders.pop(result.index, None):
            return
        request, ending = result.part.request, result.result.ending
        facts = Facts(run_id="", backend=request.backend, model=request.model, workdir=request.workdir or "")
        encoder = unified.UnifiedEncoder(facts, self._tag(result.index, result.part))
        shown = (RunStarted(request.model), TextDelta(result.result.text), ending)
        events = (ending,) if isinstance(ending, RunFailed) else shown
        at = time.time()
        async with self._turn:
            await self._reply.write(b"".join(self.framed(encoder.feed(event, at)) for event in events))

    def framed(self, lines: bytes) -> bytes:
        """Give lines of JSON as this stream has them."""
        return b"".join(map(sse.frame, lines.splitlines())) if self.is_sse else lines

    def _tag(self, index: int, part: Part) -> unified.Tag:
        if index >= len(self._plan.parts):
            return unified.Tag(name=part.name)
        return answers.tag_of(index, part, isinstance(self._plan, Chain))
