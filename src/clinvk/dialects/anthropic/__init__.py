"""The Anthropic Messages API: `POST /v1/messages`, `POST /v1/messages/count_tokens`, the list of models, and errors.

The token count is an estimate: agents report tokens only after a run, and clinvk has no tokenizer.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from clinvk.dialects import json_bodies, vendor
from clinvk.dialects.anthropic import body as blocks
from clinvk.dialects.anthropic import message as answer
from clinvk.dialects.anthropic.body import MessagesBody, SystemMessage, Thinking
from clinvk.dialects.anthropic.message import PULSE, MessageEncoder
from clinvk.dialects.client_tools import ToolChoice, anthropic_tool, function
from clinvk.dialects.conversation import Conversation, Turn, conversation_of
from clinvk.dialects.dialect import Call
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.events import RunFailed, RunResult
from clinvk.types.request import ClientTool, RunRequest
from clinvk.types.run import RunFacts

_body = json_bodies.decoder(MessagesBody)
_encoder = msgspec.json.Encoder()


class ThreadUnsupported(InvalidRequest):
    """The request asks for a thread of the vendor's server. The SDKs then send the whole conversation by themselves."""

    code = "thread_unsupported_request"


class TokenCount(msgspec.Struct, frozen=True):
    """How many tokens a request has, about."""

    input_tokens: int


class Anthropic(vendor.ModelApi):
    """The dialect of `/anthropic/v1/messages`."""

    pulse = PULSE
    fields: Mapping[str, str] = {
        **vendor.FIELDS,
        "prompt": "messages",
        "images": "messages",
        "system_prompt": "system",
        "stop": "stop_sequences",
        "effort": "output_config.effort",
        "output_schema": "output_config.format.schema",
    }

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Parse a request for a message.

        Raises:
            InvalidRequest: names the field or the header.
        """
        parsed = json_bodies.decode(body, _body)
        if parsed.thread is not None:
            raise ThreadUnsupported("threads are not supported; send the whole conversation without `thread`", "thread")
        request = RunRequest(
            prompt="",
            model=parsed.model,
            max_tokens=parsed.max_tokens,
            stop=parsed.stop_sequences or (),
            thinking=_shows_thinking(parsed.thinking),
            effort=_effort(parsed),
            output_schema=_schema(parsed),
            metadata=parsed.metadata or {},
            client_tools=tuple(_tools(parsed)),
        )
        choice = _tool_choice(parsed.tool_choice)
        call = vendor.call(request, _conversation(parsed), vendor.header_options(headers), choice=choice)
        is_hosted = len(request.client_tools) < len(parsed.tools or ())
        ignored = (*(("tools",) if is_hosted else ()), *vendor.ignored_stop(request, "stop_sequences"))
        return replace(call, stream=bool(parsed.stream), model=parsed.model, ignored=ignored)

    def count(self, body: bytes, headers: Mapping[str, str]) -> TokenCount:
        """Return the answer to a request for a token estimate; raise what `parse` raises."""
        return TokenCount(vendor.estimate(self.parse(body, headers).request))

    def encoder(self, call: Call, facts: RunFacts) -> MessageEncoder:
        """Return the encoder of the events of one message."""
        return MessageEncoder(call, facts)

    def result(self, call: Call, result: RunResult, facts: RunFacts) -> bytes:
        """Return the message of an ended run, or the error of a run that failed after the status was sent."""
        if isinstance(result.ending, RunFailed):
            return answer.error_data(result.ending)
        stop = answer.stop(result.ending)
        message = answer.Message(
            id=answer.message_id(facts),
            model=call.model,
            content=answer.content(result.said, call, facts),
            stop_reason=stop.stop_reason,
            stop_sequence=stop.stop_sequence,
            usage=answer.usage(result.usage),
        )
        return _encoder.encode(message)

    def error(self, error: ClinvkError, request_id: str) -> tuple[int, bytes]:
        """Return status and body for an error."""
        status, what = answer.error_object(error)
        return status, _encoder.encode(answer.ErrorAnswer(error=what, request_id=request_id))


def _tools(body: MessagesBody) -> Iterator[ClientTool]:
    """Yield the tools that the client executes."""
    for index, tool in enumerate(body.tools or ()):
        if tool.input_schema is not None:
            place = f"tools[{index}].input_schema"
            yield function(tool.name, tool.description, tool.input_schema, tool.strict, place)
        elif made := anthropic_tool(tool.type or "", tool.name):
            yield made


def _tool_choice(choice: blocks.ToolChoice | None) -> ToolChoice:
    if choice is None:
        return ToolChoice()
    parallel = not choice.disable_parallel_tool_use
    match choice.type:
        case "auto" | "none" as mode:
            return ToolChoice(mode, parallel=parallel)
        case "any":
            return ToolChoice("required", parallel=parallel)
        case "tool":
            return ToolChoice("required", (choice.name,), parallel)


def _conversation(body: MessagesBody) -> Conversation:
    """Return the conversation; messages of the role system become system texts, wherever they stand."""
    system = blocks.system(body.system, "system")
    late: list[tuple[int, str]] = []
    turns: list[Turn] = []
    for index, message in enumerate(body.messages):
        place = f"messages[{index}]"
        if isinstance(message, SystemMessage):
            late += ((len(turns), text) for text in blocks.system(message.content, f"{place}.content"))
        else:
            turns.append(blocks.turn(message, place))
    return conversation_of(system, late, turns)


def _shows_thinking(thinking: Thinking | None) -> bool:
    return thinking is not None and thinking.type != "disabled" and thinking.display != "omitted"


def _effort(body: MessagesBody) -> str | None:
    """Return the requested effort, or the effort nearest to the budget of thinking tokens."""
    if body.output_config and body.output_config.effort:
        return body.output_config.effort
    budget = body.thinking.budget_tokens if body.thinking and body.thinking.type == "enabled" else None
    return None if budget is None else vendor.effort_of(budget)


def _schema(body: MessagesBody) -> dict[str, object] | None:
    """Return the answer's schema, from the current place or the place in the API's first version."""
    config = body.output_config
    found = config.format if config and config.format else body.output_format
    return found.schema if found else None


class Model(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="model"):
    """An available model. The epoch means that the release date is not known."""

    id: str
    display_name: str
    created_at: Literal["1970-01-01T00:00:00Z"] = "1970-01-01T00:00:00Z"
    lifecycle: Literal["active"] = "active"


class ModelPage(msgspec.Struct, frozen=True, kw_only=True):
    """All models, in one page (https://docs.claude.com/en/api/models-list)."""

    data: Sequence[Model]
    has_more: Literal[False] = False
    first_id: str | None
    last_id: str | None
