"""Blocks of the Messages API → what a conversation is made of."""

from collections.abc import Iterator

import msgspec

from clinvk import elements
from clinvk.dialects import strict
from clinvk.dialects.anthropic.body import (
    Blocks,
    DocumentIn,
    ImageIn,
    Kind,
    MessageIn,
    SearchResultIn,
    Source,
    TextIn,
    ToolResultIn,
    ToolUseIn,
)
from clinvk.dialects.conversation import CallMade, Outcome, Turn, image_of, system_text
from clinvk.errors import InvalidRequest
from clinvk.request import Image

_Block = TextIn | ImageIn | DocumentIn | SearchResultIn | ToolUseIn | ToolResultIn

_kind = msgspec.json.Decoder(Kind)
_blocks: dict[str, msgspec.json.Decoder[_Block]] = {
    "text": msgspec.json.Decoder(TextIn),
    "image": msgspec.json.Decoder(ImageIn),
    "document": msgspec.json.Decoder(DocumentIn),
    "search_result": msgspec.json.Decoder(SearchResultIn),
    "tool_use": strict.decoder(ToolUseIn),
    "tool_result": msgspec.json.Decoder(ToolResultIn),
}
"""Blocks of other kinds are passed over: earlier thinking, which is the model's own, and what only the vendor has."""

_BILLING = "x-anthropic-billing-header:"
"""How the block of a system begins in which Claude Code tells its vendor about itself. It is not for the model."""

_encode = msgspec.json.Encoder().encode


def turn(message: MessageIn, place: str) -> Turn:
    """Read a message of the user or the assistant; `place` is where it stands in the body.

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
    """Read the texts of a system, documents among them; `place` is where they stand in the body.

    Raises:
        InvalidRequest: names the field, where one is no text.
    """
    texts = ("\n".join(system_text(part, at) for part in _parts(block, at)) for block, at in _read(blocks, place))
    return tuple(text for text in texts if text and not text.startswith(_BILLING))


def _read(blocks: Blocks | None, place: str) -> Iterator[tuple[_Block, str]]:
    """Give the blocks of a content that are understood, each with its place."""
    if isinstance(blocks, str):
        yield TextIn(blocks), place
        return
    for index, raw in enumerate(blocks or ()):
        at = f"{place}[{index}]"
        decoder = _blocks.get(strict.decode(raw, _kind, at).type)
        if decoder:
            yield strict.decode(raw, decoder, at), at


def _content(blocks: Blocks | None, place: str) -> Iterator[str | Image]:
    """Give the texts and images of a content that stands inside a block."""
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
    """Begin a document; that it ends at `</document>` is for the reader's eye, it is all one message."""
    return elements.opening("document", **{name: value for name, value in attributes.items() if value})


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
                if not isinstance(block, TextIn | ImageIn):  # each level would be decoded again
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
