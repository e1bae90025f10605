"""An answer of Google's API, whole or as a stream, and the errors of the API.

https://ai.google.dev/api/generate-content, https://google.aip.dev/193 for errors. A call has a signature besides its
id: some clients drop or change the id, but all send the signature back.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from clinvk.dialects import dialect, sse, vendor
from clinvk.dialects.dialect import Call
from clinvk.dialects.google.body import Camel, Content, FunctionCall, Part, signature_of
from clinvk.dialects.google.schema import client_text
from clinvk.types import errors, events
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.redaction import redacted
from clinvk.types.run import RunFacts

_encode = msgspec.json.Encoder().encode

STATUSES: Mapping[type[ClinvkError], int] = {
    **vendor.STATUSES,
    errors.KeyRefused: 400,
    errors.AgentUnpaid: 403,
    errors.AgentOverloaded: 503,
}

_NAMES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""The names of the statuses in Google's RPC; any other status is an invalid argument."""

_ABORTED = 409
"""The status if the agent may have acted: clients repeat the request after 429 and 5xx, in a stream as well."""

_TYPE = "type.googleapis.com/google.rpc."
_KEY_INVALID = "API_KEY_INVALID"


class ErrorInfo(msgspec.Struct, frozen=True, tag_field="@type", tag=_TYPE + "ErrorInfo"):
    """The cause, for programs: clinvk's own word in upper case, more exact than the status."""

    reason: str
    domain: str


class FieldViolation(msgspec.Struct, frozen=True):
    """The mistake in a field."""

    field: str
    description: str


class BadRequest(msgspec.Struct, frozen=True, rename="camel", tag_field="@type", tag=_TYPE + "BadRequest"):
    """The field with the mistake."""

    field_violations: tuple[FieldViolation, ...]


class RetryInfo(msgspec.Struct, frozen=True, rename="camel", tag_field="@type", tag=_TYPE + "RetryInfo"):
    """How long to wait, as in `30s`."""

    retry_delay: str


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong."""

    code: int
    message: str
    status: str
    details: tuple[ErrorInfo | BadRequest | RetryInfo, ...]


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The body of an error, and the last item of a stream that breaks off."""

    error: ErrorObject


def error_answer(error: ClinvkError) -> ErrorAnswer:
    """Return the body for an error."""
    status = _ABORTED if error.may_have_acted else dialect.table_entry(type(error), STATUSES)
    message = redacted(error.message)
    is_key = isinstance(error, errors.KeyRefused)
    details: list[ErrorInfo | BadRequest | RetryInfo] = [
        ErrorInfo(_KEY_INVALID, "googleapis.com") if is_key else ErrorInfo(error.code.upper(), "clinvk")
    ]
    if isinstance(error, InvalidRequest) and error.field:
        details.append(BadRequest((FieldViolation(error.field, message),)))
    if error.retry_after_s:
        details.append(RetryInfo(f"{error.retry_after_s:.0f}s"))
    return ErrorAnswer(ErrorObject(status, message, _NAMES.get(status, "INVALID_ARGUMENT"), tuple(details)))


FinishReason = Literal["STOP", "MAX_TOKENS", "SAFETY"]

_FINISHES: dict[events.StopReason, FinishReason] = {
    "end_turn": "STOP",
    "stop_sequence": "STOP",
    "tool_use": "STOP",
    "max_tokens": "MAX_TOKENS",
    "max_turns": "MAX_TOKENS",
    "max_budget": "MAX_TOKENS",
    "refusal": "SAFETY",
}


class Candidate(Camel, frozen=True, kw_only=True):
    """The answer."""

    content: Content
    finish_reason: FinishReason | None = None


class UsageMetadata(Camel, frozen=True, kw_only=True):
    """Tokens of the answer. Tokens of thinking are not in `candidatesTokenCount`."""

    prompt_token_count: int
    candidates_token_count: int
    total_token_count: int
    cached_content_token_count: int = 0
    thoughts_token_count: int = 0


class GenerateContentResponse(Camel, frozen=True, kw_only=True):
    """An answer, or a piece of the stream of an answer; the last piece has the reason of the end and the tokens."""

    candidates: tuple[Candidate, ...]
    usage_metadata: UsageMetadata | None = None
    model_version: str
    response_id: str


