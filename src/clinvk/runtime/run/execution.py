"""Execution of a run: in a process of its own, or in a warm one."""

import asyncio
import time
from contextlib import nullcontext

from msgspec.structs import replace

from clinvk.backends.base import Launch, NotSpoken
from clinvk.runtime.pool.pool import Pool
from clinvk.runtime.pool.worker import PooledSeat
from clinvk.runtime.pool.worker_key import Wanted
from clinvk.runtime.process import private_folder
from clinvk.runtime.process.spawn import LINGER_S, Process
from clinvk.runtime.process.waiting import finished
from clinvk.runtime.run.run_io import Exchange, OwnSeat
from clinvk.runtime.run.task import INTERRUPTED_WITHIN_S, Course
from clinvk.runtime.slots import Place
from clinvk.types.errors import AgentCrashed
from clinvk.types.events import Ending, RunFailed, RunFinished, RunStarted

STOP_GRACE_S = 3.0
"""How long an agent may take to stop by itself before it is killed."""

_TOOLS_GRACE_S = 1.0
"""How long its tools may: Gemini CLI ends none, and stops only when the one that it waits for has ended."""

_PREPARES_WITHIN_S = 10.0
"""How long what goes before an agent may take."""


async def run_one_shot(course: Course, place: Place) -> None:
    """Run the agent; where its CLI does not speak what was planned, nothing has happened yet: go the other way.

    Raises:
        ClinvkError: it cannot be started, or spoken to.
    """
    launch = course.assignment.fallbacks.choose(course.assignment.path, course.assignment.launch)
    try:
        await _OneShot(course, place).run(launch)
    except NotSpoken as exc:
        if launch.otherwise is None:
            raise AgentCrashed(f"{course.assignment.path} cannot be talked to: {exc}") from exc
        course.unspoken = str(exc)
        await _OneShot(course, place).run(launch.otherwise)


class _OneShot:
    """A run and its process, or a second one where the answer is asked for again.

    `_told_all` is the process that has told how the run ended, after which there is no other.
    """

    __slots__ = ("_course", "_place", "_told_all")

    def __init__(self, course: Course, place: Place) -> None:
        self._course = course
        self._place = place
        self._told_all: Process | None = None

    async def run(self, launch: Launch) -> None:
        """Run to the ending, with the private folder that the launch wants."""
        course = self._course
        course.assignment = replace(course.assignment, launch=launch)
        folder = private_folder.PrivateFolder(launch, course.assignment.env, course.spawner.server)
        try:
            await folder.prepare()
            if launch.before:
                await self._prepare(launch)
            await self._run_in(folder)
            if not course.ended:
                await finished(asyncio.to_thread(folder.add, course.assignment.launch))
                await self._run_in(folder)
        finally:
            await folder.clear()

    async def _prepare(self, launch: Launch) -> None:
        """Run what goes before. If it does not do what it should, the agent says best what is amiss."""
        course, assignment = self._course, self._course.assignment
        process = course.spawner.spawn((assignment.path, *launch.before), assignment.env, None, course.wake)
        until = course.now() + _PREPARES_WITHIN_S
        try:
            process.write(b"", close=True)
            while process.exit_code is None and not course.stopped_by and course.now() < until:
                await course.wait(until)
                process.take()
        finally:
            await course.spawner.sweep(process)

    async def _run_in(self, folder: private_folder.PrivateFolder) -> None:
        if self._course.stopped_by:  # while its folder was made, or what goes before ran
            await self._course.end(self._course.stopped_by)
            return
        process = await self._spawn(folder)
        try:
            await self._course.start(time.time())
            await self._talk(process)
            if self._course.ended:
                self._place.leave()
        finally:
            await self._course.spawner.sweep(process)

    async def _spawn(self, folder: private_folder.PrivateFolder) -> Process:
        assignment = self._course.assignment
        real = await assignment.check() if assignment.check else ""
        return self._course.spawner.spawn(
            folder.command(assignment.path),
            folder.environment(),
            assignment.launch.cwd,
            self._woken,
            stderr_lines=self._course.request.verbose,
            real=real,
        )

    def _woken(self) -> None:
        """Wake the run. Its slot is free once its agent has told all and is gone, before all of that is kept."""
        if self._told_all and self._told_all.exit_code is not None:
            self._place.leave()
        self._course.hear()

    async def _talk(self, process: Process) -> None:
        """Have the conversation, log its ending, and see to it that the process exits.

        Without an ending in the log the answer is to be asked for again, as the assignment then says.
        """
        course = self._course
        assignment, launch = course.assignment, course.assignment.launch
        channel = assignment.backend.channel(launch, assignment.host)
        seat = OwnSeat(assignment.run_id, process, channel, launch.long_lived)
        exchange = course.exchange(seat, launch)
        ending = await course.listen(exchange)
        if told := ending is exchange.ending:
            if course.request.output_schema is None:  # else the answer may be asked for again
                self._told_all = process
            self._woken()
            ending = await self._with_exit_code(ending, process)
        else:
            await self._interrupt(exchange, seat)
            await self._stop(exchange, process, launch)
        await course.finish(exchange, ending)
        if told and isinstance(ending, RunFinished):
            await self._exit(process)
        if told and process.exit_code is None:
            await self._stop(exchange, process, launch)

    async def _interrupt(self, exchange: Exchange, seat: OwnSeat) -> None:
        """Have an agent that can be told so end its turn by itself, which it then writes down, and counts."""
        course = self._course
        async with course.tools_gone(seat.process, None):
            if course.is_hurried or seat.exit_code is not None or not seat.interrupt():
                return
        until = course.now() + INTERRUPTED_WITHIN_S
        while not exchange.costs and seat.exit_code is None and not course.is_hurried and course.now() < until:
            await course.wait(until)
            await course.hear_out(exchange)

    async def _stop(self, exchange: Exchange, process: Process, launch: Launch) -> None:
        """Ask the process to stop, and keep what it still says; what is left of it then is swept."""
        course = self._course
        process.signal(launch.stop_signal)
        until, tools_until = course.now() + STOP_GRACE_S, course.now() + _TOOLS_GRACE_S
        while True:
            await course.hear_out(exchange)
            if process.exit_code is not None or course.is_hurried or course.now() >= until:
                return
            if course.now() >= tools_until:
                tools_until = until
                await finished(course.spawner.end_tools(process, None))
            await course.wait(tools_until)

    async def _with_exit_code(self, ending: Ending, process: Process) -> Ending:
        """Wait for the exit code of an agent that told of its failure and is about to exit."""
        if not isinstance(ending, RunFailed) or ending.exit_code is not None:
            return ending
        await self._exit(process)
        return replace(ending, exit_code=process.exit_code)

    async def _exit(self, process: Process) -> None:
        """Wait a while for the exit; an agent whose ending is known may finish its own record of the conversation."""
        course = self._course
        until = course.now() + LINGER_S
        while process.exit_code is None and course.now() < until:
            if course.is_hurried or (course.stopped_by and not course.ended):
                return
            await course.wait(until)
            process.take()


