"""OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat.

`reasoning_content`, the field with the model's thinking, is not part of OpenAI's API; DeepSeek introduced the field,
and clients that show thinking read it.
"""

from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from clinvk.dialects import json_bodies, vendor
from clinvk.dialects.conversation import Content, Conversation, ToolCallMade, ToolOutcome, Turn, document, image_of
from clinvk.dialects.dialect import Call
from clinvk.dialects.openai import chat_bodies as bodies
from clinvk.dialects.openai.answers import ChunkTemplates, CompletionApi, JsonObjectFormat, with_answer_options
from clinvk.types.request import Image, RunRequest
from clinvk.types.result import RunResult


def conversation(messages: list[bodies.Message]) -> Conversation:
    """Parse the messages of a body.

    Raises:
        InvalidRequest: names the field in the messages.
    """
    system: list[str] = []
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        content = _content(message.content, f"messages[{index}].content")
        match message:
            case bodies.SystemMessage():
                system += (part for part in content if isinstance(part, str))
            case bodies.UserMessage(name=name):
                turns.append(Turn("user", content, name=name))
            case bodies.AssistantMessage(refusal=refusal, name=name):
                content = (*content, refusal) if refusal else content
                turns.append(Turn("assistant", content, calls=tuple(_calls(message)), name=name))
            case bodies.ToolMessage(tool_call_id=id_) | bodies.FunctionMessage(name=id_):
                turns.append(Turn("tool", outcomes=(ToolOutcome(id_, content),)))
    return Conversation(tuple(system), tuple(turns))


def _calls(message: bodies.AssistantMessage) -> Iterator[ToolCallMade]:
    if message.function_call:
        yield ToolCallMade(message.function_call.name, message.function_call.name, message.function_call.arguments)
    for call in message.tool_calls or ():
        if call.function:
            yield ToolCallMade(call.id, call.function.name, call.function.arguments)
        if call.custom:
            yield ToolCallMade(call.id, call.custom.name, call.custom.input)


def _content(content: str | Sequence[bodies.Part] | None, place: str) -> Content:
    if isinstance(content, str):
        return (content,) if content else ()
    return tuple(_part(part, f"{place}[{index}]") for index, part in enumerate(content or ()))


def _part(part: bodies.Part, place: str) -> str | Image:
    match part:
        case bodies.TextPart(text=text) | bodies.RefusalPart(refusal=text):
            return text
        case bodies.ImagePart(image_url=address):
            if isinstance(address, str):
                return image_of(address, None, f"{place}.image_url")
            return image_of(address.url, None, f"{place}.image_url.url")
        case bodies.FilePart(file=file):
            return document(file.file_data, file.filename, f"{place}.file.file_data")


_JSON_OBJECT: dict[str, object] = {"type": "object"}
_CHOICE = b'{"index":0,"delta":%s,"logprobs":null,"finish_reason":null}'
_TEMPLATES = ChunkTemplates(
    start=_CHOICE % b'{"role":"assistant","content":"","refusal":null}',
    text=_CHOICE % b'{"content":%s}',
    thinking=_CHOICE % b'{"reasoning_content":%s}',
    last=b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"%s"}',
)
_NO_THINKING = ("none", "disabled")
_body = json_bodies.decoder(bodies.ChatBody)


class OpenAIChat(CompletionApi):
    """The dialect of `/openai/v1/chat/completions`."""

    id_prefix = "chatcmpl-"
    answer_type = "chat.completion"
    chunk_type = "chat.completion.chunk"
    answer_struct = bodies.ChatAnswer

    fields: Mapping[str, str] = {
        **vendor.FIELDS,
        "prompt": "messages",
        "effort": "reasoning_effort",
        "images": "messages",
        "system_prompt": "messages",
        "output_schema": "response_format.json_schema.schema",
    }

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Parse a request body.

        Raises:
            InvalidRequest: names the field.
        """
        parsed = json_bodies.decode(body, _body)
        request = RunRequest(
            prompt="",
            model=parsed.model,
            max_tokens=parsed.max_completion_tokens or parsed.max_tokens,
            effort=parsed.reasoning_effort or None,
            thinking=_thinks(parsed),
            stop=parsed.stops,
            output_schema=_schema(parsed.response_format),
            metadata=parsed.metadata or {},
        )
        call = vendor.call(request, conversation(parsed.messages), vendor.header_options(headers))
        ignored = (*(("tools",) if parsed.tools or parsed.functions else ()), *vendor.ignored_stop(request))
        return replace(with_answer_options(call, parsed), ignored=ignored)

    def templates(self, call: Call) -> ChunkTemplates:
        """Return the templates of the chunks of a stream."""
        return _TEMPLATES

    def choice(self, call: Call, result: RunResult, finish_reason: str) -> bodies.Choice:
        """Return the choice of a whole answer."""
        thinking = "".join(vendor.visible_thinking(event, call) for event in result.said)
        return bodies.Choice(0, bodies.AnswerMessage("assistant", result.text, None, thinking), None, finish_reason)


def _thinks(body: bodies.ChatBody) -> bool:
    if body.thinking is not None:
        return body.thinking.get("type") not in _NO_THINKING
    return bool(body.reasoning_effort) and body.reasoning_effort not in _NO_THINKING


def _schema(response_format: bodies.ResponseFormat | None) -> dict[str, object] | None:
    match response_format:
        case JsonObjectFormat():
            return _JSON_OBJECT
        case bodies.JsonSchemaFormat(json_schema=schema):
            return schema.schema
        case _:
            return None
