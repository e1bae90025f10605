"""Parse the body of `POST /responses`; `input_items` converts the input.

https://platform.openai.com/docs/api-reference/responses/create
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from clinvk.dialects import json_bodies, vendor
from clinvk.dialects.client_tools import OPENAI, ToolChoice, function, qualified, text_tool
from clinvk.dialects.dialect import copy_as
from clinvk.dialects.json_bodies import because
from clinvk.dialects.openai.answers import JsonObjectFormat, TextFormat
from clinvk.dialects.openai.responses.input_items import TOOLS, InputItem
from clinvk.dialects.openai.responses.response_object import Json, Response
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import ClientTool

_Count = Annotated[int, Meta(ge=1, le=2_147_483_647)]


class ReasoningOptions(msgspec.Struct, frozen=True):
    """How hard to think, and whether to include the thinking."""

    effort: str | None = None
    summary: Annotated[str | None, Meta(description="Any value except none: the response includes the thinking.")] = (
        None
    )
    generate_summary: Annotated[str | None, Meta(description="The older name of `summary`.")] = None


class ResponseSchemaFormat(msgspec.Struct, frozen=True, kw_only=True, tag="json_schema"):
    """The answer is JSON of the form that `schema`, a JSON Schema, describes."""

    name: str | None = None
    description: str | None = None
    schema: Json
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True):
    """How the answer is written."""

    format: TextFormat | JsonObjectFormat | ResponseSchemaFormat | None = None
    verbosity: Annotated[str | None, Meta(description="Ignored.")] = None


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool. The client executes functions and custom tools, alone or in a namespace; other types are ignored."""

    type: str
    name: str = ""
    description: str | None = None
    parameters: Annotated[Json | None, Meta(description="A JSON Schema of an object.")] = None
    format: Annotated[Json | None, Meta(description="The grammar of the text of a custom tool.")] = None
    strict: bool | None = None
    tools: Annotated[list["Tool"] | None, Meta(description="The tools of a namespace.")] = None


class ToolChoiceFunction(msgspec.Struct, frozen=True, tag="function"):
    """A function that the model must call."""

    name: str


class ToolChoiceCustom(ToolChoiceFunction, frozen=True, tag="custom"):
    """A custom tool that the model must call."""


class AllowedToolChoice(msgspec.Struct, frozen=True, tag="allowed_tools"):
    """The tools that the model may call."""

    mode: vendor.ToolMode
    tools: list[ToolChoiceFunction | ToolChoiceCustom] = []


