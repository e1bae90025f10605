"""The one endpoint through which every run goes, whatever the dialect, stream or not.

A run lives inside its request: a client that leaves, waiting or reading, queued or running, ends it. Only one that was
asked for with `detach` goes on.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from clinvk import backends
from clinvk.api.reply import (
    NO_BUFFERING,
    ClientGone,
    Reply,
    chunked,
    headers_of,
    read_body,
    require_json,
    retry_headers,
    watch,
)
from clinvk.api.workdirs import Workdirs
from clinvk.backends.base import Backend, describe
from clinvk.config import Settings, complete
from clinvk.dialects.base import Call, Dialect, Encoder, Facts
from clinvk.errors import Cancelled, ClinvkError, ShuttingDown
from clinvk.events import Event, RunFailed, RunFinished, RunStarted, TextDelta
from clinvk.request import RunRequest
from clinvk.result import RunResult
from clinvk.runtime.runs import Run, Runs
from clinvk.store import SessionStore

logger = logging.getLogger(__name__)

TICK_S = 5.0
"""How often a quiet answer is looked at; it is kept alive after two quiet ticks, so within 15 s."""

RUNS_PATH = "/api/v1/runs"

HOLD_S = 10.0
"""How long the status of an answer is held for an agent that waits in the queue: proxies give up on silence."""

_OPENING_TICK_S = 0.5


class RunEndpoint:
    """Answers requests of one dialect, as an ASGI application."""

    def __init__(
        self,
        dialect: Dialect,
        runs: Runs,
        store: SessionStore,
        settings: Settings,
        environ: Mapping[str, str],
        registry: Mapping[str, Backend] = backends.BACKENDS,
        tick_s: float = TICK_S,
        hold_s: float = HOLD_S,
    ) -> None:
        self.dialect = dialect
        self.runs = runs
        self.store = store
        self.settings = settings
        self.workdirs = Workdirs(settings, environ)
        self.tick_s = tick_s
        self.hold_s = hold_s
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request to its end, or until its client leaves."""
        visit = _Visit(self, scope, receive, Reply(send, self.settings.server.write_timeout_secs))
        try:
            async with asyncio.TaskGroup() as group:
                await visit.serve(group)
        except* ClientGone as gone:
            logger.debug("client left: %s", gone.exceptions[0])

    async def admit(self, request: RunRequest) -> RunRequest:
        """Complete a request from its session and the settings.

        Raises:
            BackendUnavailable: there is no such backend.
            SessionNotFound, AmbiguousId: there is no such session, or several.
            InvalidRequest: a directory cannot be worked in.
        """
        session = await self.store.session(request.session_id) if request.session_id else None
        if session:
            request = replace(request, session_id=session.id, backend=request.backend or session.backend)
        backends.named(request.backend, self._registry)
        request = self.workdirs.settle(complete(request, self.settings), session)
        return replace(request, timeout_s=request.timeout_s or self.settings.server.request_timeout_secs or None)


