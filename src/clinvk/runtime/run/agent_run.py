"""One run: from its place in the queue, through an agent process, to its ending."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from math import inf

from msgspec.structs import replace

from clinvk import logs
from clinvk.backends.base import Launch
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.run.execution import run_one_shot, run_pooled
from clinvk.runtime.run.recording import Recorder, state_of
from clinvk.runtime.run.task import Assignment, Course
from clinvk.runtime.slots import Place
from clinvk.types.errors import ClinvkError, exhausted
from clinvk.types.events import Ending, Logged, RunFailed
from clinvk.types.result import RunResult, gather
from clinvk.types.session import Resume

logger = logging.getLogger(__name__)


class AgentRun:
    """A `Run` whose agent is a process of this machine.

    `drive` does the work and is owned by `LocalRuns`; everybody else looks at the log, or asks to stop.
    """

    def __init__(
        self, assignment: Assignment, spawner: Spawner, recorder: Recorder, enter: Callable[[Callable[[], None]], Place]
    ) -> None:
        """`enter` takes a slot or a place in the queue, as `Slots.enter`, and raises what that raises."""
        self.id = assignment.run_id
        self.request = assignment.request
        self.created_at = time.time()
        self.refusal: ClinvkError | None = None
        self._course = Course(assignment, spawner, recorder)
        self._begun = asyncio.Event()
        self._place = enter(self._course.wake)  # a method of this would make a cycle

    def leave(self) -> None:
        """Give up the slot or the place in the queue. Leaving twice is fine."""
        self._place.leave()

    def go_on_from(self, resume: Resume, launch: Launch) -> None:
        """Continue another state of the conversation than the run was made for; before it is driven."""
        self._course.assignment = replace(self._course.assignment, resume=resume, launch=launch)
        self._course.recorder.go_on_from(resume)

    @property
    def started_at(self) -> float | None:
        """When it got an agent process."""
        return self._course.started_at

    @property
    def ended_at(self) -> float | None:
        """When it was over."""
        return self._course.ended_at

    @property
    def raw(self) -> bytes:
        """The last line of JSON that the agent printed."""
        return self._course.raw

    @property
    def state(self) -> str:
        """One of queued, running, finished, failed, cancelled."""
        if self.ending:
            return state_of(self.ending)
        return "queued" if self.started_at is None else "running"

    @property
    def queue_position(self) -> int | None:
        """The position in the queue, from 1; None unless the run waits there."""
        return self._place.position

    @property
    def ended(self) -> bool:
        """Whether the ending is in the log."""
        return self._course.ended

    @property
    def is_ending(self) -> bool:
        """Whether its ending is about to be kept, or is: from then on its session may be another's."""
        return self._course.is_ending

    @property
    def ending(self) -> Ending | None:
        """How it ended, once it has."""
        return self._course.log.ending

    @property
    def entries(self) -> Sequence[Logged]:
        """All that happened so far."""
        return self._course.log.since(0)

    @property
    def session_id(self) -> str | None:
        """The session that this run is a turn of; None for an ephemeral run."""
        session = self._course.recorder.session
        return session.id if session else None

    def batches(self, after: int = 0) -> AsyncIterator[list[Logged]]:
        """Give the events after number `after` to the ending; each time all there are."""
        return self._course.log.batches(after)

    async def follow(self, after: int = 0) -> AsyncIterator[Logged]:
        """Give the same, one by one."""
        async with aclosing(self._course.log.batches(after)) as batches:
            async for batch in batches:
                for logged in batch:
                    yield logged

    async def begun(self) -> None:
        """Wait until it leaves the queue: its turn has come, or it has ended before."""
        await self._begun.wait()

    async def result(self) -> RunResult:
        """Wait for the ending, then give all in one."""
        return gather([entry.event for entry in await self._course.log.whole()])

    def let_go(self) -> None:
        """Nobody is bound to read this run: it goes on however far behind its readers are."""
        self._course.log.let_go()

    def stop(self, ending: Ending, at_once: bool = False) -> None:
        """End the run with `ending`, unless it has ended by itself; `at_once` the agent gets no time for it."""
        self._course.stop(ending, at_once)

    async def drive(self) -> None:
        """Wait for the slot, run the agent, log the ending, and leave nothing behind."""
        logs.note(run_id=self.id)
        course = self._course
        try:
            while not self._place.held and not course.stopped_by:
                await course.wait(inf)
            self._begun.set()
            if course.assignment.hold and not course.stopped_by:
                async with course.assignment.hold():
                    await self._work()
            else:
                await self._work()
        except ClinvkError as exc:
            self.refusal = exhausted(exc) or exc
            await course.end(RunFailed(self.refusal.code, self.refusal.message))
        except Exception as exc:
            logger.exception("run %s failed inside clinvk", self.id)
            self.refusal = exhausted(exc)
            failed = self.refusal or ClinvkError("clinvk itself failed; its log has the details")
            await course.end(RunFailed(failed.code, failed.message))
        finally:
            course.close()
            self.leave()

    async def _work(self) -> None:
        if self._course.stopped_by:  # while it waited for the slot, or for the worktree
            await self._course.end(self._course.stopped_by)
        elif not await run_pooled(self._course, self._place):
            await run_one_shot(self._course, self._place)
