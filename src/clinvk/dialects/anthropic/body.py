"""Parse the body of a Messages API request into a conversation: https://docs.claude.com/en/api/messages.

Unknown fields are ignored at every level.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.dialects import json_bodies
from clinvk.dialects.conversation import CallMade, Outcome, Turn, image_of, system_text
from clinvk.types import prompt_xml
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import Image

Blocks = str | list[msgspec.Raw]
"""Content: a text, or blocks, which are decoded one by one, since some kinds may be unknown."""


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and how long the model shall think."""

    type: str
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None
    display: str | None = None


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer shall look like."""

    type: str
    schema: dict[str, object] | None = None


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the answer shall be made."""

    effort: str | None = None
    format: Format | None = None


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the client's tools the model may or must call."""

    type: str


class MessageIn(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the conversation. Those of the role system may have no content, only settings."""

    role: Literal["user", "assistant", "system"]
    content: Blocks | None = None


class MessagesBody(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a message, or for an estimate of its tokens."""

    model: str
    messages: list[MessageIn]
    system: Blocks | None = None
    stream: bool | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    stop_sequences: list[str] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    tools: list[msgspec.Raw] | None = None
    tool_choice: ToolChoice | None = None
    metadata: dict[str, object] | None = None


class Kind(msgspec.Struct, frozen=True):
    """The common field of all blocks."""

    type: str


class TextIn(msgspec.Struct, frozen=True):
    """A text."""

    text: str


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The source of an image or a document: the body, an address, or the vendor's file storage."""

    type: str
    media_type: str | None = None
    data: str | None = None
    content: Blocks | None = None


class ImageIn(msgspec.Struct, frozen=True):
    """An image."""

    source: Source


class DocumentIn(msgspec.Struct, frozen=True):
    """A document."""

    source: Source
    title: str | None = None
    context: str | None = None


class SearchResultIn(msgspec.Struct, frozen=True):
    """A passage that the client found for the model."""

    source: str
    title: str
    content: list[TextIn]


class ToolUseIn(msgspec.Struct, frozen=True):
    """A tool call in a turn of the assistant."""

    id: str
    name: str
    input: object = {}


class ToolResultIn(msgspec.Struct, frozen=True):
    """The output of a tool."""

    tool_use_id: str
    content: Blocks | None = None
    is_error: bool | None = None


_Block = TextIn | ImageIn | DocumentIn | SearchResultIn | ToolUseIn | ToolResultIn

_kind = msgspec.json.Decoder(Kind)
_blocks: dict[str, msgspec.json.Decoder[_Block]] = {
    "text": msgspec.json.Decoder(TextIn),
    "image": msgspec.json.Decoder(ImageIn),
    "document": msgspec.json.Decoder(DocumentIn),
    "search_result": msgspec.json.Decoder(SearchResultIn),
    "tool_use": json_bodies.decoder(ToolUseIn),
    "tool_result": msgspec.json.Decoder(ToolResultIn),
}
"""Decoders by kind. Other kinds are skipped: earlier thinking, which belongs to the model, and vendor features."""

_BILLING = "x-anthropic-billing-header:"
"""Prefix of the system block with which Claude Code identifies itself to the vendor; not meant for the model."""

_encode = msgspec.json.Encoder().encode


def turn(message: MessageIn, place: str) -> Turn:
    """Parse a message of the user or the assistant; `place` is the position in the body.

    Raises:
        InvalidRequest: names the field.
    """
    said: list[str | Image] = []
    calls: list[CallMade] = []
    outcomes: list[Outcome] = []
    for block, at in _read(message.content, f"{place}.content"):
        match block:
            case ToolUseIn():
                calls.append(CallMade(block.id, block.name, _encode(block.input).decode()))
            case ToolResultIn():
                given = tuple(_content(block.content, f"{at}.content"))
                outcomes.append(Outcome(block.tool_use_id, given, bool(block.is_error)))
            case _:
                said += _parts(block, at)
    return Turn("assistant" if message.role == "assistant" else "user", tuple(said), tuple(calls), tuple(outcomes))


def system(blocks: Blocks | None, place: str) -> tuple[str, ...]:
    """Parse the system texts, including documents; `place` is the position in the body.

    Raises:
        InvalidRequest: a block is not text; names the field.
    """
    texts = ("\n".join(system_text(part, at) for part in _parts(block, at)) for block, at in _read(blocks, place))
    return tuple(text for text in texts if text and not text.startswith(_BILLING))


def _read(blocks: Blocks | None, place: str) -> Iterator[tuple[_Block, str]]:
    """Yield the blocks of known kinds, each with the position in the body."""
    if isinstance(blocks, str):
        yield TextIn(blocks), place
        return
    for index, raw in enumerate(blocks or ()):
        at = f"{place}[{index}]"
        decoder = _blocks.get(json_bodies.decode(raw, _kind, at).type)
        if decoder:
            yield json_bodies.decode(raw, decoder, at), at


def _content(blocks: Blocks | None, place: str) -> Iterator[str | Image]:
    """Yield the texts and images of the content inside a block."""
    for block, at in _read(blocks, place):
        yield from _parts(block, at)


def _parts(block: _Block, place: str) -> Iterator[str | Image]:
    match block:
        case TextIn(text=text):
            if text:
                yield text
        case ImageIn(source=source):
            yield _image(source, f"{place}.source")
        case DocumentIn(source=source, title=title, context=context):
            yield _opening(title=title)
            yield from (context,) if context else ()
            yield from _document(source, f"{place}.source")
            yield "</document>"
        case SearchResultIn(source=source, title=title, content=content):
            yield _opening(title=title, source=source)
            yield from (part.text for part in content)
            yield "</document>"
        case ToolUseIn() | ToolResultIn():
            raise InvalidRequest(f"{place} is a call of a tool or its result, which can only stand in a message", place)


def _opening(**attributes: str | None) -> str:
    """Return the opening tag of a document; the tags only guide the reader, since a document belongs to one message."""
    return prompt_xml.opening("document", **{name: value for name, value in attributes.items() if value})


def _image(source: Source, place: str) -> Image:
    if source.type != "base64":
        raise InvalidRequest(
            f"{place}.type is {source.type!r}; an image must be 'base64': no address is fetched, no file is kept here",
            f"{place}.type",
        )
    return image_of(_data(source, place), source.media_type, f"{place}.data")


def _document(source: Source, place: str) -> Iterator[str | Image]:
    match source.type:
        case "text":
            yield _data(source, place)
        case "content":
            for block, at in _read(source.content, f"{place}.content"):
                if not isinstance(block, TextIn | ImageIn):  # nested documents would be decoded once per level
                    raise InvalidRequest(f"{at} must be a text or an image: it is inside a document", at)
                yield from _parts(block, at)
        case other:
            raise InvalidRequest(
                f"{place}.type is {other!r}; a document must be 'text' or 'content': the agents take no other ones",
                f"{place}.type",
            )


def _data(source: Source, place: str) -> str:
    if source.data is None:
        raise InvalidRequest(f"{place}.data is missing", f"{place}.data")
    return source.data
