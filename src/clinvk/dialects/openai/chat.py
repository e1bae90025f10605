"""OpenAI's chat completions, and the older completions of a text.

https://platform.openai.com/docs/api-reference/chat, https://platform.openai.com/docs/api-reference/completions

`reasoning_content`, the field with the model's thinking, is not part of OpenAI's API; DeepSeek introduced the field,
and clients that show thinking read it.
"""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import to_builtins
from msgspec.structs import replace

from clinvk.dialects import json_bodies, vendor
from clinvk.dialects.client_tools import ToolChoice, arguments, function, takes_text, text_input, text_tool
from clinvk.dialects.conversation import Content, Conversation, ToolCallMade, Turn, conversation_of, document, image_of
from clinvk.dialects.dialect import Call
from clinvk.dialects.openai import answers
from clinvk.dialects.openai import chat_bodies as bodies
from clinvk.types.events import Event, RunResult, ToolCall, ToolCallDelta
from clinvk.types.request import ClientTool, Image, RunRequest, ToolOutput
from clinvk.types.run import RunFacts


def conversation(messages: list[bodies.Message]) -> Conversation:
    """Parse the messages of a body.

    Raises:
        InvalidRequest: names the field in the messages.
    """
    system: list[tuple[int, str]] = []
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        content = _content(message.content, f"messages[{index}].content")
        match message:
            case bodies.SystemMessage():
                system += ((len(turns), part) for part in content if isinstance(part, str))
            case bodies.UserMessage(name=name):
                turns.append(Turn("user", content, name=name))
            case bodies.AssistantMessage(refusal=refusal, name=name):
                content = (*content, refusal) if refusal else content
                turns.append(Turn("assistant", content, calls=tuple(_calls(message)), name=name))
            case bodies.ToolMessage(tool_call_id=id_):
                turns.append(Turn("tool", outcomes=(ToolOutput(id_, content),)))
    return conversation_of((), system, turns)


def _calls(message: bodies.AssistantMessage) -> Iterator[ToolCallMade]:
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
_TEMPLATES = answers.ChunkTemplates(
    start=_CHOICE % b'{"role":"assistant","content":"","refusal":null}',
    text=_CHOICE % b'{"content":%s}',
    thinking=_CHOICE % b'{"reasoning_content":%s}',
    last=b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"%s"}',
)
_NO_THINKING = ("none", "disabled")
_body = json_bodies.decoder(bodies.ChatBody)
_encode = msgspec.json.Encoder().encode


def _answer_call(call: ToolCall, request: RunRequest) -> bodies.AnswerCall:
    if takes_text(call.name, request):
        return bodies.AnswerCall(call.id, "custom", custom=bodies.CustomCall(call.name, text_input(call)))
    return bodies.AnswerCall(call.id, "function", function=bodies.FunctionCall(call.name, arguments(call)))


class ChatEncoder(answers.ChunkEncoder):
    """Encodes the chunks of one chat answer, with the calls of client tools."""

    def __init__(self, kind: str, id_: str, call: Call, facts: RunFacts, templates: answers.ChunkTemplates) -> None:
        super().__init__(kind, id_, call, facts, templates)
        self._indexes: dict[str, int] = {}

    def feed(self, event: Event, at: float) -> bytes:
        """Return the chunks of one event. The text of a custom tool is not sent in pieces."""
        match event:
            case ToolCallDelta():
                return b"" if takes_text(event.name, self._call.request) else self._piece(event)
            case ToolCall(for_client=True):
                return b"" if event.id in self._indexes else self._whole(event)
            case _:
                return super().feed(event, at)

    def _whole(self, call: ToolCall) -> bytes:
        if not takes_text(call.name, self._call.request):
            return self._piece(ToolCallDelta(call.id, call.name, arguments(call)))
        index = self._indexes[call.id] = len(self._indexes)
        return self._calls_chunk({"index": index, **to_builtins(_answer_call(call, self._call.request))})

    def _piece(self, piece: ToolCallDelta) -> bytes:
        is_first = piece.id not in self._indexes
        index = self._indexes.setdefault(piece.id, len(self._indexes))
        function = {**({"name": piece.name} if is_first else {}), "arguments": piece.arguments}
        head = {"id": piece.id, "type": "function"} if is_first else {}
        return self._calls_chunk({"index": index, **head, "function": function})

    def _calls_chunk(self, call: dict[str, object]) -> bytes:
        return self._chunk(_CHOICE % _encode({"tool_calls": [call]}))


