"""The bodies of chat completions and of the older completions of a text: the request fields in use, and the answer."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects.json_bodies import because
from clinvk.dialects.openai.answers import GenerationBody, JsonObjectFormat, TextFormat, TokenUsage
from clinvk.dialects.vendor import OneAnswer, ToolMode
from clinvk.types.allowed_values import NOT_BLANK

_Name = Annotated[str, Meta(min_length=1)]


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


class FileData(msgspec.Struct, frozen=True):
    """A file, as a data URL or base64."""

    file_data: Annotated[str, Meta(extra=because("nothing is uploaded here; send the file as a data URL in file_data"))]
    filename: str | None = None


class FilePart(msgspec.Struct, frozen=True, tag="file"):
    """A file."""

    file: FileData


Part = TextPart | RefusalPart | ImagePart | FilePart
Content = Annotated[str | list[Part], Meta(description="A text, or a list of parts.")]


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


class SystemMessage(msgspec.Struct, frozen=True, tag_field="role", tag="system"):
    """A part of the system prompt."""

    content: Annotated[
        str | list[TextPart | RefusalPart | FilePart],
        Meta(description="A text, or a list of parts.", extra=because("the agent's system prompt cannot have images")),
    ]


class DeveloperMessage(SystemMessage, frozen=True, tag_field="role", tag="developer"):
    """A part of the system prompt."""


class UserMessage(msgspec.Struct, frozen=True, tag_field="role", tag="user"):
    """A message of the user."""

    content: Content
    name: str | None = None


class AssistantMessage(msgspec.Struct, frozen=True, tag_field="role", tag="assistant"):
    """An earlier answer."""

    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Annotated[None, Meta(description="Refused: use `tool_calls`.", extra=because("use tools"))] = None


class ToolMessage(msgspec.Struct, frozen=True, tag_field="role", tag="tool"):
    """The output of a tool."""

    tool_call_id: _Name
    content: Content


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class JsonSchema(msgspec.Struct, frozen=True):
    """The form of the answer."""

    schema: Annotated[dict[str, object], Meta(description="A JSON Schema.")]
    name: str | None = None


class JsonSchemaFormat(msgspec.Struct, frozen=True, tag="json_schema"):
    """The answer is JSON of the given form."""

    json_schema: JsonSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class FunctionDefinition(msgspec.Struct, frozen=True):
    """A function that the client executes."""

    name: _Name
    description: str | None = None
    parameters: Annotated[dict[str, object] | None, Meta(description="A JSON Schema of an object.")] = None
    strict: bool | None = None


class CustomDefinition(msgspec.Struct, frozen=True):
    """A tool of the client that takes a text."""

    name: _Name
    description: str | None = None
    format: Annotated[dict[str, object] | None, Meta(description="The grammar of the text.")] = None


class ChatTool(msgspec.Struct, frozen=True):
    """A tool of the client; tools of other types are ignored."""

    type: str
    function: FunctionDefinition | None = None
    custom: CustomDefinition | None = None


class ToolName(msgspec.Struct, frozen=True):
    """The name of a tool."""

    name: _Name


class FunctionChoice(msgspec.Struct, frozen=True, tag="function", rename={"tool": "function"}):
    """A function that the model must call."""

    tool: ToolName


class CustomChoice(msgspec.Struct, frozen=True, tag="custom", rename={"tool": "custom"}):
    """A tool for a text that the model must call."""

    tool: ToolName


class ToolChoiceMode(msgspec.Struct, frozen=True):
    """Whether the model may or must call one of the allowed tools."""

    mode: ToolMode
    tools: list[FunctionChoice | CustomChoice] = []


class AllowedTools(msgspec.Struct, frozen=True, tag="allowed_tools"):
    """The tools that the model may call."""

    allowed_tools: ToolChoiceMode


class ChatBody(GenerationBody, frozen=True, kw_only=True):
    """A conversation for the agent to continue. Other fields are accepted and ignored."""

    messages: Annotated[list[Message], Meta(min_length=1, description="The conversation, the oldest message first.")]
    max_completion_tokens: Annotated[int | None, Meta(description="Advice: no agent CLI has such a limit.")] = None
    reasoning_effort: Annotated[
        str | None, Meta(description="How hard to think; the answer then includes the model's thinking.")
    ] = None
    thinking: Annotated[
        dict[str, object] | None, Meta(description='With {"type": "enabled"} the answer includes the thinking.')
    ] = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[ChatTool] | None, Meta(description="The tools that the client executes.")] = None
    tool_choice: Annotated[
        ToolMode | AllowedTools | FunctionChoice | CustomChoice | None,
        Meta(description="Which tools the model may or must call."),
    ] = None
    parallel_tool_calls: Annotated[bool | None, Meta(description="Whether an answer may have several calls.")] = None
    functions: Annotated[None, Meta(description="Refused: use `tools`.", extra=because("use tools"))] = None
    function_call: Annotated[None, Meta(description="Refused: use `tool_choice`.", extra=because("use tools"))] = None
    modalities: Annotated[
        Annotated[list[Literal["text"]], Meta(max_length=1)] | None,
        Meta(description="Only text is supported.", extra=because("agents only write")),
    ] = None
    metadata: Annotated[dict[str, object] | None, Meta(description="Stored with the session, if any.")] = None


class AnswerCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call of one of the client's tools."""

    id: str
    type: Literal["function", "custom"]
    function: FunctionCall | None = None
    custom: CustomCall | None = None


class AnswerMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """The message of the assistant."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: Annotated[str, Meta(description="The model's thinking, if requested.")] = ""
    tool_calls: tuple[AnswerCall, ...] = ()


class Choice(msgspec.Struct, frozen=True):
    """The answer."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: str


class ChatAnswer(msgspec.Struct, frozen=True):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: Annotated[str, Meta(description="The model as sent in the request.")]
    choices: tuple[Choice, ...]
    usage: TokenUsage


_Text = Annotated[str, Meta(pattern=NOT_BLANK)]


class CompletionBody(GenerationBody, frozen=True, kw_only=True):
    """A text for the agent to answer. Other fields are accepted and ignored."""

    prompt: Annotated[
        _Text | Annotated[list[_Text], Meta(min_length=1, max_length=1)],
        Meta(
            description="A text, or a list of one text. Tokens are refused.",
            extra=because("an agent gives one answer, and takes no tokens"),
        ),
    ]
    best_of: Annotated[OneAnswer, Meta(description="Number of candidates; only 1 is possible.")] = None
    echo: Annotated[bool | None, Meta(description="Begin the answer with the prompt.")] = None
    suffix: Annotated[
        Literal[""] | None, Meta(description="Refused: an agent fills no gap.", extra=because("an agent fills no gap"))
    ] = None


class CompletionChoice(msgspec.Struct, frozen=True):
    """The answer."""

    text: str
    index: int
    logprobs: None
    finish_reason: str


class CompletionAnswer(msgspec.Struct, frozen=True):
    """The answer to a text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: Annotated[str, Meta(description="The model as sent in the request.")]
    choices: tuple[CompletionChoice, ...]
    usage: TokenUsage
