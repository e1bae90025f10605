"""The life of a run, in whichever process: what it needs to start, its events, what is kept of it, and its end."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from math import inf

import msgspec
from msgspec.structs import replace

from clinvk.backends.base import Backend, Host, Launch, NotSpoken
from clinvk.runtime.pool.agent_programs import Fallbacks
from clinvk.runtime.pool.pool import Pool
from clinvk.runtime.process.spawn import Process, Spawner
from clinvk.runtime.process.waiting import Wake, finished
from clinvk.runtime.run.answer_filter import Answer, Words, asking_again, judged, together, words_of
from clinvk.runtime.run.event_log import EventLog
from clinvk.runtime.run.recording import Recorder
from clinvk.runtime.run.run_io import Exchange, Limits, Seat
from clinvk.types.events import Ending, Event, Progress, RunFailed, RunFinished, RunStarted, Usage
from clinvk.types.redaction import redacted, secrets_in
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What to start, in which environment, and what it continues.

    `relaunch` says how to go on with the run's own conversation. `check` judges the directories again right
    before the start, since the queue may have taken hours: it returns where the working directory leads, and raises a
    `ClinvkError` where the agent must not be started. `hold` is what holds the worktree to work in, where that
    is one of this clinvk's. `pool` has processes that may carry the run.
    """

    run_id: str
    request: RunRequest
    backend: Backend
    host: Host
    launch: Launch
    path: str
    env: Mapping[str, str]
    resume: Resume | None
    no_progress_s: float
    fallbacks: Fallbacks
    relaunch: Callable[[RunRequest, Resume], Launch]
    check: Callable[[], Awaitable[str]] | None = None
    hold: Callable[[], AbstractAsyncContextManager[None]] | None = None
    pool: Pool | None = None


INTERRUPTED_WITHIN_S = 1.0
"""How long an agent may take to end a turn by itself."""


