"""What `parallel`, `chain` and `compare` print as JSON: the whole and its parts, or each event as a line."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from msgspec.structs import replace

from clinvk.cli.prompt.printers import TokenUsage
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.streams import ReaderGone, Stdout
from clinvk.dialects.dialect import Facts
from clinvk.dialects.rest.batch_answers import PartLines
from clinvk.runtime.runs import Run
from clinvk.types.events import Logged, RunFinished
from clinvk.types.orchestration import (
    Chain,
    ChangedFile,
    Check,
    Compare,
    Kind,
    Parallel,
    Part,
    PartResult,
    Plan,
    Summary,
    Verdict,
)

Unset = msgspec.UnsetType
UNSET = msgspec.UNSET


class PartOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a task, a step or a backend went; `exit_code` is what `clinvk PROMPT` would have exited with.

    `index` is from 0, `step` from 1. The first five are of the kinds that have them; the last ten come with what they
    tell of.
    """

    index: int | Unset = UNSET
    step: int | Unset = UNSET
    task_id: str | Unset = UNSET
    task_name: str | Unset = UNSET
    name: str | Unset = UNSET
    backend: str
    model: str | None
    output: str
    error: str | Unset = UNSET
    error_code: str | Unset = UNSET
    duration_seconds: float
    exit_code: int
    session_id: str | None = None
    run_id: str = ""
    usage: TokenUsage | None = None
    cost_usd: float | None = None
    structured_output: object = None
    meta: dict[str, object] = {}
    diff: str | Unset = UNSET
    diff_is_cut: bool = False
    files: tuple[ChangedFile, ...] | Unset = UNSET
    branch: str = ""
    worktree: str = ""
    check: Check | None = None
    warnings: tuple[str, ...] = ()


class Judged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the judge said: the index and the backend of the best answer, null where it failed and in a dry run."""

    backend: str
    best: int | None
    best_backend: str | None
    reasons: str
    order: tuple[int, ...]
    error: str | Unset = UNSET
    duration_seconds: float
    run_id: str = ""
    usage: TokenUsage | None = None
    cost_usd: float | None = None


class ParallelOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How all tasks went. `cancelled` are those of the failed that were ended, or not begun, because the whole was."""

    total_tasks: int
    completed: int
    failed: int
    cancelled: int = 0
    total_duration_seconds: float
    run_id: str = ""
    warnings: tuple[str, ...] = ()
    results: list[PartOutcome]


class ChainOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the steps went that were run; `failed_step` is from 1, 0 is none."""

    total_steps: int
    completed_steps: int
    failed_step: int
    total_duration_seconds: float
    run_id: str = ""
    warnings: tuple[str, ...] = ()
    results: list[PartOutcome]


class CompareOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How all backends went."""

    prompt: str
    backends: list[str]
    results: list[PartOutcome]
    judge: Judged | None = None
    total_duration_seconds: float
    run_id: str = ""
    warnings: tuple[str, ...] = ()


Outcome = ParallelOutcome | ChainOutcome | CompareOutcome


def outcome(summary: Summary) -> Outcome:
    """Say how an orchestration went."""
    plan = summary.plan
    results = [part_outcome(result, plan.kind) for result in summary.results]
    seconds = round(summary.duration_s, 3)
    match plan:
        case Parallel(parts=parts):
            return ParallelOutcome(
                total_tasks=len(parts),
                completed=summary.completed,
                failed=summary.failed,
                cancelled=summary.cancelled,
                total_duration_seconds=seconds,
                run_id=summary.run_id,
                warnings=summary.warnings,
                results=results,
            )
        case Chain(parts=parts):
            failed = summary.first_failed
            return ChainOutcome(
                total_steps=len(parts),
                completed_steps=summary.completed,
                failed_step=0 if failed is None else failed + 1,
                total_duration_seconds=seconds,
                run_id=summary.run_id,
                warnings=summary.warnings,
                results=results,
            )
        case Compare(parts=parts, prompt=prompt):
            return CompareOutcome(
                prompt=prompt,
                backends=[part.request.backend for part in parts],
                results=results,
                judge=_judged(summary.verdict, parts) if summary.verdict else None,
                total_duration_seconds=seconds,
                run_id=summary.run_id,
                warnings=summary.warnings,
            )


def part_outcome(result: PartResult, kind: Kind) -> PartOutcome:
    """Say how a part went."""
    change, ending = result.change, result.result.ending
    part = result.part
    told = PartOutcome(
        backend=part.request.backend,
        model=(result.result.started.model if result.result.started else None) or result.model,
        output=result.result.text,
        error=result.error.message if result.error else UNSET,
        error_code=result.error.code if result.error else UNSET,
        duration_seconds=round(result.duration_s, 3),
        exit_code=exits.of_ending(ending),
        session_id=result.session_id,
        run_id=result.run_id,
        usage=_usage(result),
        cost_usd=ending.cost_usd,
        structured_output=ending.structured_output if isinstance(ending, RunFinished) else None,
        meta=part.meta,
        diff=change.diff if change else UNSET,
        diff_is_cut=bool(change and change.is_cut),
        files=change.files if change else UNSET,
        branch=change.branch if change and change.kept else "",
        worktree=change.path if change and change.kept else "",
        check=result.check,
        warnings=change.warnings if change else (),
    )
    match kind:
        case "parallel":
            return replace(told, index=result.index, task_id=part.id, task_name=part.name)
        case "chain":
            return replace(told, step=result.index + 1, name=part.name)
        case "compare":
            return replace(told, index=result.index)


def _usage(result: PartResult) -> TokenUsage | None:
    return TokenUsage.of(result.result.usage) if result.result.usage else None


def _judged(verdict: Verdict, parts: tuple[Part, ...]) -> Judged:
    told = verdict.told
    return Judged(
        backend=told.part.request.backend,
        best=verdict.best,
        best_backend=None if verdict.best is None else parts[verdict.best].request.backend,
        reasons=verdict.reasons,
        order=verdict.order,
        error=told.error.message if told.error else UNSET,
        duration_seconds=round(told.duration_s, 3),
        run_id=told.run_id,
        usage=_usage(told),
        cost_usd=told.result.ending.cost_usd,
    )


class JsonLines:
    """Prints events as they happen. Where nobody reads them any more, `stop` is called."""

    def __init__(self, plan: Plan, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._stdout = Stdout(1)
        self._turn = asyncio.Lock()
        self._lines = PartLines(plan)

    async def show(self) -> None:
        """Do nothing: each event is printed at once."""

    def begun(self, index: int, part: Part, run: Run) -> None:
        """Do nothing: the events tell it."""

    async def heard(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Print events of a run."""
        await self._print(b"".join(self._lines.heard(index, part, batch, partial(_facts_of, run))))

    async def ended(self, result: PartResult) -> None:
        """Print what stands for the events of a part whose agent was not started."""
        await self._print(self._lines.ended(result, time.time()))

    async def _print(self, lines: bytes) -> None:
        if not lines:
            return
        try:
            async with self._turn:
                await self._stdout.write(lines)
        except ReaderGone:
            self._stop()


def _facts_of(run: Run) -> Facts:
    return Facts(
        run_id=run.id,
        backend=run.request.backend,
        session_id=run.session_id,
        model=run.request.model,
        workdir=run.request.workdir or "",
        started_at=run.started_at or run.created_at,
    )


def last_line(summary: Summary) -> str:
    """Give the JSON of the whole, marked as the last line of a stream."""
    return '{"type":"summary",' + msgspec.json.encode(outcome(summary)).decode()[1:]
