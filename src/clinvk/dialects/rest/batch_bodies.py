"""Request bodies of the REST API for several agents: parallel, chain and compare requests, which contain prompts."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects.rest.bodies import Labels, Name, NodeName, PromptBody, PromptFields, Seconds, request_of
from clinvk.types.choices import Isolation
from clinvk.types.errors import ClinvkError, InvalidRequest, with_position
from clinvk.types.orchestration import Chain, Compare, Parallel, Part
from clinvk.types.request import Placement, RunRequest

MAX_PARTS = 10_000

_AtOnce = Annotated[int, Meta(ge=1, le=2_147_483_647)]
_Detach = Annotated[
    bool | None,
    Meta(description="The agents continue after a disconnect. The header `prefer: respond-async` returns at once."),
]
_Where = Annotated[
    Isolation | None,
    Meta(
        description="worktree: the agent works in a new git worktree and branch from the HEAD of the directory's "
        "repository; the result has the changes as `diff`."
    ),
]
_All = Annotated[bool | None, Meta(description="Run nothing; return the commands as `output`.")]


class PartBody(PromptBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task of a parallel request, or one step of a chain.

    `output_format` has no effect, since the request has only one answer or stream, and `detach` is refused, since it
    belongs beside the parts. So do `node` and `labels` of a chain, whose steps run on one node.
    """

    id: Annotated[Name | None, Meta(description="Returned with result and events; unique among the tasks.")] = None
    name: Annotated[
        Name | None, Meta(description="Returned as well; for a step, NAME of `{{steps.NAME}}`, and unique.")
    ] = None
    meta: Annotated[dict[str, object] | None, Meta(description="Returned with the result.")] = None
    isolation: _Where = None


class ParallelBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Independent tasks."""

    tasks: Annotated[list[PartBody], Meta(min_length=1, max_length=MAX_PARTS, description="One prompt per task.")]
    max_parallel: Annotated[_AtOnce | None, Meta(description="Concurrent agents; default `parallel.max_workers`.")] = (
        None
    )
    fail_fast: Annotated[bool | None, Meta(description="Stop at the first failure; default `parallel.fail_fast`.")] = (
        None
    )
    detach: _Detach = None
    node: NodeName = None
    labels: Labels = None
    dry_run: _All = None


class ChainBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps that run in order.

    A prompt may contain `{{previous}}` (the answer of the previous step, empty in the first step), `{{steps.NAME}}`
    (the answer of an earlier step) and `{{input}}`. Other braces stay unchanged, also in the inserted texts.
    """

    steps: Annotated[
        Annotated[list[PartBody], Meta(min_length=1, max_length=MAX_PARTS)] | None,
        Meta(description="One prompt per step; required without `resume_from`."),
    ] = None
    input: Annotated[str | None, Meta(description="The value of `{{input}}`.")] = None
    stop_on_failure: Annotated[bool | None, Meta(description="A failure skips the remaining steps.")] = None
    pass_working_dir: Annotated[
        bool | None, Meta(description="A step without a directory uses the directory or worktree of the previous step.")
    ] = None
    resume_from: Annotated[
        Name | None, Meta(description="The `run_id` of a chain to continue at its first unfinished step.")
    ] = None
    detach: _Detach = None
    node: NodeName = None
    labels: Labels = None
    dry_run: _All = None


class BackendBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the compared backends, with its own model or isolation."""

    backend: Annotated[Name, Meta(description="The agent CLI.")]
    model: Annotated[Name | None, Meta(description="Overrides the `model` of the body.")] = None
    name: Annotated[Name | None, Meta(description="Returned with result and events.")] = None
    isolation: _Where = None


class JudgeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An agent that chooses the best answer, from anonymous answers in random order."""

    backend: Annotated[Name, Meta(description="The agent CLI of the judge.")]
    prompt: Annotated[str | None, Meta(description="Criteria in addition to those of the prompt.")] = None
    model: Annotated[Name | None, Meta(description="A model name of the CLI, or an alias.")] = None
    timeout_secs: Annotated[Seconds | None, Meta(description="Time limit in seconds.")] = None


