"""The orchestrations of this process, each recorded as a run of its own, the parent of the parts' runs."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache

import msgspec
from msgspec.structs import replace

from clinvk.config.load import home
from clinvk.config.model import ClusterSettings
from clinvk.orchestrate import judge
from clinvk.orchestrate.admission import Admission, Admit, plan_warnings
from clinvk.orchestrate.orchestration import BeginRun, Orchestration, Resources, SourceRule
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import CLEANUP_TIMEOUT_S, finish_shielded
from clinvk.runtime.worktrees.worktrees import Worktrees
from clinvk.store.protocol import SessionStore
from clinvk.types.choices import RunState
from clinvk.types.errors import Cancelled, ClinvkError
from clinvk.types.events import Logged, RunFailed, RunFinished, RunStarted
from clinvk.types.orchestration import Chain, Compare, Parallel, Part, Plan, Summary, is_dry_run, is_ephemeral
from clinvk.types.record import RunRecord, recorded_result
from clinvk.types.request import RunRequest

logger = logging.getLogger(__name__)


def _any_source(_: RunRequest, __: str) -> Sequence[str]:
    return ()


class Orchestrations:
    """The orchestrations of this process.

    Args:
        runs: runs the agents.
        store: records the orchestrations.
        spawner: starts git and checks, in `environ`.
        environ: the environment of git and of checks.
        timeout_s: the time limit for recording an outcome; the results are returned in any case.
        rule: says from which directories a worktree may be made.
        background: owns the orchestrations of `launch`; call `end` before leaving it.
        cluster: the name and the labels of this machine in a cluster.
    """

    def __init__(
        self,
        runs: LocalRuns,
        store: SessionStore,
        spawner: Spawner,
        environ: Mapping[str, str],
        timeout_s: float = CLEANUP_TIMEOUT_S,
        rule: SourceRule = _any_source,
        background: asyncio.TaskGroup | None = None,
        cluster: ClusterSettings | None = None,
    ) -> None:
        worktrees = Worktrees(spawner, home(environ), environ)
        self.resources = Resources(runs, runs.run, worktrees, rule, cluster or ClusterSettings())
        self._spawner = spawner
        self._background = background
        self._store = store
        self._timeout_s = timeout_s
        self._live: dict[str, Orchestration] = {}

    async def admit(self, plan: Plan, admit: Admit, require: Callable[[str], object]) -> Plan:
        """Return a plan with every request completed by `admit`; `require` raises if a backend's CLI is missing.

        Raises:
            ClinvkError: a part cannot run; `field` names the part and the reason.
        """
        return await Admission(admit, cache(require), self.resources, set()).admit(plan)

    @asynccontextmanager
    async def start(
        self, plan: Plan, original: Plan, resources: Resources | None = None
    ) -> AsyncGenerator[Orchestration]:
        """Begin an orchestration of admitted parts. Leaving the context ends all agents.

        `original` is the plan before admission. `resources` replace those of the process. A dry run has no id and no
        record.

        Raises:
            StoreUnavailable: the record cannot be stored.
            QueueFull: the queue has no room for the first part, or for the memory of all parts. Once an orchestration
                has begun, the further parts wait for room.
        """
        resources = resources or self.resources
        warnings = await asyncio.to_thread(lambda: tuple(plan_warnings(plan)))
        if is_dry_run(plan):
            yield Orchestration("", plan, original, resources, warnings)
            return
        done = len(plan.done) if isinstance(plan, Chain) else 0
        with resources.runs.reserved([part.request for part in plan.parts[done:]]):
            record = _begun_record(plan, original, resources.cluster.node)
            orchestration = Orchestration(record.id, plan, original, resources, warnings)
            await self._store.begin(record, None)
            self._live[orchestration.id] = orchestration
            try:
                yield orchestration
            finally:
                try:
                    ended, events = _ended_record(record, orchestration.summary, orchestration.stopped)
                    await finish_shielded(self._store.end(ended, None, events), self._timeout_s)
                    if notifier := resources.runs.notifier:
                        notifier.notify(ended, [part.request.notify for part in plan.parts])
                except (ClinvkError, TimeoutError) as exc:
                    logger.warning("run %s is not kept: %s", orchestration.id, exc)
                finally:
                    del self._live[orchestration.id]
                    orchestration.over.set()

    async def launch(self, plan: Plan, original: Plan, resources: Resources | None = None) -> Orchestration:
        """Begin an orchestration that runs in the background, until its end or `end`. Raise the errors of `start`."""
        assert self._background is not None
        begun: asyncio.Future[Orchestration] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                async with self.start(plan, original, resources) as orchestration:
                    begun.set_result(orchestration)
                    await orchestration.drive()
            except Exception as exc:
                if begun.done():
                    logger.exception("an orchestration failed inside clinvk")
                else:
                    begun.set_exception(exc)

        task = self._background.create_task(run())
        await asyncio.wait([task, begun], return_when=asyncio.FIRST_COMPLETED)
        return await begun

    def resources_of_user(self, begin: BeginRun, environ: Mapping[str, str]) -> Resources:
        """Return the resources for agents of this machine's user, without the rules for clients.

        `begin` begins the run of a part; `environ` is the environment of git and of checks.
        """
        worktrees = Worktrees(self._spawner, home(environ), environ)
        return self.resources._replace(begin=begin, worktrees=worktrees, rule=_any_source)

    @property
    def is_busy(self) -> bool:
        """Whether an orchestration is under way."""
        return bool(self._live)

    def live(self, run_id: str) -> Orchestration | None:
        """Return the running orchestration of a run id, or None."""
        return self._live.get(run_id)

    async def end(self) -> None:
        """Cancel all orchestrations.

        Wait up to `CLEANUP_TIMEOUT_S` for the agents to exit and the records to be stored.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(CLEANUP_TIMEOUT_S), asyncio.TaskGroup() as group:
                for orchestration in tuple(self._live.values()):
                    group.create_task(orchestration.cancel("the server is stopping"))


