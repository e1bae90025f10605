"""The response object and the events of a streamed response, as openai-py 3.57 types them.

https://platform.openai.com/docs/api-reference/responses/object,
https://platform.openai.com/docs/api-reference/responses-streaming
"""

from functools import cache
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects import vendor
from clinvk.types.errors import AgentRateLimited, AgentRejected, Cancelled
from clinvk.types.events import Ending, RunFailed, RunFinished, StopReason, Usage

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

Json = dict[str, object]

_FINAL = "invalid_prompt"


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """The text of a message."""

    text: str
    annotations: tuple[()] = ()
    logprobs: tuple[()] = ()


class SummaryText(msgspec.Struct, frozen=True, tag_field="type", tag="summary_text"):
    """The text of a reasoning item."""

    text: str


class MessageItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A piece of the answer."""

    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: tuple[OutputText, ...] = ()


class ReasoningItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """A piece of the thinking."""

    id: str
    summary: tuple[SummaryText, ...] = ()


Item = MessageItem | ReasoningItem


class InputTokens(msgspec.Struct, frozen=True):
    """What of the input was cached."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokens(msgspec.Struct, frozen=True):
    """What of the output was thinking."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    """The tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class ResponseFailure(msgspec.Struct, frozen=True):
    """Why a response failed; `code` is one of the vendor's words."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response ends before its end."""

    reason: Literal["max_output_tokens", "content_filter"]


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A response. What its request said is repeated in it, also where it changes nothing."""

    id: str = ""
    object: Literal["response"] = "response"
    created_at: Annotated[int, Meta(description="Seconds since the epoch.")] = 0
    status: Status = "in_progress"
    background: bool = False
    error: Annotated[ResponseFailure | None, Meta(description="Why it failed.")] = None
    incomplete_details: Annotated[IncompleteDetails | None, Meta(description="Why it ends before its end.")] = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = {}
    model: Annotated[str, Meta(description="As it was sent.")]
    output: Annotated[tuple[Item, ...], Meta(description="Thinking and answer, in the order they came.")] = ()
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning: Json
    safety_identifier: str | None = None
    service_tier: Literal["default"] = "default"
    store: bool = True
    temperature: float | None = None
    text: Json
    tool_choice: Literal["auto", "none"] = "auto"
    tools: Annotated[tuple[()], Meta(description="None: those of the client are ignored.")] = ()
    top_logprobs: int = 0
    top_p: float | None = None
    truncation: str = "disabled"
    usage: Annotated[ResponseUsage | None, Meta(description="Tokens, once it has ended.")] = None
    user: str | None = None


def ended(response: Response, items: tuple[Item, ...], ending: Ending, has_acted: bool) -> Response:
    """Return the response of an ended run; `has_acted` says whether the agent reported any activity before."""
    return replace(
        response,
        status=status_of(ending),
        error=failure(ending, has_acted) if isinstance(ending, RunFailed) else None,
        incomplete_details=_cut(ending.stop_reason) if isinstance(ending, RunFinished) else None,
        output=items,
        usage=usage_of(ending.usage or Usage()),
    )


def status_of(ending: Ending) -> Status:
    """Return the response status for the ending of a run."""
    match ending:
        case RunFinished(stop_reason=reason):
            return "incomplete" if _cut(reason) else "completed"
        case RunFailed(code=Cancelled.code):
            return "cancelled"
        case RunFailed():
            return "failed"


def usage_of(usage: Usage) -> ResponseUsage:
    """Return the token usage in the vendor's format."""
    return ResponseUsage(
        usage.input_tokens,
        InputTokens(usage.cached_tokens),
        usage.output_tokens,
        OutputTokens(usage.reasoning_tokens),
        usage.input_tokens + usage.output_tokens,
    )


def failure(ending: RunFailed, has_acted: bool) -> ResponseFailure:
    """Return the failure of a run.

    Only the vendor's code `invalid_prompt` keeps Codex from retrying, and a retry makes an agent repeat all its work.
    """
    codes = {AgentRateLimited.code: "rate_limit_exceeded", AgentRejected.code: _FINAL}
    may_ask_again = vendor.may_ask_again(ending.code, has_acted)
    return ResponseFailure(codes.get(ending.code, "server_error") if may_ask_again else _FINAL, ending.message)


def _cut(reason: StopReason) -> IncompleteDetails | None:
    """Return why the answer is cut, or None; a turn limit is reported as a token limit, the vendor's nearest reason."""
    match reason:
        case "max_tokens" | "max_turns":
            return IncompleteDetails("max_output_tokens")
        case "refusal":
            return IncompleteDetails("content_filter")
        case "end_turn" | "stop_sequence":
            return None


class Frame(msgspec.Struct, kw_only=True, tag_field="type"):
    """An event; the encoder sets `sequence_number`, which counts from 0."""

    sequence_number: int = 0

    @property
    def kind(self) -> str:
        """Return the type of the event."""
        return _kind(type(self))


@cache
def _kind(frame: type[Frame]) -> str:
    """Return the type of a kind of frame; cached, since msgspec creates a config object on every access."""
    return str(frame.__struct_config__.tag)


class Created(Frame, kw_only=True, tag="response.created"):
    """The first event."""

    response: Response


class InProgress(Frame, kw_only=True, tag="response.in_progress"):
    """The second event."""

    response: Response


class KeepAlive(Frame, kw_only=True, tag="keepalive"):
    """A sign of life of an idle stream; the vendor sends the same event, but does not document the event."""


class Completed(Frame, kw_only=True, tag="response.completed"):
    """The last event of a completed response."""

    response: Response


class Incomplete(Frame, kw_only=True, tag="response.incomplete"):
    """The last event of a response that was cut."""

    response: Response


class Failed(Frame, kw_only=True, tag="response.failed"):
    """The last event of a response that failed or was cancelled."""

    response: Response


class _OfItem(Frame, kw_only=True):
    output_index: int
    item: Item


class ItemAdded(_OfItem, kw_only=True, tag="response.output_item.added"):
    """An item begins."""


class ItemDone(_OfItem, kw_only=True, tag="response.output_item.done"):
    """An item is complete."""


class _InItem(Frame, kw_only=True):
    item_id: str
    output_index: int


class _OfPart(_InItem, kw_only=True):
    content_index: int = 0
    part: OutputText


class PartAdded(_OfPart, kw_only=True, tag="response.content_part.added"):
    """The text of a message begins."""


class PartDone(_OfPart, kw_only=True, tag="response.content_part.done"):
    """The text of a message is complete."""


class TextDelta(_InItem, kw_only=True, tag="response.output_text.delta"):
    """A piece of the text of a message."""

    content_index: int = 0
    delta: str
    logprobs: tuple[()] = ()


class TextDone(_InItem, kw_only=True, tag="response.output_text.done"):
    """The whole text of a message."""

    content_index: int = 0
    text: str
    logprobs: tuple[()] = ()


class _OfSummary(_InItem, kw_only=True):
    summary_index: int = 0
    part: SummaryText


class SummaryAdded(_OfSummary, kw_only=True, tag="response.reasoning_summary_part.added"):
    """The text of a reasoning item begins."""


class SummaryDone(_OfSummary, kw_only=True, tag="response.reasoning_summary_part.done"):
    """The text of a reasoning item is complete."""


class SummaryTextDelta(_InItem, kw_only=True, tag="response.reasoning_summary_text.delta"):
    """A piece of the text of a reasoning item."""

    summary_index: int = 0
    delta: str


class SummaryTextDone(_InItem, kw_only=True, tag="response.reasoning_summary_text.done"):
    """The whole text of a reasoning item."""

    summary_index: int = 0
    text: str
