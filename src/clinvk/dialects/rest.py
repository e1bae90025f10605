"""The REST dialect, clinvk's own: `POST /api/v1/prompt`, problem documents (RFC 9457), NDJSON streams."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects import strict, unified
from clinvk.dialects.base import (
    BodyTooLarge,
    BodyTooSlow,
    Call,
    DirectoryNotAllowed,
    Facts,
    ForeignOrigin,
    KeyRefused,
    MethodNotAllowed,
    NoSuchPath,
    NotCancellable,
    WrongMediaType,
)
from clinvk.dialects.conversation import image_of
from clinvk.dialects.records import Tags
from clinvk.errors import (
    AgentFailed,
    AmbiguousId,
    BackendUnavailable,
    ClinvkError,
    InvalidRequest,
    NotResumable,
    QueueFull,
    RunNotFound,
    SessionBusy,
    SessionError,
    SessionNotFound,
    ShuttingDown,
    StoreUnavailable,
    TimedOut,
    Unsupported,
)
from clinvk.events import RunFailed, RunFinished, StopReason, Usage
from clinvk.request import ApprovalMode, Effort, RunRequest, SandboxMode
from clinvk.result import RunResult

_Count = Annotated[int, Meta(ge=0, le=2_147_483_647)]
_Seconds = Annotated[float, Meta(gt=0, le=604_800)]
_StopText = Annotated[str, Meta(min_length=1)]


class PromptBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prompt for one agent.

    A field that is left out, null or an empty text is decided by the settings of clinvk, then by the agent's CLI.
    """

    prompt: Annotated[str, Meta(description="What the agent shall do.", examples=["What does this project do?"])]
    backend: Annotated[
        str | None,
        Meta(description="The agent CLI to run; needed unless `session_id` says it.", examples=["claude", "codex"]),
    ] = None
    images: Annotated[
        Annotated[list[str], Meta(max_length=100)] | None,
        Meta(description="PNG, JPEG, GIF or WebP images, each a data URL or base64; no address is fetched."),
    ] = None
    model: Annotated[
        str | None,
        Meta(description="A model name of the CLI, or fast/quick, balanced/default, best/powerful.", examples=["fast"]),
    ] = None
    workdir: Annotated[
        str | None,
        Meta(description="Absolute path of an existing directory that the agent works in.", examples=["/srv/project"]),
    ] = None
    add_dirs: Annotated[
        list[str] | None, Meta(description="Absolute paths of further directories that the agent may use.")
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
        list[str] | None, Meta(description="The agent's own tool names that it may use; null is all.")
    ] = None
    ephemeral: Annotated[bool | None, Meta(description="Keep no record of the conversation, here or in the CLI.")] = (
        None
    )
    output_format: Annotated[
        Literal["", "default", "text", "json", "stream-json"] | None,
        Meta(description="stream-json answers with a stream of events, the others with one JSON object."),
    ] = None
    max_turns: Annotated[_Count | None, Meta(description="Requests to the model, at most; 0 is no limit.")] = None
    max_tokens: Annotated[_Count | None, Meta(description="Advice only: no agent CLI has such a limit.")] = None
    effort: Annotated[
        Effort | Literal[""] | None, Meta(description="How hard to think; a CLI gets the nearest that it has.")
    ] = None
    thinking: Annotated[bool | None, Meta(description="Give the model's thinking, in a stream, where the CLI can.")] = (
        None
    )
    stop: Annotated[
        Annotated[list[_StopText], Meta(max_length=100)] | None,
        Meta(description="Texts before the first of which the answer is cut, and the agent ended."),
    ] = None
    output_schema: Annotated[
        dict[str, object] | None,
        Meta(description="JSON Schema of the answer, which is then JSON and nothing else, and given whole."),
    ] = None
    system_prompt: Annotated[str | None, Meta(description="Added to the agent's own system prompt.")] = None
    session_id: Annotated[
        str | None,
        Meta(description="The session to continue, in its directory; a unique prefix will do. Without it one begins."),
    ] = None
    detach: Annotated[
        bool | None,
        Meta(
            description="The run goes on when its client leaves. With the header `prefer: respond-async` the answer "
            "does not wait for it."
        ),
    ] = None
    timeout_secs: Annotated[
        _Seconds | None, Meta(description="Seconds from the agent's start; default `server.request_timeout_secs`.")
    ] = None
    verbose: Annotated[bool | None, Meta(description="Give the agent's stderr as well.")] = None
    dry_run: Annotated[bool | None, Meta(description="Run nothing; give the exact command as `output`.")] = None
    extra: Annotated[list[str] | None, Meta(description="Flags for the agent CLI itself, each an argument.")] = None
    tags: Annotated[Tags | None, Meta(description="Tags of a session that begins with this prompt.")] = None
    metadata: Annotated[dict[str, object] | None, Meta(description="Kept with the session, for the caller's use.")] = (
        None
    )


class PromptAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of a prompt. An agent that ran and failed is told here, by `exit_code` and `error`."""

    session_id: Annotated[str | None, Meta(description="The session; null for a run that keeps none.")]
    backend: str
    exit_code: Annotated[int, Meta(description="0 is success; else the agent's own code, 1 where it has none.")]
    duration_ms: Annotated[int, Meta(description="Milliseconds from the agent's start to its end.")]
    output: Annotated[str, Meta(description="The answer; of a failed run what there was of it.")]
    token_usage: Annotated[Usage, Meta(description="Tokens of this run alone; zeros where the agent told none.")]
    run_id: Annotated[str, Meta(description="clinvk's id of this run; absent in a dry run.")] = ""
    error: Annotated[str | None, Meta(description="Why the run failed, in the agent's own words if it had any.")] = None
    error_code: Annotated[str | None, Meta(description="The same as one word, e.g. agent_rate_limited.")] = None
    model: Annotated[str | None, Meta(description="The model, as the agent names it.")] = None
    cost_usd: Annotated[float | None, Meta(description="US dollars, where the agent told it.")] = None
    stop_reason: Annotated[StopReason | None, Meta(description="Why a run that did not fail ended.")] = None
    stop_sequence: Annotated[str | None, Meta(description="The text of `stop` that was found.")] = None
    structured_output: Annotated[
        object, Meta(description="The answer as JSON, with `output_schema`; `output` has it as text.")
    ] = None
    stderr: Annotated[str | None, Meta(description="The agent's stderr, when `verbose`.")] = None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A run that goes on by itself; the header `location` says where to look for it."""

    run_id: str
    session_id: Annotated[str | None, Meta(description="The session; null for a run that keeps none.")]
    state: Annotated[str, Meta(description="queued or running.")]


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request that could not be run (RFC 9457)."""

    type: Annotated[
        str, Meta(description="Where this kind of problem is explained.", examples=["/docs#invalid_request"])
    ]
    title: Annotated[str, Meta(description="The kind of problem.")]
    status: Annotated[int, Meta(description="The HTTP status.")]
    detail: Annotated[str, Meta(description="What failed, the value, and what is allowed.")]
    code: Annotated[str, Meta(description="The kind of problem, for programs.", examples=["invalid_request"])]
    request_id: Annotated[str, Meta(description="The `x-request-id` of the answer.")]
    field: Annotated[
        str | None,
        Meta(description="The place in the body, or the parameter, where the problem has one.", examples=["extra[0]"]),
    ] = None
    candidates: Annotated[
        tuple[str, ...], Meta(description="Some of the ids that begin so, where the one that was given is ambiguous.")
    ] = ()


KINDS: dict[type[ClinvkError], tuple[int, str]] = {
    ClinvkError: (500, "Error inside clinvk"),
    InvalidRequest: (400, "Invalid request"),
    KeyRefused: (401, "API key needed"),
    ForeignOrigin: (403, "Foreign web page"),
    DirectoryNotAllowed: (403, "Directory not allowed"),
    NoSuchPath: (404, "No such path"),
    MethodNotAllowed: (405, "Method not allowed"),
    BodyTooSlow: (408, "Body too slow"),
    BodyTooLarge: (413, "Body too large"),
    WrongMediaType: (415, "Body not declared as JSON"),
    Unsupported: (422, "Option not supported by the backend"),
    BackendUnavailable: (404, "Backend not available"),
    SessionNotFound: (404, "No such session"),
    RunNotFound: (404, "No such run"),
    SessionError: (409, "Session cannot be used"),
    SessionBusy: (409, "Session is busy"),
    NotResumable: (409, "Session cannot be continued"),
    AmbiguousId: (409, "Ambiguous id"),
    NotCancellable: (409, "Run cannot be cancelled"),
    AgentFailed: (502, "Agent failed before it started"),
    QueueFull: (503, "Queue full"),
    ShuttingDown: (503, "Server is stopping"),
    StoreUnavailable: (503, "Sessions cannot be kept"),
    TimedOut: (504, "Timed out"),
}
"""Status and title of each kind of error; a class that is not listed is what its nearest ancestor is."""

_ARGUMENTS = (
    "backend",
    "model",
    "workdir",
    "add_dirs",
    "allowed_tools",
    "system_prompt",
    "session_id",
    "extra",
    "tags",
)
"""What may end up on a command line, which cannot carry a NUL; the prompt goes over stdin."""

_body = msgspec.json.Decoder(PromptBody)
_encoder = msgspec.json.Encoder()


class Rest:
    """The dialect of `/api/v1/prompt`."""

    is_model_api = False
    stream_type = unified.MEDIA_TYPE
    result_type = "application/json"
    error_type = "application/problem+json"
    pulse = unified.PULSE

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Read a prompt body.

        Raises:
            InvalidRequest: names the field.
        """
        asked = strict.decode(body, _body)
        if not asked.prompt.strip():
            raise InvalidRequest("prompt is empty", "prompt")
        if not asked.backend and not asked.session_id:
            raise InvalidRequest("backend is missing", "backend")
        if asked.backend and not asked.backend.strip():
            raise InvalidRequest("backend is empty", "backend")
        _refuse_nul(asked)
        return Call(
            request=RunRequest(
                prompt=asked.prompt,
                backend=asked.backend or "",
                model=asked.model or None,
                system_prompt=asked.system_prompt or None,
                session_id=asked.session_id or None,
                workdir=asked.workdir or None,
                add_dirs=tuple(asked.add_dirs or ()),
                approval_mode=asked.approval_mode or None,
                sandbox_mode=asked.sandbox_mode or None,
                allowed_tools=None if asked.allowed_tools is None else tuple(asked.allowed_tools),
                max_turns=asked.max_turns,
                max_tokens=asked.max_tokens,
                effort=asked.effort or None,
                thinking=bool(asked.thinking),
                stop=tuple(asked.stop or ()),
                images=tuple(
                    image_of(source, None, f"images[{index}]") for index, source in enumerate(asked.images or ())
                ),
                output_schema=asked.output_schema,
                extra=tuple(asked.extra or ()),
                timeout_s=asked.timeout_secs,
                ephemeral=bool(asked.ephemeral),
                verbose=bool(asked.verbose),
                tags=tuple(asked.tags or ()),
                metadata=asked.metadata or {},
            ),
            stream=_wants_stream(asked.output_format, headers),
            dry_run=bool(asked.dry_run),
            detach=bool(asked.detach),
            respond_async=bool(asked.detach) and _prefers_async(headers),
        )

    def encoder(self, call: Call, facts: Facts) -> unified.UnifiedEncoder:
        """Make the encoder of one stream of unified events."""
        return unified.UnifiedEncoder(facts)

    def result(self, call: Call, result: RunResult, facts: Facts) -> bytes:
        """Give the answer of a run that has ended."""
        ending = result.ending
        failed = ending if isinstance(ending, RunFailed) else None
        finished = ending if isinstance(ending, RunFinished) else None
        answer = PromptAnswer(
            session_id=facts.session_id,
            backend=facts.backend,
            exit_code=result.exit_code,
            duration_ms=round(facts.duration_s * 1000),
            output=result.text,
            token_usage=result.usage or Usage(),
            run_id=facts.run_id,
            error=failed.message if failed else None,
            error_code=failed.code if failed else None,
            model=(result.started.model if result.started else None) or facts.model,
            cost_usd=ending.cost_usd,
            stop_reason=finished.stop_reason if finished else None,
            stop_sequence=finished.stop_sequence if finished else None,
            structured_output=finished.structured_output if finished else None,
            stderr=result.stderr if call.request.verbose else None,
        )
        return _encoder.encode(answer)

    def accepted(self, call: Call, facts: Facts, state: str) -> bytes:
        """Give the answer of a run that goes on behind the client's back."""
        return _encoder.encode(Accepted(run_id=facts.run_id, session_id=facts.session_id, state=state))

    def error(self, error: ClinvkError, request_id: str) -> tuple[int, bytes]:
        """Give the problem document of a request that could not be run."""
        status, title = next(KINDS[kind] for kind in type(error).__mro__ if kind in KINDS)
        problem = Problem(
            type=f"/docs#{error.code}",
            title=title,
            status=status,
            detail=error.message,
            code=error.code,
            request_id=request_id,
            field=_field(error),
            candidates=error.candidates if isinstance(error, AmbiguousId) else (),
        )
        return status, _encoder.encode(problem)


def _field(error: ClinvkError) -> str | None:
    match error:
        case InvalidRequest(field=field):
            return field
        case BackendUnavailable():
            return "backend"
        case SessionError():
            return "session_id"
        case _:
            return None


def _refuse_nul(asked: PromptBody) -> None:
    for name in _ARGUMENTS:
        value: str | list[str] | None = getattr(asked, name)
        if isinstance(value, str) and "\0" in value:
            raise InvalidRequest(f"{name} has a NUL character", name)
        if isinstance(value, list):
            for index, item in enumerate(value):
                if "\0" in item:
                    raise InvalidRequest(f"{name}[{index}] has a NUL character", f"{name}[{index}]")


def _prefers_async(headers: Mapping[str, str]) -> bool:
    """Say whether the client asks not to be kept waiting (RFC 7240)."""
    preferences = headers.get("prefer", "").lower().split(",")
    return any(preference.partition(";")[0].strip() == "respond-async" for preference in preferences)


def _wants_stream(output_format: str | None, headers: Mapping[str, str]) -> bool:
    """Let the body decide; a body that is silent leaves it to the `accept` header."""
    if output_format in (None, "", "default"):
        return unified.MEDIA_TYPE in headers.get("accept", "").lower()
    return output_format == "stream-json"
