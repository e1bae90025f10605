"""Parse the body of a request to generate content: https://ai.google.dev/api/generate-content.

Unknown fields are ignored at every level. As JSON of Google may have them, names are in camel case or in snake case, a
list of one may stand without brackets, an integer may be a text, and base64 may be that of URLs.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from clinvk.dialects import json_bodies
from clinvk.dialects.conversation import ToolCallMade, Turn, document, image_of, system_text
from clinvk.dialects.google.schema import Schema, camel_case
from clinvk.dialects.json_bodies import because
from clinvk.dialects.vendor import OneAnswer
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import Image, StopTexts, ToolOutput

T = TypeVar("T", bound=msgspec.Struct)


class Camel(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An object with names in camel case."""


class Blob(Camel, frozen=True, kw_only=True):
    """The bytes of an image or a text, in base64."""

    mime_type: str | None = None
    data: Annotated[str, Meta(min_length=1)]


class FileData(Camel, frozen=True, kw_only=True):
    """An image, whose address is a data URL."""

    mime_type: str | None = None
    file_uri: str


class FunctionCall(Camel, frozen=True, kw_only=True):
    """A call of one of the client's functions. In an answer, it has all fields."""

    id: str | None = None
    name: str
    args: dict[str, object] | None = None


class Part(Camel, frozen=True, kw_only=True):
    """A piece of content: one of these fields. A part with other fields only is skipped, and so is earlier thinking.

    An answer has texts, thinking and calls.
    """

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    inline_data: Blob | None = None
    file_data: FileData | None = None
    function_call: FunctionCall | None = None
    function_response: "FunctionResponse | None" = None


class FunctionResponse(Camel, frozen=True, kw_only=True):
    """The output of a function. Without an id, the output of the first call of the function in the answer before."""

    id: str | None = None
    name: str = ""
    response: object = None
    parts: Sequence[Part] | None = None


class Content(Camel, frozen=True, kw_only=True):
    """A message. Without a role, it is the user's."""

    parts: Sequence[Part] | None = None
    role: Literal["user", "model", "function", "tool", ""] | None = None


class FunctionDeclaration(Camel, frozen=True, kw_only=True):
    """A function of the client, with the schema of its arguments in one of two forms."""

    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    parameters: Schema | None = None
    parameters_json_schema: Schema | None = None


class Tool(Camel, frozen=True, kw_only=True):
    """Functions of the client. Tools that the vendor executes are ignored."""

    function_declarations: list[FunctionDeclaration] | None = None


class FunctionCallingConfig(Camel, frozen=True, kw_only=True):
    """Which functions the model may or must call."""

    mode: Literal["MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"] | None = None
    allowed_function_names: list[str] | None = None


class ToolConfig(Camel, frozen=True, kw_only=True):
    """Options for the tools."""

    function_calling_config: FunctionCallingConfig | None = None


class ThinkingConfig(Camel, frozen=True, kw_only=True):
    """Whether the thinking is part of the answer, and how long the model thinks."""

    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: str | None = None


class GenerationConfig(Camel, frozen=True, kw_only=True):
    """Options for the answer."""

    candidate_count: OneAnswer = None
    stop_sequences: StopTexts | None = None
    max_output_tokens: int | None = None
    response_mime_type: Literal["text/plain", "application/json", "text/x.enum", ""] | None = None
    response_schema: Schema | None = None
    response_json_schema: Schema | None = None
    response_modalities: Annotated[
        list[Literal["TEXT", "MODALITY_UNSPECIFIED"]] | None, Meta(extra=because("agents answer with text"))
    ] = None
    thinking_config: ThinkingConfig | None = None


class GenerateContentBody(Camel, frozen=True, kw_only=True):
    """A request to generate content; the path names the model."""

    contents: list[Content]
    system_instruction: Content | str | None = None
    tools: list[Tool] | None = None
    tool_config: ToolConfig | None = None
    generation_config: GenerationConfig | None = None
    cached_content: Annotated[
        Literal[""] | None, Meta(description="Refused: send the contents.", extra=because("no content is kept here"))
    ] = None


class CountTokensBody(Camel, frozen=True, kw_only=True):
    """A request for an estimate of tokens: the contents alone, or the whole request."""

    contents: list[Content] | None = None
    generate_content_request: GenerateContentBody | None = None


_json = json_bodies.decoder(dict[str, object])
_encode = msgspec.json.Encoder().encode
_FREE = {
    *("args", "response", "labels"),
    *("parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema"),
}
"""The fields with objects whose names are the client's."""

_LISTS = {"contents", "parts", "tools", "functionDeclarations"}
_INTEGERS = {"candidateCount", "maxOutputTokens", "thinkingBudget"}
_USUAL = ("output", "result", "error")
_SIGNED = b"clinvk:"
"""Prefix of the signatures of calls."""

_STANDARD = str.maketrans("-_", "+/")
"""Converts the base64 of URLs to the usual one."""


def decode(body: bytes, type_: type[T]) -> T:
    """Decode a body.

    Raises:
        InvalidRequest: names the field.
    """
    try:
        return json_bodies.converted(_members(json_bodies.decode(body, _json)), type_, "field", strict=True)
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def _members(value: dict[str, object]) -> dict[str, object]:
    """Return an object with names in camel case wherever the names are not the client's; null counts as absent."""
    named = ((camel_case(name), each) for name, each in value.items() if each is not None)
    return {name: each if name in _FREE else _in_usual_form(each, name) for name, each in named}


