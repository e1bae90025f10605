"""The endpoints for runs: list, show, cancel, usage, the events of a run, and the live events of the server.

The events of a run in this process come from the run. The events of other runs come from the store, which is polled
while the run is under way in another clinvk. The run continues after a viewer disconnects.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec import UNSET
from msgspec.structs import asdict, replace
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.exchange import TICK_S, Exchange
from clinvk.api.endpoints.services import Services
from clinvk.api.endpoints.sessions import check_backend, paging
from clinvk.api.http.response import (
    NO_BUFFERING,
    NO_STORE,
    ClientDisconnected,
    Compressor,
    DisconnectWatch,
    HttpResponse,
    accepts_gzip,
    chunked,
    headers_of,
    send_error,
)
from clinvk.dialects import json_bodies, sse
from clinvk.dialects.rest import unified, usage, views
from clinvk.dialects.rest.rest import Rest
from clinvk.dialects.rest.views import Following
from clinvk.runtime.runs import poll_events, record_facts
from clinvk.store.protocol import RunQuery
from clinvk.types.choices import UNDER_WAY
from clinvk.types.errors import ClinvkError, InvalidRequest, NotCancellable
from clinvk.types.events import Logged, RunFailed, RunFinished
from clinvk.types.record import RunRecord


async def list_runs(services: Services, _: Request, query: views.RunListing) -> views.RunList:
    """List runs, newest first."""
    check_backend(query.backend, services.registry)
    if query.session_id:
        query = replace(query, session_id=(await services.store.session(query.session_id)).id)
    if query.parent_id:
        query = replace(query, parent_id=(await services.store.run(query.parent_id)).id)
    page = await services.store.runs(RunQuery(**asdict(query)))
    return views.RunList(runs=[*map(views.run_item, page.items)], **paging(page, query))


async def get_run(services: Services, request: Request) -> views.RunView:
    """Show a run, with its parts."""
    return await _run_view(services, request.path_params["id"])


async def cancel_run(services: Services, request: Request) -> views.RunView:
    """Cancel a run of this server, with all of its parts, and wait for its end."""
    refuse_foreign(request.scope)
    run = await services.store.run(request.path_params["id"])
    if not await cancel_live(services, run):
        raise NotCancellable(_not_cancellable_reason(await services.store.run(run.id)))
    return await _run_view(services, run.id)


async def cancel_live(services: Services, run: RunRecord) -> bool:
    """Cancel a run of this server, with all of its parts, and wait for its end. Return False if it is not live here."""
    live = services.runs.live(run.id)
    if run.kind != "prompt" and (orchestration := services.orchestrations.live(run.id)):
        await orchestration.cancel()
    elif live and live.state in UNDER_WAY:
        await services.runs.cancel(run.id)
    else:
        return False
    return True


async def _run_view(services: Services, reference: str) -> views.RunView:
    """Show a run with its first parts; a list would begin with the newest."""
    store = services.store
    run = await store.run(reference)
    if run.kind == "prompt":
        view, live = views.run_view(run), services.runs.live(run.id)
        if not live:
            return view
        position, log = live.slot.position, live.log
        return replace(view, queue_position=position or UNSET, activity=log.activity or UNSET, plan=log.plan or UNSET)
    page = await store.runs(RunQuery(parent_id=run.id, limit=views.SHOWN_PARTS))
    if (offset := page.total - views.SHOWN_PARTS) > 0:
        page = await store.runs(RunQuery(parent_id=run.id, limit=views.SHOWN_PARTS, offset=offset))
    return views.run_view(run, page.items, page.total)


def _not_cancellable_reason(run: RunRecord) -> str:
    if run.state in UNDER_WAY:
        return f"run {run.id!r} goes on in another clinvk; it can be cancelled only there"
    return f"run {run.id!r} has ended already: it is {run.state}"


async def list_usage(services: Services, _: Request, query: usage.UsageListing) -> usage.UsageList:
    """Sum the usage of runs by day, key, backend and model. Usage of deleted runs is included."""
    check_backend(query.backend, services.registry)
    span = usage.span(query, datetime.now(UTC).date())
    rows = await services.store.usage(span.since, query.key)
    return await asyncio.to_thread(usage.summary, rows, query, span)


async def list_limits(services: Services, request: Request) -> usage.LimitList:
    """List the limits of the agents' accounts. Claude Code and Codex report them with a subscription, during runs."""
    has_backend = partial(services.admission.key_policy.has_backend, request.state.key_name)
    windows = await services.store.limits()
    return usage.LimitList(limits=[usage.limit_view(window) for window in windows if has_backend(window.backend)])


