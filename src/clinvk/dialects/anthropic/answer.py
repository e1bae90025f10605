"""A message as the Messages API gives it: https://docs.claude.com/en/api/messages."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal

import msgspec

from clinvk.dialects import vendor
from clinvk.dialects.base import Call, Facts
from clinvk.events import RunFinished, StopReason, TextDelta, Usage
from clinvk.result import Said

MessageStop = Literal["end_turn", "max_tokens", "stop_sequence", "refusal"]

_STOPS: dict[StopReason, MessageStop] = {
    "end_turn": "end_turn",
    "max_tokens": "max_tokens",
    "max_turns": "max_tokens",
    "stop_sequence": "stop_sequence",
    "refusal": "refusal",
}
"""The API has no word for an agent that used up its requests to the model: what is told of both is a cut answer."""


class OutputDetails(msgspec.Struct, frozen=True):
    """What the output tokens were for."""

    thinking_tokens: int


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of a message. Other than in clinvk's own `Usage`, input read from a cache is not in `input_tokens`."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputDetails | None = None


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """The answer."""

    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """The model's thinking. Clients keep the signature and send it back; it means nothing here."""

    thinking: str
    signature: str


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """A whole message, or as its stream begins: without content, stop reason and tokens."""

    id: str
    role: Literal["assistant"] = "assistant"
    model: str
    content: tuple[ThinkingBlock | TextBlock, ...] = ()
    stop_reason: MessageStop | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


class Stop(msgspec.Struct, frozen=True):
    """Why a message ended."""

    stop_reason: MessageStop
    stop_sequence: str | None


def content(said: Iterable[Said], call: Call, facts: Facts) -> tuple[ThinkingBlock | TextBlock, ...]:
    """Gather text and thinking into blocks, in the order in which the agent gave them.

    There is a text block also where the agent said nothing, as clients read the first one without a look.
    """
    blocks: list[ThinkingBlock | TextBlock] = []
    for is_text, pieces in groupby(_pieces(said, call), key=lambda piece: piece[0]):
        text = "".join(text for _, text in pieces)
        blocks.append(TextBlock(text) if is_text else ThinkingBlock(text, signature(facts)))
    if not any(isinstance(block, TextBlock) for block in blocks):
        blocks.append(TextBlock(""))
    return tuple(blocks)


def _pieces(said: Iterable[Said], call: Call) -> Iterator[tuple[bool, str]]:
    """Give what shows of each event, and whether it is text."""
    for event in said:
        if isinstance(event, TextDelta):
            yield True, event.text
        elif thought := vendor.thought(event, call):
            yield False, thought


def message_id(facts: Facts) -> str:
    """Make the id of the message from that of its run."""
    return f"msg_{facts.run_id}"


def signature(facts: Facts) -> str:
    """Give the thinking of a run what some clients miss, and drop it without: a signature that is not empty."""
    return f"clinvk_{facts.run_id}"


def stop(ending: RunFinished) -> Stop:
    """Say why a run ended in the API's words."""
    return Stop(_STOPS[ending.stop_reason], ending.stop_sequence)


def usage(tokens: Usage | None) -> MessageUsage:
    """Count as the API does; zeros where the agent told nothing."""
    told = tokens or Usage()
    return MessageUsage(
        input_tokens=max(0, told.input_tokens - told.cached_tokens),
        cache_creation_input_tokens=0,
        cache_read_input_tokens=told.cached_tokens,
        output_tokens=told.output_tokens,
        output_tokens_details=OutputDetails(told.reasoning_tokens) if told.reasoning_tokens else None,
    )
