"""The record of an orchestration: a run of its own, the parent of the parts' runs."""

import os
import time

import msgspec
from msgspec.structs import replace

from clinvk.types.errors import Cancelled
from clinvk.types.events import Logged, RunFailed, RunFinished, RunStarted
from clinvk.types.orchestration import Chain, Compare, Parallel, Part, Plan, Summary, is_ephemeral
from clinvk.types.record import RunRecord, RunState, recorded_result


def begin(plan: Plan, asked: Plan) -> RunRecord:
    """Return the record of an orchestration that begins.

    `asked` is the plan before admission, without what the settings add, which may be secret.
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
        request=_options(asked),
    )


def end(record: RunRecord, summary: Summary | None, why: str) -> tuple[RunRecord, list[Logged]]:
    """Return the record of an ended orchestration and the events of the run.

    An orchestration without a summary, or with `why`, was cancelled.
    """
    failed = _failure(summary, why)
    usage, cost_usd = (summary.usage, summary.cost_usd) if summary else (None, None)
    at = time.time()
    state: RunState = "finished" if not failed else "cancelled" if failed.code == Cancelled.code else "failed"
    has_answer = summary and summary.results and isinstance(summary.plan, Chain) and not is_ephemeral(summary.plan)
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
        output=summary.results[-1].result.text if summary and has_answer else "",
    )
    ending = replace(failed or RunFinished(), usage=usage, cost_usd=cost_usd)
    return ended, [Logged(1, record.created_at, RunStarted()), Logged(2, at, ending)]


def _failure(summary: Summary | None, why: str) -> RunFailed | None:
    if summary is None or why:
        return RunFailed(Cancelled.code, why or "the client left")
    first = summary.first_failed
    if first is None or first.error is None:
        return None
    said = recorded_result(first.error.message, not first.part.request.ephemeral)
    return RunFailed("agent_failed", f"{summary.failed} of {len(summary.results)} failed, the first with: {said}")


def _options(asked: Plan) -> dict[str, object]:
    """Return the options of a plan; of a chain all that resuming it needs, unless the chain is ephemeral."""
    match asked:
        case Parallel():
            options = {"max_parallel": asked.max_parallel, "fail_fast": asked.fail_fast}
            return {"kind": asked.kind, "tasks": len(asked.parts), **options}
        case Compare():
            judge = asked.judge.backend if asked.judge else None
            backends = [part.request.backend for part in asked.parts]
            return {"kind": asked.kind, "backends": backends, "check": asked.check, "judge": judge}
        case Chain():
            steps = len(asked.parts) if is_ephemeral(asked) else [_as_recorded(part) for part in asked.parts]
            given = None if is_ephemeral(asked) else asked.input
            options = {"input": given, "stop_on_failure": asked.stop_on_failure, "resumed": asked.resumed}
            return {"kind": asked.kind, "steps": steps, **options}


def _as_recorded(part: Part) -> dict[str, object]:
    return msgspec.to_builtins(replace(part, request=replace(part.request, images=()), meta={}))
