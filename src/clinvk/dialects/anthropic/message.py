"""A message of the Messages API, whole or as a stream of events, and the errors of the API.

https://docs.claude.com/en/api/messages, https://docs.claude.com/en/docs/build-with-claude/streaming,
https://docs.claude.com/en/api/errors
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from clinvk.dialects import dialect, vendor
from clinvk.dialects.client_tools import arguments
from clinvk.dialects.dialect import Call
from clinvk.types import errors, events
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.redaction import redacted
from clinvk.types.run import RunFacts

_encode = msgspec.json.Encoder().encode

STATUSES: Mapping[type[ClinvkError], int] = {**vendor.STATUSES, errors.AgentUnpaid: 402, errors.AgentOverloaded: 529}

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""The API's error types by status."""


class Details(msgspec.Struct, frozen=True):
    """The cause, for programs: clinvk's own word, more exact than the type."""

    error_code: str


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong."""

    type: str
    message: str
    details: Details


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="error"):
    """The body of an error, and the data of the event `error`."""

    error: ErrorObject
    request_id: str | None = None


def error_data(event: events.RunFailed) -> bytes:
    """Return the data of the last event for a run that failed after the start of the answer."""
    _, what = error_object(errors.error_from_code(event.code, event.message))
    return _encode(ErrorAnswer(error=what))


def error_object(error: ClinvkError) -> tuple[int, ErrorObject]:
    """Return the status and the error object for an error."""
    status = dialect.table_entry(type(error), STATUSES)
    return status, ErrorObject(_TYPES[status], _error_message(error), Details(error.code))


def _error_message(error: ClinvkError) -> str:
    """Return the message with the name of the field, since the API has no other place for the field."""
    message = redacted(error.message)
    is_named = not isinstance(error, InvalidRequest) or error.field is None or error.field in message
    return message if is_named else f"{error.field}: {message}"


MessageStop = Literal["end_turn", "max_tokens", "stop_sequence", "refusal", "tool_use"]

_STOPS: dict[events.StopReason, MessageStop] = {
    "end_turn": "end_turn",
    "max_tokens": "max_tokens",
    "max_turns": "max_tokens",
    "max_budget": "max_tokens",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
    "tool_use": "tool_use",
}
"""Stop reasons. The API has none for an agent that reached its turn limit; `max_tokens` also means a cut answer."""


class OutputDetails(msgspec.Struct, frozen=True):
    """What the output tokens were for."""

    thinking_tokens: int


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of a message. Other than in clinvk's own `Usage`, input read from a cache is not in `input_tokens`."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputDetails | None = None


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """The answer."""

    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """The model's thinking. Clients keep the signature and send it back; it means nothing here."""

    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A call of one of the client's tools."""

    id: str
    name: str
    input: dict[str, object]


Block = ThinkingBlock | TextBlock | ToolUseBlock


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A whole message, or as its stream begins: without content, stop reason and tokens."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: tuple[Block, ...] = ()
    stop_reason: MessageStop | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


class Stop(msgspec.Struct, frozen=True):
    """The reason why a message ended."""

    stop_reason: MessageStop
    stop_sequence: str | None


def content(said: Sequence[events.Said], call: Call, facts: RunFacts) -> tuple[Block, ...]:
    """Collect text, thinking and calls into blocks, in the agent's order.

    The result has a text block or a call even if the agent said nothing, since clients read the first text block
    without a check.
    """
    blocks: list[Block] = []
    for is_text, text in vendor.visible_texts(said, call):
        blocks.append(TextBlock(text) if is_text else ThinkingBlock(text, signature_of(facts)))
    blocks += (_tool_use(event) for event in said if isinstance(event, events.ToolCall) and event.for_client)
    if all(isinstance(block, ThinkingBlock) for block in blocks):
        blocks.append(TextBlock(""))
    return tuple(blocks)


def _tool_use(call: events.ToolCall) -> ToolUseBlock:
    return ToolUseBlock(call.id, call.name, call.input)


def message_id(facts: RunFacts) -> str:
    """Return the message id for a run."""
    return f"msg_{facts.run_id}"


def signature_of(facts: RunFacts) -> str:
    """Return a non-empty signature for the thinking of a run: some clients drop thinking without a signature."""
    return f"clinvk_{facts.run_id}"


def stop(ending: events.RunFinished) -> Stop:
    """Return the API's stop reason for a finished run."""
    return Stop(_STOPS[ending.stop_reason], ending.stop_sequence)


