"""The bodies of parallel, chain and compare, made of those of prompts; and the plans that they become."""

from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects.prompt_body import Asked, Name, PromptBody, Seconds, request_of
from clinvk.errors import ClinvkError, InvalidRequest, placed
from clinvk.plan import Chain, Compare, Isolation, Parallel, Part
from clinvk.request import RunRequest

MAX_PARTS = 100_000

_AtOnce = Annotated[int, Meta(ge=1, le=2_147_483_647)]
_Where = Annotated[
    Isolation | None,
    Meta(
        description="worktree: the agent works in a git worktree and branch of its own, made from the HEAD of the "
        "directory's repository; what it changed comes as `diff`."
    ),
]
_All = Annotated[bool | None, Meta(description="Run nothing; give the exact commands as `output`.")]


class PartBody(PromptBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task of a parallel, or one step of a chain: a prompt, and what the caller calls it.

    `output_format` has no effect, and `detach` is refused: the whole is one answer, or one stream.
    """

    id: Annotated[
        Name | None, Meta(description="Comes back with the result and its events; no two tasks have the same.")
    ] = None
    name: Annotated[
        Name | None,
        Meta(description="Comes back too; of a step, what `{{steps.NAME}}` means, so that no two have the same."),
    ] = None
    meta: Annotated[dict[str, object] | None, Meta(description="Comes back with the result.")] = None
    isolation: _Where = None


class ParallelBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks that do not wait for each other."""

    tasks: Annotated[list[PartBody], Meta(min_length=1, max_length=MAX_PARTS, description="Prompts, one a task.")]
    max_parallel: Annotated[
        _AtOnce | None, Meta(description="Agents at once; default `parallel.max_workers`, within the server's slots.")
    ] = None
    fail_fast: Annotated[
        bool | None, Meta(description="The first failure ends the others; default `parallel.fail_fast`.")
    ] = None
    dry_run: _All = None


class ChainBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Steps one after the other.

    In a prompt `{{previous}}` is the answer of the step before (empty in the first), `{{steps.NAME}}` that of an
    earlier step, `{{input}}` the `input`; all other braces stay as they are, and so do those in what is filled in.
    """

    steps: Annotated[
        Annotated[list[PartBody], Meta(min_length=1, max_length=MAX_PARTS)] | None,
        Meta(description="Prompts, one a step; needed without `resume_from`."),
    ] = None
    input: Annotated[str | None, Meta(description="What `{{input}}` stands for.")] = None
    stop_on_failure: Annotated[bool | None, Meta(description="No step is run after one that failed.")] = None
    pass_working_dir: Annotated[
        bool | None,
        Meta(description="A step that names no directory works where the one before did, also in its worktree."),
    ] = None
    resume_from: Annotated[
        Name | None, Meta(description="The `run_id` of a chain, to go on from its first step that is not finished.")
    ] = None
    dry_run: _All = None


class BackendBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of those that are compared, where it has a model or isolation of its own."""

    backend: Annotated[Name, Meta(description="The agent CLI.")]
    model: Annotated[Name | None, Meta(description="Beats the `model` of the body.")] = None
    name: Annotated[Name | None, Meta(description="Comes back with the result and its events.")] = None
    isolation: _Where = None


class JudgeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One more agent, which names the better answer; it is not told who gave which, and sees them in any order."""

    backend: Annotated[Name, Meta(description="The agent CLI that judges.")]
    prompt: Annotated[str | None, Meta(description="What counts, besides what the prompt itself asks.")] = None
    model: Annotated[Name | None, Meta(description="A model of that CLI, or an alias.")] = None
    timeout_secs: Annotated[Seconds | None, Meta(description="Seconds that it may take.")] = None


class CompareBody(Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prompt for several backends, side by side."""

    backends: Annotated[
        list[Name | BackendBody],
        Meta(min_length=1, max_length=100, description="Names, or objects.", examples=[["claude", "codex"]]),
    ]
    sequential: Annotated[bool | None, Meta(description="One after the other.")] = None
    isolation: _Where = None
    check: Annotated[
        str | None, Meta(description="A shell command that is run in each worktree; 0 is passed. Needs `isolation`.")
    ] = None
    judge: Annotated[JudgeBody | None, Meta(description="One more agent that names the better answer.")] = None


def parallel(body: ParallelBody) -> Parallel:
    """Give the plan of tasks.

    Raises:
        InvalidRequest: names the field.
    """
    _refuse_twice([task.id for task in body.tasks], "tasks", "id")
    return Parallel(
        parts=_parts(body.tasks, "tasks", body.dry_run), max_parallel=body.max_parallel, fail_fast=body.fail_fast
    )


def chain(body: ChainBody) -> Chain:
    """Give the plan of steps, for a body without `resume_from`.

    Raises:
        InvalidRequest: names the field.
    """
    if body.steps is None:
        raise InvalidRequest("steps is missing", "steps")
    _refuse_twice([step.name for step in body.steps], "steps", "name")
    parts = _parts(body.steps, "steps", body.dry_run)
    if body.pass_working_dir:
        parts = tuple(replace(part, follows=index > 0 and _is_free(part)) for index, part in enumerate(parts))
    return Chain(parts=parts, input=body.input, stop_on_failure=bool(body.stop_on_failure))


def compare(body: CompareBody) -> Compare:
    """Give the plan of backends.

    Raises:
        InvalidRequest: names the field.
    """
    entries = [BackendBody(backend=entry) if isinstance(entry, str) else entry for entry in body.backends]
    for index, entry in enumerate(entries):
        if not entry.backend.strip():
            raise InvalidRequest(f"backends[{index}] is empty", f"backends[{index}]")
    shared = request_of(body, entries[0].backend, None)
    parts = tuple(_compared(body, entry, shared) for entry in entries)
    if body.check and any(part.isolation == "none" for part in parts):
        raise InvalidRequest("check is run in worktrees: isolation must be 'worktree' for each backend", "check")
    return Compare(
        prompt=body.prompt,
        parts=parts,
        sequential=bool(body.sequential),
        check=body.check or "",
        judge=_judge(body, body.judge) if body.judge else None,
    )


def _parts(bodies: list[PartBody], where: str, dry_run: bool | None) -> tuple[Part, ...]:
    return tuple(_part(body, f"{where}[{index}]", dry_run) for index, body in enumerate(bodies))


def _refuse_twice(names: list[str | None], at: str, field: str) -> None:
    """Refuse a name that two parts have: nobody could tell which is meant."""
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name and (before := first.setdefault(name, index)) != index:
            twice = InvalidRequest(f"{field} {name!r} is that of {at}[{before}] already", field)
            raise placed(twice, f"{at}[{index}]")


def _part(body: PartBody, at: str, dry_run: bool | None) -> Part:
    try:
        if body.detach:
            raise InvalidRequest("detach is for a prompt alone", "detach")
        request = request_of(body, body.backend, body.session_id)
    except ClinvkError as exc:
        raise placed(exc, at) from exc
    return Part(
        request=request,
        id=body.id or "",
        name=body.name or "",
        meta=body.meta or {},
        dry_run=bool(dry_run or body.dry_run),
        isolation=body.isolation or "none",
    )


def _is_free(part: Part) -> bool:
    """Say whether a step has no directory of its own."""
    return not part.request.workdir and not part.request.session_id


def _compared(body: CompareBody, entry: BackendBody, shared: RunRequest) -> Part:
    return Part(
        request=replace(shared, backend=entry.backend, model=entry.model or shared.model),
        name=entry.name or "",
        dry_run=bool(body.dry_run),
        isolation=entry.isolation or body.isolation or "none",
    )


def _judge(body: CompareBody, judge: JudgeBody) -> RunRequest:
    """Give the request of an agent that reads, and does nothing else; nobody goes on with its conversation."""
    return RunRequest(
        prompt=judge.prompt or "",
        backend=judge.backend,
        model=judge.model or None,
        workdir=body.workdir or None,
        sandbox_mode="read-only",
        approval_mode="default",
        timeout_s=judge.timeout_secs,
        ephemeral=True,
    )
