"""The request body of a prompt in the REST API."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects.conversation import MAX_IMAGES, image_of
from clinvk.dialects.dialect import copy_as
from clinvk.dialects.rest.views import Tags
from clinvk.types.allowed_values import NO_NUL, NOT_BLANK
from clinvk.types.choices import ApprovalMode, Effort, Isolation, OnBudget, OnBusy, OnLimit, SandboxMode
from clinvk.types.errors import InvalidRequest
from clinvk.types.record import valid_tag
from clinvk.types.request import MAX_NAME_CHARS, Dollars, RunRequest, StopTexts, fallback_of

_Count = Annotated[int, Meta(ge=0, le=2_147_483_647)]
Seconds = Annotated[float, Meta(gt=0, le=604_800)]
_Text = Annotated[str, Meta(extra_json_schema={"pattern": NO_NUL})]
_Directory = Annotated[str, Meta(extra_json_schema={"pattern": r"^/[^\x00]*$"})]
_Texts = Annotated[tuple[_Text, ...], Meta(max_length=1000)]
Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS, pattern=NO_NUL)]
NodeName = Annotated[
    Name | None, Meta(description="The node of the cluster to run on, like the header `x-clinvk-node`.")
]
Labels = Annotated[
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
            extra_json_schema={"pattern": NOT_BLANK},
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
        Annotated[tuple[_Directory, ...], Meta(max_length=100)] | None,
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
        _Texts | None, Meta(description="Names of the agent's tools that are allowed; null allows all tools.")
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
        StopTexts | None, Meta(description="The answer ends before the first of these texts; the agent is stopped.")
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
        Annotated[tuple[Name, ...], Meta(max_length=100)] | None,
        Meta(description="Names of notification targets of the settings; null means the default."),
    ] = None
    dry_run: Annotated[bool | None, Meta(description="Run nothing; return the command as `output`.")] = None
    extra: Annotated[_Texts | None, Meta(description="Flags for the agent CLI, one argument each.")] = None
    tags: Annotated[Tags | None, Meta(description="Tags for a new session.")] = None
    metadata: Annotated[dict[str, object] | None, Meta(description="Stored with the session.")] = None


class PromptBody(PromptFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prompt for one agent.

    For a missing, null or empty field, the settings of clinvk decide, then the agent's CLI.
    """

    backend: Annotated[
        Name | None, Meta(description="The agent CLI; required without `session_id`.", examples=["claude", "codex"])
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
        Name | None, Meta(description="Id or unique prefix of the session to continue; null starts a session.")
    ] = None
    continue_with: Annotated[
        bool | None,
        Meta(description="`backend`, or an agent of `fallback`, may continue a session of another agent."),
    ] = None
    isolation: Annotated[
        Isolation | None,
        Meta(description="worktree: a new session works in its own git worktree, from the HEAD of the repository."),
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
    node: NodeName = None
    labels: Labels = None


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
    return copy_as(
        RunRequest,
        body,
        skip=(None, ""),
        backend=backend or "",
        session_id=session_id or None,
        images=tuple(image_of(source, None, f"images[{index}]") for index, source in enumerate(body.images or ())),
        tags=tuple(map(valid_tag, body.tags or ())),
        timeout_s=body.timeout_secs,
        isolation=(body.isolation if type(body) is PromptBody else None) or "none",  # an orchestration isolates parts
        fallback=fallback_of(prompt.fallback) if prompt and prompt.fallback is not None else None,
    )
