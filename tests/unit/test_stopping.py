"""The answer is cut before the first stop sequence, whatever its pieces."""

import random
import time
from collections.abc import Sequence

import pytest

from clinvk.runtime.run.answer_filter import StopSequenceFilter
from clinvk.types.events import Event, Progress, RunStarted, TextDelta, ThinkingDelta, ToolCall
from clinvk.types.request import MAX_STOP_CHARS, MAX_STOPS


def _cut(stops: Sequence[str], events: Sequence[Event]) -> tuple[list[Event], str | None]:
    cutter = StopSequenceFilter(stops)
    told = [event for given in events for event in cutter.feed(given)]
    return [*told, *cutter.rest()], cutter.matched


def _text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def _pieces(text: str, chance: random.Random) -> list[Event]:
    """Return the text in pieces, some of them empty."""
    at = sorted(chance.choices(range(len(text) + 1), k=chance.randint(0, 12)))
    return [TextDelta(text[start:end]) for start, end in zip([0, *at], [*at, len(text)], strict=True)]


def _reference(stops: Sequence[str], text: str) -> tuple[str, str | None]:
    """Return the cut of a model that writes letter by letter."""
    for end in range(1, len(text) + 1):
        done = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if done:
            longest = max(done, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.parametrize("seed", range(60))
def test_stop_position_does_not_depend_on_the_chunks(seed: int) -> None:
    chance = random.Random(seed)
    stops = ["".join(chance.choices("ab\n", k=chance.randint(0, 5))) for _ in range(chance.randint(1, 4))]
    text = "".join(chance.choices("ab\n", k=chance.randint(0, 30)))
    events, matched = _cut(stops, _pieces(text, chance))
    assert (_text(events), matched) == _reference(stops, text)


@pytest.mark.parametrize("seed", range(30))
def test_only_a_possible_stop_sequence_prefix_is_held_back(seed: int) -> None:
    chance = random.Random(seed)
    stops = ["".join(chance.choices("ab", k=chance.randint(1, 4))) for _ in range(2)]
    text = "".join(chance.choices("ab", k=20))
    cutter = StopSequenceFilter(stops)
    given = told = ""
    for letter in text:
        given += letter
        told += _text([*cutter.feed(TextDelta(letter))])
        if cutter.matched:
            break
        held = given[len(told) :]
        assert not held or any(stop.startswith(held) for stop in stops)
        assert not any(stop[:k] == given[-k:] for stop in stops for k in range(len(held) + 1, len(stop)))


def test_long_answer_with_many_partial_matches_is_searched_fast() -> None:
    stop = "a" * 1000 + "b"
    events, matched = _cut([stop], [TextDelta("a" * 10_000) for _ in range(100)])
    assert (len(_text(events)), matched) == (1_000_000, None)


@pytest.mark.parametrize(("size", "count"), [(1, 10_000), (64 * 1024, 10), (2_000_000, 1)])
def test_largest_allowed_stop_sequences_are_searched_fast(size: int, count: int) -> None:
    """The stop sequences differ from the answer in the middle, the worst place."""
    half = MAX_STOP_CHARS // 2
    stops = ["a" * (half - 1 - index) + "b" + "a" * half for index in range(MAX_STOPS)]
    began = time.thread_time()
    events, matched = _cut(stops, [TextDelta("a" * size)] * count)
    assert (len(_text(events)), matched) == (size * count, None)
    assert time.thread_time() - began < 2


def test_no_event_follows_a_stop_sequence() -> None:
    events, matched = _cut(["STOP"], [TextDelta("yes STOP no"), ToolCall("1", "x", {}), TextDelta("more")])
    assert (events, matched) == ([TextDelta("yes ")], "STOP")


def test_thinking_is_not_cut() -> None:
    events, matched = _cut(["STOP"], [ThinkingDelta("STOP here?"), TextDelta("no")])
    assert (events, matched) == ([ThinkingDelta("STOP here?"), TextDelta("no")], None)


def test_held_text_is_emitted_before_the_following_tool_call() -> None:
    """A stop sequence may span a progress event, but no tool call."""
    call = ToolCall("1", "x", {})
    assert _cut(["STOP"], [TextDelta("a ST"), call, TextDelta("OP")]) == (
        [TextDelta("a "), TextDelta("ST"), call, TextDelta("OP")],
        None,
    )
    remark = Progress("retry", "again")
    assert _cut(["STOP"], [TextDelta("a ST"), remark, TextDelta("OP")]) == ([TextDelta("a "), remark], "STOP")


def test_run_started_event_passes_through() -> None:
    assert _cut(["STOP"], [RunStarted(), TextDelta("S")]) == ([RunStarted(), TextDelta("S")], None)
