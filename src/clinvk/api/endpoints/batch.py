"""Several agents with one request: parallel, chain and compare, whole or event by event.

All of it lives inside the request: a client that leaves ends all of its agents.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from clinvk.api.endpoints.prompts import RunEndpoint, facts_of
from clinvk.api.http.disconnect import Leaving
from clinvk.api.http.response import (
    NO_BUFFERING,
    ClientGone,
    Header,
    Reply,
    broken,
    chunked,
    headers_of,
    read_json,
    refusal,
)
from clinvk.backends import registry as backends
from clinvk.backends.base import Backend
from clinvk.dialects import json_bodies, sse
from clinvk.dialects.dialect import Call
from clinvk.dialects.rest import batch_answers, bodies, unified
from clinvk.dialects.rest.batch_answers import PartLines, broken_off
from clinvk.dialects.rest.rest import Rest
from clinvk.orchestrate.admission import settled
from clinvk.orchestrate.chain_resume import resumed
from clinvk.orchestrate.live import Orchestration, Orchestrations
from clinvk.runtime.process import executables
from clinvk.runtime.process.waiting import beside_loop
from clinvk.runtime.runs import Run
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.events import Logged
from clinvk.types.orchestration import Chain, Compare, Kind, Part, PartResult, Plan, Summary
from clinvk.types.request import RunRequest

logger = logging.getLogger(__name__)

_parallel = json_bodies.decoder(bodies.ParallelBody)
_chain = json_bodies.decoder(bodies.ChainBody)
_compare = json_bodies.decoder(bodies.CompareBody)
_RESULT_BYTES = 1000
"""What a result takes to encode, as if it were so long."""


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
            await visit.serve()
        except ClientGone as gone:
            logger.debug("client left: %s", gone)

    async def asked(self, body: bytes) -> Plan:
        """Read a body.

        Raises:
            InvalidRequest: names the field.
            RunNotFound, AmbiguousId: there is no such chain to go on from.
        """
        return settled(await self._read(body), self.prompts.settings)

    async def admitted(self, plan: Plan, key_name: str, client: str) -> Plan:
        """Complete all of a plan from the settings, or refuse it whole.

        `key_name` is the key that it came with, `client` whose runs they are in the queue.

        Raises:
            ClinvkError: a part cannot be run; its field says which.
        """

        async def admit(request: RunRequest) -> RunRequest:
            return await self.prompts.admit(Call(request=request), key_name, client)

        if isinstance(plan, Compare) and plan.check:
            self.prompts.allowance.check_command()
            self.prompts.grants.check_command(key_name)
        return await self.orchestrations.admitted(plan, admit, self._require)

    async def _read(self, body: bytes) -> Plan:
        match self._kind:
            case "parallel":
                return await beside_loop(len(body), lambda: bodies.parallel(json_bodies.decode(body, _parallel)))
            case "chain":
                chain = await beside_loop(len(body), json_bodies.decode, body, _chain)
                if chain.resume_from:
                    return await self._resumed(chain, chain.resume_from)
                return await beside_loop(len(body), bodies.chain, chain)
            case "compare":
                return await beside_loop(len(body), lambda: bodies.compare(json_bodies.decode(body, _compare)))

    async def _resumed(self, body: bodies.ChainBody, run_id: str) -> Chain:
        if body.steps is not None or body.input is not None:
            raise InvalidRequest("resume_from goes on with the steps and the input of its chain", "steps")
        chain = await resumed(self.prompts.store, run_id)
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
        self._one: Orchestration | None = None

    async def serve(self) -> None:
        """Answer the request.

        Raises:
            ClientGone: its client left, and all of its agents were ended.
        """
        async with Leaving(self._receive, self._reply, self._tick_s, self._keep_alive) as leaving:
            try:
                await self._answer(leaving)
            except ClinvkError as error:
                await self._refuse(error)
            except Exception:
                if self._reply.opened and not self._reply.ended:
                    await self._refuse(broken())
                raise

    async def _answer(self, leaving: Leaving) -> None:
        asked = await self._asked(leaving)
        state = self._scope["state"]
        plan = await self._endpoint.admitted(asked, state["key_name"], state.get("client", ""))
        async with self._endpoint.orchestrations.begun(plan, asked) as self._one:
            summary = await self._driven(self._one)
        await self._end(summary)

    async def _asked(self, leaving: Leaving) -> Plan:
        """Read the request, then begin to watch. The body goes with this."""
        self._stream = batch_answers.stream_of(headers_of(self._scope))
        body = await read_json(self._scope, self._receive, self._endpoint.prompts.settings.server)
        leaving.watch()
        return await self._endpoint.asked(body)

    async def _driven(self, one: Orchestration) -> Summary:
        if not self._stream:
            return await one.drive()
        await self._open()
        lines = _Lines(self._reply, one.plan, self._framed)
        if self._is_sse:
            await self._reply.write(sse.OPENING)
        return await one.drive(lines)

    async def _end(self, summary: Summary) -> None:
        """Give the answer, or the last line of the stream; the end of the whole is kept by then."""
        encode = batch_answers.last_line if self._stream else batch_answers.whole
        answer = await beside_loop(len(summary.results) * _RESULT_BYTES, encode, summary)
        if self._stream:
            await self._reply.end(self._framed(answer))
        else:
            await self._reply.whole(200, Rest.result_type, answer, self._headers())

    async def _open(self) -> None:
        if self._stream:
            await self._reply.open(200, self._stream, [NO_BUFFERING, *self._headers()])
        else:
            await self._reply.open(200, Rest.result_type, self._headers())

    def _headers(self) -> list[Header]:
        return [(b"x-clinvk-run-id", self._one.id.encode())] if self._one and self._one.id else []

    async def _refuse(self, error: ClinvkError) -> None:
        if self._stream and self._reply.opened:
            run_id = self._one.id if self._one else ""
            await self._reply.end(self._framed(broken_off(run_id, error, time.time())))
            return
        status, body, retry = refusal(error, Rest(), self._scope)
        await self._reply.whole(status, Rest.error_type, body, retry)

    @property
    def _is_sse(self) -> bool:
        return self._stream == sse.MEDIA_TYPE

    def _framed(self, lines: bytes) -> bytes:
        """Give lines of JSON as the stream has them."""
        return b"".join(map(sse.frame, lines.splitlines())) if self._is_sse else lines

    def _tick_s(self) -> float:
        return self._endpoint.prompts.tick_s

    async def _keep_alive(self) -> None:
        """Say 200 when the answer takes long; then send what means nothing."""
        if not self._one:
            return
        if self._reply.is_quiet(2 * self._endpoint.prompts.tick_s):
            await self._reply.pulse(sse.PULSE if self._is_sse else unified.PULSE)
            await self._open()


class _Lines:
    """Writes the events of all parts into one stream, `framed` as that has them."""

    def __init__(self, reply: Reply, plan: Plan, framed: Callable[[bytes], bytes]) -> None:
        self._reply = reply
        self._framed = framed
        self._lines = PartLines(plan)
        self._turn = asyncio.Lock()

    def begun(self, index: int, part: Part, run: Run) -> None:
        """Do nothing: the events tell it."""

    async def heard(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Write events of a run."""
        for data in chunked(map(self._framed, self._lines.heard(index, part, batch, partial(facts_of, run)))):
            async with self._turn:
                await self._reply.write(data)

    async def ended(self, result: PartResult) -> None:
        """Write what stands for the events of a part whose agent was not started."""
        if lines := self._lines.ended(result, time.time()):
            async with self._turn:
                await self._reply.write(self._framed(lines))
