"""One orchestration: runs the parts, in worktrees if requested, informs observers, and stops as a whole."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from msgspec.structs import replace

from clinvk.backends.base import describe, new_worktree_note
from clinvk.config.model import ClusterSettings
from clinvk.orchestrate import chain, judge
from clinvk.orchestrate.observers import PartObserver
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.runtime.runs import Run
from clinvk.runtime.worktrees.folders import Worktree
from clinvk.runtime.worktrees.worktrees import Worktrees
from clinvk.types.errors import Cancelled, ClinvkError, InvalidRequest, QueueFull
from clinvk.types.events import RunFinished
from clinvk.types.orchestration import (
    Chain,
    Change,
    Compare,
    JudgeVerdict,
    Parallel,
    Part,
    PartResult,
    Plan,
    Summary,
    agents_at_once,
    all_requests,
    dry_run_result,
    is_dry_run,
    may_move,
    not_run,
)
from clinvk.types.request import PartPosition, RunRequest
from clinvk.types.text import readable

_T = TypeVar("_T")

BeginRun = Callable[[RunRequest], AbstractAsyncContextManager[Run]]
SourceRule = Callable[[RunRequest, str], Sequence[str]]
"""For the worktree of a request: raise if a directory must not be copied; return the blocked directories below."""


class Nodes(Protocol):
    """The nodes of a cluster, for the parts of one request that may move."""

    @property
    def slots(self) -> int:
        """The number of agents that may run at once."""
        ...

    async def admit(self, part: Part, admit_here: "Callable[[Part], Awaitable[Part]]") -> Part:
        """Return a part as this or another node admits it. Raise the error of the last node if none does."""
        ...

    def begin(self, part: Part) -> AbstractAsyncContextManager[Run]:
        """Run a part, as it was before admission, on the best node; see `LocalRuns.run`."""
        ...

    async def wait_for_capacity(self) -> None:
        """After a `QueueFull`, wait until a node may have room."""


class Resources(NamedTuple):
    """What the orchestrations of a process share.

    `begin` begins the run of a part, and `rule` says from which directories a worktree may be made. With `nodes`, those
    begin the parts that may move.
    """

    runs: LocalRuns
    begin: BeginRun
    worktrees: Worktrees
    rule: SourceRule
    cluster: ClusterSettings = ClusterSettings()
    nodes: Nodes | None = None


CHECK_TIMEOUT_S = 600.0
"""The time limit of a check if the part has no time limit."""

_OBSERVER_GRACE_S = 2.0
"""How long an observer may take once the orchestration stops: the observer's client perhaps reads nothing."""


