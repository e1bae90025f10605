"""Parse the body of a Messages API request into a conversation: https://docs.claude.com/en/api/messages.

Unknown fields are ignored at every level.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects import json_bodies
from clinvk.dialects.conversation import ToolCallMade, Turn, image_of, system_text
from clinvk.dialects.json_bodies import because
from clinvk.dialects.vendor import ModelName
from clinvk.types import prompt_xml
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import Image, StopTexts, ToolOutput


def _listed(name: str) -> Meta:
    """Return the schema of a block that is decoded later: `name` is a key of `BLOCKS`."""
    return Meta(extra_json_schema={"$ref": f"#/components/schemas/Anthropic.{name}"})


Blocks = str | list[Annotated[msgspec.Raw, _listed("Block")]]
ResultBlocks = str | list[Annotated[msgspec.Raw, _listed("ResultBlock")]]
SystemBlocks = str | list[Annotated[msgspec.Raw, _listed("SystemBlock")]]
DocumentBlocks = str | list[Annotated[msgspec.Raw, _listed("DocumentBlock")]]
"""Content: a text, or blocks, which are decoded one by one, since some types may be unknown."""


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and how long the model thinks."""

    type: str
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None
    display: str | None = None


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """The format of the answer."""

    type: Literal["json_schema"]
    schema: dict[str, object]


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options for the answer."""

    effort: str | None = None
    format: Format | None = None


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the client's tools the model may or must call."""

    type: Literal["auto", "none", "any", "tool"]
    name: str = ""
    disable_parallel_tool_use: bool | None = None


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool. The client executes tools with a schema, and some types of the vendor's; other types are ignored."""

    name: Annotated[str, Meta(min_length=1)]
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, object] | None = None
    strict: bool | None = None


class UserMessage(msgspec.Struct, frozen=True, tag_field="role", tag="user"):
    """A message of the user."""

    content: Blocks | None = None


class AssistantMessage(msgspec.Struct, frozen=True, tag_field="role", tag="assistant"):
    """An earlier answer."""

    content: Blocks | None = None


class SystemMessage(msgspec.Struct, frozen=True, tag_field="role", tag="system"):
    """A part of the system prompt; without content, only settings."""

    content: SystemBlocks | None = None


class MessagesBody(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a message, or for an estimate of its tokens."""

    model: ModelName
    messages: Annotated[list[UserMessage | AssistantMessage | SystemMessage], Meta(min_length=1)]
    system: SystemBlocks | None = None
    stream: bool | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    stop_sequences: StopTexts | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thread: Annotated[dict[str, object] | None, Meta(description="Refused: send the whole conversation.")] = None
    metadata: dict[str, object] | None = None


class BlockType(msgspec.Struct, frozen=True):
    """The common field of all blocks."""

    type: str


class TextIn(msgspec.Struct, frozen=True, tag="text"):
    """A text."""

    text: str


class ImageSource(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of an image, in base64."""

    type: Annotated[Literal["base64"], Meta(extra=because("no address is fetched, no file is kept here"))]
    media_type: str | None = None
    data: Annotated[str, Meta(min_length=1)]


class ImageIn(msgspec.Struct, frozen=True, tag="image"):
    """An image."""

    source: ImageSource


class TextSource(msgspec.Struct, frozen=True, tag="text"):
    """The text of a document."""

    data: str


class ContentSource(msgspec.Struct, frozen=True, tag="content"):
    """The texts and images of a document."""

    content: DocumentBlocks | None = None


class DocumentIn(msgspec.Struct, frozen=True, tag="document"):
    """A document."""

    source: Annotated[TextSource | ContentSource, Meta(extra=because("the agents take no other documents"))]
    title: str | None = None
    context: str | None = None


class SearchText(msgspec.Struct, frozen=True):
    """A text of a search result."""

    text: str


class SearchResultIn(msgspec.Struct, frozen=True, tag="search_result"):
    """A passage that the client found for the model."""

    source: str
    title: str
    content: list[SearchText]


class ToolUseIn(msgspec.Struct, frozen=True, tag="tool_use"):
    """A tool call in a turn of the assistant."""

    id: str
    name: str
    input: object = {}


class ToolResultIn(msgspec.Struct, frozen=True, tag="tool_result"):
    """The output of a tool."""

    tool_use_id: str
    content: ResultBlocks | None = None
    is_error: bool | None = None


_Block = TextIn | ImageIn | DocumentIn | SearchResultIn | ToolUseIn | ToolResultIn

_block_type = msgspec.json.Decoder(BlockType)
_decoders: dict[str, msgspec.json.Decoder[_Block]] = {
    "text": msgspec.json.Decoder(TextIn),
    "image": msgspec.json.Decoder(ImageIn),
    "document": msgspec.json.Decoder(DocumentIn),
    "search_result": msgspec.json.Decoder(SearchResultIn),
    "tool_use": json_bodies.decoder(ToolUseIn),
    "tool_result": msgspec.json.Decoder(ToolResultIn),
}
"""Decoders by type. Other types are skipped: earlier thinking, which belongs to the model, and vendor features."""


class OtherBlock(msgspec.Struct, frozen=True):
    """A block of another type, which is skipped."""

    type: Annotated[str, Meta(extra_json_schema={"not": {"enum": [*_decoders]}})]


BLOCKS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "Block": (TextIn, ImageIn, DocumentIn, SearchResultIn, ToolUseIn, ToolResultIn, OtherBlock),
    "ResultBlock": (TextIn, ImageIn, DocumentIn, SearchResultIn, OtherBlock),
    "DocumentBlock": (TextIn, ImageIn, OtherBlock),
    "SystemBlock": (TextIn, DocumentIn, SearchResultIn, OtherBlock),
}
"""The blocks that may stand in each place: in a message, a tool's result, a document, and a system text."""

