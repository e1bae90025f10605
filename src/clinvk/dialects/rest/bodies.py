"""Request bodies of the REST API: a prompt, and parallel, chain and compare requests, which contain prompts."""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects.conversation import MAX_IMAGES, image_of
from clinvk.dialects.dialect import Placement, copy_as
from clinvk.dialects.rest.views import Tags
from clinvk.types.choices import ApprovalMode, Effort, Isolation, OnBudget, OnBusy, OnLimit, SandboxMode
from clinvk.types.errors import ClinvkError, InvalidRequest, with_position
from clinvk.types.orchestration import Chain, Compare, Parallel, Part
from clinvk.types.request import MAX_NAME_CHARS, Dollars, RunRequest, StopTexts, fallback_of
from clinvk.types.session import valid_tag

_Count = Annotated[int, Meta(ge=0, le=2_147_483_647)]
Seconds = Annotated[float, Meta(gt=0, le=604_800)]
_Text = Annotated[str, Meta(extra_json_schema={"pattern": r"^[^\x00]*$"})]
_Directory = Annotated[str, Meta(extra_json_schema={"pattern": r"^/[^\x00]*$"})]
_Texts = Annotated[list[_Text], Meta(max_length=1000)]
Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS, extra_json_schema={"pattern": r"^[^\x00]*$"})]
_NodeName = Annotated[
    Name | None, Meta(description="The node of the cluster to run on, like the header `x-clinvk-node`.")
]
_Labels = Annotated[
    Annotated[list[Name], Meta(max_length=100)] | None,
    Meta(description="Labels that the node must have, in addition to those of the header `x-clinvk-labels`."),
]


class PromptFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt and the options for the run.

    For a missing, null or empty field, the settings of clinvk decide, then the agent's CLI.
    """

    prompt: Annotated[
        str,
        Meta(
            description="The task for the agent.",
            examples=["What does this project do?"],
            extra_json_schema={"pattern": r"[^\s\x1c-\x1f\x85]"},  # what `strip` leaves
        ),
    ]
    images: Annotated[
        Annotated[list[str], Meta(max_length=MAX_IMAGES)] | None,
        Meta(description="PNG, JPEG, GIF or WebP images, as data URLs or base64; addresses are not fetched."),
    ] = None
    model: Annotated[
        Name | None,
        Meta(description="A model name of the CLI, or fast/quick, balanced/default, best/powerful.", examples=["fast"]),
    ] = None
    workdir: Annotated[
        str | None,
        Meta(
            description="Absolute path of the agent's working directory, which must exist.",
            examples=["/srv/project"],
            extra_json_schema={"pattern": r"^(/[^\x00]*)?$"},
        ),
    ] = None
    add_dirs: Annotated[
        Annotated[list[_Directory], Meta(max_length=100)] | None,
        Meta(description="Absolute paths of other directories that the agent may use."),
    ] = None
    approval_mode: Annotated[
        ApprovalMode | Literal[""] | None,
        Meta(description="auto: edit without asking; none: act without asking; always: ask for everything."),
    ] = None
    sandbox_mode: Annotated[
        SandboxMode | Literal[""] | None,
        Meta(description="read-only: no writes; workspace: writes in the agent's directories only; full: no limits."),
    ] = None
    allowed_tools: Annotated[
        _Texts | None,
        Meta(description="Names of the agent's tools that are allowed; null allows all tools."),
    ] = None
    ephemeral: Annotated[bool | None, Meta(description="Keep no record of the conversation.")] = None
    max_turns: Annotated[_Count | None, Meta(description="Maximum number of model requests; 0 means no limit.")] = None
    max_total_tokens: Annotated[
        _Count | None,
        Meta(description="Maximum number of input and output tokens of the run; 0 means no limit.", examples=[200_000]),
    ] = None
    max_cost_usd: Annotated[
        Dollars | None, Meta(description="Maximum cost of the run; 0 means no limit. Claude Code only.", examples=[0.5])
    ] = None
    on_budget: Annotated[
        OnBudget | None, Meta(description="`ask`: a run that has reached one of the two asks whether to continue.")
    ] = None
    max_tokens: Annotated[_Count | None, Meta(description="Advice: no agent CLI has such a limit.")] = None
    effort: Annotated[
        Effort | Literal[""] | None, Meta(description="How hard to think; the nearest supported effort applies.")
    ] = None
    thinking: Annotated[bool | None, Meta(description="Stream the model's thinking, if supported.")] = None
    stop: Annotated[
        StopTexts | None,
        Meta(description="The answer ends before the first of these texts; the agent is stopped."),
    ] = None
    output_schema: Annotated[
        dict[str, object] | None,
        Meta(description="JSON Schema of the answer. The answer is then only JSON, sent in one piece."),
    ] = None
    system_prompt: Annotated[_Text | None, Meta(description="Added to the agent's own system prompt.")] = None
    timeout_secs: Annotated[
        Seconds | None, Meta(description="Seconds from the agent's start; default `server.request_timeout_secs`.")
    ] = None
    verbose: Annotated[bool | None, Meta(description="Include the agent's stderr.")] = None
    warm: Annotated[bool | None, Meta(description="false: start a new agent process. Default true.")] = None
    notify: Annotated[
        Annotated[list[Name], Meta(max_length=100)] | None,
        Meta(description="Names of notification targets of the settings; null means the default."),
    ] = None
    dry_run: Annotated[bool | None, Meta(description="Run nothing; return the command as `output`.")] = None
    extra: Annotated[
        _Texts | None,
        Meta(description="Flags for the agent CLI, one argument each."),
    ] = None
    tags: Annotated[Tags | None, Meta(description="Tags for a new session.")] = None
    metadata: Annotated[dict[str, object] | None, Meta(description="Stored with the session.")] = None


class PromptBody(PromptFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prompt for one agent.

    For a missing, null or empty field, the settings of clinvk decide, then the agent's CLI.
    """

    backend: Annotated[
        Name | None,
        Meta(description="The agent CLI; required without `session_id`.", examples=["claude", "codex"]),
    ] = None
    fallback: Annotated[
        Annotated[list[Name], Meta(max_length=100)] | None,
        Meta(
            description="Agents (`codex`, or `codex/gpt-5` with a model) that take the prompt of a new session if an "
            "agent has used up its limit, is not logged in or is not installed; null means the setting.",
            examples=[["codex", "gemini"]],
        ),
    ] = None
    on_limit: Annotated[
        OnLimit | Literal[""] | None,
        Meta(description="wait: a run with `detach` waits for the reset of a limit that is used up."),
    ] = None
    session_id: Annotated[
        Name | None,
        Meta(description="Id or unique prefix of the session to continue; null starts a session."),
    ] = None
    on_busy: Annotated[
        OnBusy | Literal[""] | None,
        Meta(
            description="If the session has a run in progress: reject (the default), queue (after its end), or steer: "
            "Codex receives the prompt within the turn (202); other runs are interrupted, and the prompt follows."
        ),
    ] = None
    output_format: Annotated[
        Literal["", "default", "text", "json", "stream-json"] | None,
        Meta(description="stream-json returns a stream of events, the others one JSON object."),
    ] = None
    detach: Annotated[
        bool | None,
        Meta(description="The run continues after a disconnect. The header `prefer: respond-async` returns at once."),
    ] = None
    node: _NodeName = None
    labels: _Labels = None