logger = logging.getLogger(__name__)

POLL_S = 0.5


class RunEventsEndpoint(NamedTuple):
    """Answers `GET /api/v1/runs/{id}/events`, as an ASGI application.

    Once the server stops, viewers of runs of other processes are disconnected.
    """

    services: Services
    tick_s: float = TICK_S
    poll_s: float = POLL_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a viewer until the end of the run or until the viewer disconnects."""
        await _EventsRequest(self, scope, receive, send).serve()


def stored_events(services: Services, run: RunRecord, poll_s: float = POLL_S) -> AsyncIterator[Sequence[Logged]]:
    """Yield the stored events of a run until the end; poll the store while the run is under way in another clinvk.

    Raises:
        RunNotFound: the run has ended, and stored no events because it was ephemeral.
    """

    async def pause(run: RunRecord) -> bool:
        if run.kind != "prompt" and services.orchestrations.live(
            run.id
        ):  # its end is awaited, even if the server stops
            await asyncio.sleep(poll_s)
            return True
        with suppress(TimeoutError):
            await asyncio.wait_for(services.state.stopping.wait(), poll_s)
        return not services.state.stopping.is_set()

    return poll_events(services.store, run, pause)


def last_event_id(scope: Scope) -> int | None:
    """Return the id of the last event that a viewer has, from the header that browsers send; None without.

    Raises:
        InvalidRequest: the header is no id.
    """
    text = headers_of(scope).get("last-event-id", "")
    if text and not (text.isascii() and text.isdigit()):
        raise InvalidRequest(
            f"the header last-event-id must be the id of an event, a whole number, got {text!r}", "last-event-id"
        )
    return int(text[:20]) if text else None


class _EventsRequest(Exchange):
    """A single event stream for a viewer. The events of a run that has ended are compressed, unless they are SSE."""

    __slots__ = ("_compressor", "_endpoint", "_is_sse")

    def __init__(self, endpoint: RunEventsEndpoint, scope: Scope, receive: Receive, send: Send) -> None:
        self._is_sse = unified.MEDIA_TYPE not in headers_of(scope).get("accept", "").lower()
        stream_type = sse.MEDIA_TYPE if self._is_sse else unified.MEDIA_TYPE
        super().__init__(scope, receive, send, Rest(), stream_type, endpoint.tick_s)
        self._endpoint = endpoint
        self._compressor: Compressor | None = None

    async def _answer(self, disconnect: DisconnectWatch) -> None:
        disconnect.watch()
        after = self._after()
        services = self._endpoint.services
        run = await services.store.run(self._scope["path_params"]["id"])
        if self._scope["method"] == "HEAD":
            await self._open()
            await self._response.end()
            return
        live = services.runs.live(run.id)
        if live or run.state in UNDER_WAY:
            await self._open()
        elif not self._is_sse and accepts_gzip(self._scope):
            self._compressor = Compressor()
        encoder: unified.UnifiedEncoder | None = None
        async for batch in live.log.batches() if live else stored_events(services, run, self._endpoint.poll_s):
            if not encoder:
                facts = live.facts if live else record_facts(await services.store.run(run.id))
                encoder = unified.UnifiedEncoder(facts)
            for data in chunked(self._lines(encoder, batch, after)):
                await self._open()
                await self._response.write(await self._compressor.compress(data) if self._compressor else data)
        await self._end()

    def _after(self) -> int:
        """Return the number of the last event that the viewer has, from the header of a browser or the parameter."""
        query = json_bodies.parameters(self._scope["query_string"], Following)
        after = last_event_id(self._scope)
        return query.after if after is None else after

    def _lines(self, encoder: unified.UnifiedEncoder, batch: Sequence[Logged], after: int) -> Iterator[bytes]:
        for number, at, event in batch:
            if number <= after and not isinstance(event, RunFinished | RunFailed):
                encoder.skip(event)
                continue
            encoder.sequence = number - 1
            for sequence, line in enumerate(encoder.feed(event, at).splitlines(keepends=True), number):
                if sequence > after:
                    yield sse.frame(line, id=sequence) if self._is_sse else line

    async def _open(self, cache: bytes = NO_STORE) -> None:
        if self._response.opened:
            return
        if self._compressor:
            self._headers.extend(Compressor.HEADERS)
        await super()._open(cache)
        if self._is_sse and self._scope["method"] != "HEAD":
            await self._response.write(sse.OPENING)

    async def _end(self) -> None:
        """End the response. Without any event the status is 204, which keeps a browser from reconnecting."""
        rest = self._compressor.end() if self._compressor and self._response.opened else b""
        await self._response.open(204, self._stream_type)
        await self._response.end(rest)

    async def _keep_alive(self) -> None:
        if not self._compressor and self._response.is_quiet(2 * self._tick_s):
            await self._response.keep_alive(sse.PULSE if self._is_sse else unified.PULSE)

    def _error_piece(self, error: ClinvkError) -> bytes:
        logger.warning("the events of a run stopped: %s", error.message)
        return self._compressor.end() if self._compressor else b""


QUIET_S = 10.0
"""How long a stream may be quiet until a comment is sent."""


RETRY_S = 1.0
"""How long to wait until the events of a run are requested again, after its node or the store was lost."""


class LiveEventsEndpoint(NamedTuple):
    """Answers `GET /api/v1/events`, as an ASGI application. `run_events` answers `GET /api/v1/runs/{id}/events`."""

    services: Services
    run_events: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the changes of all runs and the events of the named runs until the viewer disconnects."""
        after = last_event_id(scope)
        query = json_bodies.parameters(scope["query_string"], views.LiveFollowing)
        response = HttpResponse(send)
        async with DisconnectWatch(receive, response, lambda: QUIET_S, _ignore_quiet) as disconnect:
            disconnect.watch()
            await response.open(200, sse.MEDIA_TYPE, [NO_BUFFERING])
            if scope["method"] != "HEAD":
                await response.write(sse.OPENING)
                async with asyncio.TaskGroup() as group:
                    runs = [group.create_task(self._send_run(run, scope, response)) for run in query.run]
                    await self._send_changes(after, response)
                    for run in runs:
                        run.cancel()
            await response.end()

    async def _send_changes(self, after: int | None, response: HttpResponse) -> None:
        with suppress(ClientDisconnected):
            async with aclosing(self.services.live.follow(after, QUIET_S)) as events:
                async for event in events:
                    await response.write(event)

    async def _send_run(self, position: str, scope: Scope, response: HttpResponse) -> None:
        run = _NamedRun(position, response)
        with suppress(ClientDisconnected):  # the next change ends the response
            while not run.is_over:
                request = run.request(scope)
                try:
                    await self.run_events(request, _receive_nothing, run.send)
                except ClinvkError as error:
                    await send_error(error, request, run.send)
                if not run.is_over:
                    await asyncio.sleep(RETRY_S)