def usage(tokens: events.Usage | None) -> MessageUsage:
    """Return the token counts as the API defines them; zeros if the agent reported none."""
    tokens = tokens or events.Usage()
    return MessageUsage(
        input_tokens=max(0, tokens.input_tokens - tokens.cached_tokens),
        cache_creation_input_tokens=0,
        cache_read_input_tokens=tokens.cached_tokens,
        output_tokens=tokens.output_tokens,
        output_tokens_details=OutputDetails(tokens.reasoning_tokens) if tokens.reasoning_tokens else None,
    )


PULSE = b'event: ping\ndata: {"type":"ping"}\n\n'
"""Keeps an idle stream alive; allowed anywhere, even before the first event of the message."""

_START = b'event: message_start\ndata: {"type":"message_start","message":%s}\n\n'
_BLOCK_START = b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%s}\n\n'
_BLOCK_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"%s_delta","%s":%s}}\n\n'
)
_BLOCK_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":%s,"usage":%s}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)
_ERROR = b"event: error\ndata: %s\n\n"

_Kind = Literal["text", "thinking"]


class MessageEncoder:
    """Encodes the events of one message.

    Text and thinking form blocks in the agent's order. A message has a text block even if the agent said nothing, since
    clients read the first text block without a check.
    """

    def __init__(self, call: Call, facts: RunFacts) -> None:
        self._call = call
        self._facts = facts
        self._started = False
        self._blocks = 0
        self._open = ""
        self._calls: set[str] = set()
        self._has_content = False

    def feed(self, event: events.Event, at: float) -> bytes:
        """Return the bytes of one event; empty if the client did not ask for the content."""
        match event:
            case events.TextDelta(text=text):
                return self._delta("text", text)
            case events.ToolCallDelta() | events.ToolCall(for_client=True):
                return self._tool_use(event)
            case events.RunStarted():
                return self._start()
            case events.RunFinished():
                return self._finish(event)
            case events.RunFailed():
                return self._start() + _ERROR % error_data(event)
            case _:
                thinking = vendor.visible_thinking(event, self._call)
                return self._delta("thinking", thinking) if thinking else b""

    def _start(self) -> bytes:
        """Start the message, once. The input tokens are known only at the end."""
        if self._started:
            return b""
        self._started = True
        message = Message(id=message_id(self._facts), model=self._call.model, usage=usage(None))
        return _START % _encode(message)

    def _delta(self, kind: _Kind, text: str) -> bytes:
        opening = self._begin(kind, TextBlock("") if kind == "text" else ThinkingBlock("", ""))
        name = kind.encode()
        return opening + _BLOCK_DELTA % (self._blocks - 1, name, name, _encode(text))

    def _begin(self, name: str, block: Block) -> bytes:
        """Begin a block, unless the block is open; `name` is the kind of the block, or the id of the call."""
        if self._open == name:
            return b""
        closing, self._open = self._close(), name
        self._has_content = self._has_content or not isinstance(block, ThinkingBlock)
        self._blocks += 1
        return closing + _BLOCK_START % (self._blocks - 1, _encode(block))

    def _tool_use(self, call: events.ToolCall | events.ToolCallDelta) -> bytes:
        if isinstance(call, events.ToolCallDelta):
            self._calls.add(call.id)
            opening = self._begin(call.id, ToolUseBlock(call.id, call.name, {}))
            return opening + _BLOCK_DELTA % (self._blocks - 1, b"input_json", b"partial_json", _encode(call.arguments))
        if call.id not in self._calls:
            return self._tool_use(events.ToolCallDelta(call.id, call.name, arguments(call))) + self._close()
        return self._close() if self._open == call.id else b""

    def _close(self) -> bytes:
        """Close the open block; a signature ends a block of thinking."""
        closed, self._open = self._open, ""
        index = self._blocks - 1
        if not closed:
            return b""
        if closed != "thinking":
            return _BLOCK_STOP % index
        signature = _encode(signature_of(self._facts))
        return _BLOCK_DELTA % (index, b"signature", b"signature", signature) + _BLOCK_STOP % index

    def _finish(self, ending: events.RunFinished) -> bytes:
        text = b"" if self._has_content else self._begin("text", TextBlock(""))
        return text + self._close() + _END % (_encode(stop(ending)), _encode(usage(ending.usage)))
