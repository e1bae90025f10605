"""Request bodies of the REST API: a prompt, and parallel, chain and compare requests, which contain prompts."""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects.conversation import MAX_IMAGES, image_of
from clinvk.dialects.dialect import copy_as
from clinvk.dialects.rest.views import Tags
from clinvk.types.errors import ClinvkError, InvalidRequest, with_position
from clinvk.types.orchestration import Chain, Compare, Isolation, Parallel, Part
from clinvk.types.request import (
    MAX_NAME_CHARS,
    ApprovalMode,
    Effort,
    RunRequest,
    SandboxMode,
    StopTexts,
)
from clinvk.types.session import valid_tag

_Count = Annotated[int, Meta(ge=0, le=2_147_483_647)]
Seconds = Annotated[float, Meta(gt=0, le=604_800)]
_Text = Annotated[str, Meta(extra_json_schema={"pattern": r"^[^\x00]*$"})]
_Directory = Annotated[str, Meta(extra_json_schema={"pattern": r"^/[^\x00]*$"})]
Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS, extra_json_schema={"pattern": r"^[^\x00]*$"})]


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt and the options for the run.

    For a field that is left out, null or an empty text, the settings of clinvk decide, then the agent's CLI.
    """

    prompt: Annotated[
        str,
        Meta(
            description="What the agent shall do.",
            examples=["What does this project do?"],
            extra_json_schema={"pattern": r"\S"},
        ),
    ]
    images: Annotated[
        Annotated[list[str], Meta(max_length=MAX_IMAGES)] | None,
        Meta(description="PNG, JPEG, GIF or WebP images, each a data URL or base64; no address is fetched."),
    ] = None
    model: Annotated[
        Name | None,
        Meta(description="A model name of the CLI, or fast/quick, balanced/default, best/powerful.", examples=["fast"]),
    ] = None
    workdir: Annotated[
        str | None,
        Meta(
            description="Absolute path of an existing directory that the agent works in.",
            examples=["/srv/project"],
            extra_json_schema={"pattern": r"^(/[^\x00]*)?$"},
        ),
    ] = None
    add_dirs: Annotated[
        Annotated[list[_Directory], Meta(max_length=100)] | None,
        Meta(description="Absolute paths of further directories that the agent may use."),
    ] = None
    approval_mode: Annotated[
        ApprovalMode | Literal[""] | None,
        Meta(description="auto: edits unasked; none: acts unasked; always: asks for everything."),
    ] = None
    sandbox_mode: Annotated[
        SandboxMode | Literal[""] | None,
        Meta(description="read-only: writes nothing; workspace: in its directories only; full: anywhere."),
    ] = None
    allowed_tools: Annotated[
        Annotated[list[_Text], Meta(max_length=1000)] | None,
        Meta(description="The agent's own tool names that it may use; null is all."),
    ] = None
    ephemeral: Annotated[bool | None, Meta(description="Keep no record of the conversation, here or in the CLI.")] = (
        None
    )
    max_turns: Annotated[_Count | None, Meta(description="Requests to the model, at most; 0 is no limit.")] = None
    max_tokens: Annotated[_Count | None, Meta(description="Advice only: no agent CLI has such a limit.")] = None
    effort: Annotated[
        Effort | Literal[""] | None, Meta(description="How hard to think; a CLI gets the nearest that it has.")
    ] = None
    thinking: Annotated[bool | None, Meta(description="Give the model's thinking, in a stream, where the CLI can.")] = (
        None
    )
    stop: Annotated[
        StopTexts | None,
        Meta(description="Texts before the first of which the answer is cut, and the agent ended."),
    ] = None
    output_schema: Annotated[
        dict[str, object] | None,
        Meta(description="JSON Schema of the answer, which is then JSON and nothing else, and given whole."),
    ] = None
    system_prompt: Annotated[_Text | None, Meta(description="Added to the agent's own system prompt.")] = None
    timeout_secs: Annotated[
        Seconds | None, Meta(description="Seconds from the agent's start; default `server.request_timeout_secs`.")
    ] = None
    verbose: Annotated[bool | None, Meta(description="Give the agent's stderr as well.")] = None
    warm: Annotated[
        bool | None, Meta(description="false: an agent process of its own, not one that was up before. Default true.")
    ] = None
    dry_run: Annotated[bool | None, Meta(description="Run nothing; give the exact command as `output`.")] = None
    extra: Annotated[
        Annotated[list[_Text], Meta(max_length=1000)] | None,
        Meta(description="Flags for the agent CLI itself, each an argument."),
    ] = None
    tags: Annotated[Tags | None, Meta(description="Tags of a session that begins with this prompt.")] = None
    metadata: Annotated[dict[str, object] | None, Meta(description="Kept with the session, for the caller's use.")] = (
        None
    )


class PromptBody(Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prompt for one agent.

    A field that is left out, null or an empty text is decided by the settings of clinvk, then by the agent's CLI.
    """

    backend: Annotated[
        Name | None,
        Meta(description="The agent CLI to run; needed unless `session_id` says it.", examples=["claude", "codex"]),
    ] = None
    session_id: Annotated[
        Name | None,
        Meta(description="The session to continue, in its directory; a unique prefix will do. Without it one begins."),
    ] = None
    output_format: Annotated[
        Literal["", "default", "text", "json", "stream-json"] | None,
        Meta(description="stream-json answers with a stream of events, the others with one JSON object."),
    ] = None
    detach: Annotated[
        bool | None,
        Meta(
            description="The run goes on when its client leaves. With the header `prefer: respond-async` the answer "
            "does not wait for it."
        ),
    ] = None