_BILLING = "x-anthropic-billing-header:"
"""Prefix of the system block with which Claude Code identifies itself to the vendor; not meant for the model."""

_encode = msgspec.json.Encoder().encode


def turn(message: UserMessage | AssistantMessage, place: str) -> Turn:
    """Parse a message of the user or the assistant; `place` is the position in the body.

    Raises:
        InvalidRequest: names the field.
    """
    content: list[str | Image] = []
    calls: list[ToolCallMade] = []
    outcomes: list[ToolOutput] = []
    for block, at in _read(message.content, f"{place}.content", "Block"):
        match block:
            case ToolUseIn():
                calls.append(ToolCallMade(block.id, block.name, _encode(block.input).decode()))
            case ToolResultIn():
                output = tuple(_content(block.content, f"{at}.content", "ResultBlock"))
                outcomes.append(ToolOutput(block.tool_use_id, output, bool(block.is_error)))
            case _:
                content += _parts(block, at)
    role = "assistant" if isinstance(message, AssistantMessage) else "user"
    return Turn(role, tuple(content), tuple(calls), tuple(outcomes))


def system(blocks: SystemBlocks | None, place: str) -> tuple[str, ...]:
    """Parse the system texts, including documents; `place` is the position in the body.

    Raises:
        InvalidRequest: a block is not text; names the field.
    """
    found = _read(blocks, place, "SystemBlock")
    texts = ("\n".join(system_text(part, at) for part in _parts(block, at)) for block, at in found)
    return tuple(text for text in texts if text and not text.startswith(_BILLING))


def _read(blocks: Blocks | None, place: str, allowed: str) -> Iterator[tuple[_Block, str]]:
    """Yield the blocks of known types, each with the position in the body; `allowed` is a key of `BLOCKS`."""
    if isinstance(blocks, str):
        yield TextIn(blocks), place
        return
    for index, raw in enumerate(blocks or ()):
        at = f"{place}[{index}]"
        decoder = _decoders.get(kind := json_bodies.decode(raw, _block_type, at).type)
        if decoder is None:
            continue
        block = json_bodies.decode(raw, decoder, at)
        if not isinstance(block, BLOCKS[allowed]):
            raise InvalidRequest(f"{at} is of type {kind!r}, which cannot stand here", at)
        yield block, at


def _content(blocks: Blocks | None, place: str, allowed: str) -> Iterator[str | Image]:
    """Yield the texts and images of the content inside a block."""
    for block, at in _read(blocks, place, allowed):
        yield from _parts(block, at)


def _parts(block: _Block, place: str) -> Iterator[str | Image]:
    match block:
        case TextIn(text=text):
            if text:
                yield text
        case ImageIn(source=source):
            yield image_of(source.data, source.media_type, f"{place}.source.data")
        case DocumentIn(source=source, title=title, context=context):
            yield _opening(title=title)
            yield from (context,) if context else ()
            if isinstance(source, TextSource):
                yield source.data
            else:
                yield from _content(source.content, f"{place}.source.content", "DocumentBlock")
            yield "</document>"
        case SearchResultIn(source=source, title=title, content=content):
            yield _opening(title=title, source=source)
            yield from (part.text for part in content)
            yield "</document>"
        case ToolUseIn() | ToolResultIn():
            raise AssertionError("`turn` handles calls, and other places do not allow them")


def _opening(**attributes: str | None) -> str:
    """Return the opening tag of a document; the tags only guide the reader, since a document belongs to one message."""
    return prompt_xml.opening("document", **{name: value for name, value in attributes.items() if value})