class Orchestration:
    """An orchestration under way.

    Attributes:
        id: the run id; empty for a dry run.
        warnings: what the plan allows, but the user probably does not intend.
        summary: the outcome, once all parts have ended.
        over: set when the outcome is recorded.
        stopped: why a caller stopped the orchestration; empty also after a stop by `fail_fast`.
    """

    def __init__(
        self, run_id: str, plan: Plan, original: Plan, resources: Resources, warnings: tuple[str, ...]
    ) -> None:
        """Prepare to run a plan; `original` is the plan before admission."""
        self.id = run_id
        self.plan = plan
        self.warnings = warnings
        self.summary: Summary | None = None
        self.over = asyncio.Event()
        self.stopped = ""
        self._stop_reason = ""
        self._runs, self._begin, self._worktrees, self._rule, _, self._nodes = resources
        self._originals = all_requests(original)
        self._at_once = min(agents_at_once(plan), self._nodes.slots if self._nodes else self._runs.occupancy.slots)
        self._running: set[Run] = set()
        self._observers: tuple[PartObserver, ...] = ()
        self._timeouts: dict[asyncio.Timeout, float] = {}
        self._start_order = asyncio.Lock()

    async def drive(self, *observers: PartObserver) -> Summary:
        """Run all parts to the end. Cancelling this call ends all agents."""
        began = time.monotonic()
        self._observers = observers
        warnings, verdict = self.warnings, None
        match self.plan:
            case Parallel() as plan:
                results = await self._run_parts(bool(plan.fail_fast))
            case Chain() as plan:
                results = await self._run_steps(plan)
            case Compare() as plan:
                results = await self._run_parts()
                answers = judge.answers(results)
                verdict = await self._judge(plan, answers)
                warnings += () if self._stop_reason else tuple(judge.warnings(plan, answers))
        self.summary = Summary(
            run_id=self.id,
            plan=self.plan,
            results=results,
            duration_s=time.monotonic() - began,
            warnings=warnings,
            verdict=verdict,
        )
        return self.summary

    async def stop(self, reason: str = "the request was cancelled") -> None:
        """Cancel all running and waiting parts until no agent is left; `drive` then returns the results so far."""
        self.stopped = self.stopped or reason
        await self._stop(reason)

    async def cancel(self, reason: str = "the request was cancelled") -> None:
        """Stop the orchestration and wait until the outcome is recorded. The driver itself must call `stop`."""
        await self.stop(reason)
        await self.over.wait()

    def kill(self) -> None:
        """Stop all agents at once."""
        for run in self._running:
            run.stop(at_once=True)

    async def _stop(self, reason: str) -> None:
        self._stop_reason = self._stop_reason or reason
        now = asyncio.get_running_loop().time()
        for limit, grace_s in self._timeouts.items():
            if limit.when() is None:
                limit.reschedule(now + grace_s)
        async with asyncio.TaskGroup() as group:
            for run in tuple(self._running):
                group.create_task(run.cancel())

    async def _until_stopped(self, work: Awaitable[_T], grace_s: float = 0.0) -> _T:
        """Await work, for `grace_s` at most once the orchestration stops.

        Raises:
            Cancelled: the orchestration stopped, and the work was cancelled.
        """
        limit = asyncio.timeout(grace_s if self._stop_reason else None)
        try:
            async with limit:
                self._timeouts[limit] = grace_s
                try:
                    return await work
                finally:
                    del self._timeouts[limit]
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise self._not_run() from exc

    def _not_run(self) -> Cancelled:
        return Cancelled(f"not run: {self._stop_reason}")

    async def _run_parts(self, fail_fast: bool = False) -> tuple[PartResult, ...]:
        """Run independent parts; return the results in the order of the parts.

        Dry runs are described first, one after the other.
        """
        results: dict[int, PartResult] = {}

        async def work(parts: Iterator[tuple[int, Part]]) -> None:
            previous = ""
            for index, part in parts:
                await self._runs.cancel(previous)  # that run has ended: wait until its agent has exited
                result = results[index] = await self._run_part(index, part)
                previous = result.run_id
                if fail_fast and result.error and not self._stop_reason:
                    await self._stop(f"task {index + 1} failed, and fail_fast ends the others")

        parts = list(enumerate(self.plan.parts))
        await work(each for each in parts if each[1].dry_run)
        waiting = (each for each in parts if not each[1].dry_run)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(work(waiting))
        return tuple(results[index] for index in sorted(results))

    async def _run_steps(self, plan: Chain) -> tuple[PartResult, ...]:
        """Run the unfinished steps in order; return the results of all steps that ran, finished ones first."""
        results = list(plan.done)
        answers = {result.part.name: result.result.text for result in results}
        for index, part in enumerate(plan.parts[len(results) :], len(results)):
            previous = results[-1] if results else None
            try:
                step = await run_in_loop_thread(
                    len(part.request.prompt), chain.filled_step, plan, part, previous, answers
                )
            except InvalidRequest as exc:
                result = await self._report(not_run(index, part, exc))
            else:
                directory = part.request.workdir or ""
                result = await self._run_part(index, step, directory if step.request.workdir != directory else "")
            results.append(replace(result, part=part))
            if not part.dry_run:
                answers[part.name] = result.result.text
            if self._stop_reason or (result.error and plan.stop_on_failure):
                break
        return tuple(results)

    async def _judge(self, plan: Compare, answers: Sequence[PartResult]) -> JudgeVerdict | None:
        """Run the judge, if the plan has one and there are enough answers."""
        if is_dry_run(plan):
            return judge.dry_run_verdict(plan)
        if plan.judge is None or not judge.can_judge(len(answers)) or self._stop_reason:
            return None
        shuffled = random.SystemRandom().sample(answers, len(answers))
        request = judge.judge_request(plan, plan.judge, shuffled)
        order = tuple(answer.index for answer in shuffled)
        part = Part(request=request, name="judge", is_judge=True)
        result = await self._run_part(len(plan.parts), part)
        best, reasons = None, ""
        if isinstance(result.result.ending, RunFinished):
            try:
                best, reasons = judge.read_ruling(order, result.result.ending.structured_output)
            except ValueError as exc:
                reasons = str(exc)
        return JudgeVerdict(best=best, reasons=reasons, order=order, result=result)

    async def _run_part(self, index: int, part: Part, base: str = "") -> PartResult:
        """Run a part to the end. An error that prevents the run becomes the result.

        `base` is the directory from which the part's worktree was made, as in `PartPosition`.
        """
        try:
            if self._stop_reason:
                raise self._not_run()
            result = await self._run_or_describe(index, part, base)
        except ClinvkError as exc:
            result = not_run(index, part, exc)
        return await self._report(result)

    async def _run_or_describe(self, index: int, part: Part, base: str) -> PartResult:
        request = part.request
        if not request.prompt.strip():
            raise InvalidRequest("prompt is empty", "prompt")
        if part.dry_run:
            await asyncio.sleep(0)  # nothing else here yields to the event loop
            command = describe(await self._runs.plan(request), request)
            return dry_run_result(index, part, readable("\n".join([command, *_directory_notes(part)])))
        if part.isolation == "none":
            return await self._run(index, part, base)
        directory = request.workdir or ""
        label = part.name or part.id or request.backend
        async with self._worktrees.isolated(directory, label, partial(self._rule, request)) as worktree:
            moved = replace(part, request=replace(request, workdir=worktree.path))
            result = await self._run(index, moved, base or directory)
            result = await self._examined(worktree, replace(result, part=part))
        return result if result.change and result.change.kept else replace(result, workdir=directory)

    async def _examined(self, worktree: Worktree, result: PartResult) -> PartResult:
        """Return a result with the outcome of the check, unless stopped, and the changes in the worktree."""
        check, warnings = None, worktree.warnings
        command = self.plan.check if isinstance(self.plan, Compare) else ""
        timeout_s = result.part.request.timeout_s or CHECK_TIMEOUT_S
        try:
            if command and not result.is_cancelled:
                check = await self._until_stopped(self._worktrees.check(worktree, command, timeout_s))
        except Cancelled:
            pass  # a check ends with the orchestration, without a result
        except ClinvkError as exc:
            warnings += (f"the check could not be run: {exc.message}",)
        try:
            change = await self._worktrees.outcome(worktree)
        except ClinvkError as exc:
            warnings += (f"cannot determine the changes: {exc.message}",)
            change = Change(diff="", is_cut=False, files=(), branch=worktree.branch, path=worktree.path, kept=True)
        return replace(result, change=replace(change, warnings=(*warnings, *change.warnings)), check=check)

    async def _run(self, index: int, part: Part, base: str) -> PartResult:
        position = PartPosition(self.id, index, part.name, base)
        async with AsyncExitStack() as stack:
            run = await self._start(index, part, position, stack)
            self._running.add(run)
            try:
                if self._stop_reason:
                    await run.cancel()
                await self._observe(index, part, run)
                result = await run.log.result()
                if part.isolation != "none" or self._at_once == 1:
                    await run.cancel()  # the run has ended: this waits until the agent has exited
            finally:
                self._running.discard(run)
        facts = run.facts
        if facts.started_at is None and self._stop_reason:
            return replace(not_run(index, part, self._not_run()), run_id=run.id, session_id=facts.session_id)
        return PartResult(
            index=index,
            part=replace(part, request=replace(part.request, backend=facts.backend)),
            result=replace(result, said=()),
            run_id=run.id,
            session_id=facts.session_id,
            model=facts.model,
            workdir=facts.workdir,
            node=facts.node,
            duration_s=max(0.0, (facts.ended_at or time.time()) - facts.began_at),
        )

    async def _start(self, index: int, part: Part, position: PartPosition, stack: AsyncExitStack) -> Run:
        """Start a run, in the order of the parts; while the queue is full, wait for room."""
        nodes = self._nodes if may_move(self.plan, part) else None
        request = replace(part.request, part=position)
        if nodes:  # each node completes the request by its own settings
            filled = {name: getattr(request, name) for name in ("prompt", "output_schema", "literal", "part")}
            part = replace(part, request=replace(self._originals[index], **filled))

        async def begin() -> Run:
            async with self._start_order:
                return await stack.enter_async_context(nodes.begin(part) if nodes else self._begin(request))

        while True:
            try:
                return await self._until_stopped(begin())
            except QueueFull:
                room = nodes.wait_for_capacity() if nodes else self._runs.wait_for_capacity(request)
                await self._until_stopped(room)

    async def _observe(self, index: int, part: Part, run: Run) -> None:
        """Send all events of a run to the observers."""
        if not self._observers:
            return
        await run.left_queue()
        for observer in self._observers:
            observer.started(index, part, run)
        async for batch in run.log.batches():
            for observer in self._observers:
                await self._notify(observer, observer.event(index, part, run, batch))

    async def _report(self, result: PartResult) -> PartResult:
        for observer in self._observers:
            await self._notify(observer, observer.ended(result))
        return result

    async def _notify(self, observer: PartObserver, callback: Awaitable[None]) -> None:
        """Await a callback; drop an observer that takes too long once the orchestration stops."""
        try:
            await self._until_stopped(callback, _OBSERVER_GRACE_S)
        except Cancelled:
            self._observers = tuple(other for other in self._observers if other is not observer)


def _directory_notes(part: Part) -> Iterator[str]:
    """Yield where the agent of a dry run would work, if not in the directory that the command shows."""
    if part.follows:
        directory = part.request.workdir or "the directory"
        yield f"# for {directory}: the worktree of the step before, if it has one and leaves changes in it"
    if part.isolation == "worktree":
        yield new_worktree_note(part.request)
