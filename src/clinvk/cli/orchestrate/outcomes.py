"""What `parallel`, `chain` and `compare` print as JSON: the REST answer with the field names of the command line."""

from collections.abc import Callable, Iterable

import msgspec
from msgspec.structs import asdict

from clinvk.cli.prompt.printers import TokenUsage
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.streams import ReaderGone, Stdout
from clinvk.dialects.rest import batch_answers
from clinvk.dialects.rest.batch_answers import ChainAnswer, CompareAnswer, JudgeAnswer, ParallelAnswer
from clinvk.orchestrate.event_stream import EventStream
from clinvk.orchestrate.orchestration import Observer
from clinvk.types.orchestration import ChangedFile, Check, Kind, PartResult, Plan, Summary

Unset = msgspec.UnsetType
UNSET = msgspec.UNSET


class PartOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of a task, step or backend; `exit_code` is the exit code of `clinvk PROMPT` for the same run.

    `index` counts from 0, `step` from 1. Which of the first five fields are present depends on the kind.
    """

    index: int | Unset = UNSET
    step: int | Unset = UNSET
    task_id: str | Unset = UNSET
    task_name: str | Unset = UNSET
    name: str | Unset = UNSET
    backend: str
    model: str | None
    output: str
    error: str | None = None
    error_code: str | None = None
    duration_seconds: float
    exit_code: int
    session_id: str | None = None
    run_id: str = ""
    usage: TokenUsage | None = None
    cost_usd: float | None = None
    structured_output: object = None
    meta: dict[str, object] | None = None
    diff: str | None = None
    diff_is_cut: bool = False
    files: tuple[ChangedFile, ...] | None = None
    branch: str = ""
    worktree: str | None = None
    check: Check | None = None
    warnings: tuple[str, ...] = ()


class JudgeOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The verdict: the index and the backend of the best answer, null if the judge failed and in a dry run."""

    backend: str
    best: int | None
    best_backend: str | None
    reasons: str
    order: tuple[int, ...]
    error: str | None = None
    duration_seconds: float
    run_id: str = ""
    usage: TokenUsage | None = None
    cost_usd: float | None = None


class ParallelOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of all tasks; `failed` includes `cancelled`."""

    total_tasks: int
    completed: int
    failed: int
    cancelled: int = 0
    total_duration_seconds: float
    run_id: str = ""
    warnings: tuple[str, ...] = ()
    results: list[PartOutcome]


class ChainOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of the steps that ran; `failed_step` counts from 1, and is 0 if no step failed."""

    total_steps: int
    completed_steps: int
    failed_step: int
    total_duration_seconds: float
    run_id: str = ""
    warnings: tuple[str, ...] = ()
    results: list[PartOutcome]


class CompareOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of all backends."""

    prompt: str
    backends: list[str]
    results: list[PartOutcome]
    judge: JudgeOutcome | None = None
    total_duration_seconds: float
    run_id: str = ""
    warnings: tuple[str, ...] = ()


Outcome = ParallelOutcome | ChainOutcome | CompareOutcome

_PART_ONLY = {"index", "step", "task_id", "task_name", "name", "duration_seconds", "exit_code", "usage", "branch"}
_SHARED_OF_PART = [name for name in PartOutcome.__struct_fields__ if name not in _PART_ONLY]
_SHARED_OF_JUDGE = [name for name in JudgeOutcome.__struct_fields__ if name not in _PART_ONLY]


def outcome(summary: Summary) -> Outcome:
    """Return the outcome of an orchestration."""
    answer = batch_answers.answer(summary)
    fields = asdict(answer)
    fields["total_duration_seconds"] = fields.pop("total_duration_ms") / 1000
    fields["results"] = [part_outcome(result, summary.plan.kind) for result in summary.results]
    match answer:
        case ParallelAnswer():
            return ParallelOutcome(**fields)
        case ChainAnswer():
            return ChainOutcome(**fields)
        case CompareAnswer(judge=judge):
            result = summary.verdict and summary.verdict.result
            fields["judge"] = _judge_outcome(judge, result) if judge and result else None
            return CompareOutcome(**fields)


def part_outcome(result: PartResult, kind: Kind) -> PartOutcome:
    """Return the outcome of a part."""
    answer, part = asdict(batch_answers.part_answer(result, kind)), result.part
    fields = {name: answer[name] for name in _SHARED_OF_PART}
    match kind:
        case "parallel":
            fields |= {"index": result.index, "task_id": part.id, "task_name": part.name}
        case "chain":
            fields |= {"step": result.index + 1, "name": part.name}
        case "compare":
            fields |= {"index": result.index}
    return PartOutcome(
        **fields,
        duration_seconds=answer["duration_ms"] / 1000,
        exit_code=exits.of_ending(result.result.ending),
        usage=_usage(result),
        branch=result.change.branch if result.change and result.change.kept else "",
    )


def _judge_outcome(judge: JudgeAnswer, result: PartResult) -> JudgeOutcome:
    answer = asdict(judge)
    fields = {name: answer[name] for name in _SHARED_OF_JUDGE}
    return JudgeOutcome(**fields, duration_seconds=judge.duration_ms / 1000, usage=_usage(result))


def _usage(result: PartResult) -> TokenUsage | None:
    return TokenUsage.of(result.result.usage) if result.result.usage else None


def event_printer(plan: Plan, stop: Callable[[], None]) -> Observer:
    """Return an observer that prints events as they happen, and calls `stop` if nobody reads stdout any more."""
    stdout = Stdout(1)

    async def write(lines: Iterable[bytes]) -> None:
        try:
            await stdout.write(b"".join(lines))
        except ReaderGone:
            stop()

    return EventStream(plan, write)


def last_line(summary: Summary) -> str:
    """Return the outcome as the last line of a stream."""
    return '{"type":"summary",' + msgspec.json.encode(outcome(summary)).decode()[1:]