def _begun_record(plan: Plan, original: Plan, node: str) -> RunRecord:
    """Return the record of an orchestration that begins.

    `original` is the plan before admission, without what the settings add, which may be secret.
    """
    at = time.time()
    directories = {part.request.workdir or "" for part in plan.parts}
    return RunRecord(
        id=os.urandom(16).hex(),
        backend="",
        prompt=plan.prompt if isinstance(plan, Compare) and not is_ephemeral(plan) else "",
        state="running",
        created_at=at,
        started_at=at,
        workdir=directories.pop() if len(directories) == 1 else "",
        request=_options(original),
        node=node,
    )


def _ended_record(record: RunRecord, summary: Summary | None, reason: str) -> tuple[RunRecord, list[Logged]]:
    """Return the record of an ended orchestration and the events of the run.

    An orchestration without a summary, or with a `reason`, was cancelled.
    """
    failed = _failure(summary, reason)
    usage, cost_usd = (summary.usage, summary.cost_usd) if summary else (None, None)
    at = time.time()
    state: RunState = "finished" if not failed else "cancelled" if failed.code == Cancelled.code else "failed"
    output = "" if summary is None or is_ephemeral(summary.plan) else _output(summary)
    ended = replace(
        record,
        state=state,
        ended_at=at,
        usage=usage,
        cost_usd=cost_usd,
        stop_reason=None if failed else "end_turn",
        exit_code=1 if failed else 0,
        error_code=failed.code if failed else None,
        error_message=failed.message if failed else None,
        output=output,
    )
    ending = replace(failed or RunFinished(), usage=usage, cost_usd=cost_usd)
    return ended, [Logged(1, record.created_at, RunStarted()), Logged(2, at, ending)]


def _output(summary: Summary) -> str:
    """Return the answer of a chain, or the results of the checks and the verdict of a compare."""
    if isinstance(summary.plan, Chain):
        return summary.results[-1].result.text if summary.results else ""
    checks = [
        f"[{result.index + 1}] {result.part.request.backend}: check {'passed' if result.check.passed else 'failed'}"
        for result in summary.results
        if result.check
    ]
    verdict = summary.verdict
    if isinstance(summary.plan, Compare):
        checks += judge.warnings(summary.plan, judge.answers(summary.results))
    if verdict and verdict.best is not None:
        checks += [f"best: [{verdict.best + 1}] {summary.plan.parts[verdict.best].request.backend}", verdict.reasons]
    elif verdict and verdict.is_failed:
        error = verdict.result.error
        reason = verdict.reasons or (error.message if error else "no answer was named")
        checks.append(f"the judge {verdict.result.part.request.backend} failed: {reason}")
    return "\n".join(checks)


def _failure(summary: Summary | None, reason: str) -> RunFailed | None:
    if summary is None or reason:
        return RunFailed(Cancelled.code, reason or "the client left")
    first = summary.first_failed
    if first is None or first.error is None:
        return None
    message = recorded_result(first.error.message, not first.part.request.ephemeral)
    return RunFailed("agent_failed", f"{summary.failed} of {len(summary.results)} failed, the first with: {message}")


def _options(original: Plan) -> dict[str, object]:
    """Return the options of a plan; of a chain all that resuming it needs, unless the chain is ephemeral."""
    match original:
        case Parallel():
            options = {"max_parallel": original.max_parallel, "fail_fast": original.fail_fast}
            return {"kind": original.kind, "tasks": len(original.parts), **options}
        case Compare():
            judge = original.judge.backend if original.judge else None
            backends = [part.request.backend for part in original.parts]
            return {"kind": original.kind, "backends": backends, "check": original.check, "judge": judge}
        case Chain():
            steps = len(original.parts) if is_ephemeral(original) else [_as_recorded(part) for part in original.parts]
            given = None if is_ephemeral(original) else original.input
            options = {"input": given, "stop_on_failure": original.stop_on_failure, "resumed": original.resumed}
            return {"kind": original.kind, "steps": steps, **options}


def _as_recorded(part: Part) -> dict[str, object]:
    return msgspec.to_builtins(replace(part, request=replace(part.request, images=()), meta={}))