_PATIENCE = 3
"""How many times longer a process may take to answer that was not up when the run came: it is not asked in vain."""


async def run_pooled(course: Course, place: Place) -> bool:
    """Have a process of the pool carry the run; False: it is to have its own, and nothing was told yet.

    Raises:
        ClinvkError: the agent must not be started after all.
    """
    assignment = course.assignment
    pool, launch = assignment.pool, assignment.launch.warm
    if pool is None:
        return False
    if launch and _may_share(course) and assignment.fallbacks.is_spoken(assignment.path):
        real = await assignment.check() if assignment.check else launch.cwd
        wanted = Wanted(assignment.backend, assignment.host, assignment.path, assignment.env, launch)
        seat = None
        if real == launch.cwd:  # kept processes start in no other directory than the one that they are kept for
            seat = await pool.seat(wanted, assignment.resume, _turns(course), assignment.run_id, course.wake)
        if seat:
            await _PooledRun(course, pool, seat).go(place, launch)
    if not course.ended and assignment.resume and not assignment.resume.fork:
        await pool.forget(assignment.resume.handle)  # it goes on in a process of the run's own
    return course.ended


def _may_share(course: Course) -> bool:
    """Whether the run can be carried: what a shared process writes to stderr is nobody's."""
    return course.request.warm and not course.request.verbose


def _turns(course: Course) -> int:
    """Give how many turns the store counts in the run's session at this moment of the run."""
    return course.recorder.session.turn_count if course.recorder.session else 0


class _PooledRun:
    """A run in its seat. `_is_told` is whether it ended as the process said, and nobody stopped it."""

    def __init__(self, course: Course, pool: Pool, seat: PooledSeat) -> None:
        self._course = course
        self._pool = pool
        self._seat = seat
        self._is_told = False

    async def go(self, place: Place, launch: Launch) -> None:
        """Have the conversation, and give the seat back."""
        course, seat = self._course, self._seat
        is_whole = False
        try:
            is_whole = await self._talk(launch)
            if course.ended:
                place.leave()
        finally:
            kept = self._is_told and not course.request.ephemeral and isinstance(course.log.ending, RunFinished)
            await self._pool.left(seat, _turns(course), trusted=is_whole, kept=kept)

    async def _talk(self, launch: Launch) -> bool:
        """Have the conversation and log its ending; say whether the process is as good as before.

        Without an ending in the log the process was lost, or does not speak, before it had told anything.
        """
        course, seat = self._course, self._seat
        await course.start(time.time())
        if course.stopped_by:  # before anything was asked
            await course.end(course.stopped_by)
            return not seat.is_lost
        was_ready = seat.worker.is_ready
        exchange = course.exchange(seat, launch, patience=1 if was_ready else _PATIENCE)
        try:
            ending = await course.listen(exchange)
        except NotSpoken as exc:
            speaks = was_ready and not seat.is_refused
            self._pool.distrust(seat, str(exc), speaks=speaks)
            if not speaks:
                course.unspoken = str(exc)
            return False
        told = ending is exchange.ending
        if seat.is_lost:
            self._pool.distrust(seat, seat.worker.trouble)
            if told and not self._has_told:
                return False
        self._is_told = told and not seat.is_lost
        if not told:
            await self._interrupt(exchange)
        await course.finish(exchange, ending)
        return self._is_told or (seat.is_over and not seat.is_lost and not exchange.activity.open_calls)

    @property
    def _has_told(self) -> bool:
        """Whether anything but the start was told: then the run cannot begin anew."""
        return any(not isinstance(entry.event, RunStarted) for entry in self._course.log.since(0))

    async def _interrupt(self, exchange: Exchange) -> None:
        """Have the process end the turn, and keep what it still says."""
        course, seat = self._course, self._seat
        async with course.tools_gone(seat.worker.process, seat.tools) if seat.tools else nullcontext():
            is_asked = seat.worker.stop(seat.run)
        until = course.now() + INTERRUPTED_WITHIN_S
        await course.hear_out(exchange)
        while is_asked and not (exchange.costs or seat.is_lost or course.is_hurried) and course.now() < until:
            await course.wait(until)
            await course.hear_out(exchange)
