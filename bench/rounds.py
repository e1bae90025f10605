"""Rounds that measure all candidates in turn, so that a busy moment affects all of them."""

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def interleaved(rounds: int, *measures: Callable[[], _T]) -> list[list[_T]]:
    """Measure each once a round, every other round backwards; give the values of each, round by round."""
    values: list[list[_T]] = [[] for _ in measures]
    for number in range(rounds):
        turn = list(zip(values, measures, strict=True))
        for taken, measure in reversed(turn) if number % 2 else turn:
            taken.append(measure())
    return values
