"""A prompt as clinvk's own API takes it: the one body of which all others of this API are made."""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects.conversation import MAX_IMAGES, image_of
from clinvk.dialects.records import Tags
from clinvk.errors import InvalidRequest
from clinvk.request import MAX_NAME_CHARS, MAX_STOP_CHARS, MAX_STOPS, ApprovalMode, Effort, RunRequest, SandboxMode
from clinvk.session import as_tag

_Count = Annotated[int, Meta(ge=0, le=2_147_483_647)]
Seconds = Annotated[float, Meta(gt=0, le=604_800)]
_Text = Annotated[str, Meta(extra_json_schema={"pattern": r"^[^\x00]*$"})]
_Directory = Annotated[str, Meta(extra_json_schema={"pattern": r"^/[^\x00]*$"})]
Name = Annotated[str, Meta(max_length=MAX_NAME_CHARS, extra_json_schema={"pattern": r"^[^\x00]*$"})]
_StopText = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A prompt, and how it shall be run.

    A field that is left out, null or an empty text is decided by the settings of clinvk, then by the agent's CLI.
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
        Annotated[list[_StopText], Meta(max_length=MAX_STOPS)] | None,
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


_ARGUMENTS = (
    "model",
    "workdir",
    "add_dirs",
    "allowed_tools",
    "system_prompt",
    "extra",
    "tags",
)
"""What may end up on a command line, which cannot carry a NUL; the prompt goes over stdin."""


def request_of(asked: Asked, backend: str | None, session_id: str | None) -> RunRequest:
    """Give what is asked of a backend, or in a session.

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
    return RunRequest(
        prompt=asked.prompt,
        backend=backend or "",
        model=asked.model or None,
        system_prompt=asked.system_prompt or None,
        session_id=session_id or None,
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
        images=tuple(image_of(source, None, f"images[{index}]") for index, source in enumerate(asked.images or ())),
        output_schema=asked.output_schema,
        extra=tuple(asked.extra or ()),
        timeout_s=asked.timeout_secs,
        ephemeral=bool(asked.ephemeral),
        warm=asked.warm is not False,
        verbose=bool(asked.verbose),
        tags=tuple(map(as_tag, asked.tags or ())),
        metadata=asked.metadata or {},
    )


def _arguments(asked: Asked) -> Iterator[tuple[str, str | None]]:
    """Give what may end up on a command line, with its place."""
    for name in _ARGUMENTS:
        value: str | list[str] | None = getattr(asked, name)
        if isinstance(value, list):
            yield from ((f"{name}[{index}]", item) for index, item in enumerate(value))
        else:
            yield name, value