class CompareBody(PromptFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prompt for several backends, side by side."""

    backends: Annotated[
        list[Name | BackendBody],
        Meta(min_length=1, max_length=100, description="Names or objects.", examples=[["claude", "codex"]]),
    ]
    sequential: Annotated[bool | None, Meta(description="Run the backends one after another.")] = None
    isolation: _Where = None
    check: Annotated[
        str | None,
        Meta(description="A shell command to run in each worktree; exit code 0 passes. Requires `isolation`."),
    ] = None
    judge: Annotated[JudgeBody | None, Meta(description="An agent that chooses the best answer.")] = None
    detach: _Detach = None
    node: NodeName = None
    labels: Labels = None


def placement(body: PromptBody | ParallelBody | ChainBody | CompareBody) -> Placement:
    """Return the node and the labels in a body."""
    return Placement(body.node or "", frozenset(body.labels or ()))


def parallel(body: ParallelBody) -> Parallel:
    """Return the plan of a parallel body.

    Raises:
        InvalidRequest: names the field.
    """
    _refuse_duplicates([task.id for task in body.tasks], "tasks", "id")
    parts = tuple(_part(task, f"tasks[{index}]", body.dry_run) for index, task in enumerate(body.tasks))
    return Parallel(parts=parts, max_parallel=body.max_parallel, fail_fast=body.fail_fast)


def chain(body: ChainBody) -> Chain:
    """Return the plan of a chain body without `resume_from`.

    Raises:
        InvalidRequest: names the field.
    """
    if body.steps is None:
        raise InvalidRequest("steps is missing", "steps")
    _refuse_duplicates([step.name for step in body.steps], "steps", "name")
    own = ("detach", "node", "labels")
    parts = tuple(_part(step, f"steps[{index}]", body.dry_run, own) for index, step in enumerate(body.steps))
    if body.pass_working_dir:  # a step without a directory follows the previous step
        free = [not part.request.workdir and not part.request.session_id for part in parts]
        parts = tuple(replace(part, follows=index > 0 and free[index]) for index, part in enumerate(parts))
    return Chain(parts=parts, input=body.input, stop_on_failure=bool(body.stop_on_failure))


def compare(body: CompareBody) -> Compare:
    """Return the plan of a compare body.

    Raises:
        InvalidRequest: names the field.
    """
    entries = [BackendBody(backend=entry) if isinstance(entry, str) else entry for entry in body.backends]
    for index, entry in enumerate(entries):
        if not entry.backend.strip():
            raise InvalidRequest(f"backends[{index}] is empty", f"backends[{index}]")
    shared = request_of(body, entries[0].backend, None)
    parts = tuple(
        Part(
            request=replace(shared, backend=entry.backend, model=entry.model or shared.model, fallback=()),
            name=entry.name or "",
            dry_run=bool(body.dry_run),
            isolation=entry.isolation or body.isolation or "none",
        )
        for entry in entries
    )
    if body.check and any(part.isolation == "none" for part in parts):
        raise InvalidRequest("check is run in worktrees: isolation must be 'worktree' for each backend", "check")
    return Compare(
        prompt=body.prompt,
        parts=parts,
        sequential=bool(body.sequential),
        check=body.check or "",
        judge=judge_request(body.judge, body.workdir) if body.judge else None,
    )


def _refuse_duplicates(names: list[str | None], at: str, field: str) -> None:
    """Refuse two parts with the same name, which would be ambiguous."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name and (before := first.setdefault(name, index)) != index:
            error = InvalidRequest(f"{field} {name!r} is that of {at}[{before}] already", field)
            raise with_position(error, f"{at}[{index}]")


def _part(body: PartBody, at: str, dry_run: bool | None, refused: Sequence[str] = ("detach",)) -> Part:
    try:
        for name in refused:
            if getattr(body, name):
                whole = at.partition("[")[0]
                raise InvalidRequest(f"{name} is a field of the whole request: set it beside {whole}", name)
        request = request_of(body, body.backend, body.session_id)
    except ClinvkError as exc:
        raise with_position(exc, at) from exc
    return Part(
        request=request,
        id=body.id or "",
        name=body.name or "",
        meta=body.meta or {},
        dry_run=bool(dry_run or body.dry_run),
        isolation=body.isolation or "none",
        placement=placement(body),
    )


def judge_request(judge: JudgeBody, workdir: str | None) -> RunRequest:
    """Return the request of a judge, an agent that only reads and keeps no session."""
    return RunRequest(
        prompt=judge.prompt or "",
        backend=judge.backend,
        model=judge.model or None,
        fallback=(),
        workdir=workdir or None,
        sandbox_mode="read-only",
        approval_mode="default",
        timeout_s=judge.timeout_secs,
        ephemeral=True,
    )
