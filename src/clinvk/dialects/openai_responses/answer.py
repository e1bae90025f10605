"""The response object: https://platform.openai.com/docs/api-reference/responses/object, as openai-py 3.57 types it."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects import vendor
from clinvk.errors import AgentRateLimited, AgentRejected, Cancelled
from clinvk.events import Ending, RunFailed, RunFinished, StopReason, Usage

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
    """Give the response of a run that ended so; `has_acted` says whether its agent told of anything before."""
    return replace(
        response,
        status=status_of(ending),
        error=failure(ending, has_acted) if isinstance(ending, RunFailed) else None,
        incomplete_details=_cut(ending.stop_reason) if isinstance(ending, RunFinished) else None,
        output=items,
        usage=usage_of(ending.usage or Usage()),
    )


def status_of(ending: Ending) -> Status:
    """Give the status of a response whose run ended so."""
    match ending:
        case RunFinished(stop_reason=reason):
            return "incomplete" if _cut(reason) else "completed"
        case RunFailed(code=Cancelled.code):
            return "cancelled"
        case RunFailed():
            return "failed"


def usage_of(usage: Usage) -> ResponseUsage:
    """Give the tokens of a run in the words of the vendor."""
    return ResponseUsage(
        usage.input_tokens,
        InputTokens(usage.cached_tokens),
        usage.output_tokens,
        OutputTokens(usage.reasoning_tokens),
        usage.input_tokens + usage.output_tokens,
    )


def failure(ending: RunFailed, has_acted: bool) -> ResponseFailure:
    """Say why a run failed.

    Of the vendor's words only `invalid_prompt` keeps Codex from asking again, which has an agent do all it did anew.
    """
    codes = {AgentRateLimited.code: "rate_limit_exceeded", AgentRejected.code: _FINAL}
    may_ask_again = vendor.may_ask_again(ending.code, has_acted)
    return ResponseFailure(codes.get(ending.code, "server_error") if may_ask_again else _FINAL, ending.message)


def _cut(reason: StopReason) -> IncompleteDetails | None:
    """Say what cut an answer; a limit of turns is told as one of tokens, which is the nearest that the vendor has."""
    match reason:
        case "max_tokens" | "max_turns":
            return IncompleteDetails("max_output_tokens")
        case "refusal":
            return IncompleteDetails("content_filter")
        case "end_turn" | "stop_sequence":
            return None