_ARGUMENTS = ("model", "workdir", "add_dirs", "allowed_tools", "system_prompt", "extra", "tags")
"""Fields that may become arguments of a command line, which cannot contain a NUL; the prompt goes over stdin."""


def request_of(asked: Asked, backend: str | None, session_id: str | None) -> RunRequest:
    """Return the request of a body for a backend, or in a session.

    Raises:
        InvalidRequest: names the field.
    """
    if not asked.prompt.strip():
        raise InvalidRequest("prompt is empty", "prompt")
    if not backend and not session_id:
        raise InvalidRequest("backend is missing", "backend")
    if backend and not backend.strip():
        raise InvalidRequest("backend is empty", "backend")
    for name, value in (("backend", backend), ("session_id", session_id), *_arguments(asked)):
        if value and "\0" in value:
            raise InvalidRequest(f"{name} has a NUL character", name)
    return copy_as(
        RunRequest,
        asked,
        skip=(None, ""),
        backend=backend or "",
        session_id=session_id or None,
        images=tuple(image_of(source, None, f"images[{index}]") for index, source in enumerate(asked.images or ())),
        add_dirs=tuple(asked.add_dirs or ()),
        allowed_tools=None if asked.allowed_tools is None else tuple(asked.allowed_tools),
        stop=tuple(asked.stop or ()),
        extra=tuple(asked.extra or ()),
        tags=tuple(map(valid_tag, asked.tags or ())),
        timeout_s=asked.timeout_secs,
    )


def _arguments(asked: Asked) -> Iterator[tuple[str, str | None]]:
    """Yield the name and value of each field that may become an argument."""
    for name in _ARGUMENTS:
        value: str | list[str] | None = getattr(asked, name)
        if isinstance(value, list):
            yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))
        else:
            yield name, value


MAX_PARTS = 10_000

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
    parts = tuple(_part(step, f"steps[{index}]", body.dry_run) for index, step in enumerate(body.steps))
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
            request=replace(shared, backend=entry.backend, model=entry.model or shared.model),
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


def _part(body: PartBody, at: str, dry_run: bool | None) -> Part:
    try:
        if body.detach:
            raise InvalidRequest("detach is for a prompt alone", "detach")
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
    )


def judge_request(judge: JudgeBody, workdir: str | None) -> RunRequest:
    """Return the request of a judge, an agent that only reads and keeps no session."""
    return RunRequest(
        prompt=judge.prompt or "",
        backend=judge.backend,
        model=judge.model or None,
        workdir=workdir or None,
        sandbox_mode="read-only",
        approval_mode="default",
        timeout_s=judge.timeout_secs,
        ephemeral=True,
    )
