"""Answers of parallel, chain and compare: whole, or as one stream of lines, each with its part."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from clinvk.dialects import sse
from clinvk.dialects.dialect import Facts
from clinvk.dialects.rest import unified
from clinvk.dialects.rest.rest import PromptAnswer, answered
from clinvk.dialects.rest.unified import Tag, UnifiedEncoder
from clinvk.types.errors import ClinvkError
from clinvk.types.events import Logged, RunFailed, RunStarted, TextDelta
from clinvk.types.orchestration import (
    Chain,
    ChangedFile,
    Check,
    Compare,
    Parallel,
    Part,
    PartResult,
    Plan,
    Summary,
    Verdict,
)

_Warnings = Annotated[tuple[str, ...], Meta(description="What is allowed, but hardly meant.")]
_RunId = Annotated[str, Meta(description="The run that stands for the whole; absent in a dry run.")]
_Duration = Annotated[int, Meta(description="Milliseconds of the whole.")]

_encoder = msgspec.json.Encoder()


class PartAnswer(PromptAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """How one task, step or backend went: the answer to its prompt, and which it is."""

    index: Annotated[int, Meta(description="Its place among all, from 0.")]
    step: Annotated[int | None, Meta(description="Of a chain: the step, from 1.")] = None
    name: Annotated[str | None, Meta(description="As the caller gave it.")] = None
    id: Annotated[str | None, Meta(description="As the caller gave it.")] = None
    meta: Annotated[dict[str, object] | None, Meta(description="As the caller gave it.")] = None
    diff: Annotated[str | None, Meta(description="What it changed in its worktree, as git tells it.")] = None
    diff_is_cut: Annotated[bool, Meta(description="The diff is too long to be told whole.")] = False
    files: Annotated[tuple[ChangedFile, ...] | None, Meta(description="What it changed there.")] = None
    branch: Annotated[str | None, Meta(description="The branch of its worktree.")] = None
    worktree: Annotated[str | None, Meta(description="Where its worktree is; null for one that had no changes.")] = None
    check: Annotated[Check | None, Meta(description="What `check` said about its worktree.")] = None
    warnings: Annotated[tuple[str, ...], Meta(description="What is not in its worktree, or not in the diff.")] = ()


class ParallelAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the tasks went, in their order."""

    total_tasks: int
    completed: Annotated[int, Meta(description="Tasks that succeeded.")]
    failed: Annotated[int, Meta(description="Tasks that did not, those included that were cancelled.")]
    total_duration_ms: _Duration
    results: list[PartAnswer]
    cancelled: Annotated[int, Meta(description="Of those that failed, the cancelled; left out if none.")] = 0
    run_id: _RunId = ""
    warnings: _Warnings = ()


class ChainAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the steps went that were run."""

    total_steps: int
    completed_steps: Annotated[int, Meta(description="Steps that succeeded.")]
    failed_step: Annotated[int, Meta(description="The first step that failed, from 1; 0 is none.")]
    total_duration_ms: _Duration
    results: list[PartAnswer]
    run_id: _RunId = ""
    warnings: _Warnings = ()


class JudgeAnswer(PromptAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """What the judge said, and how its own run went; in a dry run just who it would be."""

    best: Annotated[
        int | None, Meta(description="The `index` of the best answer; null where the judge failed, and in a dry run.")
    ]
    best_backend: Annotated[str | None, Meta(description="Who gave it.")]
    reasons: Annotated[str, Meta(description="Why, in the judge's words; it calls the answers A, B, … in its order.")]
    order: Annotated[tuple[int, ...], Meta(description="The indices of the answers A, B, … as the judge saw them.")]


class CompareAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the backends went, in their order."""

    prompt: str
    backends: list[str]
    total_duration_ms: _Duration
    results: list[PartAnswer]
    judge: Annotated[JudgeAnswer | None, Meta(description="What the judge said, where there was one to hear.")] = None
    run_id: _RunId = ""
    warnings: _Warnings = ()


class ParallelSummary(ParallelAnswer, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="summary"):
    """The last line of a stream of tasks."""


class ChainSummary(ChainAnswer, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="summary"):
    """The last line of a stream of steps."""


class CompareSummary(CompareAnswer, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="summary"):
    """The last line of a stream of backends."""


Answer = ParallelAnswer | ChainAnswer | CompareAnswer


def whole(summary: Summary) -> bytes:
    """Give the answer."""
    return _encoder.encode(answer(summary))


def last_line(summary: Summary) -> bytes:
    """Give the answer as the last line of a stream."""
    told = answer(summary)
    match told:
        case ParallelAnswer():
            line = ParallelSummary(**asdict(told))
        case ChainAnswer():
            line = ChainSummary(**asdict(told))
        case CompareAnswer():
            line = CompareSummary(**asdict(told))
    return _encoder.encode(line) + b"\n"