_ARGUMENTS = ("model", "workdir", "add_dirs", "allowed_tools", "system_prompt", "extra", "tags")
"""Fields that may become arguments of a command line, which cannot contain a NUL; the prompt goes over stdin."""


def request_of(body: PromptFields, backend: str | None, session_id: str | None) -> RunRequest:
    """Return the request of a body for a backend, or in a session.

    Raises:
        InvalidRequest: names the field.
    """
    if not body.prompt.strip():
        raise InvalidRequest("prompt is empty", "prompt")
    if not backend and not session_id:
        raise InvalidRequest("backend is missing", "backend")
    if backend and not backend.strip():
        raise InvalidRequest("backend is empty", "backend")
    prompt = body if isinstance(body, PromptBody) else None
    if prompt and prompt.on_limit == "wait" and not prompt.detach:
        raise InvalidRequest("on_limit 'wait' is for a prompt with detach", "on_limit")
    for name, value in (("backend", backend), ("session_id", session_id), *_arguments(body)):
        if value and "\0" in value:
            raise InvalidRequest(f"{name} has a NUL character", name)
    return copy_as(
        RunRequest,
        body,
        skip=(None, ""),
        backend=backend or "",
        session_id=session_id or None,
        images=tuple(image_of(source, None, f"images[{index}]") for index, source in enumerate(body.images or ())),
        add_dirs=tuple(body.add_dirs or ()),
        allowed_tools=None if body.allowed_tools is None else tuple(body.allowed_tools),
        stop=tuple(body.stop or ()),
        extra=tuple(body.extra or ()),
        notify=None if body.notify is None else tuple(body.notify),
        tags=tuple(map(valid_tag, body.tags or ())),
        timeout_s=body.timeout_secs,
        fallback=fallback_of(prompt.fallback) if prompt and prompt.fallback is not None else None,
    )


def _arguments(body: PromptFields) -> Iterator[tuple[str, str | None]]:
    """Yield the name and value of each field that may become an argument."""
    for name in _ARGUMENTS:
        value: str | list[str] | None = getattr(body, name)
        if isinstance(value, list):
            yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))
        else:
            yield name, value


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

    `output_format` has no effect, since the request has only one answer or stream, and `detach`, `node` and `labels`
    are refused, since they belong beside the parts.
    """

    id: Annotated[Name | None, Meta(description="Returned with result and events; unique among the tasks.")] = None
    name: Annotated[
        Name | None,
        Meta(description="Returned as well; for a step, NAME of `{{steps.NAME}}`, and unique."),
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
    node: _NodeName = None
    labels: _Labels = None
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
        bool | None,
        Meta(description="A step without a directory uses the directory or worktree of the previous step."),
    ] = None
    resume_from: Annotated[
        Name | None, Meta(description="The `run_id` of a chain to continue at its first unfinished step.")
    ] = None
    detach: _Detach = None
    node: _NodeName = None
    labels: _Labels = None
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
    node: _NodeName = None
    labels: _Labels = None


def placement(body: PromptBody | ParallelBody | ChainBody | CompareBody) -> Placement:
    """Return what a body asks of its node."""
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


def _part(body: PartBody, at: str, dry_run: bool | None) -> Part:
    try:
        for name in ("detach", "node", "labels"):
            if getattr(body, name):
                raise InvalidRequest(f"{name} belongs beside the parts, not in one", name)
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
        fallback=(),
        workdir=workdir or None,
        sandbox_mode="read-only",
        approval_mode="default",
        timeout_s=judge.timeout_secs,
        ephemeral=True,
    )
