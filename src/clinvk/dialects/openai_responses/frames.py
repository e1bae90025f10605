"""The events of a streamed response: https://platform.openai.com/docs/api-reference/responses-streaming."""

from functools import cache

import msgspec

from clinvk.dialects.openai_responses.answer import Item, OutputText, Response, SummaryText


class Frame(msgspec.Struct, kw_only=True, tag_field="type"):
    """An event; `sequence_number` counts from 0 and is given by the encoder."""

    sequence_number: int = 0

    @property
    def kind(self) -> str:
        """The word that tells what it is."""
        return _kind(type(self))


@cache
def _kind(frame: type[Frame]) -> str:
    """Give the word of a kind of frames; msgspec makes an object whenever it is asked."""
    return str(frame.__struct_config__.tag)


class Created(Frame, kw_only=True, tag="response.created"):
    """The first event."""

    response: Response


class InProgress(Frame, kw_only=True, tag="response.in_progress"):
    """The second event."""

    response: Response


class KeepAlive(Frame, kw_only=True, tag="keepalive"):
    """A sign of life of a quiet stream; the vendor sends the same, though its reference has no word of it."""


class Completed(Frame, kw_only=True, tag="response.completed"):
    """The last event of a response that came to its end."""

    response: Response


class Incomplete(Frame, kw_only=True, tag="response.incomplete"):
    """The last event of a response that was cut."""

    response: Response


class Failed(Frame, kw_only=True, tag="response.failed"):
    """The last event of a response that failed or was cancelled."""

    response: Response


class _OfItem(Frame, kw_only=True):
    output_index: int
    item: Item


class ItemAdded(_OfItem, kw_only=True, tag="response.output_item.added"):
    """An item begins."""


class ItemDone(_OfItem, kw_only=True, tag="response.output_item.done"):
    """An item is whole."""


class _InItem(Frame, kw_only=True):
    item_id: str
    output_index: int


class _OfPart(_InItem, kw_only=True):
    content_index: int = 0
    part: OutputText


class PartAdded(_OfPart, kw_only=True, tag="response.content_part.added"):
    """The text of a message begins."""


class PartDone(_OfPart, kw_only=True, tag="response.content_part.done"):
    """The text of a message is whole."""


class TextDelta(_InItem, kw_only=True, tag="response.output_text.delta"):
    """A piece of the text of a message."""

    content_index: int = 0
    delta: str
    logprobs: tuple[()] = ()


class TextDone(_InItem, kw_only=True, tag="response.output_text.done"):
    """The whole text of a message."""

    content_index: int = 0
    text: str
    logprobs: tuple[()] = ()


class _OfSummary(_InItem, kw_only=True):
    summary_index: int = 0
    part: SummaryText


class SummaryAdded(_OfSummary, kw_only=True, tag="response.reasoning_summary_part.added"):
    """The text of a reasoning item begins."""


class SummaryDone(_OfSummary, kw_only=True, tag="response.reasoning_summary_part.done"):
    """The text of a reasoning item is whole."""


class SummaryTextDelta(_InItem, kw_only=True, tag="response.reasoning_summary_text.delta"):
    """A piece of the text of a reasoning item."""

    summary_index: int = 0
    delta: str


class SummaryTextDone(_InItem, kw_only=True, tag="response.reasoning_summary_text.done"):
    """The whole text of a reasoning item."""

    summary_index: int = 0
    text: str
