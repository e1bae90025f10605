"""Parse the body of `POST /responses`, and convert the input to a conversation.

https://platform.openai.com/docs/api-reference/responses/create

Items other than messages, calls and outcomes mean nothing to an agent and are skipped: the thinking of earlier turns,
which is encrypted, and any kind of item that clients add later.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects import json_bodies, vendor
from clinvk.dialects.conversation import CallMade, Content, Conversation, Outcome, Turn, document, image_of, system_text
from clinvk.dialects.openai.responses.response_object import Json, Response
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import Image

CALLS = ("function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call")
OUTCOMES = tuple(f"{name}_output" for name in CALLS)
TOOLS = "additional_tools"

_ROLES = "system, developer, user, assistant"


class InputItem(msgspec.Struct, frozen=True):
    """What an item is; one without a type is a message."""

    type: str | None = None


class _Address(msgspec.Struct, frozen=True):
    url: str


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a message's content; `type` determines the fields in use."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | _Address | None = None
    file_data: str | None = None
    filename: str | None = None


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    role: str
    content: str | list[_Part] | None = None


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call; the field with the tool's input depends on the kind of tool."""

    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    input: str | None = None
    action: dict[str, object] | None = None
    operation: dict[str, object] | None = None


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    id: str | None = None
    call_id: str | None = None
    output: object = ""
    status: str | None = None


_heads = msgspec.json.Decoder(InputItem)
_messages = msgspec.json.Decoder(_Message)
_calls = json_bodies.decoder(_Call)
_outcomes = json_bodies.decoder(_Outcome)
_encoder = msgspec.json.Encoder()


def conversation(instructions: str | None, given: str | Sequence[msgspec.Raw]) -> Conversation:
    """Return the conversation of an input whose items are JSON objects.

    Raises:
        InvalidRequest: names the field.
    """
    system = [instructions] if instructions else []
    if isinstance(given, str):
        return Conversation(tuple(system), (Turn("user", (given,)),))
    turns: list[Turn] = []
    for index, raw in enumerate(given):
        item = _heads.decode(raw)
        place = f"input[{index}]"
        if item.type in (None, "message"):
            _message(json_bodies.decode(raw, _messages, at=place), place, system, turns)
        elif item.type in CALLS:
            turns.append(Turn("assistant", calls=(_call(json_bodies.decode(raw, _calls, at=place), item.type),)))
        elif item.type in OUTCOMES:
            turns.append(Turn("tool", outcomes=(_outcome(json_bodies.decode(raw, _outcomes, at=place), place),)))
    return Conversation(tuple(system), tuple(turns))


def _message(message: _Message, place: str, system: list[str], turns: list[Turn]) -> None:
    parts = [_Part(type="input_text", text=message.content)] if isinstance(message.content, str) else message.content
    content = tuple(_content(parts or (), f"{place}.content"))
    match message.role:
        case "user" | "assistant" as role:
            turns.append(Turn(role, content))
        case "system" | "developer":
            system += [system_text(part, f"{place}.content[{index}]") for index, part in enumerate(content)]
        case _:
            raise InvalidRequest(f"{place}.role must be one of {_ROLES}, got {message.role!r}", f"{place}.role")


def _content(parts: Iterable[_Part], place: str) -> Iterator[str | Image]:
    for index, part in enumerate(parts):
        here = f"{place}[{index}]"
        match part.type:
            case "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text":
                yield _needed(part.text, f"{here}.text")
            case "refusal":
                yield _needed(part.refusal, f"{here}.refusal")
            case "input_image" | "image_url":
                address = part.image_url.url if isinstance(part.image_url, _Address) else part.image_url
                yield image_of(_needed(address, f"{here}.image_url"), None, f"{here}.image_url")
            case "input_file" | "file":
                yield document(_needed(part.file_data, f"{here}.file_data"), part.filename, f"{here}.file_data")
            case _:
                raise InvalidRequest(
                    f"{here}.type {part.type!r} is not supported; use input_text, input_image or input_file",
                    f"{here}.type",
                )


def _needed(value: str | None, field: str) -> str:
    if value is None:
        raise InvalidRequest(f"{field} is missing", field)
    return value


def _call(call: _Call, kind: str) -> CallMade:
    given = call.arguments if call.arguments is not None else call.input
    if given is None:
        given = _encoder.encode(call.action or call.operation or {}).decode()
    return CallMade(call.call_id or call.id or "", call.name or kind.removesuffix("_call"), given)


def _outcome(outcome: _Outcome, place: str) -> Outcome:
    return Outcome(
        outcome.call_id or outcome.id or "",
        _given(outcome.output, f"{place}.output"),
        outcome.status in ("failed", "incomplete"),
    )


def _given(output: object, place: str) -> Content:
    """Return the output of a tool as content; output in the shell tool's own format stays JSON."""
    if isinstance(output, str):
        return (output,)
    try:
        parts = msgspec.convert(output, list[_Part])
    except msgspec.ValidationError:
        return (_encoder.encode(output).decode(),)
    return tuple(_content(parts, place))


_Count = Annotated[int, Meta(ge=1, le=2_147_483_647)]


class ReasoningOptions(msgspec.Struct, frozen=True):
    """How hard to think, and whether the thinking is told."""

    effort: str | None = None
    summary: Annotated[str | None, Meta(description="Anything but none: the thinking is told in the answer.")] = None
    generate_summary: Annotated[str | None, Meta(description="The older word for `summary`.")] = None


class TextFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The form of the answer; `schema` is a JSON Schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: Json | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True):
    """How the answer is written."""

    format: TextFormat | None = None
    verbosity: Annotated[str | None, Meta(description="Ignored.")] = None


class ToolToCall(msgspec.Struct, frozen=True):
    """A tool that must be called; with a list of those that may be called, `mode` says whether one must be."""

    type: str
    mode: str | None = None


class ResponseBody(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent is asked. Fields that are not listed are accepted and ignored."""

    model: Annotated[
        str,
        Meta(description="A backend (`claude`), a model of it (`claude/opus`), or the model's own name.", min_length=1),
    ]
    input: Annotated[
        str | list[InputItem], Meta(description="What the user says; or messages, calls of tools and what these gave.")
    ]
    instructions: Annotated[str | None, Meta(description="Added to the agent's own system prompt.")] = None
    previous_response_id: Annotated[
        str | None, Meta(description="The stored response to go on from; `input` is then only what comes after it.")
    ] = None
    conversation: Annotated[
        str | Json | None, Meta(description="Refused: use `previous_response_id`.", extra_json_schema={"type": "null"})
    ] = None
    prompt: Annotated[
        Json | None, Meta(description="Refused: there are no templates here.", extra_json_schema={"type": "null"})
    ] = None
    stream: Annotated[bool | None, Meta(description="Answer with server-sent events.")] = None
    store: Annotated[
        bool | None, Meta(description="Keep a session, so that one can go on from the response; the default.")
    ] = None
    background: Annotated[
        bool | None, Meta(description="Answer at once; the run goes on, and the response is asked for later.")
    ] = None
    max_output_tokens: Annotated[_Count | None, Meta(description="Advice: no agent CLI has such a limit.")] = None
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    metadata: Annotated[dict[str, str] | None, Meta(description="Kept with the response and its session.")] = None
    tools: Annotated[list[Json] | None, Meta(description="Ignored: the agent works with its own tools.")] = None
    tool_choice: Annotated[str | ToolToCall | None, Meta(description="auto or none.")] = None
    max_tool_calls: Annotated[int | None, Meta(description="Ignored.")] = None
    parallel_tool_calls: Annotated[bool | None, Meta(description="Ignored.")] = None
    prompt_cache_key: Annotated[str | None, Meta(description="Ignored.")] = None
    safety_identifier: Annotated[str | None, Meta(description="Ignored.")] = None
    temperature: Annotated[float | None, Meta(description="Ignored.")] = None
    top_p: Annotated[float | None, Meta(description="Ignored.")] = None
    truncation: Annotated[str | None, Meta(description="Ignored: the agent's CLI sees to its context.")] = None
    user: Annotated[str | None, Meta(description="Ignored.")] = None


class _Items(msgspec.Struct, frozen=True):
    input: str | list[msgspec.Raw] = ""


_bodies = json_bodies.decoder(ResponseBody)
_items = msgspec.json.Decoder(_Items)


def read(data: bytes) -> tuple[ResponseBody, str | Sequence[msgspec.Raw]]:
    """Parse a body; return the body and the input, whose items are JSON objects.

    Raises:
        InvalidRequest: names the field.
    """
    body = json_bodies.decode(data, _bodies)
    if body.conversation is not None:
        raise InvalidRequest("conversation is not supported; use previous_response_id", "conversation")
    if body.prompt is not None:
        raise InvalidRequest("prompt is not supported: there are no templates here; use instructions", "prompt")
    if body.background and body.store is False:
        raise InvalidRequest("a response in the background must be stored, to be asked for later", "background")
    return body, _items.decode(data).input


def ignored(body: ResponseBody) -> tuple[str, ...]:
    """Return the fields without effect that the client may rely on.

    Raises:
        InvalidRequest: the client requires a tool call.
    """
    heads = body.input if isinstance(body.input, list) else []
    has_tools = bool(body.tools) or any(head.type == TOOLS for head in heads)
    choice = body.tool_choice
    if isinstance(choice, ToolToCall):
        choice = choice.mode or choice.type
    return vendor.ignored_tools(has_tools, choice)


def schema(body: ResponseBody) -> Json | None:
    """Return the requested schema of the answer, or None.

    Raises:
        InvalidRequest: the schema is missing.
    """
    form = body.text.format if body.text else None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.schema is None:
        raise InvalidRequest("text.format.schema is missing", "text.format.schema")
    return form.schema


def summary(body: ResponseBody) -> str | None:
    """Return how to report the thinking, or None to hide the thinking; as at the vendor, always as a summary."""
    asked = body.reasoning and (body.reasoning.summary or body.reasoning.generate_summary)
    return None if asked == "none" else asked or None


def blank(body: ResponseBody) -> Response:
    """Return a response with the fields that the request determines."""
    form = body.text.format if body.text else None
    text: Json = {"format": _without_none(form) if form else {"type": "text"}}
    if body.text and body.text.verbosity:
        text["verbosity"] = body.text.verbosity
    return Response(
        model=body.model,
        background=bool(body.background),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        reasoning={"effort": body.reasoning and body.reasoning.effort, "summary": summary(body)},
        safety_identifier=body.safety_identifier,
        store=body.store is not False,
        temperature=body.temperature,
        text=text,
        tool_choice="none" if body.tool_choice == "none" else "auto",
        top_p=body.top_p,
        truncation=body.truncation or "disabled",
        user=body.user,
    )


def _without_none(value: msgspec.Struct) -> Json:
    told: Json = msgspec.to_builtins(value)
    return {name: part for name, part in told.items() if part is not None}