def response(parts: Iterable[Part], call: Call, facts: RunFacts, end: events.RunFinished | None = None) -> bytes:
    """Return a piece of an answer, or with `end` the last piece or the whole answer, as JSON."""
    content = Content(role="model", parts=tuple(parts))
    candidate = Candidate(content=content, finish_reason=_FINISHES[end.stop_reason] if end else None)
    usage = _usage(end.usage or events.Usage()) if end else None
    return _encode(
        GenerateContentResponse(
            candidates=(candidate,), usage_metadata=usage, model_version=call.model, response_id=facts.run_id
        )
    )


def _usage(tokens: events.Usage) -> UsageMetadata:
    return UsageMetadata(
        prompt_token_count=tokens.input_tokens,
        candidates_token_count=max(0, tokens.output_tokens - tokens.reasoning_tokens),
        total_token_count=tokens.total_tokens,
        cached_content_token_count=tokens.cached_tokens,
        thoughts_token_count=tokens.reasoning_tokens,
    )


def parts(result: events.RunResult, call: Call) -> Iterator[Part]:
    """Yield the pieces of a whole answer: thinking and text in the agent's order, then the calls."""
    text = _client_text(result.ending, call)
    has_part = False
    for is_text, piece in vendor.visible_texts(result.said, call):
        if text is None or not is_text:
            has_part = has_part or is_text
            yield Part(text=piece) if is_text else Part(text=piece, thought=True)
    for event in result.tool_calls:
        if event.for_client:
            has_part = True
            yield _call(event)
    if not has_part:  # clients read the first text without a check
        yield Part(text=text or "")


def _client_text(ending: events.Ending, call: Call) -> str | None:
    is_finished = isinstance(ending, events.RunFinished)
    return client_text(ending.structured_output, call.request.output_schema) if is_finished else None


def _call(call: events.ToolCall) -> Part:
    function_call = FunctionCall(id=call.id, name=call.name, args=call.input)
    return Part(function_call=function_call, thought_signature=signature_of(call.id))


PULSE = b"\n\n"
"""Keeps an idle stream alive: Google's SDKs take comments for JSON, but skip blank lines."""


class ContentEncoder:
    """Encodes the events of one answer, as server-sent events or as the items of a JSON array."""

    def __init__(self, call: Call, facts: RunFacts, is_sse: bool) -> None:
        self._call = call
        self._facts = facts
        self._is_sse = is_sse
        self._has_begun = False
        self._has_acted = False
        self._held = ""

    def feed(self, event: events.Event, at: float) -> bytes:
        """Return the bytes of one event; blank lines for an event that other streams show as a comment."""
        if isinstance(event, events.Ending):
            return self._last(event)
        self._has_acted = self._has_acted or vendor.is_activity(event)
        match event:
            case events.TextDelta(text=text) if self._call.request.output_schema is None:
                return self._piece(Part(text=text))
            case events.TextDelta(text=text):
                self._held += text
                return b""
            case events.ToolCall(for_client=True):
                return self._piece(_call(event))
            case _:
                thinking = vendor.visible_thinking(event, self._call)
                shown = self._piece(Part(text=thinking, thought=True)) if thinking else b""
                return shown or (PULSE if vendor.waiting_comment(event) else b"")

    def _last(self, ending: events.Ending) -> bytes:
        if isinstance(ending, events.RunFinished):
            text = _client_text(ending, self._call) or self._held
            data = response([Part(text=text)], self._call, self._facts, ending)
        else:
            error = errors.error_from_code(ending.code, ending.message)
            error.may_have_acted = not vendor.may_retry(ending.code, self._has_acted)
            data = _encode(error_answer(error))
        return self._item(data) if self._is_sse else self._item(data) + b"]"

    def _piece(self, part: Part) -> bytes:
        return self._item(response([part], self._call, self._facts))

    def _item(self, data: bytes) -> bytes:
        has_begun, self._has_begun = self._has_begun, True
        if self._is_sse:
            return sse.frame(data)
        return (b",\n" if has_begun else b"[") + data
