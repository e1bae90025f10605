"""The orchestrations of this process: admitted, begun with a record, and ended when the server stops."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from clinvk.config.load import home
from clinvk.orchestrate import whole_record
from clinvk.orchestrate.admission import Admission, Admit, plan_warnings
from clinvk.orchestrate.orchestration import Orchestration, SourceRule
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import CLEANUP_TIMEOUT_S, finish_shielded
from clinvk.runtime.runs import Runs
from clinvk.runtime.worktrees.worktrees import Worktrees
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import ClinvkError
from clinvk.types.orchestration import Chain, Plan, is_dry_run
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
        within_s: the time limit for recording an outcome; the results are returned in any case.
        rule: says from which directories a worktree may be made.
    """

    def __init__(
        self,
        runs: Runs,
        store: SessionStore,
        spawner: Spawner,
        environ: Mapping[str, str],
        within_s: float = CLEANUP_TIMEOUT_S,
        rule: SourceRule = _any_source,
    ) -> None:
        self._runs = runs
        self._store = store
        self._worktrees = Worktrees(spawner, home(environ), environ)
        self._within_s = within_s
        self._rule = rule
        self._live: dict[str, Orchestration] = {}

    async def admit(self, plan: Plan, admit: Admit, require: Callable[[str], object]) -> Plan:
        """Return a plan with every request completed by `admit`; `require` raises if a backend's CLI is missing.

        Raises:
            ClinvkError: a part cannot run; `field` names the part and the reason.
        """
        return await Admission(admit, require, self._runs, self._worktrees, self._rule).admit(plan)

    @asynccontextmanager
    async def start(self, plan: Plan, asked: Plan) -> AsyncGenerator[Orchestration]:
        """Begin an orchestration of admitted parts. Leaving the context ends all agents.

        `asked` is the plan before admission. A dry run has no id and no record.

        Raises:
            StoreUnavailable: the record cannot be stored.
            QueueFull: the queue has no room for the first part, or for the memory of all parts. Once an orchestration
                has begun, the further parts wait for room.
        """
        warnings = await asyncio.to_thread(lambda: tuple(plan_warnings(plan)))
        if is_dry_run(plan):
            yield Orchestration("", plan, self._runs, self._worktrees, self._rule, warnings)
            return
        done = len(plan.done) if isinstance(plan, Chain) else 0
        with self._runs.reserved([part.request for part in plan.parts[done:]]):
            record = whole_record.begin(plan, asked)
            one = Orchestration(record.id, plan, self._runs, self._worktrees, self._rule, warnings)
            await self._store.begin(record, None)
            self._live[one.id] = one
            try:
                yield one
            finally:
                try:
                    ended, events = whole_record.end(record, one.summary, one.stopped)
                    await finish_shielded(self._store.end(ended, None, events), self._within_s)
                except (ClinvkError, TimeoutError) as exc:
                    logger.warning("run %s is not kept: %s", one.id, exc)
                finally:
                    del self._live[one.id]
                    one.over.set()

    def live(self, run_id: str) -> Orchestration | None:
        """Return an orchestration that is under way in this process."""
        return self._live.get(run_id)

    async def end(self) -> None:
        """Cancel all orchestrations.

        Wait up to `CLEANUP_TIMEOUT_S` for the agents to exit and the records to be stored.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(CLEANUP_TIMEOUT_S), asyncio.TaskGroup() as group:
                for one in tuple(self._live.values()):
                    group.create_task(one.cancel("the server is stopping"))
