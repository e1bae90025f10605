"""A run whose agent process is its own: started for it, and ended with all that it left."""

import asyncio
import time

from msgspec.structs import replace

from clinvk.backends.base import Launch, NotSpoken
from clinvk.errors import AgentCrashed
from clinvk.events import Ending, RunFailed, RunFinished
from clinvk.runtime import private
from clinvk.runtime.cleanup import finished
from clinvk.runtime.course import INTERRUPTED_WITHIN_S, Course
from clinvk.runtime.exchange import LINGER_S, Exchange
from clinvk.runtime.process import Process
from clinvk.runtime.seat import OwnSeat
from clinvk.runtime.slots import Place

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
        folder = private.PrivateFolder(launch, course.assignment.env, course.spawner.server)
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

    async def _run_in(self, folder: private.PrivateFolder) -> None:
        if self._course.stopped_by:  # while its folder was made, or what goes before ran
            await self._course.end(self._course.stopped_by)
            return
        process = self._spawn(folder)
        try:
            await self._course.start(time.time())
            await self._talk(process)
            if self._course.ended:
                self._place.leave()
        finally:
            await self._course.spawner.sweep(process)

    def _spawn(self, folder: private.PrivateFolder) -> Process:
        assignment = self._course.assignment
        real = assignment.check() if assignment.check else ""
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
        exchange = await course.exchange(seat, launch)
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
