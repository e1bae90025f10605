"""Code shared by the dialects of the vendors' model APIs: clinvk's headers, the client's tools, visible thinking.

Request bodies ignore unknown fields at every level, since clients add fields every month. Decoders are plain
`msgspec.json.Decoder`s over structs that allow unknown fields, and `json_bodies.decode` explains invalid values.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects import conversation as conversations
from clinvk.dialects import dialect, json_bodies, sse
from clinvk.dialects.client_tools import ToolChoice, check_names
from clinvk.dialects.conversation import Conversation
from clinvk.dialects.dialect import AnsweredChat, Call, Chat, ToolsMode
from clinvk.dialects.json_bodies import because
from clinvk.types import errors, events
from clinvk.types.allowed_values import NOT_BLANK
from clinvk.types.choices import ApprovalMode, SandboxMode
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.request import MAX_NAME_CHARS, RunRequest

SESSION = "x-clinvk-session-id"
WORKDIR = "x-clinvk-workdir"
APPROVAL = "x-clinvk-approval-mode"
SANDBOX = "x-clinvk-sandbox-mode"
EVENTS = "x-clinvk-events"
TOOLS = "x-clinvk-tools"
ON_BUSY = "x-clinvk-on-busy"
HEADERS = (SESSION, WORKDIR, APPROVAL, SANDBOX, EVENTS, TOOLS, ON_BUSY)


STATUSES: Mapping[type[ClinvkError], int] = {
    **dialect.STATUSES,
    errors.SessionError: 400,
    errors.AmbiguousId: 400,
    errors.AgentRejected: 400,
    errors.AgentUnauthenticated: 401,
    errors.AgentRateLimited: 429,
}
"""HTTP statuses: an agent's failure makes the request fail, as in the model's own API."""

_HARMLESS = {
    *(errors.AgentUnauthenticated.code, errors.AgentRateLimited.code, errors.AgentUnpaid.code),
    *(errors.AgentOverloaded.code, errors.AgentRejected.code),
}
"""Failures with which an agent's model API refuses a request before the agent can act."""

FIELDS = {"session_id": SESSION, "workdir": WORKDIR, "approval_mode": APPROVAL, "sandbox_mode": SANDBOX}
"""The header for each `RunRequest` field that only a header can set."""

NEW_SESSION = "new"
"""The value of the session header that starts a session to continue later."""

_CHAT = "x-openwebui-chat-id"
"""The header with the client's name for a conversation."""

_TEMPORARY = "local:"
"""Prefix of Open WebUI's names for temporary chats, which must not be kept."""

_CHARS_A_TOKEN = 4
_IMAGE_TOKENS = 1600
"""Anthropic's token count for an image of the largest size without downscaling."""

_BUDGETS = ((0, "none"), (4096, "low"), (16384, "medium"), (math.inf, "high"))
"""The maximum number of thinking tokens for each effort."""

_MAX_SHOWN = 2000
_MAX_CHAT_CHARS = 200
_encoder = msgspec.json.Encoder()


ModelName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_NAME_CHARS,
        pattern=NOT_BLANK,
        description="A backend (`claude`), a model of it (`claude/opus`), the model's own name, or several with `>` "
        "between (`claude>codex`): the next takes the prompt if one cannot.",
    ),
]
OneAnswer = Annotated[Literal[1] | None, Meta(extra=because("an agent gives one answer"))]
ToolMode = Literal["auto", "none", "required"]
"""Whether the model may or must call the client's tools."""


class ModelApi:
    """The attributes that the dialects of the vendors' model APIs share."""

    is_model_api = True
    stream_type = sse.MEDIA_TYPE
    result_type = "application/json"
    error_type = "application/json"
    pulse = sse.PULSE
    fields: Mapping[str, str] = FIELDS


class HeaderOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options that the headers of a request set.

    Attributes:
        session_id: the session to continue.
        shows_work: the model's thinking and the agent's tool calls appear as thinking.
        tools_mode: whose tools the model may call.
        on_busy: what happens if the session has a run in progress. A prompt that steers a run has no answer of its own.
        chat: the client's name for the conversation; empty if unnamed.
        starts_session: start and keep a session, unless an existing session is continued.
    """

    session_id: str | None = msgspec.field(name=SESSION, default=None)
    workdir: str | None = msgspec.field(name=WORKDIR, default=None)
    approval_mode: ApprovalMode | None = msgspec.field(name=APPROVAL, default=None)
    sandbox_mode: SandboxMode | None = msgspec.field(name=SANDBOX, default=None)
    shows_work: bool = msgspec.field(name=EVENTS, default=False)
    tools_mode: ToolsMode | None = msgspec.field(name=TOOLS, default=None)
    on_busy: Literal["reject", "queue"] | None = msgspec.field(name=ON_BUSY, default=None)
    chat: str = ""
    starts_session: bool = False


def header_options(headers: Mapping[str, str]) -> HeaderOptions:
    """Parse clinvk's headers. An empty value counts as an absent one.

    Raises:
        InvalidRequest: names the header.
    """
    values = {name: value for name in HEADERS if (value := _value(headers, name))}
    name = headers.get(_CHAT, "").strip()
    chat = "" if name.startswith(_TEMPORARY) else name[:_MAX_CHAT_CHARS]
    options = json_bodies.converted(values, HeaderOptions, "header") if values else HeaderOptions()
    is_new = options.session_id == NEW_SESSION
    return replace(options, chat=chat, starts_session=is_new, session_id=None if is_new else options.session_id)


def call(
    request: RunRequest,
    conversation: Conversation,
    options: HeaderOptions,
    field: str = "messages",
    choice: ToolChoice | None = None,
    has_earlier_calls: bool = False,
) -> Call:
    """Return the call for a request, after adding the prompt and the options from the headers.

    With `has_earlier_calls` the conversation may have outputs of calls that are not in the conversation.

    Raises:
        InvalidRequest: no turn asks the assistant anything, or an output has no call; `field` is the place of the
            messages.
    """
    choice = choice or ToolChoice()
    if not has_earlier_calls:
        conversations.check_calls(conversation, field)
    check_names(request.client_tools, "tools")
    has_tools = bool(request.client_tools)
    if choice.mode == "none":
        request = replace(request, client_tools=())
    prompt = conversations.agent_prompt(conversation, only_last=options.session_id is not None, field=field)
    request = replace(
        request,
        prompt=prompt.prompt,
        images=prompt.images,
        system_prompt=prompt.system_prompt,
        literal=True,
        on_busy=options.on_busy or "reject",
        ephemeral=not (options.session_id or options.starts_session or options.chat),
        thinking=request.thinking or options.shows_work,
        **{name: getattr(options, name) for name in FIELDS},
    )
    chat = _chat(options.chat, conversation, field) if options.chat and not options.session_id else None
    return Call(
        request=request,
        shows_work=options.shows_work,
        chat=chat,
        tools_mode=options.tools_mode,
        has_tools=has_tools,
        tool_turn=conversations.tool_turn(conversation, request, choice) if request.client_tools else None,
    )


def _chat(name: str, conversation: Conversation, field: str) -> Chat:
    turns = conversations.without_blank_answers(conversation.turns)
    chat = Chat(name=name, digest=conversations.digest(turns))
    at = conversations.last_answer(turns)
    if at in (-1, len(turns) - 1):
        return chat
    answered = AnsweredChat(
        digest=conversations.digest(turns[:at]),
        answer="".join(part for part in turns[at].content if isinstance(part, str)),
        latest=conversations.agent_prompt(conversation, only_last=True, field=field),
    )
    return replace(chat, answered=answered)


def ignored(call: Call) -> tuple[str, ...]:
    """Return the fields of a body without effect, once the model has chosen the backend; may include `model`."""
    request = call.request
    tools = ("tools",) if call.tool_turn and not request.client_tools else ()
    model = call.model.partition(">")[0].strip()
    has_effect = model in ("", request.model) or model.partition("/")[0] == request.backend
    return (*(() if has_effect else ("model",)), *tools, *call.ignored)


def ignored_stop(request: RunRequest, field: str = "stop") -> tuple[str, ...]:
    """Return `stop` as ignored if the request has a schema: a schema's answer is never cut."""
    return (field,) if request.stop and request.output_schema is not None else ()


