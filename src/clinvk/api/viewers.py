"""The events of a run for whoever wants to see them: those of the past, then those to come while it runs.

The source is the run itself where it goes on here, else the store, which is looked at from time to time while another
clinvk runs it. A viewer that leaves ends nothing.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress

from starlette.types import Receive, Scope, Send

from clinvk.api.leaving import Leaving
from clinvk.api.reply import NO_BUFFERING, ClientGone, Reply, chunked, headers_of, refusal
from clinvk.api.runs import TICK_S, facts_of
from clinvk.config import ServerSettings
from clinvk.dialects import sse, strict, unified
from clinvk.dialects.base import Facts
from clinvk.dialects.records import Following
from clinvk.dialects.rest import Rest
from clinvk.errors import Cancelled, ClinvkError, InvalidRequest, RunNotFound
from clinvk.events import Logged, RunFailed, RunFinished
from clinvk.record import RunRecord
from clinvk.runtime.runs import Run, Runs
from clinvk.store import UNDER_WAY, SessionStore

logger = logging.getLogger(__name__)

POLL_S = 0.5
_BATCH = 500


class Viewers:
    """Answers `GET /api/v1/runs/{id}/events`, as an ASGI application.

    Once `stopping` is set, nobody is kept who waits for the run of another clinvk; `is_here` says of an orchestration
    that it goes on in this one.
    """

    def __init__(
        self,
        runs: Runs,
        store: SessionStore,
        settings: ServerSettings,
        stopping: asyncio.Event,
        is_here: Callable[[str], bool] = lambda _: False,
        tick_s: float = TICK_S,
        poll_s: float = POLL_S,
    ) -> None:
        self.runs = runs
        self.store = store
        self.settings = settings
        self.tick_s = tick_s
        self._stopping = stopping
        self._is_here = is_here
        self._poll_s = poll_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one viewer, to the run's end or until it leaves."""
        visit = _Visit(self, scope, receive, Reply(send, self.settings.write_timeout_secs))
        try:
            await visit.serve()
        except ClientGone as gone:
            logger.debug("viewer left: %s", gone)

    async def kept(self, run: RunRecord) -> AsyncIterator[Sequence[Logged]]:
        """Give the events of a run of which another clinvk knows, or none any more, to its ending.

        Raises:
            RunNotFound: the run had ended, and kept no events because it was ephemeral.
        """
        last, had_ended = 0, run.state not in UNDER_WAY
        while True:
            is_here = run.kind != "prompt" and self._is_here(run.id)  # it may end while the events are read
            while batch := await self.store.events(run.id, last, _BATCH):
                last = batch[-1].number
                yield batch
                if isinstance(batch[-1].event, RunFinished | RunFailed):
                    return
            if run.state not in UNDER_WAY:
                if had_ended and run.request.get("ephemeral"):
                    raise RunNotFound(f"run {run.id!r} was ephemeral: none of its events are kept")
                yield [_ending(run, last + 1)]
                return
            if is_here:
                await asyncio.sleep(self._poll_s)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self._poll_s)
                    return
            run = await self.store.run(run.id)


class _Visit:
    """One request and its answer."""

    def __init__(self, viewers: Viewers, scope: Scope, receive: Receive, reply: Reply) -> None:
        self._viewers = viewers
        self._scope = scope
        self._receive = receive
        self._reply = reply
        headers = headers_of(scope)
        self._last_event_id = headers.get("last-event-id", "")
        self._is_sse = unified.MEDIA_TYPE not in headers.get("accept", "").lower()
        self._media_type = sse.MEDIA_TYPE if self._is_sse else unified.MEDIA_TYPE
        self._live: Run | None = None

    async def serve(self) -> None:
        """Answer the request.

        Raises:
            ClientGone: the viewer left.
        """
        async with Leaving(self._receive, self._reply, lambda: self._viewers.tick_s, self._keep_alive) as leaving:
            leaving.watch()
            try:
                await self._answer()
            except ClinvkError as error:
                await self._refuse(error)

    async def _answer(self) -> None:
        after = self._after()
        viewers = self._viewers
        run = await viewers.store.run(self._scope["path_params"]["id"])
        if self._scope["method"] == "HEAD":
            await self._open()
            await self._reply.end()
            return
        live = self._live = viewers.runs.live(run.id)
        if live or run.state in UNDER_WAY:
            await self._open()
        encoder: unified.UnifiedEncoder | None = None
        async for batch in live.batches() if live else viewers.kept(run):
            encoder = encoder or unified.UnifiedEncoder(
                facts_of(live) if live else _facts(await viewers.store.run(run.id))
            )
            for data in chunked(self._lines(encoder, batch, after)):
                await self._open()
                await self._reply.write(data)
        await self._end()

    def _after(self) -> int:
        """Give the number of the last event that the viewer has. A browser that connects again says it in a header."""
        asked = strict.parameters(self._scope["query_string"], Following)
        if not self._last_event_id:
            return asked.after
        if not (self._last_event_id.isascii() and self._last_event_id.isdigit()):
            raise InvalidRequest(
                f"the header last-event-id must be the id of an event, a whole number, got {self._last_event_id!r}",
                "last-event-id",
            )
        return int(self._last_event_id[:20])

    def _lines(self, encoder: unified.UnifiedEncoder, batch: Sequence[Logged], after: int) -> Iterator[bytes]:
        for number, at, event in batch:
            if number <= after and not isinstance(event, RunFinished | RunFailed):
                encoder.skip(event)
                continue
            encoder.sequence = number - 1
            lines = encoder.feed(event, at).splitlines(keepends=True)
            has_read_more = after >= number + len(lines)  # than was stored when its clinvk was killed
            for sequence, line in enumerate(lines, number):
                if sequence > after or has_read_more:
                    yield sse.frame(line, id=sequence) if self._is_sse else line

    async def _open(self) -> None:
        if self._reply.opened:
            return
        await self._reply.open(200, self._media_type, [NO_BUFFERING])
        if self._is_sse and self._scope["method"] != "HEAD":
            await self._reply.write(sse.OPENING)

    async def _end(self) -> None:
        """End the answer; where nothing is left to tell, 204 keeps a browser from asking on."""
        await self._reply.open(204, self._media_type)
        await self._reply.end()

    async def _keep_alive(self) -> None:
        if self._reply.is_quiet(2 * self._viewers.tick_s):
            position = self._live.queue_position if self._live else None
            await self._reply.pulse(sse.pulse(position) if self._is_sse else unified.PULSE)

    async def _refuse(self, error: ClinvkError) -> None:
        if self._reply.opened:
            logger.warning("the events of a run stopped: %s", error.message)
            await self._reply.end()
            return
        status, body, retry = refusal(error, Rest(), self._scope)
        await self._reply.whole(status, Rest.error_type, body, retry)


def _facts(run: RunRecord) -> Facts:
    return Facts(
        run_id=run.id,
        backend=run.backend,
        session_id=run.session_id,
        model=run.model,
        workdir=run.workdir,
        started_at=run.started_at or run.created_at,
    )


def _ending(run: RunRecord, number: int) -> Logged:
    """Make the ending of a run that has kept none: it was ephemeral, or its clinvk died, or could not write."""
    at = run.ended_at or run.created_at
    if run.state == "finished":
        return Logged(number, at, RunFinished(run.stop_reason or "end_turn", run.usage, run.cost_usd))
    message = run.error_message or f"the run was {run.state}"
    return Logged(
        number, at, RunFailed(run.error_code or Cancelled.code, message, run.exit_code, run.usage, run.cost_usd)
    )
