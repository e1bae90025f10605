"""The record of an orchestration: a run of its own, with those of its parts below it."""

import logging
import os
import time

import msgspec
from msgspec.structs import replace

from clinvk.store.protocol import SessionStore
from clinvk.types.errors import Cancelled, ClinvkError
from clinvk.types.events import Ending, Logged, RunFailed, RunFinished, RunStarted
from clinvk.types.orchestration import Chain, Compare, Parallel, Part, Plan, Summary
from clinvk.types.record import RunRecord, RunState, as_kept

logger = logging.getLogger(__name__)


class Keeping:
    """Keeps one record, from its beginning to its end."""

    def __init__(self, store: SessionStore, plan: Plan, asked: Plan) -> None:
        """`asked` is the plan without what the settings add, which may hold secrets."""
        at = time.time()
        self._store = store
        self._record = RunRecord(
            id=os.urandom(16).hex(),
            backend="",
            prompt=plan.prompt if isinstance(plan, Compare) and _keeps_text(plan) else "",
            state="running",
            created_at=at,
            started_at=at,
            workdir=_common([part.request.workdir or "" for part in plan.parts]),
            request=_options(asked),
        )

    @property
    def run_id(self) -> str:
        """The id of the record."""
        return self._record.id

    async def begin(self) -> None:
        """Keep the record. Raises `StoreUnavailable`."""
        await self._store.begin(self._record, None)

    async def ended(self, summary: Summary | None, why: str) -> None:
        """Keep how it ended; without a summary, or with `why`, it was cancelled. Trouble is for the log alone."""
        failed = _failure(summary, why)
        usage, cost_usd = (summary.usage, summary.cost_usd) if summary else (None, None)
        at = time.time()
        state: RunState = "finished" if not failed else "cancelled" if failed.code == Cancelled.code else "failed"
        is_chain = summary is not None and isinstance(summary.plan, Chain) and _keeps_text(summary.plan)
        record = replace(
            self._record,
            state=state,
            ended_at=at,
            usage=usage,
            cost_usd=cost_usd,
            stop_reason=None if failed else "end_turn",
            exit_code=1 if failed else 0,
            error_code=failed.code if failed else None,
            error_message=failed.message if failed else None,
            output=summary.results[-1].result.text if summary and is_chain and summary.results else "",
        )
        ending: Ending = RunFinished(usage=usage, cost_usd=cost_usd)
        if failed:
            ending = replace(failed, usage=usage, cost_usd=cost_usd)
        events = [Logged(1, self._record.created_at, RunStarted()), Logged(2, at, ending)]
        try:
            await self._store.end(record, None, events)
        except ClinvkError as exc:
            logger.warning("run %s is not kept: %s", self.run_id, exc.message)


def _failure(summary: Summary | None, why: str) -> RunFailed | None:
    if summary is None or why:
        return RunFailed(Cancelled.code, why or "the client left")
    if not summary.failed:
        return None
    first = next(result for result in summary.results if result.error)
    said = as_kept(first.error.message, not first.part.request.ephemeral) if first.error else ""
    return RunFailed("agent_failed", f"{summary.failed} of {len(summary.results)} failed, the first with: {said}")


def _options(asked: Plan) -> dict[str, object]:
    """Give what was asked; of a chain all that it takes to go on with it, unless it shall leave no trace."""
    match asked:
        case Parallel():
            options = {"max_parallel": asked.max_parallel, "fail_fast": asked.fail_fast}
            return {"kind": asked.kind, "tasks": len(asked.parts), **options}
        case Compare():
            judge = asked.judge.backend if asked.judge else None
            backends = [part.request.backend for part in asked.parts]
            return {"kind": asked.kind, "backends": backends, "check": asked.check, "judge": judge}
        case Chain():
            steps = [_kept(part) for part in asked.parts] if _keeps_text(asked) else len(asked.parts)
            kept = {"input": asked.input if _keeps_text(asked) else None, "stop_on_failure": asked.stop_on_failure}
            return {"kind": asked.kind, "steps": steps, **kept, "resumed": asked.resumed}


def _kept(part: Part) -> dict[str, object]:
    bare = replace(part, request=replace(part.request, images=()), meta={})
    return msgspec.to_builtins(bare)


def _keeps_text(plan: Plan) -> bool:
    return not any(part.request.ephemeral for part in plan.parts)


def _common(directories: list[str]) -> str:
    """Give the directory that all work in; empty where there are several."""
    return directories[0] if len(set(directories)) == 1 else ""