def may_retry(code: str, has_acted: bool) -> bool:
    """Return whether a client may retry automatically after a failure: only if the agent cannot have done anything.

    `code` is a `RunFailed.code`; `has_acted` says whether the agent reported any activity before the failure.
    """
    return not has_acted and code in _HARMLESS


def is_activity(event: events.Event) -> bool:
    """Return whether an event shows that the agent is active or has ended."""
    return not isinstance(event, events.RunStarted | events.Progress)


def estimate(request: RunRequest) -> int:
    """Return the approximate number of tokens of prompt, system texts and images, at least 1.

    Four ASCII characters count as one token, every other character as one token. The estimate is within about a fifth
    for prose and code in Latin letters, and for Chinese, Japanese and Korean. Text that the agent adds is not included.
    """
    texts = request.prompt + (request.system_prompt or "")
    plain = len(texts.encode("ascii", "ignore"))
    return max(1, -(-plain // _CHARS_A_TOKEN) + len(texts) - plain + _IMAGE_TOKENS * len(request.images))


def effort_of(budget: int) -> str:
    """Return the effort nearest to a budget of thinking tokens."""
    return next(effort for tokens, effort in _BUDGETS if budget <= tokens)


def visible_texts(said: Iterable[events.Said], call: Call) -> Iterator[tuple[bool, str]]:
    """Yield the texts of an answer in the agent's order: whether the text belongs to the answer, and the text.

    Pieces of the same kind are joined.
    """
    pieces = (
        (True, event.text) if isinstance(event, events.TextDelta) else (False, visible_thinking(event, call))
        for event in said
    )
    for is_text, texts in groupby((piece for piece in pieces if piece[1]), key=lambda piece: piece[0]):
        yield is_text, "".join(text for _, text in texts)


def visible_thinking(event: events.Event, call: Call) -> str:
    """Return the text that an event adds to the visible thinking; empty if the client does not ask for thinking."""
    match event:
        case events.ThinkingDelta(text=text) if call.request.thinking:
            return text
        case events.ToolCall(for_client=False) if call.shows_work:
            return f"\n[{event.name}] {_shown(_encoder.encode(event.input).decode())}\n"
        case events.ToolResult() if call.shows_work:
            return f"[{'error' if event.is_error else 'result'}] {_shown(event.output)}\n"
        case events.InteractionRequested(interaction=interaction) if call.shows_work:
            return f"\n[waiting] {_shown(interaction.title)}\n"
        case events.InteractionResolved(interaction=interaction) if call.shows_work:
            return f"[{interaction.outcome}]\n"
        case _:
            return ""


def waiting_comment(event: events.Event) -> bytes:
    """Return the comment for an event that a stream of a model API cannot show; empty for other events."""
    match event:
        case events.InteractionRequested(interaction=interaction):
            return f": waiting for the answer to interaction {interaction.id}\n\n".encode()
        case events.Progress(stage="fallback", message=message):
            return f": {' '.join(message.split())}\n\n".encode()
        case _:
            return b""


def _shown(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _value(headers: Mapping[str, str], name: str) -> str | None:
    """Return the value of a header, or None if missing or empty. Paths are UTF-8."""
    try:
        value = headers.get(name, "").encode("latin-1").decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"the header {name} is not valid UTF-8", name) from None
    return value.strip() or None
