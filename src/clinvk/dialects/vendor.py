"""What the dialects of the vendors' model APIs share: clinvk's own headers, the rule for tools, what shows as thought.

Their bodies are read with unknown fields ignored at every level: clients add new ones every month. Decoders are plain
`msgspec.json.Decoder`s over structs that do not forbid them, and `strict.decode` explains what does not fit.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from clinvk.dialects import dialect
from clinvk.dialects.conversation import Conversation, digest, last_answer, spoken, told
from clinvk.dialects.dialect import Answered, Call, Chat
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.events import Event, Progress, RunStarted, ThinkingDelta, ToolCall, ToolResult
from clinvk.types.request import (
    APPROVAL_MODES,
    MAX_NAME_CHARS,
    MAX_STOP_CHARS,
    MAX_STOPS,
    SANDBOX_MODES,
    ApprovalMode,
    RunRequest,
    SandboxMode,
)

SESSION = "x-clinvk-session-id"
WORKDIR = "x-clinvk-workdir"
APPROVAL = "x-clinvk-approval-mode"
SANDBOX = "x-clinvk-sandbox-mode"
EVENTS = "x-clinvk-events"
HEADERS = (SESSION, WORKDIR, APPROVAL, SANDBOX, EVENTS)

STATUSES: Mapping[type[ClinvkError], int] = {
    **dialect.STATUSES,
    errors.SessionError: 400,
    errors.AmbiguousId: 400,
    errors.AgentRejected: 400,
    errors.AgentUnauthenticated: 401,
    errors.AgentRateLimited: 429,
}
"""An agent that fails makes the request fail, as the model's own API would."""

_HARMLESS = {
    kind.code
    for kind in (
        errors.AgentUnauthenticated,
        errors.AgentRateLimited,
        errors.AgentUnpaid,
        errors.AgentOverloaded,
        errors.AgentRejected,
    )
}
"""What an agent's model API answers instead of letting it do anything."""

FIELDS = {"session_id": SESSION, "workdir": WORKDIR, "approval_mode": APPROVAL, "sandbox_mode": SANDBOX}
"""The header for each field of a `RunRequest` that only a header can give."""

NEW_SESSION = "new"
"""Said instead of a session's id by who wants to go on later."""

CHATS = ("x-openwebui-chat-id",)
"""Headers with a client's own name of its conversation."""

_TEMPORARY = "local:"
"""How Open WebUI's names of chats begin that nobody is to keep."""

_YES = ("1", "true", "yes", "on")
_NO = ("", "0", "false", "no", "off")
FLAGS = (*_YES, *_NO)
"""Values of a header that is true or false; case does not matter."""
_MAX_SHOWN = 2000
_MAX_CHAT_CHARS = 200
_encoder = msgspec.json.Encoder()

Word = TypeVar("Word", bound=str)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the headers of a request ask for beside its body.

    Attributes:
        session_id: the session to continue.
        chat: the client's own name of its conversation, empty where it has none.
        keeps: a session is kept, where none is continued.
        shows_work: the model's thinking and what the agent does with its tools show as thought.
    """

    session_id: str | None = None
    chat: str = ""
    keeps: bool = False
    workdir: str | None = None
    approval_mode: ApprovalMode | None = None
    sandbox_mode: SandboxMode | None = None
    shows_work: bool = False


def asked(headers: Mapping[str, str]) -> Asked:
    """Read clinvk's headers.

    Raises:
        InvalidRequest: names the header.
    """
    if not any(name in headers for name in (*HEADERS, *CHATS)):
        return Asked()
    session_id = _value(headers, SESSION)
    return Asked(
        session_id=None if session_id in (None, NEW_SESSION) else session_id,
        chat=next((name[:_MAX_CHAT_CHARS] for name in _names(headers) if not name.startswith(_TEMPORARY)), ""),
        keeps=session_id == NEW_SESSION,
        workdir=_value(headers, WORKDIR),
        approval_mode=_word(headers, APPROVAL, APPROVAL_MODES),
        sandbox_mode=_word(headers, SANDBOX, SANDBOX_MODES),
        shows_work=_flag(headers, EVENTS),
    )


def call(request: RunRequest, conversation: Conversation, asked: Asked, field: str = "messages") -> Call:
    """Make the call of a request that lacks its prompt and all that the headers say.

    Raises:
        InvalidRequest: nobody says anything to the assistant; `field` is where the messages stand. Or the model's name
            is blank or too long.
    """
    if len(request.model or "") > MAX_NAME_CHARS:
        raise InvalidRequest(f"model must have at most {MAX_NAME_CHARS} characters", "model")
    if not (request.model or "").strip():
        raise InvalidRequest("model is empty", "model")
    whole = told(conversation, only_last=asked.session_id is not None, field=field)
    request = replace(
        request,
        prompt=whole.prompt,
        images=whole.images,
        system_prompt=whole.system_prompt,
        literal=True,
        session_id=asked.session_id,
        ephemeral=not (asked.session_id or asked.keeps or asked.chat),
        workdir=asked.workdir,
        approval_mode=asked.approval_mode,
        sandbox_mode=asked.sandbox_mode,
        thinking=request.thinking or asked.shows_work,
    )
    chat = _chat(asked.chat, conversation, field) if asked.chat and not asked.session_id else None
    return Call(request=request, shows_work=asked.shows_work, chat=chat)


def _chat(name: str, conversation: Conversation, field: str) -> Chat:
    turns = spoken(conversation.turns)
    made = Chat(name=name, digest=digest(turns))
    at = last_answer(turns)
    if at is None or at == len(turns) - 1:
        return made
    answered = Answered(
        digest=digest(turns[:at]),
        answer="".join(part for part in turns[at].content if isinstance(part, str)),
        latest=told(conversation, only_last=True, field=field),
    )
    return replace(made, answered=answered)


def stops(texts: Sequence[str], field: str = "stop") -> tuple[str, ...]:
    """Check the texts before which an answer ends. The vendors take few, but clients of other servers send more.

    Raises:
        InvalidRequest: one is empty or has more than `MAX_STOP_CHARS`, or there are more than `MAX_STOPS`.
    """
    if len(texts) > MAX_STOPS:
        raise InvalidRequest(f"{field} has {len(texts)} texts; at most {MAX_STOPS} are allowed", field)
    if "" in texts:
        place = f"{field}[{texts.index('')}]"
        raise InvalidRequest(f"{place} is empty", place)
    for index, text in enumerate(texts):
        if len(text) > MAX_STOP_CHARS:
            place = f"{field}[{index}]"
            raise InvalidRequest(f"{place} has {len(text)} characters; at most {MAX_STOP_CHARS} are allowed", place)
    return tuple(texts)


def ignored(call: Call) -> tuple[str, ...]:
    """Say what of a body has no effect, once its model has named the backend: also `model`, a name that is none's."""
    request = call.request
    has_effect = call.model in ("", request.model) or call.model.partition("/")[0] == request.backend
    return call.ignored if has_effect else ("model", *call.ignored)


