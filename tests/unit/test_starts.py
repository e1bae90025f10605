"""Agents start one after the other, a few for each core."""

import pytest

from clinvk.runtime.process import spawn as module
from clinvk.runtime.process.spawn import Start, Starts
from polling import until


def begun(line: Starts, count: int) -> tuple[list[Start], list[int]]:
    granted: list[int] = []
    return [line.begin(lambda number=number: granted.append(number)) for number in range(count)], granted


async def test_four_agents_start_at_once_for_each_core_and_others_follow_in_order() -> None:
    line = Starts(2)
    starts, granted = begun(line, 10)
    assert granted == [*range(8)]
    assert [start.is_granted for start in starts] == [True] * 8 + [False] * 2
    line.end(starts[3])
    line.end(starts[3])
    assert granted == [*range(9)]
    line.end(starts[5])
    assert granted == [*range(10)]
    for start in starts:
        line.end(start)


async def test_start_that_is_given_up_leaves_the_line() -> None:
    line = Starts(1)
    starts, granted = begun(line, 6)
    line.end(starts[4])
    line.end(starts[0])
    assert granted == [0, 1, 2, 3, 5]
    for start in starts:
        line.end(start)


async def test_silent_start_holds_up_others_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_START_S", 0.01)
    _, granted = begun(Starts(1), 9)
    assert len(granted) == 4
    await until(lambda: len(granted) == 9)
