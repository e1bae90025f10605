"""Events of a run as bytes: JSON in which consecutive deltas are one text, deflated if the JSON is long.

Decoding restores the same events: a chunk keeps the lengths, numbers and times of the merged deltas.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from clinvk.store.sqlite.database import Unreadable, skipping
from clinvk.store.sqlite.rows import to_json
from clinvk.types.events import Event, Logged, RunFinished, TextDelta, ThinkingDelta, ToolCall

if TYPE_CHECKING:
    import sqlite3

_TICKS_PER_S = 2**22
"""A float of seconds since the epoch has no finer steps between 2004 and 2038."""

_DEFLATE_BYTES = 2048
_LEVEL = 1
_DATA = "SELECT data FROM chunks WHERE key = ?"


class _Pieces(msgspec.Struct):
    """Deltas in a row; `ticks` are from each to the next."""

    text: str
    lengths: list[int]
    ticks: list[int]


class _TextPieces(_Pieces, tag="text_pieces"):
    """Text deltas."""


class _ThinkingPieces(_Pieces, tag="thinking_pieces"):
    """Thinking deltas."""


class _Entry(msgspec.Struct, array_like=True):
    """An event or several, and the ticks since the entry before."""

    ticks: int
    event: Event | _TextPieces | _ThinkingPieces


class _Stored(msgspec.Struct, array_like=True):
    first: int
    ticks: int
    entries: list[_Entry]


_decoder = msgspec.json.Decoder(_Stored)


class Chunk(NamedTuple):
    """Events with consecutive numbers, from `first` to `last`."""

    first: int
    last: int
    data: bytes


def pack(events: Sequence[Logged]) -> list[Chunk]:
    """Encode events, which must be in order of number. A gap in the numbers starts a new chunk."""
    return [Chunk(part[0].number, part[-1].number, encode(part)) for part in _contiguous(events)]


def encode(events: Sequence[Logged]) -> bytes:
    """Encode events with consecutive numbers."""
    try:
        data = _json(events)
    except RecursionError:
        data = _json([logged._replace(event=_shallow(logged.event)) for logged in events])
    return data if len(data) < _DEFLATE_BYTES else zlib.compress(data, _LEVEL)


def decode(data: bytes) -> list[Logged]:
    """Read events back.

    Raises:
        Unreadable: they are damaged.
    """
    try:
        return list(_decoded(data))
    except (zlib.error, msgspec.DecodeError, ValueError, TypeError) as exc:
        raise Unreadable(f"{exc} in events of a run") from exc


def stored(
    connection: "sqlite3.Connection", keys: Iterable[tuple[int]], note: Callable[[str], None]
) -> Iterator[Logged]:
    """Yield the events of chunks by key. Skip damaged chunks, and pass the damage to `note`."""
    for key in keys:
        with skipping(note):
            (data,) = connection.execute(_DATA, key).fetchone() or (b"",)
            yield from decode(data)


def _decoded(data: bytes) -> Iterator[Logged]:
    chunk = _decoder.decode(data if data.startswith(b"[") else zlib.decompress(data))
    number, at = chunk.first, chunk.ticks
    for entry in chunk.entries:
        at += entry.ticks
        match entry.event:
            case _Pieces() as pieces:
                for ticks, event in zip((0, *pieces.ticks), _split(pieces), strict=True):
                    at += ticks
                    yield Logged(number, at / _TICKS_PER_S, event)
                    number += 1
            case event:
                yield Logged(number, at / _TICKS_PER_S, event)
                number += 1


def _json(events: Sequence[Logged]) -> bytes:
    start = _ticks(events[0].at)
    return to_json(_Stored(events[0].number, start, list(_entries(events, start))))


def _shallow(event: Event) -> Event:
    """Return an event without JSON from the agent that is nested too deeply to be encoded."""
    try:
        to_json(_Entry(0, event))
    except RecursionError:
        pass
    else:
        return event
    match event:
        case ToolCall():
            return replace(event, input={})
        case RunFinished():
            return replace(event, structured_output=None)
        case _:
            return event


def _contiguous(events: Sequence[Logged]) -> Iterator[Sequence[Logged]]:
    start = 0
    for end in range(1, len(events) + 1):
        if end == len(events) or events[end].number != events[end - 1].number + 1:
            yield events[start:end]
            start = end


def _entries(events: Sequence[Logged], before: int) -> Iterator[_Entry]:
    index = 0
    while index < len(events):
        kind = type(events[index].event)
        end = index + 1
        if kind is TextDelta or kind is ThinkingDelta:
            while end < len(events) and type(events[end].event) is kind:
                end += 1
        at = [_ticks(logged.at) for logged in events[index:end]]
        yield _Entry(at[0] - before, _merge([logged.event for logged in events[index:end]], at))
        before = at[-1]
        index = end


def _merge(events: list[Event], at: list[int]) -> Event | _TextPieces | _ThinkingPieces:
    if len(events) == 1:
        return events[0]
    texts = [event.text for event in events if isinstance(event, TextDelta | ThinkingDelta)]
    pieces = _TextPieces if isinstance(events[0], TextDelta) else _ThinkingPieces
    return pieces("".join(texts), [len(text) for text in texts], [b - a for a, b in pairwise(at)])


def _split(pieces: _Pieces) -> Iterator[TextDelta | ThinkingDelta]:
    delta = TextDelta if isinstance(pieces, _TextPieces) else ThinkingDelta
    for end, length in zip(accumulate(pieces.lengths), pieces.lengths, strict=True):
        yield delta(pieces.text[end - length : end])


def _ticks(at: float) -> int:
    return round(at * _TICKS_PER_S)
