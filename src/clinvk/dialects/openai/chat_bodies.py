"""The bodies of chat completions: the request fields in use, and the answer."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects.openai.answers import ONE, StreamOptions, TokenUsage


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """A piece of text."""

    text: str


class RefusalPart(msgspec.Struct, frozen=True, tag="refusal"):
    """What the assistant said instead of an answer."""

    refusal: str


class ImageUrl(msgspec.Struct, frozen=True):
    """Where an image is: in the address itself, which is a data URL."""

    url: str


class ImagePart(msgspec.Struct, frozen=True, tag="image_url"):
    """An image."""

    image_url: ImageUrl | str


class AudioPart(msgspec.Struct, frozen=True, tag="input_audio"):
    """Sound, which no agent takes."""


class FileData(msgspec.Struct, frozen=True):
    """A file: its bytes as a data URL or base64, or the id of one that was uploaded to OpenAI."""

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class FilePart(msgspec.Struct, frozen=True, tag="file"):
    """A file."""

    file: FileData


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart


class FunctionCall(msgspec.Struct, frozen=True):
    """A call of a function; `arguments` is JSON, as a text."""

    name: str
    arguments: str = ""


class CustomCall(msgspec.Struct, frozen=True):
    """A call of a tool that takes a text."""

    name: str
    input: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    """A call of one of the client's tools in an earlier answer."""

    id: str = ""
    function: FunctionCall | None = None
    custom: CustomCall | None = None


class Message(msgspec.Struct, frozen=True):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str | list[Part] | None, Meta(description="A text, or a list of parts.")] = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: str | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    """The form of the answer."""

    schema: Annotated[dict[str, object], Meta(description="A JSON Schema.")]
    name: str | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """What kind of text the answer is."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatBody(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation that the agent goes on with. Fields that are not listed are accepted and ignored."""

    model: Annotated[
        str,
        Meta(description="A backend (`claude`), a model of it (`claude/opus`), or the model's own name.", min_length=1),
    ]
    messages: Annotated[list[Message], Meta(description="The conversation, the oldest message first.")]
    stream: Annotated[bool | None, Meta(description="Answer with server-sent events.")] = None
    stream_options: StreamOptions | None = None
    stop: Annotated[str | list[str] | None, Meta(description="One text or several, before which the answer ends.")] = (
        None
    )
    n: Annotated[int | None, Meta(description="Answers; only 1 is possible.", extra_json_schema=ONE)] = None
    max_tokens: Annotated[int | None, Meta(description="Advice: no agent CLI has such a limit.")] = None
    max_completion_tokens: Annotated[int | None, Meta(description="Advice: no agent CLI has such a limit.")] = None
    reasoning_effort: Annotated[
        str | None, Meta(description="How hard to think. The answer then tells the model's thinking, where it does.")
    ] = None
    thinking: Annotated[
        dict[str, object] | None, Meta(description='With {"type": "enabled"} the answer tells the model\'s thinking.')
    ] = None
    response_format: ResponseFormat | None = None
    tools: Annotated[
        list[dict[str, object]] | None, Meta(description="Ignored: the agent works with its own tools.")
    ] = None
    tool_choice: Annotated[str | dict[str, object] | None, Meta(description="auto or none.")] = None
    functions: Annotated[list[dict[str, object]] | None, Meta(description="The older word for `tools`.")] = None
    function_call: Annotated[str | dict[str, object] | None, Meta(description="auto or none.")] = None
    modalities: Annotated[
        list[str] | None,
        Meta(description="Only text can be had.", extra_json_schema={"items": {"const": "text"}, "maxItems": 1}),
    ] = None
    metadata: Annotated[dict[str, object] | None, Meta(description="Kept with the session, if one is.")] = None
    temperature: Annotated[float | None, Meta(description="Ignored.")] = None
    top_p: Annotated[float | None, Meta(description="Ignored.")] = None
    presence_penalty: Annotated[float | None, Meta(description="Ignored.")] = None
    frequency_penalty: Annotated[float | None, Meta(description="Ignored.")] = None
    seed: Annotated[int | None, Meta(description="Ignored.")] = None
    logprobs: Annotated[bool | None, Meta(description="Ignored.")] = None
    top_logprobs: Annotated[int | None, Meta(description="Ignored.")] = None


class AnswerMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str
    refusal: None
    reasoning_content: Annotated[str, Meta(description="The model's thinking, where it was asked for.")] = ""


class Choice(msgspec.Struct, frozen=True):
    """The answer."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: str


class ChatAnswer(msgspec.Struct, frozen=True):
    """What came of a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: Annotated[str, Meta(description="As it was sent.")]
    choices: tuple[Choice, ...]
    usage: TokenUsage
