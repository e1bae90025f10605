"""Answers to parallel, chain and compare requests: one JSON object, or the last line of a stream."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from clinvk.dialects import sse
from clinvk.dialects.rest import unified
from clinvk.dialects.rest.rest import PromptAnswer, prompt_answer
from clinvk.dialects.rest.unified import UnifiedEncoder
from clinvk.types import orchestration
from clinvk.types.errors import ClinvkError
from clinvk.types.events import RunFailed
from clinvk.types.orchestration import ChangedFile, Check, JudgeVerdict, Part, PartResult, Summary
from clinvk.types.run import RunFacts

_Warnings = Annotated[tuple[str, ...], Meta(description="Probable mistakes in the request.")]
_RunId = Annotated[str, Meta(description="The run of the orchestration; absent in a dry run.")]
_Node = Annotated[str, Meta(description="The node of the cluster; absent without a cluster.")]
_Duration = Annotated[int, Meta(description="Total duration in milliseconds.")]

_encoder = msgspec.json.Encoder()


class PartAnswer(PromptAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of one task, step or backend."""

    index: Annotated[int, Meta(description="Index of the part, from 0.")]
    step: Annotated[int | None, Meta(description="Number of a chain's step, from 1.")] = None
    name: Annotated[str | None, Meta(description="As in the request.")] = None
    id: Annotated[str | None, Meta(description="As in the request.")] = None
    meta: Annotated[dict[str, object] | None, Meta(description="As in the request.")] = None
    diff: Annotated[str | None, Meta(description="The changes in the worktree, as a git diff.")] = None
    diff_is_cut: Annotated[bool, Meta(description="The diff is truncated.")] = False
    files: Annotated[tuple[ChangedFile, ...] | None, Meta(description="The changed files.")] = None
    branch: Annotated[str | None, Meta(description="The branch of the worktree.")] = None
    worktree: Annotated[str | None, Meta(description="The path of the worktree; null if unchanged.")] = None
    check: Annotated[Check | None, Meta(description="The result of `check` in the worktree.")] = None
    warnings: Annotated[tuple[str, ...], Meta(description="Files that worktree or diff lack.")] = ()
    node: _Node = ""


class ParallelAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of the tasks, in order."""

    total_tasks: int
    completed: Annotated[int, Meta(description="Number of successful tasks.")]
    failed: Annotated[int, Meta(description="Number of failed tasks, cancelled ones included.")]
    total_duration_ms: _Duration
    results: list[PartAnswer]
    cancelled: Annotated[int, Meta(description="Number of cancelled tasks; absent if none.")] = 0
    run_id: _RunId = ""
    warnings: _Warnings = ()


class ChainAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of the steps that ran."""

    total_steps: int
    completed_steps: Annotated[int, Meta(description="Number of successful steps.")]
    failed_step: Annotated[int, Meta(description="Number of the first failed step, from 1; 0 if none.")]
    total_duration_ms: _Duration
    results: list[PartAnswer]
    run_id: _RunId = ""
    warnings: _Warnings = ()


class JudgeAnswer(PromptAnswer, frozen=True, kw_only=True, omit_defaults=True):
    """The verdict of the judge and the outcome of its run; in a dry run only the judge's request."""

    best: Annotated[int | None, Meta(description="The `index` of the best answer, or null.")]
    best_backend: Annotated[str | None, Meta(description="The backend of the best answer.")]
    reasons: Annotated[str, Meta(description="The judge's reasons; A, B, … are the answers in `order`.")]
    order: Annotated[tuple[int, ...], Meta(description="The indices of the answers A, B, …")]
    node: _Node = ""


class CompareAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of the backends, in order."""

    prompt: str
    backends: list[str]
    total_duration_ms: _Duration
    results: list[PartAnswer]
    judge: Annotated[JudgeAnswer | None, Meta(description="The verdict of the judge, if any.")] = None
    run_id: _RunId = ""
    warnings: _Warnings = ()


class ParallelSummary(ParallelAnswer, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="summary"):
    """The last line of a stream of tasks."""


class ChainSummary(ChainAnswer, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="summary"):
    """The last line of a stream of steps."""


class CompareSummary(CompareAnswer, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="summary"):
    """The last line of a stream of backends."""


Answer = ParallelAnswer | ChainAnswer | CompareAnswer


def encoded(summary: Summary) -> bytes:
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
        node=result.node,
    )


def _judge(verdict: JudgeVerdict, parts: tuple[Part, ...]) -> JudgeAnswer:
    best = verdict.best
    return JudgeAnswer(
        **asdict(_prompt(verdict.result)),
        best=best,
        best_backend=None if best is None else parts[best].request.backend,
        reasons=verdict.reasons,
        order=verdict.order,
        node=verdict.result.node,
    )


def _prompt(result: PartResult) -> PromptAnswer:
    request = result.part.request
    facts = RunFacts(run_id=result.run_id, backend=request.backend, session_id=result.session_id, model=result.model)
    return prompt_answer(request, result.result, facts, result.duration_s)


def stream_type(headers: Mapping[str, str]) -> str:
    """Return the media type of the requested stream; empty if the client wants one JSON object."""
    accepted = headers.get("accept", "").lower()
    return next((kind for kind in (unified.MEDIA_TYPE, sse.MEDIA_TYPE) if kind in accepted), "")


def error_line(error: ClinvkError, at: float) -> bytes:
    """Return the last line of an interrupted stream: an error that belongs to no part."""
    return UnifiedEncoder(RunFacts(run_id="", backend="")).feed(RunFailed(error.code, error.message), at)
