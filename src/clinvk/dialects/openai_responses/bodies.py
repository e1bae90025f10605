"""What `POST /responses` is asked with: https://platform.openai.com/docs/api-reference/responses/create."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects import strict, vendor
from clinvk.dialects.openai_responses.answer import Json, Response
from clinvk.dialects.openai_responses.input import TOOLS, InputItem
from clinvk.errors import InvalidRequest

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


_bodies = strict.decoder(ResponseBody)
_items = msgspec.json.Decoder(_Items)


def read(data: bytes) -> tuple[ResponseBody, str | Sequence[msgspec.Raw]]:
    """Read a body; give with it the input, whose items are JSON objects.

    Raises:
        InvalidRequest: names the field.
    """
    body = strict.decode(data, _bodies)
    if body.conversation is not None:
        raise InvalidRequest("conversation is not supported; use previous_response_id", "conversation")
    if body.prompt is not None:
        raise InvalidRequest("prompt is not supported: there are no templates here; use instructions", "prompt")
    if body.background and body.store is False:
        raise InvalidRequest("a response in the background must be stored, to be asked for later", "background")
    return body, _items.decode(data).input


def ignored(body: ResponseBody) -> tuple[str, ...]:
    """Say what has no effect though the client may count on it.

    Raises:
        InvalidRequest: a tool must be called.
    """
    heads = body.input if isinstance(body.input, list) else []
    has_tools = bool(body.tools) or any(head.type == TOOLS for head in heads)
    choice = body.tool_choice
    if isinstance(choice, ToolToCall):
        choice = choice.mode or choice.type
    return vendor.ignored_tools(has_tools, choice)


def schema(body: ResponseBody) -> Json | None:
    """Give the schema that the answer shall have.

    Raises:
        InvalidRequest: it is missing.
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
    """Say how the thinking is to be told, None if not: as with the vendor, only a summary of it ever is."""
    asked = body.reasoning and (body.reasoning.summary or body.reasoning.generate_summary)
    return None if asked == "none" else asked or None


def blank(body: ResponseBody) -> Response:
    """Make the response as far as the request says it."""
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
