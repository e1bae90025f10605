"""The stored events of a run are restored unchanged."""

import random
import zlib

import msgspec
import pytest

from clinvk.store import rows
from clinvk.types.events import (
    Event,
    Logged,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from records import AT, log

TEXTS = ("", " ", "a", "wörter ", "\n\n", "\0", "\U0001f389", '"quoted" \\ ', "日本", "x" * 3000)


def random_event(source: random.Random) -> Event:
    text = source.choice(TEXTS)
    match source.randrange(9):
        case 0 | 1 | 2:
            return TextDelta(text)
        case 3 | 4:
            return ThinkingDelta(text)
        case 5:
            return ToolCall(text, text, {"deep": [text, {"n": 2**70, "f": 0.1, "none": None, "yes": True}], "": -1})
        case 6:
            return ToolResult(text, text * 5, is_error=source.random() < 0.5)
        case 7:
            return Progress(text, text)
        case _:
            return RunStarted(text, None)


def random_log(source: random.Random) -> list[Logged]:
    number, at = source.randrange(1, 1000), AT + source.random() * 1e8
    entries: list[Logged] = []
    for _ in range(source.randrange(1, 200)):
        entries.append(Logged(number, at, random_event(source)))
        number += source.choice((1, 1, 1, 1, 1, 1, 1, 1, 1, 7))
        at += source.choice((0, 2**-22, 0.02, 3600, -1.5)) * (1 if source.random() < 0.5 else 7)
    return entries


@pytest.mark.parametrize("seed", range(60))
def test_packed_log_round_trips(seed: int) -> None:
    """To the number, the character and the tick of the clock."""
    entries = random_log(random.Random(seed))
    packed = rows.pack_events(entries)
    assert [event for chunk in packed for event in rows.decode_events(chunk.data)] == entries
    assert [(chunk.first, chunk.last) for chunk in packed] == [
        (part[0].number, part[-1].number) for part in map(list, (rows.decode_events(chunk.data) for chunk in packed))
    ]


@pytest.mark.parametrize(
    "ending",
    [
        RunFinished("max_turns", Usage(1, 2, 3, 4), 0.125, {"a": [None]}, 3),
        RunFailed("agent_failed", "no", 3, Usage(1), 0.5),
    ],
)
def test_packed_ending_round_trips(ending: Event) -> None:
    entries = log(RunStarted("m", "h"), ending)
    (chunk,) = rows.pack_events(entries)
    assert list(rows.decode_events(chunk.data)) == entries


def test_consecutive_deltas_are_packed_into_one_entry() -> None:
    """Kinds do not mix: text after thinking is a new text."""
    (chunk,) = rows.pack_events(
        log(*[TextDelta("word ")] * 50, *[ThinkingDelta("hm ")] * 50, ToolResult("id", "out"), *[TextDelta("end")] * 9)
    )
    _, _, entries = msgspec.json.decode(zlib.decompress(chunk.data) if chunk.data[0] != ord("[") else chunk.data)
    assert [event["type"] for _, event in entries] == ["text_pieces", "thinking_pieces", "tool_result", "text_pieces"]


def test_long_output_is_compressed() -> None:
    output = "".join(f"src/clinvk/store/part{number}.py\n" for number in range(5000))
    (chunk,) = rows.pack_events(log(ToolResult("id", output)))
    assert len(chunk.data) < len(output) / 4
    assert list(rows.decode_events(chunk.data)) == log(ToolResult("id", output))


def test_deeply_nested_value_is_dropped_and_the_rest_is_kept() -> None:
    """Within JSON of our own it is too deep."""
    deep: object = 1
    for _ in range(100_000):
        deep = {"a": deep}
    read = ToolCall("1", "Read", {"path": "a"})
    ending = RunFinished("end_turn", Usage(1), structured_output=deep)
    (chunk,) = rows.pack_events(log(TextDelta("a"), read, ToolCall("2", "t", {"a": deep}), ending))
    assert list(rows.decode_events(chunk.data)) == log(
        TextDelta("a"), read, ToolCall("2", "t", {}), RunFinished("end_turn", Usage(1))
    )


def test_lone_surrogates_are_replaced() -> None:
    (chunk,) = rows.pack_events(log(TextDelta("a\udcff"), TextDelta("b\ud800c")))
    assert [logged.event for logged in rows.decode_events(chunk.data)] == [TextDelta("a?"), TextDelta("b?c")]