class Course:
    """What has become of a run so far.

    Attributes:
        assignment: what is to be done; another than at first when the answer is asked for again.
        request: what was asked for.
        stopped_by: the ending that somebody has asked for.
        is_hurried: whoever did so gives the agent no time to stop by itself.
        is_ending: its ending is about to be kept, or is.
        unspoken: why the CLI does not speak its long-lived protocol, where it was found not to.
        raw: the last line of JSON that the agent printed.
    """

    def __init__(self, assignment: Assignment, spawner: Spawner, recorder: Recorder) -> None:
        self.assignment = assignment
        self.request = assignment.request
        self.spawner = spawner
        self.recorder = recorder
        self._changed = Wake()
        self.log = EventLog(self._changed.set)  # not a method of this: a cycle would keep the prompt until a collection
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.raw = b""
        self.stopped_by: Ending | None = None
        self.is_hurried = False
        self.is_ending = False
        self.unspoken = ""
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = inf
        self._handle: str | None = None
        self._first: Ending | None = None
        self._in_protocol = False
        self._heeded: Exchange | None = None
        self._fault: Exception | None = None

    @property
    def ended(self) -> bool:
        """Whether the ending is in the log."""
        return self.log.ending is not None

    def wake(self) -> None:
        """Something that this run waits for has happened."""
        self._changed.set()

    def hear(self) -> None:
        """The agent has said something, or is gone.

        What is only to be logged is logged here: a turn of the run's task for each piece would cost as much as all
        the rest that becomes of it.
        """
        exchange, self._heeded = self._heeded, None
        try:
            has_logged = exchange is not None and self._logs(exchange)
        except Exception as exc:  # noqa: BLE001 - raised in the task of the run, which fails by it
            self._fault, has_logged = exc, False
        if has_logged:
            self._heeded = exchange
        else:
            self.wake()

    def _logs(self, exchange: Exchange) -> bool:
        """Log what came; False where the run's task is to look as well, which takes what was not logged."""
        if self.log.is_ahead or self.stopped_by:
            return False
        now = self.now()
        exchange.hear(now)
        if exchange.ending or exchange.unspoken or any(isinstance(event, RunStarted) for event in exchange.heard):
            return False
        self._log(*exchange.take())
        return not exchange.limit(now) and exchange.deadline() >= self._rings_at

    def stop(self, ending: Ending, at_once: bool = False) -> None:
        """End the run with `ending`, unless it has ended by itself; `at_once` the agent gets no time for it."""
        self.stopped_by = self.stopped_by or ending
        self.is_hurried = self.is_hurried or at_once
        self.wake()

    def close(self) -> None:
        """Nothing is waited for any more."""
        if self._timer:
            self._timer.cancel()

    async def wait(self, until: float) -> None:
        """Wait until something has happened, or the loop's clock shows `until`; seldom less long.

        A timer is set only where none rings before: deadlines move on with each line.
        """
        if until < self._rings_at:
            self.close()
            self._rings_at, self._timer = until, self._loop.call_at(until, self._ring)
        await self._changed.wait()

    def _ring(self) -> None:
        self._rings_at = inf
        self.wake()

    async def start(self, at: float) -> None:
        """The agent has a process since `at`, for the first time or again."""
        self.started_at = self.started_at or at
        await self.recorder.spawned(self.started_at)

    @asynccontextmanager
    async def tools_gone(self, process: Process, variable: tuple[str, str] | None) -> AsyncGenerator[None]:
        """A context before which the tools of the run leave, where its agent would end them hard when it is stopped.

        They are those with a `variable` in their environment; None: all of the process. Inside, an agent that had any
        stands still: when it hears that they have ended it would ask its model again.
        """
        if not self.assignment.launch.tools_leave_first or self.is_hurried:
            yield
            return
        with process.holding():
            await finished(self.spawner.end_tools(process, variable, holding=True))
            yield

    def exchange(self, seat: Seat, launch: Launch, patience: int = 1) -> Exchange:
        """Begin to talk with a process; one that is just starting may take `patience` times as long to answer."""
        self._in_protocol = launch.long_lived
        limits = Limits(
            wall_s=self.request.timeout_s,
            spent_s=time.time() - (self.started_at or time.time()),
            silence_s=self.assignment.no_progress_s,
            answer_s=self.assignment.fallbacks.answer_within_s * patience if launch.long_lived else None,
            turns=launch.counted_turns,
        )
        exchange = Exchange(seat, self.assignment.request, limits, words_of(self.request))
        exchange.begin(self.assignment.resume, self.now())
        return exchange

    async def listen(self, exchange: Exchange) -> Ending:
        """Log what the agent says, until there is an ending.

        Raises:
            NotSpoken: there will be none, since its process does not speak what is expected.
        """
        while True:
            if self._fault:
                raise self._fault
            if self.log.is_ahead:
                exchange.rest(self.now())
            else:
                exchange.hear(self.now())
                await self._record(*exchange.take())
            if ending := exchange.ending or self.stopped_by or exchange.limit(self.now()):
                return ending
            if exchange.unspoken:
                raise NotSpoken(exchange.unspoken)
            self._heeded = exchange if self.log.count else None  # of its start there is more to do than to log it
            await self.wait(exchange.deadline())
            self._heeded = None

    async def hear_out(self, exchange: Exchange) -> None:
        """Log what an agent still says that was asked to stop; what nobody has room for is dropped."""
        exchange.hear(self.now())
        events, size = exchange.take()
        if not self.log.is_ahead:
            await self._record(events, size)

    async def finish(self, exchange: Exchange, ending: Ending) -> None:
        """Log the ending; or prepare to ask again."""
        if ending is not exchange.ending and exchange.costs:  # a run that was stopped: what it told costs all the same
            ending = replace(ending, usage=exchange.costs.usage, cost_usd=exchange.costs.cost_usd)
        if isinstance(ending, RunFinished) and ending.turns is None:
            ending = replace(ending, turns=exchange.activity.turns)
        self.raw = exchange.raw
        if exchange.words:
            await self._end_with(exchange.words, ending)
        else:
            await self.end(ending)

    async def _end_with(self, words: Words, ending: Ending) -> None:
        """Log the rest of the text and the ending; or prepare to ask again for an answer that does not fit."""
        schema = self.request.output_schema
        if isinstance(words, Answer) and schema is not None:
            judgement = await judged(words, ending, schema, self.spawner, self.assignment.env)
            if judgement.fault and self._asks_again(judgement.fault, ending):
                return
            ending, rest = judgement.ending, judgement.rest
        else:
            rest = words.rest()
        await self._record([*rest], 0)
        await self.end(ending)

    def _asks_again(self, fault: str, ending: Ending) -> bool:
        """Prepare one more turn of the conversation, if there can be one."""
        assignment = self.assignment
        if self._first or self.stopped_by or not (assignment.launch.asks_again and self._handle):
            return False
        used = (assignment.resume.used if assignment.resume else Usage()) + (ending.usage or Usage())
        resume = Resume(self._handle, used)
        request = asking_again(assignment.request, fault)
        launch = assignment.relaunch(request, resume)
        self._first = ending
        self.assignment = replace(assignment, request=request, resume=resume, launch=launch.otherwise or launch)
        return True

    async def _record(self, events: list[Event], size: int) -> None:
        for event in events:
            if isinstance(event, RunStarted) and not self._first:
                self._handle = event.backend_session_id or self._handle
                if self.unspoken:
                    self.assignment.fallbacks.note(self.assignment.path, self.unspoken)
                elif self._in_protocol:
                    self.assignment.fallbacks.note_spoken(self.assignment.path)
                await self.recorder.started(event)
        self._log(events, size)

    def _log(self, events: list[Event], size: int) -> None:
        for index, event in enumerate(events):
            if isinstance(event, Progress):
                events[index] = replace(event, message=self._redacted(event.message))
        self.log.extend(events, size)
        self.recorder.save_soon(self.log)

    async def end(self, ending: Ending) -> None:
        """Log the ending, and keep all."""
        if self.ended:
            return
        self.is_ending = True
        if self._first:
            ending = together(self._first, ending)
        if isinstance(ending, RunFailed):
            ending = replace(ending, message=self._redacted(ending.message))
        last = self.log.mended(ending)
        try:
            await self.recorder.ended(ending, [*self.log.unsaved(), *last], self.log.text)
        finally:
            self.ended_at = time.time()
            self.log.append(last)

    def _redacted(self, text: str) -> str:
        """Give what an agent says of its troubles without keys, those of its environment included."""
        return redacted(text, secrets_in(self.assignment.env))
