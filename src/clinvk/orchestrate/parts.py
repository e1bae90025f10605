"""The parts of an orchestration: each run, in a worktree if asked, reported as it happens, stopped with the whole."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol, TypeVar

from msgspec.structs import replace

from clinvk.backends.base import describe
from clinvk.runtime.runs import Run, Runs
from clinvk.runtime.slots import Share
from clinvk.runtime.worktrees.worktree_types import Worktree
from clinvk.runtime.worktrees.worktrees import Worktrees
from clinvk.types.errors import Cancelled, ClinvkError, InvalidRequest, QueueFull
from clinvk.types.events import Logged
from clinvk.types.orchestration import Change, Check, Part, PartResult, described, not_run
from clinvk.types.request import PartOf, RunRequest
from clinvk.types.text import readable

_T = TypeVar("_T")


class Stopping:
    """Whether the whole is to end; `why` is empty until then."""

    def __init__(self) -> None:
        self.why = ""
        self._begun = asyncio.Event()

    def begin(self, why: str) -> None:
        """End the whole; the first reason counts."""
        self.why = self.why or why
        self._begun.set()

    async def unless(self, work: Coroutine[None, None, _T]) -> _T:
        """Do work to its end, or until the whole is to end: then the work is cancelled.

        Raises:
            Cancelled: it is.
            ClinvkError: as the work, by itself: what a task of a group raises leaves that in a group of errors.
        """

        async def told() -> _T | ClinvkError:
            try:
                return await work
            except ClinvkError as exc:
                return exc

        async with asyncio.TaskGroup() as group:
            working = group.create_task(told())
            stopping = group.create_task(self._begun.wait())
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            working.cancel()
        if working.cancelled():
            raise Cancelled(f"not run: {self.why}")
        result = working.result()
        if isinstance(result, ClinvkError):
            raise result
        return result


JudgeOf = Callable[[RunRequest, str], Sequence[str]]
"""A `Judge` of where the files of a worktree may come from that is made for a request."""

CHECK_WITHIN_S = 600.0
"""How long a check may take where the part has no time limit."""


class Isolation:
    """The worktrees of one orchestration; `check` is a command, or empty, and `judge` as in `Orchestrations`."""

    def __init__(self, worktrees: Worktrees, check: str, judge: JudgeOf) -> None:
        self._worktrees = worktrees
        self._check = check
        self._judge = judge

    def worktree(self, part: Part) -> AbstractAsyncContextManager[Worktree]:
        """Make a worktree for a part. At the end it is removed, unless something was changed in it.

        Raises:
            InvalidRequest, ClinvkError: none can be made.
        """
        label = part.name or part.id or part.request.backend
        judge = partial(self._judge, part.request)
        return self._worktrees.isolated(part.request.workdir or "", label, judge)

    async def judged(self, worktree: Worktree, result: PartResult, stopping: Stopping) -> PartResult:
        """Tell what a part did in its worktree, and what the check says about it, which ends with the whole."""
        check, warnings = None, worktree.warnings
        try:
            check = await self._checked(worktree, result, stopping)
        except ClinvkError as exc:
            warnings += (f"the check could not be run: {exc.message}",)
        try:
            change = await self._worktrees.outcome(worktree)
        except ClinvkError as exc:
            warnings += (f"what was changed cannot be told: {exc.message}",)
            change = Change(diff="", is_cut=False, files=(), branch=worktree.branch, path=worktree.path, kept=True)
        return replace(result, change=replace(change, warnings=(*warnings, *change.warnings)), check=check)

    async def _checked(self, worktree: Worktree, result: PartResult, stopping: Stopping) -> Check | None:
        """Run the check, over whatever the agent left, unless all is to end."""
        if not self._check or result.is_cancelled:
            return None
        timeout_s = result.part.request.timeout_s or CHECK_WITHIN_S
        try:
            return await stopping.unless(self._worktrees.check(worktree, self._check, timeout_s))
        except Cancelled:
            return None


_TAKES_WITHIN_S = 2.0
"""How long the observer may take over what it is told once all is to end: its client perhaps reads nothing."""


class Observer(Protocol):
    """Hears of the parts while they run. Whoever makes it wait slows the agent down that it hears of."""

    def begun(self, index: int, part: Part, run: Run) -> None:
        """Take that a part's run has left the queue, or ended in it."""
        ...

    async def heard(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Take events of a part's run, in their order."""
        ...

    async def ended(self, result: PartResult) -> None:
        """Take how a part went; of one whose agent was not started there were no events."""
        ...


class Performing:
    """Runs parts, until it is told to stop: then those that run are cancelled, and no other is begun.

    `share` is how many of their agents run at once.
    """

    def __init__(self, runs: Runs, run_id: str, isolation: Isolation, share: Share, observer: Observer | None) -> None:
        self.share = share
        self._runs = runs
        self._run_id = run_id
        self._isolation = isolation
        self._observer = observer
        self._stopping = Stopping()
        self._showing = asyncio.Lock()
        self._under_way: set[str] = set()
        self._tellings: set[asyncio.Timeout] = set()

    @property
    def stopped(self) -> str:
        """Why it was told to stop; empty until then."""
        return self._stopping.why

    async def stop(self, why: str) -> None:
        """Cancel what runs, and wait until its agents are gone."""
        self._stopping.begin(why)
        for telling in (telling for telling in self._tellings if telling.when() is None):
            telling.reschedule(asyncio.get_running_loop().time() + _TAKES_WITHIN_S)
        async with asyncio.TaskGroup() as group:
            for run_id in tuple(self._under_way):
                group.create_task(self._runs.cancel(run_id))

    async def perform(self, index: int, part: Part, base: str = "") -> PartResult:
        """Run a part to its end. What keeps it from running is told in its result.

        `base` is what the worktree was made from that its directory is, as `PartOf` has it.
        """
        try:
            if self.stopped:
                raise self._not_run()
            result = await self._performed(index, part, base)
        except ClinvkError as exc:
            return await self.refuse(index, part, exc)
        return await self._ended(result)

    async def refuse(self, index: int, part: Part, error: ClinvkError) -> PartResult:
        """Return the result of a part that an error keeps from running."""
        return await self._ended(not_run(index, part, error))

    async def _ended(self, result: PartResult) -> PartResult:
        if self._observer:
            await self._told(self._observer.ended(result))
        return result

    async def _told(self, telling: Awaitable[None]) -> None:
        """Let the observer take something; where that takes too long once all is to end, it is told no more."""
        limit = asyncio.timeout(_TAKES_WITHIN_S if self.stopped else None)
        try:
            async with limit:
                self._tellings.add(limit)
                try:
                    await telling
                finally:
                    self._tellings.discard(limit)
        except TimeoutError:
            if not limit.expired():
                raise
            self._observer = None

    def _not_run(self) -> Cancelled:
        return Cancelled(f"not run: {self.stopped}")

    async def _performed(self, index: int, part: Part, base: str) -> PartResult:
        request = part.request
        if not request.prompt.strip():
            raise InvalidRequest("prompt is empty", "prompt")
        if part.dry_run:
            async with self._showing:
                await asyncio.sleep(0)  # others get their turn: nothing else here waits for anything
                launch = await self._runs.plan(request)
                command = describe(launch, len(request.prompt.encode()))
                return described(index, part, readable("\n".join([command, *_elsewhere(part)])))
        if part.isolation == "none":
            return await self._run_in_turn(index, part, base)
        directory = request.workdir or ""
        async with self._isolation.worktree(part) as worktree:
            moved = replace(part, request=replace(request, workdir=worktree.path))
            result = await self._run_in_turn(index, moved, base or directory)
            result = await self._isolation.judged(worktree, replace(result, part=part), self._stopping)
        return result if result.change and result.change.kept else replace(result, workdir=directory)

    async def _run_in_turn(self, index: int, part: Part, base: str) -> PartResult:
        """Run a part, waiting for a place in the queue where others have taken all of them."""
        while True:
            try:
                return await self._run(index, part, base)
            except QueueFull:
                await self._stopping.unless(self._runs.room(part.request))

    async def _run(self, index: int, part: Part, base: str) -> PartResult:
        place = PartOf(self._run_id, index, part.name, base)
        async with self._runs.run(replace(part.request, part=place), self.share) as run:
            self._under_way.add(run.id)
            try:
                if self.stopped:
                    await self._runs.cancel(run.id)
                await self._shown(index, part, run)
                result = await run.result()
                if part.isolation != "none" or self.share.at_once == 1:
                    await self._runs.cancel(run.id)  # it has ended: this waits until its agent is gone
            finally:
                self._under_way.discard(run.id)
        if run.started_at is None and self.stopped:
            return replace(not_run(index, part, self._not_run()), run_id=run.id, session_id=run.session_id)
        started_at = run.started_at or run.created_at
        return PartResult(
            index=index,
            part=part,
            result=replace(result, said=()),
            run_id=run.id,
            session_id=run.session_id,
            model=run.request.model,
            workdir=run.request.workdir or "",
            duration_s=max(0.0, (run.ended_at or time.time()) - started_at),
        )

    async def _shown(self, index: int, part: Part, run: Run) -> None:
        """Let the observer hear all of a run, as long as it takes it."""
        if self._observer is None:
            return
        await run.begun()
        if self._observer:  # what another part told may have taken too long meanwhile
            self._observer.begun(index, part, run)
        async for batch in run.batches():
            if self._observer:
                await self._told(self._observer.heard(index, part, run, batch))


def _elsewhere(part: Part) -> Iterator[str]:
    """Say where the agent would work, if not in the directory that its command shows."""
    directory = part.request.workdir or "the directory"
    if part.follows:
        yield f"# for {directory}: the worktree of the step before, if it has one and leaves changes in it"
    if part.isolation == "worktree":
        yield f"# for {directory}: the same directory in a new git worktree, as HEAD has it"


_READY = 8
"""How many parts are made ready while others run, at most."""


async def perform(performing: Performing, parts: Iterable[Part], fail_fast: bool = False) -> tuple[PartResult, ...]:
    """Run parts, as many at once as their share has it; give the results in the order of the parts.

    Only what runs has a task of its own, and what is next: that has been recorded by the time that its turn comes. A
    part that waits for longer takes no more than it is itself. With `fail_fast` each waits for how the one before went.
    """
    at_once = performing.share.at_once
    ready = 0 if fail_fast else min(at_once, _READY)
    waiting = enumerate(parts)
    results: dict[int, PartResult] = {}

    async def work() -> None:
        for index, part in waiting:
            result = results[index] = await performing.perform(index, part)
            if fail_fast and result.error and not performing.stopped:
                await performing.stop(f"tasks[{index}] failed, and fail_fast ends the others")

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once + ready):
            group.create_task(work())
    return tuple(results[index] for index in sorted(results))
