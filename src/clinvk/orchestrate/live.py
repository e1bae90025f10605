"""Orchestrations under way: begun with a record of their own, driven by whoever asked, ended as a whole."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import PurePath

from clinvk.config.load import home
from clinvk.orchestrate import chain, judge
from clinvk.orchestrate import parts as parallel
from clinvk.orchestrate.admission import Admit, admitted
from clinvk.orchestrate.parts import Isolation, JudgeOf, Observer, Performing
from clinvk.orchestrate.whole_record import Keeping
from clinvk.policy.rules import may_edit
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import WITHIN_S, beside_loop, finished
from clinvk.runtime.runs import Runs
from clinvk.runtime.slots import Share
from clinvk.runtime.worktrees.worktrees import Worktrees
from clinvk.store.protocol import SessionStore
from clinvk.types.events import RunFinished
from clinvk.types.orchestration import Chain, Compare, Parallel, Part, PartResult, Plan, Summary, Verdict, is_dry_run
from clinvk.types.request import RunRequest

logger = logging.getLogger(__name__)

_PART_CHARS = 100


def _anywhere(_: RunRequest, __: str) -> Sequence[str]:
    return ()


class Orchestrations:
    """Those of this process; `spawner` starts git and checks, in `environ`.

    `judge` says where the files of worktrees may come from.

    Where the end of one is not kept `within_s`, its results are told nonetheless.
    """

    def __init__(
        self,
        runs: Runs,
        store: SessionStore,
        spawner: Spawner,
        environ: Mapping[str, str],
        within_s: float = WITHIN_S,
        judge: JudgeOf = _anywhere,
    ) -> None:
        self._runs = runs
        self._store = store
        self._worktrees = Worktrees(spawner, home(environ), environ)
        self._within_s = within_s
        self._judge = judge
        self._live: dict[str, Orchestration] = {}

    async def admitted(self, plan: Plan, admit: Admit, require: Callable[[str], object]) -> Plan:
        """Give a plan with every request completed by `admit`; `require` raises where a backend's CLI is not there.

        Raises:
            ClinvkError: a part cannot be run; its `field` says which, and why.
        """
        return await admitted(plan, admit, require, self._runs, self._worktrees, self._judge)

    @asynccontextmanager
    async def begun(self, plan: Plan, asked: Plan) -> "AsyncGenerator[Orchestration]":
        """Begin one, whose parts are admitted; `asked` is the same as it was before that. Leaving it ends its agents.

        One that shall but be shown is no run, and has no id.

        Raises:
            StoreUnavailable: it cannot be kept.
            QueueFull: too many bytes wait here.
        """
        isolation = Isolation(self._worktrees, plan.check if isinstance(plan, Compare) else "", self._judge)
        if is_dry_run(plan):
            yield Orchestration("", plan, self._runs, isolation)
            return
        with self._runs.reserved([part.request for part in plan.parts]):
            keeping = Keeping(self._store, plan, asked)
            one = Orchestration(keeping.run_id, plan, self._runs, isolation)
            await keeping.begin()
            self._live[one.id] = one
            try:
                yield one
            finally:
                try:
                    await finished(keeping.ended(one.summary, one.stopped), self._within_s)
                except TimeoutError as exc:
                    logger.warning("run %s is not kept: %s", keeping.run_id, exc)
                finally:
                    del self._live[one.id]
                    one.over.set()

    def live(self, run_id: str) -> "Orchestration | None":
        """Give one that is under way here."""
        return self._live.get(run_id)

    async def end(self) -> None:
        """Cancel all, and wait until nothing is left of them and their ends are kept; not longer than `WITHIN_S`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WITHIN_S), asyncio.TaskGroup() as group:
                for one in tuple(self._live.values()):
                    group.create_task(one.cancel("the server is stopping"))


