"""What `parallel`, `chain` and `compare` print as JSON: the REST answer with the field names of the command line."""

from collections.abc import Callable, Iterable

import msgspec

from clinvk.cli.prompt.printers import TokenUsage
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.streams import BrokenStdout, Stdout
from clinvk.dialects.rest import batch_answers
from clinvk.orchestrate.event_stream import EventStream
from clinvk.orchestrate.orchestration import PartObserver
from clinvk.types.orchestration import Kind, PartResult, Plan, Summary

Json = dict[str, object]

_PART = (
    *("backend", "model", "output", "error", "error_code", "duration_seconds", "exit_code", "session_id", "run_id"),
    *("usage", "cost_usd", "structured_output", "meta"),
    *("diff", "diff_is_cut", "files", "branch", "worktree", "check", "warnings"),
)
_JUDGE = (
    *("backend", "best", "best_backend", "reasons", "order"),
    *("error", "duration_seconds", "run_id", "usage", "cost_usd"),
)
_NULLABLE = ("model", "best", "best_backend")
_WHOLE = (
    *("total_tasks", "completed", "failed", "cancelled", "total_steps", "completed_steps", "failed_step"),
    *("prompt", "backends", "total_duration_seconds", "run_id", "warnings", "results", "judge"),
)


def outcome(summary: Summary) -> Json:
    """Return the outcome of an orchestration."""
    fields: Json = msgspec.to_builtins(batch_answers.answer(summary))
    fields["total_duration_seconds"] = round(summary.duration_s, 3)
    fields["results"] = [part_outcome(result, summary.plan.kind) for result in summary.results]
    if verdict := summary.verdict:
        judge = msgspec.convert(fields["judge"], Json)
        fields["judge"] = _part(judge, verdict.result, _JUDGE)
    return {name: fields[name] for name in _WHOLE if name in fields}


def part_outcome(result: PartResult, kind: Kind) -> Json:
    """Return the outcome of a part; `exit_code` is the exit code of `clinvk PROMPT` for the same run.

    `index` counts from 0, `step` from 1.
    """
    part = result.part
    match kind:
        case "parallel":
            identity: Json = {"index": result.index, "task_id": part.id, "task_name": part.name}
        case "chain":
            identity = {"step": result.index + 1, "name": part.name}
        case "compare":
            identity = {"index": result.index}
    return identity | _part(msgspec.to_builtins(batch_answers.part_answer(result, kind)), result, _PART)


def _part(answer: Json, result: PartResult, names: Iterable[str]) -> Json:
    """Return these fields of a part's answer, without the empty ones."""
    usage = result.result.usage
    fields = answer | {
        "model": answer.get("model"),
        "duration_seconds": round(result.duration_s, 3),
        "exit_code": exits.exit_code_of_ending(result.result.ending),
        "usage": TokenUsage.of(usage) if usage else None,
        "branch": result.change.branch if result.change and result.change.kept else None,
    }
    return {name: fields[name] for name in names if name in _NULLABLE or fields.get(name) is not None}


def event_printer(plan: Plan, stop: Callable[[], None]) -> PartObserver:
    """Return an observer that prints events as they happen, and calls `stop` if nobody reads stdout any more."""
    stdout = Stdout(1)

    async def write(lines: Iterable[bytes]) -> None:
        try:
            await stdout.write(b"".join(lines))
        except BrokenStdout:
            stop()

    return EventStream(plan, write)


def last_line(summary: Summary) -> str:
    """Return the outcome as the last line of a stream."""
    return msgspec.json.encode({"type": "summary", **outcome(summary)}).decode()