def _in_usual_form(value: object, name: str = "") -> object:
    """Return the value of a member in its usual form, with the names inside in camel case."""
    if isinstance(value, dict):
        members = _members(msgspec.convert(value, dict[str, object]))
        return [members] if name in _LISTS else members
    if isinstance(value, list):
        return [_in_usual_form(each) for each in msgspec.convert(value, list[object])]
    if name in _INTEGERS and isinstance(value, str | float):
        with suppress(msgspec.ValidationError):  # else the struct refuses the value, and names the field
            return msgspec.convert(value, int, strict=False)
    return value


def signature_of(call_id: str) -> str:
    """Return the signature of a call, from which `turns` finds the call's id if the client does not keep the id."""
    return base64.b64encode(_SIGNED + call_id.encode()).decode()


def _signed_id(signature: str | None) -> str:
    """Return the id of the call with a signature; empty for a signature of others."""
    try:
        data = base64.b64decode((signature or "").translate(_STANDARD), validate=True)
    except (binascii.Error, ValueError):
        return ""
    return data.removeprefix(_SIGNED).decode(errors="replace") if data.startswith(_SIGNED) else ""


class _Calls:
    """The calls of a conversation.

    Attributes:
        ids: the ids of the calls, by the ids that the client uses.
        open: the calls of the latest answer without an output.
    """

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}
        self.open: list[ToolCallMade] = []

    def add(self, part: Part, call: FunctionCall, place: str) -> ToolCallMade:
        """Return the call of a part. A signature outlasts the id, but parallel calls may have copies of it."""
        id_ = _signed_id(part.thought_signature)
        if not id_ or any(made.id == id_ for made in self.open):
            id_ = call.id or place
        self.ids[call.id or id_] = id_
        self.open.append(made := ToolCallMade(id_, call.name, _encode(call.args or {}).decode()))
        return made

    def answered(self, response: FunctionResponse) -> str:
        """Return the id of the call that an output belongs to."""
        if response.id:
            id_ = self.ids.get(response.id, response.id)
        else:
            id_ = next((call.id for call in self.open if call.name == response.name), response.name)
        self.open = [call for call in self.open if call.id != id_]
        return id_


def turns(contents: list[Content]) -> Iterator[Turn]:
    """Parse the messages. The pieces of an answer, which clients keep as messages of their own, become one turn.

    Raises:
        InvalidRequest: names the field.
    """
    calls = _Calls()
    for is_answer, group in groupby(enumerate(contents), key=lambda each: each[1].role == "model"):
        if not is_answer:
            yield from (_turn(content, f"contents[{index}].parts", calls) for index, content in group)
            continue
        calls.open = []
        pieces = [_turn(content, f"contents[{index}].parts", calls) for index, content in group]
        made = tuple(call for piece in pieces for call in piece.calls)
        yield Turn("assistant", tuple(_joined(part for piece in pieces for part in piece.content)), made)


def _joined(parts: Iterable[str | Image]) -> Iterator[str | Image]:
    """Yield the parts of an answer, with the texts joined that follow each other."""
    for is_image, group in groupby(parts, key=lambda part: isinstance(part, Image)):
        if is_image:
            yield from group
        else:
            yield "".join(str(text) for text in group)


def _turn(content: Content, place: str, calls: _Calls) -> Turn:
    parts: list[str | Image] = []
    made: list[ToolCallMade] = []
    outputs: list[ToolOutput] = []
    for index, part in enumerate(content.parts or ()):
        at = f"{place}[{index}]"
        if part.function_call:
            made.append(calls.add(part, part.function_call, at))
        elif part.function_response:
            outputs.append(_output(part.function_response, at, calls))
        elif not part.thought:
            parts += _content(part, at)
    return Turn("user", tuple(parts), tuple(made), tuple(outputs))


def _output(response: FunctionResponse, place: str, calls: _Calls) -> ToolOutput:
    """Return the output of a call. A response with one member of a usual name is what this member has."""
    value = response.response
    members = msgspec.convert(value, dict[str, object]) if isinstance(value, dict) else {}
    name = next(iter(members), "")
    if len(members) == 1 and name in _USUAL:
        value = members[name]
    text = value if isinstance(value, str) else _encode(value).decode()
    parts = ((part, f"{place}.functionResponse.parts[{index}]") for index, part in enumerate(response.parts or ()))
    images = (each for part, at in parts for each in _content(part, at))
    is_error = name == "error" and len(members) == 1
    return ToolOutput(calls.answered(response), (text, *images), is_error)


def _content(part: Part, place: str) -> Iterator[str | Image]:
    """Yield what a part adds to the prompt."""
    if part.text:
        yield part.text
    if blob := part.inline_data:
        data, media_type = blob.data.translate(_STANDARD), blob.mime_type or ""
        at = f"{place}.inlineData.data"
        yield image_of(data, media_type, at) if media_type.startswith("image/") else document(data, None, at)
    if file := part.file_data:
        yield image_of(file.file_uri, file.mime_type, f"{place}.fileData.fileUri")


def system(instruction: Content | str | None) -> tuple[str, ...]:
    """Parse the system instruction.

    Raises:
        InvalidRequest: a part is an image; names the field.
    """
    if instruction is None or isinstance(instruction, str):
        return (instruction,) if instruction else ()
    parts = ((part, f"systemInstruction.parts[{index}]") for index, part in enumerate(instruction.parts or ()))
    return tuple(system_text(each, place) for part, place in parts for each in _content(part, place))
