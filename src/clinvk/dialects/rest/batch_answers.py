"""Answers to parallel, chain and compare requests: one JSON object, or the last line of a stream."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from clinvk.dialects import sse
from clinvk.dialects.dialect import RunFacts
from clinvk.dialects.rest import unified
from clinvk.dialects.rest.rest import PromptAnswer, answered
from clinvk.dialects.rest.unified import UnifiedEncoder
from clinvk.types import orchestration
from clinvk.types.errors import ClinvkError
from clinvk.types.events import RunFailed
from clinvk.types.orchestration import ChangedFile, Check, JudgeVerdict, Part, PartResult, Summary

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
    """Return the JSON of the answer."""
    return _encoder.encode(answer(summary))


def last_line(summary: Summary) -> bytes:
    """Return the answer as the last line of a stream."""
    fields = asdict(answer(summary))
    kinds = {"parallel": ParallelSummary, "chain": ChainSummary, "compare": CompareSummary}
    return _encoder.encode(kinds[summary.plan.kind](**fields)) + b"\n"


def answer(summary: Summary) -> Answer:
    """Return the outcome of an orchestration in the form of the REST API."""
    plan = summary.plan
    shared: dict[str, Any] = {
        "total_duration_ms": round(summary.duration_s * 1000),
        "results": [part_answer(result, plan.kind) for result in summary.results],
        "run_id": summary.run_id,
        "warnings": summary.warnings,
    }
    match plan:
        case orchestration.Parallel(parts=parts):
            counts = {name: getattr(summary, name) for name in ("completed", "failed", "cancelled")}
            return ParallelAnswer(**shared | counts, total_tasks=len(parts))
        case orchestration.Chain(parts=parts):
            failed = summary.first_failed
            step = failed.index + 1 if failed else 0
            return ChainAnswer(**shared, total_steps=len(parts), completed_steps=summary.completed, failed_step=step)
        case orchestration.Compare(parts=parts, prompt=prompt):
            judge = _judge(summary.verdict, parts) if summary.verdict else None
            backends = [part.request.backend for part in parts]
            return CompareAnswer(**shared, prompt=prompt, backends=backends, judge=judge)


def part_answer(result: PartResult, kind: orchestration.Kind) -> PartAnswer:
    """Return the outcome of one part."""
    part, change = result.part, result.change
    return PartAnswer(
        **asdict(_prompt(result)),
        index=result.index,
        step=result.index + 1 if kind == "chain" else None,
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


def _judge(verdict: JudgeVerdict, parts: tuple[Part, ...]) -> JudgeAnswer:
    best = verdict.best
    return JudgeAnswer(
        **asdict(_prompt(verdict.result)),
        best=best,
        best_backend=None if best is None else parts[best].request.backend,
        reasons=verdict.reasons,
        order=verdict.order,
    )


def _prompt(result: PartResult) -> PromptAnswer:
    request = result.part.request
    facts = RunFacts(
        run_id=result.run_id,
        backend=request.backend,
        session_id=result.session_id,
        model=result.model,
        duration_s=result.duration_s,
    )
    return answered(request, result.result, facts)


def stream_type(headers: Mapping[str, str]) -> str:
    """Return the media type of the requested stream; empty if the client wants one JSON object."""
    accepted = headers.get("accept", "").lower()
    return next((kind for kind in (unified.MEDIA_TYPE, sse.MEDIA_TYPE) if kind in accepted), "")


def error_line(run_id: str, error: ClinvkError, at: float) -> bytes:
    """Return the last line of an interrupted stream: an error that belongs to no part."""
    return UnifiedEncoder(RunFacts(run_id=run_id, backend="")).feed(RunFailed(error.code, error.message), at)