class Orchestration:
    """One under way. `summary` is there when it has been driven to its end, `over` is set when that is kept.

    `stopped` is why it was cancelled as a whole; empty also for one that ends early by itself, as with `fail_fast`.
    """

    def __init__(self, run_id: str, plan: Plan, runs: Runs, isolation: Isolation) -> None:
        self.id = run_id
        self.plan = plan
        self.summary: Summary | None = None
        self.over = asyncio.Event()
        self.stopped = ""
        self._runs = runs
        self._isolation = isolation
        self._performing: Performing | None = None

    async def drive(self, observer: Observer | None = None) -> Summary:
        """Run all parts to their end; `observer` hears of them meanwhile. Who cancels this ends all agents."""
        began = time.monotonic()
        share = Share(self._at_once())
        self._performing = performing = Performing(self._runs, self.id, self._isolation, share, observer)
        if self.stopped:
            await performing.stop(self.stopped)
        size = sum(_PART_CHARS + len(part.request.prompt) for part in self.plan.parts)
        said, verdict = await beside_loop(size, lambda: tuple(warnings(self.plan))), None
        match self.plan:
            case Parallel() as plan:
                results = await parallel.perform(performing, plan.parts, bool(plan.fail_fast))
            case Chain() as plan:
                results = await chain.perform(performing, plan)
            case Compare() as plan:
                results = await parallel.perform(performing, plan.parts)
                answers = judge.answers(results)
                verdict = await _judged(performing, plan, answers)
                said += () if performing.stopped else tuple(judge.warnings(plan, answers))
        self.summary = Summary(
            run_id=self.id,
            plan=self.plan,
            results=results,
            duration_s=time.monotonic() - began,
            warnings=said,
            verdict=verdict,
        )
        return self.summary

    def _at_once(self) -> int:
        """Give how many parts may run at the same time."""
        match self.plan:
            case Parallel() as plan:
                return min(plan.max_parallel or 1, self._runs.occupancy.slots)
            case Compare(sequential=False) as plan:
                return min(len(plan.parts), self._runs.occupancy.slots)
            case Chain() | Compare():
                return 1

    async def stop(self, why: str = "the whole was cancelled") -> None:
        """Cancel what runs and what waits, until no agent is left; `drive` then gives what there is."""
        self.stopped = self.stopped or why
        if self._performing:
            await self._performing.stop(self.stopped)

    async def cancel(self, why: str = "the whole was cancelled") -> None:
        """Do the same for whoever does not drive it, and wait until its end is kept."""
        await self.stop(why)
        await self.over.wait()


def warnings(plan: Plan) -> Iterator[str]:
    """Say what is allowed, but hardly meant."""
    match plan:
        case Parallel(parts=parts, max_parallel=at_once) if at_once != 1:
            yield from _shared(parts, "tasks")
        case Compare(parts=parts, sequential=False):
            yield from _shared(parts, "backends")
        case Chain():
            yield from chain.warnings(plan)
        case _:
            pass


def _shared(parts: tuple[Part, ...], what: str) -> Iterator[str]:
    """Name directories in which, or below which, several agents may change files at once."""
    edits = (part for part in parts if part.isolation == "none" and not part.dry_run and may_edit(part.request))
    editing = Counter(part.request.workdir or "" for part in edits)
    shared: Counter[str] = Counter()
    for directory, count in editing.items():
        around = [str(path) for path in PurePath(directory).parents if str(path) in editing]
        shared[around[-1] if around else directory] += count
    for directory, count in shared.items():
        if count > 1:
            yield (
                f"{count} {what} may change files in {directory!r} at the same time, and undo each other's "
                "work; isolation: worktree gives each a tree of its own"
            )


async def _judged(performing: Performing, plan: Compare, answers: Sequence[PartResult]) -> Verdict | None:
    """Let the judge speak, where there is one and something to compare."""
    if is_dry_run(plan):
        return judge.to_be(plan)
    if plan.judge is None or not judge.can_judge(len(answers)) or performing.stopped:
        return None
    bench = judge.asked(plan, plan.judge, random.SystemRandom().sample(answers, len(answers)))
    part = Part(request=bench.request, name="judge", is_judge=True)
    told = await performing.perform(len(plan.parts), part)
    best, reasons = None, ""
    if isinstance(told.result.ending, RunFinished):
        try:
            best, reasons = judge.ruling(bench, told.result.ending.structured_output)
        except ValueError as exc:
            reasons = str(exc)
    return Verdict(best=best, reasons=reasons, order=bench.order, told=told)
