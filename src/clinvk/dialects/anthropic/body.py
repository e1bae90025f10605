"""The body of a request to the Messages API: https://docs.claude.com/en/api/messages.

Fields that are not named here are ignored, at every level.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Blocks = str | list[msgspec.Raw]
"""Content: a text, or blocks of kinds that are looked at one by one, since there may be some that nobody here knows."""


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


class MessageIn(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
    """What every block has."""

    type: str


class TextIn(msgspec.Struct, frozen=True):
    """A text."""

    text: str


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where an image or a document is: in the body, at an address, or in the vendor's store of files."""

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
    """A call of a tool, in a turn of the assistant."""

    id: str
    name: str
    input: object = {}


class ToolResultIn(msgspec.Struct, frozen=True):
    """What the tool gave."""

    tool_use_id: str
    content: Blocks | None = None
    is_error: bool | None = None
