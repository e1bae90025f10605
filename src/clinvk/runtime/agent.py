"""One run: from its place in the queue, through an agent process, to its ending."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from math import inf

import msgspec
from msgspec.structs import replace

from clinvk import logs
from clinvk.backends.base import Backend, Host, Launch, NotSpoken
from clinvk.errors import AgentCrashed, ClinvkError
from clinvk.events import Ending, Event, Logged, Progress, RunFailed, RunFinished, RunStarted, Usage
from clinvk.redaction import redacted, secrets_in
from clinvk.request import RunRequest
from clinvk.result import RunResult, gather
from clinvk.runtime import private
from clinvk.runtime.answers import Answer, Words, asking_again, judged, together, words_of
from clinvk.runtime.carrier import CarriedSeat
from clinvk.runtime.cleanup import finished
from clinvk.runtime.exchange import LINGER_S, Exchange, Limits
from clinvk.runtime.fallback import Fallbacks
from clinvk.runtime.log import EventLog
from clinvk.runtime.pool import Pool, Wanted
from clinvk.runtime.process import Process, Spawner
from clinvk.runtime.recording import Recorder, state_of
from clinvk.runtime.seat import Alone
from clinvk.runtime.slots import Place
from clinvk.runtime.wake import Wake
from clinvk.session import Resume

logger = logging.getLogger(__name__)

STOP_GRACE_S = 3.0
"""How long an agent may take to stop by itself before it is killed."""


INTERRUPTED_WITHIN_S = 1.0
"""How long a process that carries other runs too may take to end a turn."""

_PATIENCE = 3
"""How many times longer a process may take to answer that was not up when the run came: it is not asked in vain."""

KEEP_EVERY_S = 2.0
"""How much of what a running agent said may be lost when clinvk dies."""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run needs to go: what to start, in which environment, and what it continues.

    `relaunch` says how to go on with the run's own conversation. `check` raises a `ClinvkError` where the agent must
    not be started after all: the queue may have taken hours. `pool` has processes that may carry the run.
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
    check: Callable[[], None] | None = None
    pool: Pool | None = None


class AgentRun:
    """A `Run` whose agent is a process of this machine.

    `drive` does the work and is owned by `LocalRuns`; everybody else looks at the log, or asks to stop.
    """

    def __init__(self, assignment: Assignment, spawner: Spawner, recorder: Recorder) -> None:
        self.id = assignment.run_id
        self.request = assignment.request
        self.created_at = time.time()
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.raw = b""
        self.refusal: ClinvkError | None = None
        self._assignment = assignment
        self._spawner = spawner
        self._recorder = recorder
        self._changed = Wake()
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = inf
        self._log = EventLog(self.wake)
        self._stopped_by: Ending | None = None
        self._unspoken = ""
        self._handle: str | None = None
        self._first: Ending | None = None
        self._kept = 0
        self._kept_at = self._now()

    def go_on_from(self, resume: Resume, launch: Launch) -> None:
        """Continue another state of the conversation than the run was made for; before it is driven."""
        self._assignment = replace(self._assignment, resume=resume, launch=launch)
        self._recorder.go_on_from(resume)

    @property
    def state(self) -> str:
        """One of queued, running, finished, failed, cancelled."""
        if self._log.ending:
            return state_of(self._log.ending)
        return "queued" if self.started_at is None else "running"

    @property
    def ended(self) -> bool:
        """Whether the ending is in the log."""
        return self._log.ending is not None

    @property
    def ending(self) -> Ending | None:
        """How it ended, once it has."""
        return self._log.ending

    @property
    def entries(self) -> Sequence[Logged]:
        """All that happened so far."""
        return self._log.since(0)

    @property
    def session_id(self) -> str | None:
        """The session that this run is a turn of; None for an ephemeral run."""
        return self._recorder.session.id if self._recorder.session else None

    def batches(self, after: int = 0) -> AsyncIterator[list[Logged]]:
        """Give the events after number `after` to the ending; each time all there are."""
        return self._log.batches(after)

    async def follow(self, after: int = 0) -> AsyncIterator[Logged]:
        """Give the same, one by one."""
        async with aclosing(self._log.batches(after)) as batches:
            async for batch in batches:
                for logged in batch:
                    yield logged

    async def result(self) -> RunResult:
        """Wait for the ending, then give all in one."""
        return gather([entry.event for entry in await self._log.whole()])

    def wake(self) -> None:
        """Something that this run waits for has happened."""
        self._changed.set()

    def let_go(self) -> None:
        """Nobody is bound to read this run: it goes on however far behind its readers are."""
        self._log.held = False
        self.wake()

    def stop(self, ending: Ending) -> None:
        """End the run with `ending`, unless it has ended by itself."""
        self._stopped_by = self._stopped_by or ending
        self.wake()

    async def drive(self, place: Place) -> None:
        """Wait for the slot, run the agent, log the ending, and leave nothing behind."""
        logs.note(run_id=self.id)
        try:
            while not place.held and not self._stopped_by:
                await self._wait(inf)
            if self._stopped_by:
                await self._end(self._stopped_by)
            else:
                await self._run_agent(place)
        except ClinvkError as exc:
            self.refusal = exc
            await self._end(RunFailed(exc.code, exc.message))
        except Exception:
            logger.exception("run %s failed inside clinvk", self.id)
            await self._end(RunFailed(ClinvkError.code, "clinvk itself failed; its log has the details"))
        finally:
            if self._timer:
                self._timer.cancel()
            place.leave()

    async def _run_agent(self, place: Place) -> None:
        """Run the agent; where its CLI does not speak what was planned, nothing has happened yet: go the other way."""
        if await self._run_carried(place):
            return
        launch = self._assignment.fallbacks.choose(self._assignment.path, self._assignment.launch)
        try:
            await self._run_process(place, launch)
        except NotSpoken as exc:
            if launch.otherwise is None:
                raise AgentCrashed(f"{self._assignment.path} cannot be talked to: {exc}") from exc
            self._unspoken = str(exc)
            await self._run_process(place, launch.otherwise)

    async def _run_carried(self, place: Place) -> bool:
        """Have a process of the pool carry the run; False: it is to have its own, and nothing was told yet."""
        assignment = self._assignment
        pool, launch = assignment.pool, assignment.launch.warm
        if pool is None:
            return False
        if not (launch and self._may_share and assignment.fallbacks.is_spoken(assignment.path)):
            return self._goes_alone(pool)
        if assignment.check:
            assignment.check()
        wanted = Wanted(assignment.backend, assignment.host, assignment.path, assignment.env, launch)
        seat = await pool.seat(wanted, assignment.resume, self.id, self.wake)
        if seat is None:
            return self._goes_alone(pool)
        is_whole = False
        try:
            is_whole = await self._talk_carried(seat, pool, launch)
            if self.ended:
                place.leave()
        finally:
            kept = seat.is_told and not self.request.ephemeral and isinstance(self.ending, RunFinished)
            await pool.left(seat, trusted=is_whole, kept=kept)
        return self.ended or self._goes_alone(pool)

    @property
    def _may_share(self) -> bool:
        """Whether the run can be carried: what a shared process writes to stderr is nobody's."""
        return self.request.warm and not self.request.verbose

    def _goes_alone(self, pool: Pool) -> bool:
        """Let the pool know that the run's conversation goes on in a process of its own."""
        if self._assignment.resume and not self._assignment.resume.fork:
            pool.forget(self._assignment.resume.handle)
        return False

    async def _talk_carried(self, seat: CarriedSeat, pool: Pool, launch: Launch) -> bool:
        """Have the conversation and log its ending; say whether the process is as good as before.

        Without an ending in the log the process was lost, or does not speak, before it had told anything.
        """
        self.started_at = time.time()
        await self._recorder.spawned(self.started_at)
        limits = self._limits(launch, patience=1 if seat.carrier.is_ready else _PATIENCE)
        exchange = Exchange(seat, self._assignment.request, limits, words_of(self.request))
        was_ready = seat.carrier.is_ready
        exchange.begin(self._assignment.resume, self._now())
        try:
            ending = await self._listen(exchange)
        except NotSpoken as exc:
            pool.distrust(seat)
            if seat.is_refused or not was_ready:
                self._unspoken = str(exc)
            return False
        told = ending is exchange.ending
        if seat.is_lost:
            pool.distrust(seat)
            if told and not self._has_told:
                return False
        seat.is_told = told and not seat.is_lost
        if not told:
            await self._interrupt(exchange, seat)
            ending = _with_costs(ending, exchange.costs)
        await self._finish(exchange, ending)
        return seat.is_told or (seat.is_over and not seat.is_lost and not exchange.activity.open_calls)

    @property
    def _has_told(self) -> bool:
        """Whether anything but the start was told: then the run cannot begin anew."""
        return any(not isinstance(entry.event, RunStarted) for entry in self.entries)

    async def _interrupt(self, exchange: Exchange, seat: CarriedSeat) -> None:
        """Have the process end the turn, and keep what it still says."""
        if not seat.carrier.stop(self.id):
            return
        until = self._now() + INTERRUPTED_WITHIN_S
        while not seat.is_over and not seat.is_lost and self._now() < until:
            await self._wait(until)
        events = exchange.read(self._now())
        if not self._log.is_ahead:
            await self._record(events, exchange.bytes_read)

    async def _run_process(self, place: Place, launch: Launch) -> None:
        self._assignment = replace(self._assignment, launch=launch)
        folder = private.PrivateFolder(launch, self._assignment.env)
        try:
            if folder.is_needed:
                await finished(asyncio.to_thread(folder.write))
            await self._run_in(folder, place)
            if not self.ended:
                await finished(asyncio.to_thread(folder.add, self._assignment.launch))
                await self._run_in(folder, place)
        finally:
            if folder.path:
                await finished(asyncio.to_thread(folder.remove))

    async def _run_in(self, folder: private.PrivateFolder, place: Place) -> None:
        process = self._spawn(folder)
        try:
            await self._recorder.spawned(self.started_at or 0.0)
            await self._talk(process)
            if self.ended:
                place.leave()
        finally:
            await self._spawner.sweep(process)
            process.discard()

    def _spawn(self, folder: private.PrivateFolder) -> Process:
        launch = self._assignment.launch
        if self._assignment.check:
            self._assignment.check()
        process = self._spawner.spawn(
            [self._assignment.path, *map(folder.filled, launch.argv[1:])],
            {**self._assignment.env, **{name: folder.filled(value) for name, value in launch.env.items()}},
            launch.cwd,
            self.wake,
            stderr_lines=self.request.verbose,
        )
        self.started_at = self.started_at or time.time()
        return process

    async def _talk(self, process: Process) -> None:
        """Have the conversation, log its ending, and see to it that the process exits.

        Without an ending in the log the answer is to be asked for again, as the assignment then says.
        """
        launch = self._assignment.launch
        channel = self._assignment.backend.channel(launch)
        seat = Alone(self.id, process, channel, launch.long_lived)
        exchange = Exchange(seat, self._assignment.request, self._limits(launch), words_of(self.request))
        exchange.begin(self._assignment.resume, self._now())
        ending = await self._listen(exchange)
        if told := ending is exchange.ending:
            ending = await self._with_exit_code(ending, process)
        else:
            await self._stop_agent(exchange, process)
            ending = _with_costs(ending, exchange.costs)
        await self._finish(exchange, ending)
        if told and isinstance(ending, RunFinished):
            await self._exit(process, LINGER_S)
        if told and process.exit_code is None:
            await self._stop_agent(exchange, process)

    async def _finish(self, exchange: Exchange, ending: Ending) -> None:
        """Log the ending; or prepare to ask again."""
        if isinstance(ending, RunFinished) and ending.turns is None:
            ending = replace(ending, turns=exchange.activity.turns)
        self.raw = exchange.raw
        if exchange.words:
            await self._end_with(exchange.words, ending)
        else:
            await self._end(ending)

    async def _end_with(self, words: Words, ending: Ending) -> None:
        """Log the rest of the text and the ending; or prepare to ask again for an answer that does not fit."""
        if isinstance(words, Answer) and self.request.output_schema is not None:
            judgement = await judged(words, ending, self.request.output_schema, self._spawner, self._assignment.env)
            if judgement.fault and self._asks_again(judgement.fault, ending):
                return
            ending, rest = judgement.ending, judgement.rest
        else:
            rest = words.rest()
        await self._record([*rest], 0)
        await self._end(together(self._first, ending) if self._first else ending)

    def _asks_again(self, fault: str, ending: Ending) -> bool:
        """Prepare one more turn of the conversation, if there can be one."""
        assignment = self._assignment
        if self._first or self._stopped_by or not (assignment.launch.asks_again and self._handle):
            return False
        used = (assignment.resume.used if assignment.resume else Usage()) + (ending.usage or Usage())
        resume = Resume(self._handle, used)
        request = asking_again(assignment.request, fault)
        launch = assignment.relaunch(request, resume)
        self._first = ending
        self._assignment = replace(assignment, request=request, resume=resume, launch=launch.otherwise or launch)
        return True

    def _limits(self, launch: Launch, patience: int = 1) -> Limits:
        return Limits(
            wall_s=self.request.timeout_s,
            spent_s=time.time() - (self.started_at or time.time()),
            silence_s=self._assignment.no_progress_s,
            answer_s=self._assignment.fallbacks.answer_within_s * patience if launch.long_lived else None,
            turns=launch.counted_turns,
        )

    async def _listen(self, exchange: Exchange) -> Ending:
        """Log what the agent says, until there is an ending.

        Raises:
            NotSpoken: there will be none, since its process does not speak what is expected.
        """
        while True:
            if self._log.is_ahead:
                exchange.rest(self._now())
            else:
                await self._record(exchange.read(self._now()), exchange.bytes_read)
            if self._now() >= self._keep_by():
                await self._keep()
            if ending := exchange.ending or self._stopped_by or exchange.limit(self._now()):
                return ending
            if exchange.unspoken:
                raise NotSpoken(exchange.unspoken)
            await self._wait(min(exchange.deadline(), self._keep_by()))

    async def _stop_agent(self, exchange: Exchange, process: Process) -> None:
        """Ask the process to stop, and keep what it still says; what is left of it then is swept."""
        process.signal(self._assignment.launch.stop_signal)
        until = self._now() + STOP_GRACE_S
        while True:
            events = exchange.read(self._now())
            if not self._log.is_ahead:
                await self._record(events, exchange.bytes_read)
            if process.exit_code is not None or self._now() >= until:
                return
            await self._wait(until)

    async def _with_exit_code(self, ending: Ending, process: Process) -> Ending:
        """Wait for the exit code of an agent that told of its failure and is about to exit."""
        if not isinstance(ending, RunFailed) or ending.exit_code is not None:
            return ending
        await self._exit(process, LINGER_S)
        return replace(ending, exit_code=process.exit_code)

    async def _exit(self, process: Process, within_s: float) -> None:
        until = self._now() + within_s
        while process.exit_code is None and self._now() < until and not self._stopped_by:
            await self._wait(until)
            process.take()

    async def _record(self, events: list[Event], size: int) -> None:
        for index, event in enumerate(events):
            if isinstance(event, Progress):
                events[index] = replace(event, message=self._redacted(event.message))
            elif isinstance(event, RunStarted) and not self._first:
                self._handle = event.backend_session_id or self._handle
                self._note_fallback()
                await self._recorder.started(event)
        self._log.extend(events, size)

    def _note_fallback(self) -> None:
        if self._unspoken:
            self._assignment.fallbacks.note(self._assignment.path, self._unspoken)

    def _keep_by(self) -> float:
        """Give the time by which what was said is to be kept, also if nothing more is said."""
        return self._kept_at + KEEP_EVERY_S if self._log.count > self._kept else inf

    async def _keep(self) -> None:
        self._kept_at = self._now()
        entries = self._log.since(self._kept)
        if await self._recorder.append(entries):
            self._kept += len(entries)

    async def _end(self, ending: Ending) -> None:
        if not self._log.ending:
            if isinstance(ending, RunFailed):
                ending = replace(ending, message=self._redacted(ending.message))
            last = self._log.mended(ending)
            try:
                await self._recorder.ended(ending, [*self._log.since(self._kept), *last], self._log.text)
            finally:
                self.ended_at = time.time()
                self._log.append(last)

    def _redacted(self, text: str) -> str:
        """Give what an agent says of its troubles without keys, those of its environment included."""
        return redacted(text, secrets_in(self._assignment.env))

    async def _wait(self, until: float) -> None:
        """Wait until something has happened, or the loop's clock shows `until`; seldom less long.

        A timer is set only where none rings before: deadlines move on with each line.
        """
        if until < self._rings_at:
            if self._timer:
                self._timer.cancel()
            self._rings_at, self._timer = until, self._loop.call_at(until, self._ring)
        await self._changed.wait()

    def _ring(self) -> None:
        self._rings_at = inf
        self.wake()


def _with_costs(ending: Ending, told: Ending | None) -> Ending:
    """Put what the agent told when it was stopped into the ending of the run that was stopped."""
    return replace(ending, usage=told.usage, cost_usd=told.cost_usd) if told else ending
