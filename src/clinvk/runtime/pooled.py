"""A run that a kept process carries."""

import time
from contextlib import nullcontext

from clinvk.backends.base import Launch, NotSpoken
from clinvk.events import RunFinished, RunStarted
from clinvk.runtime.course import INTERRUPTED_WITHIN_S, Course
from clinvk.runtime.exchange import Exchange
from clinvk.runtime.pool import Pool
from clinvk.runtime.profiles import Wanted
from clinvk.runtime.slots import Place
from clinvk.runtime.worker import PooledSeat

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
        real = assignment.check() if assignment.check else launch.cwd
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
        exchange = await course.exchange(seat, launch, patience=1 if was_ready else _PATIENCE)
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
