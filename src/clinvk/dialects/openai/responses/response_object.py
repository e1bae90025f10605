"""The response object and the events of a streamed response, as openai-py 3.57 types them.

https://platform.openai.com/docs/api-reference/responses/object,
https://platform.openai.com/docs/api-reference/responses-streaming
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects import vendor
from clinvk.types.errors import AgentRateLimited, AgentRejected, Cancelled
from clinvk.types.events import Ending, RunFailed, RunFinished, StopReason, ToolCall, Usage

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
    """A message of the answer."""

    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: tuple[OutputText, ...] = ()


class ReasoningItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """A block of thinking."""

    id: str
    summary: tuple[SummaryText, ...] = ()


class FunctionCallItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """A call of one of the client's functions."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus
    namespace: str | msgspec.UnsetType = msgspec.UNSET


class CustomCallItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="custom_tool_call"):
    """A call of one of the client's tools that takes a text."""

    id: str
    call_id: str
    name: str
    input: str
    status: ItemStatus
    namespace: str | msgspec.UnsetType = msgspec.UNSET


class LocalShellCallItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="local_shell_call"):
    """A command for the client's machine."""

    id: str
    call_id: str
    action: Json
    status: ItemStatus


class ShellCallItem(LocalShellCallItem, frozen=True, kw_only=True, tag_field="type", tag="shell_call"):
    """Shell commands for the client's machine."""


class ApplyPatchCallItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="apply_patch_call"):
    """A change of a file of the client."""

    id: str
    call_id: str
    operation: Json
    status: ItemStatus


VendorCallItem = LocalShellCallItem | ShellCallItem | ApplyPatchCallItem
Item = MessageItem | ReasoningItem | FunctionCallItem | CustomCallItem | VendorCallItem


def vendor_call(tool_type: str, id_: str, call: ToolCall) -> VendorCallItem:
    """Return the item for a call of a tool that the client executes by the vendor's schema."""
    if tool_type == "apply_patch":
        return ApplyPatchCallItem(id=id_, call_id=call.id, operation=call.input, status="completed")
    if tool_type == "shell":
        return ShellCallItem(id=id_, call_id=call.id, action=call.input, status="completed")
    action: Json = {"type": "exec", "env": {}, **call.input}
    return LocalShellCallItem(id=id_, call_id=call.id, action=action, status="completed")


def unless_cut(item: Item) -> Item:
    """Return an item of an ended answer, which may have ended within the arguments of a call."""
    is_cut = isinstance(item, FunctionCallItem) and item.status == "in_progress"
    return replace(item, status="incomplete") if is_cut else item


class InputTokens(msgspec.Struct, frozen=True):
    """The share of input tokens that a cache served."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokens(msgspec.Struct, frozen=True):
    """The share of output tokens that was thinking."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    """The tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int


class ResponseFailure(msgspec.Struct, frozen=True):
    """The error of a failed response; `code` is one of the vendor's error codes."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    """The reason for an incomplete response."""

    reason: Literal["max_output_tokens", "content_filter"]


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A response. The response repeats the fields of the request, even fields without effect."""

    id: str = ""
    object: Literal["response"] = "response"
    created_at: Annotated[int, Meta(description="Seconds since the epoch.")] = 0
    completed_at: Annotated[int | None, Meta(description="Seconds since the epoch; null unless completed.")] = None
    status: Status = "in_progress"
    background: bool = False
    error: Annotated[ResponseFailure | None, Meta(description="The error of a failed response.")] = None
    frequency_penalty: Literal[0] = 0
    incomplete_details: Annotated[IncompleteDetails | None, Meta(description="Why the response is incomplete.")] = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = {}
    model: Annotated[str, Meta(description="The model as sent in the request.")]
    output: Annotated[tuple[Item, ...], Meta(description="Thinking and answer, in order of arrival.")] = ()
    parallel_tool_calls: bool = True
    presence_penalty: Literal[0] = 0
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    reasoning: Json
    safety_identifier: str | None = None
    service_tier: Literal["default"] = "default"
    store: bool = True
    temperature: float = 1.0
    text: Json
    tool_choice: Json | str = "auto"
    tools: tuple[Json, ...] = ()
    top_logprobs: int = 0
    top_p: float = 1.0
    truncation: str = "disabled"
    usage: Annotated[ResponseUsage | None, Meta(description="Tokens; null until the response has ended.")] = None
    user: str | None = None


class DeletedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A deleted response."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputTokenCount(msgspec.Struct, frozen=True):
    """How many tokens the input of a response has, about."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


class InputItemPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the input of a response: messages, tool calls and tool outputs."""

    object: Literal["list"] = "list"
    data: list[Json]
    first_id: str | None
    last_id: str | None
    has_more: bool


def ended(response: Response, items: tuple[Item, ...], ending: Ending, at: float, has_acted: bool) -> Response:
    """Return the response of a run that ended `at` seconds since the epoch.

    `has_acted` says whether the agent reported any activity before the end.
    """
    status = status_of(ending)
    return replace(
        response,
        status=status,
        completed_at=int(at) if status == "completed" else None,
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
        usage.total_tokens,
    )


def failure(ending: RunFailed, has_acted: bool) -> ResponseFailure:
    """Return the failure of a run.

    Only the vendor's code `invalid_prompt` keeps Codex from retrying, and a retry makes an agent repeat all its work.
    """
    codes = {AgentRateLimited.code: "rate_limit_exceeded", AgentRejected.code: _FINAL}
    may_retry = vendor.may_retry(ending.code, has_acted)
    return ResponseFailure(codes.get(ending.code, "server_error") if may_retry else _FINAL, ending.message)


def _cut(reason: StopReason) -> IncompleteDetails | None:
    """Return why the answer is cut, or None; a turn limit is reported as a token limit, the vendor's nearest reason."""
    match reason:
        case "max_tokens" | "max_turns" | "max_budget":
            return IncompleteDetails("max_output_tokens")
        case "refusal":
            return IncompleteDetails("content_filter")
        case "end_turn" | "stop_sequence" | "tool_use":
            return None
