"""The endpoint that runs a single prompt, for every dialect, with or without a stream.

A run lives inside its request: a client that disconnects cancels the run, queued or running. Only a run with `detach`
continues.
"""

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from clinvk import logs
from clinvk.api.endpoints.exchange import TICK_S, Exchange
from clinvk.api.endpoints.prompt_runs import BegunCall
from clinvk.api.endpoints.request_admission import Caller
from clinvk.api.endpoints.services import Services
from clinvk.api.http.response import (
    NO_STORE,
    NO_TRANSFORM,
    DisconnectWatch,
    Header,
    chunked,
    drop_decoded_headers,
    headers_of,
    internal_error,
    read_json,
)
from clinvk.dialects import vendor
from clinvk.dialects.dialect import Call, Dialect, Encoder, SupportsAsync, SupportsKeepAlive, SupportsPath, renamed
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.runtime.run.task import RunTask
from clinvk.types.errors import (
    SENT_AGAIN,
    Cancelled,
    ClinvkError,
    error_from_code,
)
from clinvk.types.events import Event, Logged, RunFailed, RunFinished, RunResult, RunStarted, TextDelta
from clinvk.types.run import RunFacts

HOLD_S = 10.0
"""How long the status of a response waits for the first event: proxies give up on silence."""

_OPENING_TICK_S = 0.5

ExpandReferences = Callable[[Services, bytes], Awaitable[bytes]]
"""Replace the references to earlier answers in a body by the answers. Raises `InvalidRequest`, `BodyTooLarge`."""