def ignored_stop(request: RunRequest, field: str = "stop") -> tuple[str, ...]:
    """Say what `Call.ignored` is for a request whose answer, of a schema, is given whole or not at all."""
    return (field,) if request.stop and request.output_schema is not None else ()


def ignored_tools(has_tools: bool, choice: str | None, field: str = "tool_choice") -> tuple[str, ...]:
    """Say what `Call.ignored` is for a request with or without tools of the client; `choice` is what it may call.

    Raises:
        InvalidRequest: a tool must be called.
    """
    if choice not in (None, "auto", "none"):
        raise InvalidRequest(
            f"{field} {choice!r} is not supported: the agent works with its own tools and cannot be made to call the "
            "client's; use 'auto' or 'none', with which they are ignored",
            field,
        )
    return ("tools",) if has_tools else ()


def may_ask_again(code: str, has_acted: bool) -> bool:
    """Say whether a client may ask again by itself after a failure: only where nothing can have been done yet.

    `code` is a `RunFailed.code`, and `has_acted` says whether the agent told of anything before it.
    """
    return not has_acted and code in _HARMLESS


def tells_something(event: Event) -> bool:
    """Say whether an event shows that the agent is at work, or has ended."""
    return not isinstance(event, RunStarted | Progress)


def thought(event: Event, call: Call) -> str:
    """Give what an event adds to the thinking that the client sees; empty where it does not ask for it."""
    match event:
        case ThinkingDelta(text=text) if call.request.thinking:
            return text
        case ToolCall() if call.shows_work:
            return f"\n[{event.name}] {_shown(_encoder.encode(event.input).decode())}\n"
        case ToolResult() if call.shows_work:
            return f"[{'error' if event.is_error else 'result'}] {_shown(event.output)}\n"
        case _:
            return ""


def _shown(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _names(headers: Mapping[str, str]) -> Iterator[str]:
    return (name for header in CHATS if (name := headers.get(header, "").strip()))


def _value(headers: Mapping[str, str], name: str) -> str | None:
    """Give a header; one that is empty is as if it were not there. Paths come as UTF-8."""
    try:
        value = headers.get(name, "").encode("latin-1").decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"the header {name} is not valid UTF-8", name) from None
    return value.strip() or None


def _word(headers: Mapping[str, str], name: str, allowed: tuple[Word, ...]) -> Word | None:
    value = _value(headers, name)
    if value is None:
        return None
    for word in allowed:
        if word == value:
            return word
    raise InvalidRequest(f"the header {name} must be one of {', '.join(allowed)}, got {value!r}", name)


def _flag(headers: Mapping[str, str], name: str) -> bool:
    value = (_value(headers, name) or "").lower()
    if value not in FLAGS:
        raise InvalidRequest(f"the header {name} must be true or false, got {value!r}", name)
    return value in _YES