class _LineHead(msgspec.Struct, frozen=True):
    type: str
    sequence: int


_line_heads = msgspec.json.Decoder(_LineHead)


class _NamedRun:
    """A run that the query of a live stream names, as `ID` or `ID:SEQUENCE`, and the position in its events.

    `send` takes the response to a request for the events, and sends them to the viewer.
    """

    def __init__(self, position: str, response: HttpResponse) -> None:
        self.is_over = False
        self._id, _, after = position.partition(":")
        self._after = int(after or 0)
        self._response = response
        self._status = 0
        self._rest: bytes = b""

    def request(self, scope: Scope) -> Scope:
        """Return the request for the events after this position, in the name of the viewer."""
        self._rest = b""
        return {
            **scope,
            "path": f"/api/v1/runs/{self._id}/events",
            "path_params": {"id": self._id},
            "query_string": b"after=%d" % self._after,
            "headers": [(b"accept", unified.MEDIA_TYPE.encode())],
            "state": {name: value for name, value in scope["state"].items() if name != "headers"},
        }

    async def send(self, message: Message) -> None:
        """Send the whole lines of the response to the viewer. An error that stays is an event of its own."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self.is_over = self._status < 500 and self._status != 200
            return
        body: bytes = message.get("body", b"")
        data = self._rest + body
        if self._status == 200:
            *lines, self._rest = data.split(b"\n")
            if frames := b"".join(map(self._frame, lines)):
                await self._response.write(frames)
        elif message.get("more_body", False):
            self._rest = data
        elif data and self.is_over:
            await self._response.write(self._named_frame("run_error", "problem", data))

    def _frame(self, line: bytes) -> bytes:
        head = _line_heads.decode(line)
        self._after = head.sequence
        self.is_over = head.type in ("done", "error")
        return self._named_frame("run_event", "event", line)

    def _named_frame(self, kind: str, name: str, value: bytes) -> bytes:
        return sse.frame(msgspec.json.encode({"run": self._id, name: msgspec.Raw(value)}), kind)


async def _receive_nothing() -> Message:
    """Wait until the task is cancelled: the viewer stays connected."""
    return await asyncio.get_running_loop().create_future()


async def _ignore_quiet() -> None:
    """Do nothing; `LiveEvents.follow` yields the comments of a quiet stream."""