class PromptEndpoint(NamedTuple):
    """Runs the prompts of one dialect, as an ASGI application."""

    dialect: Dialect
    services: Services
    tick_s: float = TICK_S
    hold_s: float = HOLD_S
    expand_references: ExpandReferences | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a request until its end or until the client disconnects."""
        return _PromptRequest(self.of_request(scope), scope, receive, send).serve()

    def of_request(self, scope: Scope) -> "PromptEndpoint":
        """Return the endpoint with the dialect of one request.

        Raises:
            InvalidRequest: the path or the query is invalid.
        """
        dialect = self.dialect
        if isinstance(dialect, SupportsPath):
            return self._replace(dialect=dialect.of_path(scope["path_params"], scope["query_string"]))
        return self


class _PromptRequest(Exchange):
    """The answer to a prompt."""

    __slots__ = ("_begun", "_call", "_encoder", "_endpoint", "_is_settled", "_services")

    def __init__(self, endpoint: PromptEndpoint, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send, endpoint.dialect, "", endpoint.tick_s)
        self._endpoint = endpoint
        self._services = endpoint.services
        self._call: Call | None = None
        self._begun: BegunCall | None = None
        self._encoder: Encoder | None = None
        self._is_settled = False
        """Whether the run stays the run of the prompt. Before, nothing is encoded."""

    async def _answer(self, disconnect: DisconnectWatch) -> None:
        call = await self._read()
        if not call.detach:
            disconnect.watch()
        caller = Caller.of(self._scope["state"], self._dialect.is_model_api)
        runs = self._services.prompt_runs
        if call.dry_run or self._services.settings.unified_flags.dry_run:
            await self._respond_dry_run(*await runs.describe(call, caller))
            return
        async with runs.begin(call, caller, self._note) as begun:
            if isinstance(begun, RunFacts):
                await self._accept(call, begun)
                return
            self._is_settled = True
            logs.add_fields(run_id=begun.run.id)
            if call.detach:
                disconnect.watch()  # only now: a client that leaves earlier still has its run started
            if self._dialect.is_model_api:
                self._headers = _headers(begun.call, begun.run)
            if call.respond_async:
                await self._accept(begun.call, begun.facts)
            elif call.stream:
                await self._stream(begun)
            else:
                await self._respond(begun)

    def _note(self, begun: BegunCall) -> None:
        self._begun = begun

    def _internal(self, error: Exception) -> ClinvkError:
        is_started = self._begun and self._begun.run.started_at is not None
        # For a lack of resources, a prompt that has started would be run again elsewhere.
        found = internal_error() if is_started else super()._internal(error)
        found.may_have_acted = True
        return found

    async def _read(self) -> Call:
        """Read and parse the request. Body and headers are freed afterwards: a run may take an hour."""
        services = self._services
        body = await read_json(self._scope, self._receive, services.settings.server)
        if self._endpoint.expand_references:
            body = await self._endpoint.expand_references(services, body)
        call = self._call = await run_in_loop_thread(len(body), self._dialect.parse, body, headers_of(self._scope))
        self._stream_type = self._dialect.stream_type if call.stream else ""
        services.admission.check_placement(call.placement, headers_of(self._scope))
        drop_decoded_headers(self._scope)
        return call

    async def _accept(self, call: Call, facts: RunFacts) -> None:
        """Respond with the location of the run, which continues without the client."""
        assert isinstance(self._dialect, SupportsAsync), "no other format asks for it"
        status, headers = 200, self._headers
        if not self._dialect.is_model_api:
            location, applied = accepted_headers(facts.run_id)
            status, headers = 202, [location] if facts.is_steered else [location, applied]
        await self._response.send(status, self._dialect.result_type, self._dialect.accepted(call, facts), headers)

    async def _stream(self, begun: BegunCall) -> None:
        held: list[Logged] = []
        is_held = True
        async for batch in begun.log.batches():
            if is_held:
                if self._dialect.is_model_api:
                    held += batch
                    if not (batch := self._release(begun, held)):
                        continue
                self._raise_if_never_started(begun, batch[0].event)
                is_held = False
                self._add_fallback(begun.run)
                await self._open()
            encoder = self._get_encoder()
            for data in chunked(encoder.feed(event, at) or vendor.waiting_comment(event) for _, at, event in batch):
                await self._response.write(data)
            data = b""  # free the piece while waiting for the next batch
        await self._response.end()

    async def _respond(self, begun: BegunCall) -> None:
        result = await begun.log.result()
        self._add_fallback(begun.run)
        self._raise_if_never_started(begun, result.ending)
        if self._dialect.is_model_api and result.error:
            raise self._failure(result.error, has_acted=bool(result.tool_calls))
        body = self._dialect.result(begun.call, result, begun.facts)
        await self._response.send(200, self._dialect.result_type, body, self._headers)

    def _add_fallback(self, run: RunTask) -> None:
        """Add the headers that name the agents that could not take the prompt, and the agent that did."""
        if failed := run.request.fell_back if self._dialect.is_model_api else ():
            names = ", ".join(f"{each.backend}={each.error_code}" for each in failed)
            self._headers.append((b"x-clinvk-fallback", names.encode()))
            self._headers.append((b"x-clinvk-backend", run.request.backend.encode()))

    async def _respond_dry_run(self, call: Call, facts: RunFacts, command: str) -> None:
        """Respond to a dry run as if the agent had answered with its command line."""
        started, ending = RunStarted(facts.model), RunFinished()
        if not call.stream:
            result = RunResult(text=command, started=started, ending=ending, said=(TextDelta(command),))
            await self._response.send(200, self._dialect.result_type, self._dialect.result(call, result, facts))
            return
        encoder = self._encoder = self._dialect.encoder(call, facts)
        await self._open()
        at = time.time()
        await self._response.end(b"".join(encoder.feed(event, at) for event in (started, TextDelta(command), ending)))

    async def _open(self, cache: bytes = NO_STORE) -> None:
        await super()._open(NO_TRANSFORM if self._dialect.is_model_api else cache)

    async def _refuse(self, error: ClinvkError) -> None:
        if self._call:  # the error names fields of the run request, not of the body
            error = renamed(error, self._dialect.fields)
        await super()._refuse(error)

    def _error_piece(self, error: ClinvkError) -> bytes:
        return self._get_encoder().feed(RunFailed(error.code, error.message), time.time())

    def _get_encoder(self) -> Encoder:
        """Return the encoder of the stream."""
        if self._encoder is None:
            assert self._begun, "a stream is opened for a run"
            self._encoder = self._dialect.encoder(self._begun.call, self._begun.facts)
        return self._encoder

    def _raise_if_never_started(self, begun: BegunCall, event: Event) -> None:
        """Raise the error of a run that failed before its agent started, unless the response has begun.

        A run cancelled in the queue is reported in the body if the dialect has no status for cancellation.
        """
        if self._response.opened or begun.run.started_at is not None or not isinstance(event, RunFailed):
            return
        if begun.run.refusal:
            raise begun.run.refusal
        if event.code != Cancelled.code:
            raise ClinvkError(event.message)
        if self._dialect.is_model_api and not begun.call.fails_in_stream:
            raise self._failure(event, has_acted=False)

    def _release(self, begun: BegunCall, held: list[Logged]) -> list[Logged]:
        """Return the held events once the start has succeeded or failed, or the status was sent; else an empty list.

        Raises:
            ClinvkError: the agent failed after its start.
        """
        if self._response.opened:
            return held
        first = next((event for _, _, event in held if vendor.is_activity(event)), None)
        if not isinstance(first, RunFailed) or begun.run.started_at is None:
            return held if first else []
        if begun.call.fails_in_stream and not vendor.may_retry(first.code, has_acted=False):
            return held
        raise self._failure(first, has_acted=False)

    def _failure(self, failed: RunFailed, has_acted: bool) -> ClinvkError:
        """Return the error of a failed agent."""
        error = error_from_code(failed.code, failed.message)
        if isinstance(error, SENT_AGAIN):  # the agent ran
            error = ClinvkError(failed.message)
        error.may_have_acted = not vendor.may_retry(failed.code, has_acted)
        return error

    def _wait_s(self) -> float:
        return _OPENING_TICK_S if self._stream_type and not self._response.opened else self._tick_s

    async def _keep_alive(self) -> None:
        """Send status 200 once the agent runs or has been queued for long; then send keep-alives."""
        begun = self._begun
        if begun is None or self._is_held(begun.run):
            return
        if self._dialect.is_model_api and not self._stream_type:
            return
        quiet_s = 2 * self._tick_s
        if self._stream_type and not self._response.opened:
            await self._open()
            quiet_s = 0.0 if isinstance(self._dialect, SupportsKeepAlive) else quiet_s
        if self._response.is_quiet(quiet_s):
            await self._response.keep_alive(self._pulse(begun))
            await self._open()

    def _pulse(self, begun: BegunCall) -> bytes:
        """Return a keep-alive. The caller must send it: the encoder has counted the event."""
        dialect = self._dialect
        if self._is_settled and begun.call.stream and isinstance(dialect, SupportsKeepAlive):
            return dialect.kept_alive(self._get_encoder())
        return self._dialect.pulse

    def _is_held(self, run: RunTask) -> bool:
        """Return whether the status waits for the first event, which decides the status."""
        is_open = run.started_at is None or (self._dialect.is_model_api and not self._response.opened)
        return is_open and time.time() - run.created_at < self._endpoint.hold_s


def _headers(call: Call, run: RunTask) -> list[Header]:
    """Return the headers for values without a field in the bodies of a model API."""
    headers: list[Header] = [(b"x-clinvk-run-id", run.id.encode())]
    if run.session_id:
        headers.append((b"x-clinvk-session-id", run.session_id.encode()))
    if ignored := vendor.ignored(call):
        headers.append((b"x-clinvk-ignored", ", ".join(ignored).encode()))
    return headers


def accepted_headers(run_id: str) -> list[Header]:
    """Return the headers of a response for a run in the background."""
    return [(b"location", f"/api/v1/runs/{run_id}".encode()), (b"preference-applied", b"respond-async")]