def answer(summary: Summary) -> Answer:
    """Say how an orchestration went."""
    is_chain = isinstance(summary.plan, Chain)
    results = [_part(result, is_chain) for result in summary.results]
    duration_ms = round(summary.duration_s * 1000)
    match summary.plan:
        case Parallel(parts=parts):
            return ParallelAnswer(
                total_tasks=len(parts),
                completed=summary.completed,
                failed=summary.failed,
                cancelled=summary.cancelled,
                total_duration_ms=duration_ms,
                results=results,
                run_id=summary.run_id,
                warnings=summary.warnings,
            )
        case Chain(parts=parts):
            failed = summary.first_failed
            return ChainAnswer(
                total_steps=len(parts),
                completed_steps=summary.completed,
                failed_step=0 if failed is None else failed + 1,
                total_duration_ms=duration_ms,
                results=results,
                run_id=summary.run_id,
                warnings=summary.warnings,
            )
        case Compare(parts=parts, prompt=prompt):
            return CompareAnswer(
                prompt=prompt,
                backends=[part.request.backend for part in parts],
                total_duration_ms=duration_ms,
                results=results,
                judge=_judge(summary.verdict, parts) if summary.verdict else None,
                run_id=summary.run_id,
                warnings=summary.warnings,
            )


def tag_of(index: int, part: Part, is_step: bool) -> unified.Tag:
    """Give what the events of a part are tagged with."""
    return unified.Tag(index, index + 1 if is_step else None, part.name or None, part.id or None)


def stream_of(headers: Mapping[str, str]) -> str:
    """Give the media type of the stream that is asked for; empty where it is none."""
    accepted = headers.get("accept", "").lower()
    return next((kind for kind in (unified.MEDIA_TYPE, sse.MEDIA_TYPE) if kind in accepted), "")


def _part(result: PartResult, is_step: bool) -> PartAnswer:
    part, change = result.part, result.change
    return PartAnswer(
        **asdict(_prompt(result)),
        index=result.index,
        step=result.index + 1 if is_step else None,
        name=part.name or None,
        id=part.id or None,
        meta=part.meta or None,
        diff=change.diff if change else None,
        diff_is_cut=bool(change and change.is_cut),
        files=change.files if change else None,
        branch=change.branch if change else None,
        worktree=change.path if change and change.kept else None,
        check=result.check,
        warnings=change.warnings if change else (),
    )


def _judge(verdict: Verdict, parts: tuple[Part, ...]) -> JudgeAnswer:
    best = verdict.best
    return JudgeAnswer(
        **asdict(_prompt(verdict.told)),
        best=best,
        best_backend=None if best is None else parts[best].request.backend,
        reasons=verdict.reasons,
        order=verdict.order,
    )


def _prompt(result: PartResult) -> PromptAnswer:
    request = result.part.request
    facts = Facts(
        run_id=result.run_id,
        backend=request.backend,
        session_id=result.session_id,
        model=result.model,
        duration_s=result.duration_s,
    )
    return answered(request, result.result, facts)


class PartLines:
    """Gives the lines of all parts of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._is_chain = isinstance(plan, Chain)
        self._encoders: dict[int, UnifiedEncoder] = {}

    def heard(self, index: int, part: Part, batch: Iterable[Logged], facts: Callable[[], Facts]) -> Iterator[bytes]:
        """Give the lines of events of a run, one by one; `facts` tells of the run, and is asked once."""
        encoder = self._encoders.get(index)
        if encoder is None:
            encoder = self._encoders[index] = UnifiedEncoder(facts(), self._tag(index, part))
        return (encoder.feed(event, at) for _, at, event in batch)

    def ended(self, result: PartResult, at: float) -> bytes:
        """Give what stands for the events of a part that had none, since its agent was not started."""
        if self._encoders.pop(result.index, None):
            return b""
        request, ending = result.part.request, result.result.ending
        facts = Facts(run_id="", backend=request.backend, model=request.model, workdir=request.workdir or "")
        encoder = UnifiedEncoder(facts, self._tag(result.index, result.part))
        shown = (RunStarted(request.model), TextDelta(result.result.text), ending)
        events = (ending,) if isinstance(ending, RunFailed) else shown
        return b"".join(encoder.feed(event, at) for event in events)

    def _tag(self, index: int, part: Part) -> Tag:
        return Tag(name=part.name) if part.is_judge else tag_of(index, part, self._is_chain)


def broken_off(run_id: str, error: ClinvkError, at: float) -> bytes:
    """Give the last line of a stream that cannot go on: an error that is of no part."""
    return UnifiedEncoder(Facts(run_id=run_id, backend="")).feed(RunFailed(error.code, error.message), at)