class _Visit:
    """One request and its answer."""

    def __init__(self, endpoint: RunEndpoint, scope: Scope, receive: Receive, reply: Reply) -> None:
        self._endpoint = endpoint
        self._dialect = endpoint.dialect
        self._scope = scope
        self._receive = receive
        self._reply = reply
        self._run: Run | None = None
        self._is_stream = False
        self._watcher: asyncio.Task[None] | None = None

    async def serve(self, group: asyncio.TaskGroup) -> None:
        """Answer the request, watching in `group` for a client that leaves."""
        try:
            await self._answer(await self._read(group))
        except ClinvkError as error:
            await self._refuse(error)
        finally:
            if self._watcher:
                self._watcher.cancel()

    async def _read(self, group: asyncio.TaskGroup) -> Call:
        """Read the request, then begin to watch. Body and headers go with this: a run may take an hour."""
        server = self._endpoint.settings.server
        headers = headers_of(self._scope)
        require_json(headers)
        body = await read_body(headers, self._receive, server.max_request_body_bytes, server.read_timeout_secs)
        self._watcher = group.create_task(watch(self._receive, self._reply, self._tick_s, self._keep_alive))
        return self._dialect.parse(body, headers)

    async def _answer(self, call: Call) -> None:
        endpoint = self._endpoint
        self._is_stream = call.stream
        call = replace(call, request=await endpoint.admit(call.request))
        if call.dry_run or endpoint.settings.unified_flags.dry_run:
            await self._show(call)
            return
        async with self._begun(call) as run:
            if call.respond_async:
                await self._accept(call, run)
                return
            self._run = run
            if call.stream:
                await self._stream(call, run)
            else:
                await self._whole(call, run)

    @asynccontextmanager
    async def _begun(self, call: Call) -> AsyncGenerator[Run]:
        """Begin the run; leaving this context ends it, unless it is detached."""
        runs = self._endpoint.runs
        if call.detach:
            yield await runs.start(call.request)
            return
        async with runs.run(call.request) as run:
            yield run

    async def _accept(self, call: Call, run: Run) -> None:
        """Say where the run is to be found, and leave it to itself."""
        headers = [(b"location", f"{RUNS_PATH}/{run.id}".encode()), (b"preference-applied", b"respond-async")]
        body = self._dialect.accepted(call, facts_of(run), run.state)
        await self._reply.whole(202, self._dialect.result_type, body, headers)

    async def _stream(self, call: Call, run: Run) -> None:
        encoder: Encoder | None = None
        async for batch in run.batches():
            if encoder is None:
                self._raise_if_never_started(run, batch[0].event)
                encoder = self._dialect.encoder(call, facts_of(run))
                await self._open()
            for data in chunked(encoder.feed(event, at) for _, at, event in batch):
                await self._reply.write(data)
        await self._reply.end()

    async def _whole(self, call: Call, run: Run) -> None:
        result = await run.result()
        self._raise_if_never_started(run, result.ending)
        body = self._dialect.result(call, result, facts_of(run))
        await self._reply.whole(200, self._dialect.result_type, body)

    async def _show(self, call: Call) -> None:
        """Answer a dry run as if an agent had answered with its own command line."""
        request = call.request
        launch = await self._endpoint.runs.plan(request)
        command = describe(launch, len(request.prompt.encode()))
        started, ending = RunStarted(request.model), RunFinished()
        facts = Facts(
            run_id="", backend=request.backend, model=request.model, workdir=launch.cwd or request.workdir or ""
        )
        if not call.stream:
            result = RunResult(text=command, started=started, ending=ending)
            await self._reply.whole(200, self._dialect.result_type, self._dialect.result(call, result, facts))
            return
        encoder = self._dialect.encoder(call, facts)
        await self._open()
        at = time.time()
        await self._reply.end(b"".join(encoder.feed(event, at) for event in (started, TextDelta(command), ending)))

    async def _open(self) -> None:
        if self._is_stream:
            await self._reply.open(200, self._dialect.stream_type, [NO_BUFFERING])
        else:
            await self._reply.open(200, self._dialect.result_type)

    async def _refuse(self, error: ClinvkError) -> None:
        status, body = self._dialect.error(error, self._scope["state"]["request_id"])
        await self._reply.whole(status, self._dialect.error_type, body, retry_headers(error))

    def _raise_if_never_started(self, run: Run, event: Event) -> None:
        """Raise why a run failed before its agent was started; once the answer has begun, it tells that itself."""
        if self._reply.opened or run.started_at is not None or not isinstance(event, RunFailed):
            return
        if run.refusal:
            raise run.refusal
        raise ShuttingDown(event.message) if event.code == Cancelled.code else ClinvkError(event.message)

    def _tick_s(self) -> float:
        opening = self._is_stream and not self._reply.opened
        return _OPENING_TICK_S if opening else self._endpoint.tick_s

    async def _keep_alive(self) -> None:
        """Say 200 once the agent is known to run, or has been queued for long; then send what means nothing."""
        run = self._run
        if run is None or (run.started_at is None and time.time() - run.created_at < self._endpoint.hold_s):
            return
        if self._is_stream:
            await self._open()
        if await self._reply.pulse(self._dialect.pulse, 2 * self._endpoint.tick_s):
            await self._open()


def facts_of(run: Run) -> Facts:
    """Give what a dialect needs of a run that is under way."""
    request = run.request
    started_at = run.started_at or run.created_at
    return Facts(
        run_id=run.id,
        backend=request.backend,
        session_id=run.session_id,
        model=request.model,
        workdir=request.workdir or "",
        started_at=started_at,
        duration_s=max(0.0, run.ended_at - started_at) if run.ended_at else 0.0,
    )