class OpenAIChat(answers.CompletionApi):
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
            client_tools=tuple(_tools(parsed)),
        )
        options = vendor.header_options(headers)
        call = vendor.call(request, conversation(parsed.messages), options, choice=_tool_choice(parsed))
        is_hosted = any(not (tool.function or tool.custom) for tool in parsed.tools or ())
        ignored = (*(("tools",) if is_hosted else ()), *vendor.ignored_stop(request))
        return replace(answers.with_answer_options(call, parsed), ignored=ignored)

    def encoder(self, call: Call, facts: RunFacts) -> answers.ChunkEncoder:
        """Return the encoder of one stream."""
        return ChatEncoder(self.chunk_type, f"{self.id_prefix}{facts.run_id}", call, facts, _TEMPLATES)

    def choice(self, call: Call, result: RunResult, finish_reason: str) -> bodies.Choice:
        """Return the choice of a whole answer."""
        thinking = "".join(vendor.visible_thinking(event, call) for event in result.said)
        calls = [event for event in result.tool_calls if event.for_client]
        text = result.text or (None if calls else "")
        tool_calls = tuple(_answer_call(each, call.request) for each in calls)
        message = bodies.AnswerMessage("assistant", text, None, thinking, tool_calls)
        return bodies.Choice(0, message, None, finish_reason)


def _tools(body: bodies.ChatBody) -> Iterator[ClientTool]:
    """Yield the tools that the client executes."""
    for index, tool in enumerate(body.tools or ()):
        if tool.function:
            each = tool.function
            place = f"tools[{index}].function.parameters"
            yield function(each.name, each.description, each.parameters, each.strict, place)
        elif tool.custom:
            yield text_tool(tool.custom.name, tool.custom.description, tool.custom.format)


def _tool_choice(body: bodies.ChatBody) -> ToolChoice:
    parallel = body.parallel_tool_calls is not False
    match body.tool_choice:
        case "none" | "required" as mode:
            return ToolChoice(mode, parallel=parallel)
        case bodies.FunctionChoice(tool=tool) | bodies.CustomChoice(tool=tool):
            return ToolChoice("required", (tool.name,), parallel)
        case bodies.AllowedTools(allowed_tools=allowed):
            return ToolChoice(allowed.mode, tuple(each.tool.name for each in allowed.tools), parallel)
        case _:
            return ToolChoice(parallel=parallel)


def _thinks(body: bodies.ChatBody) -> bool:
    if body.thinking is not None:
        return body.thinking.get("type") not in _NO_THINKING
    return bool(body.reasoning_effort) and body.reasoning_effort not in _NO_THINKING


def _schema(response_format: bodies.ResponseFormat | None) -> dict[str, object] | None:
    match response_format:
        case answers.JsonObjectFormat():
            return _JSON_OBJECT
        case bodies.JsonSchemaFormat(json_schema=schema):
            return schema.schema
        case _:
            return None


_TEXT_TEMPLATES = answers.ChunkTemplates(
    start=b"",
    text=b'{"text":%s,"index":0,"logprobs":null,"finish_reason":null}',
    thinking=b"",
    last=b'{"text":"","index":0,"logprobs":null,"finish_reason":"%s"}',
)
_completion_body = msgspec.json.Decoder(bodies.CompletionBody)


class OpenAICompletions(answers.CompletionApi):
    """The dialect of `/openai/v1/completions`."""

    id_prefix = "cmpl-"
    answer_type = "text_completion"
    chunk_type = "text_completion"
    answer_struct = bodies.CompletionAnswer

    def parse(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Parse a request body.

        Raises:
            InvalidRequest: names the field.
        """
        parsed = json_bodies.decode(body, _completion_body)
        prompt = parsed.prompt if isinstance(parsed.prompt, str) else parsed.prompt[0]
        request = RunRequest(prompt="", model=parsed.model, max_tokens=parsed.max_tokens, stop=parsed.stops)
        call = vendor.call(
            request, Conversation((), (Turn("user", (prompt,)),)), vendor.header_options(headers), "prompt"
        )
        return replace(answers.with_answer_options(call, parsed), echo=prompt if parsed.echo else "")

    def encoder(self, call: Call, facts: RunFacts) -> answers.ChunkEncoder:
        """Return the encoder of one stream, which starts with the echoed prompt if requested."""
        templates = _TEXT_TEMPLATES
        if call.echo:
            templates = templates._replace(start=templates.text % _encode(call.echo))
        return answers.ChunkEncoder(self.chunk_type, f"{self.id_prefix}{facts.run_id}", call, facts, templates)

    def choice(self, call: Call, result: RunResult, finish_reason: str) -> bodies.CompletionChoice:
        """Return the choice of a whole answer."""
        return bodies.CompletionChoice(call.echo + result.text, 0, None, finish_reason)