class ResponseBody(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a response. Other fields are accepted and ignored."""

    model: vendor.ModelName
    input: Annotated[
        Annotated[str, Meta(min_length=1)] | Annotated[list[InputItem], Meta(min_length=1)],
        Meta(description="A text, or messages, tool calls and tool outputs."),
    ]
    instructions: Annotated[str | None, Meta(description="Added to the agent's own system prompt.")] = None
    previous_response_id: Annotated[
        str | None, Meta(description="The stored response to continue; `input` then has only later turns.")
    ] = None
    conversation: Annotated[
        None, Meta(description="Refused: use `previous_response_id`.", extra=because("use previous_response_id"))
    ] = None
    prompt: Annotated[
        None,
        Meta(
            description="Refused: there are no templates here.",
            extra=because("there are no templates here; use instructions"),
        ),
    ] = None
    stream: Annotated[bool | None, Meta(description="Answer with server-sent events.")] = None
    store: Annotated[bool | None, Meta(description="Store a session, to continue the response later; the default.")] = (
        None
    )
    background: Annotated[bool | None, Meta(description="Return at once; retrieve the response later.")] = None
    max_output_tokens: Annotated[_Count | None, Meta(description="Advice: no agent CLI has such a limit.")] = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    metadata: Annotated[dict[str, str] | None, Meta(description="Stored with the response and its session.")] = None
    tools: Annotated[list[Tool] | None, Meta(description="The tools that the client executes.")] = None
    tool_choice: Annotated[
        vendor.ToolMode | AllowedToolChoice | ToolChoiceFunction | ToolChoiceCustom | None,
        Meta(description="Which tools the model may or must call."),
    ] = None
    max_tool_calls: Annotated[int | None, Meta(description="Ignored.")] = None
    parallel_tool_calls: Annotated[bool | None, Meta(description="Whether an answer may have several calls.")] = None
    prompt_cache_key: Annotated[str | None, Meta(description="Ignored.")] = None
    safety_identifier: Annotated[str | None, Meta(description="Ignored.")] = None
    temperature: Annotated[float | None, Meta(description="Ignored.")] = None
    top_p: Annotated[float | None, Meta(description="Ignored.")] = None
    truncation: Annotated[str | None, Meta(description="Ignored: the agent's CLI manages the context.")] = None
    user: Annotated[str | None, Meta(description="Ignored.")] = None


class InputTokensBody(ResponseBody, frozen=True, kw_only=True):
    """A request for an estimate of the tokens of a response's input."""

    model: vendor.ModelName | None = "default"  # pyright: ignore[reportIncompatibleVariableOverride]  # for the document


class _Items(msgspec.Struct, frozen=True):
    input: str | list[msgspec.Raw] = ""


_bodies = json_bodies.decoder(ResponseBody)
_items = msgspec.json.Decoder(_Items)
_tool_lists = json_bodies.decoder(list[Tool])


def read(data: bytes) -> tuple[ResponseBody, str | Sequence[msgspec.Raw]]:
    """Parse a body; return the body and the input, whose items are JSON objects.

    Raises:
        InvalidRequest: names the field.
    """
    body = json_bodies.decode(data, _bodies)
    if body.background and body.store is False:
        raise InvalidRequest("a response in the background must be stored, to be asked for later", "background")
    return body, _items.decode(data).input


def ignored(body: ResponseBody) -> tuple[str, ...]:
    """Return the fields without effect that the client may rely on."""
    return ("tools",) if any(tool.type not in ("function", "custom", *OPENAI) for tool, _, _ in _tools(body)) else ()


def client_tools(body: ResponseBody) -> Iterator[ClientTool]:
    """Yield the tools that the client executes.

    Raises:
        InvalidRequest: names the field.
    """
    for tool, namespace, place in _tools(body):
        name = qualified(namespace, tool.name)
        if tool.type == "function":
            made = function(name, tool.description, tool.parameters, tool.strict, f"{place}.parameters")
        elif tool.type == "custom":
            made = text_tool(name, tool.description, tool.format)
        elif tool.type in OPENAI:
            made = OPENAI[tool.type]
        else:
            continue
        yield replace(made, namespace=namespace)


def _tools(body: ResponseBody) -> Iterator[tuple[Tool, str, str]]:
    """Yield each tool with its namespace and its place in the body; Codex sends the tools of some models as an item."""
    lists = [(body.tools or [], "tools")]
    for index, item in enumerate(body.input if isinstance(body.input, list) else ()):
        if item.type == TOOLS and isinstance(item.tools, msgspec.Raw):
            place = f"input[{index}].tools"
            lists.append((json_bodies.decode(item.tools, _tool_lists, at=place), place))
    for tools, place in lists:
        for index, tool in enumerate(tools):
            if tool.type != "namespace":
                yield tool, "", f"{place}[{index}]"
            for number, inner in enumerate(tool.tools or ()):
                yield inner, tool.name, f"{place}[{index}].tools[{number}]"


def tool_choice(body: ResponseBody) -> ToolChoice:
    """Return the choice among the tools."""
    parallel = body.parallel_tool_calls is not False
    match body.tool_choice:
        case "none" | "required" as mode:
            return ToolChoice(mode, parallel=parallel)
        case ToolChoiceFunction(name=name):
            return ToolChoice("required", (name,), parallel)
        case AllowedToolChoice(mode=mode, tools=tools):
            return ToolChoice(mode, tuple(tool.name for tool in tools), parallel)
        case _:
            return ToolChoice(parallel=parallel)


def schema(body: ResponseBody) -> Json | None:
    """Return the requested schema of the answer, or None."""
    match body.text.format if body.text else None:
        case JsonObjectFormat():
            return {"type": "object"}
        case ResponseSchemaFormat(schema=json_schema):
            return json_schema
        case _:
            return None


def summary(body: ResponseBody) -> str | None:
    """Return how to report the thinking, or None to hide the thinking; as at the vendor, always as a summary."""
    summary = body.reasoning and (body.reasoning.summary or body.reasoning.generate_summary)
    return None if summary == "none" else summary or None


def blank(body: ResponseBody) -> Response:
    """Return a response with the fields that the request determines."""
    form: Json = msgspec.to_builtins((body.text and body.text.format) or TextFormat())
    if form["type"] == "json_schema":
        form |= {"name": form["name"] or "", "strict": bool(form["strict"])}
    text: Json = {"format": form}
    if body.text and body.text.verbosity:
        text["verbosity"] = body.text.verbosity
    return copy_as(
        Response,
        body,
        skip=(None,),
        reasoning={"effort": body.reasoning and body.reasoning.effort, "summary": summary(body)},
        text=text,
        tool_choice=msgspec.to_builtins(body.tool_choice or "auto"),
        tools=tuple(map(_echoed, body.tools or ())),
        truncation=body.truncation or "disabled",
    )


def _echoed(tool: Tool) -> Json:
    """Return a tool with all fields that a function has in a response."""
    fields: Json = msgspec.to_builtins(tool)
    if tool.tools:
        fields["tools"] = [*map(_echoed, tool.tools)]
    required: Json = {"description": None, "parameters": None, "strict": None} if tool.type == "function" else {}
    return required | fields
