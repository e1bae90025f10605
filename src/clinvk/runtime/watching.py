"""What those are told who count and trace runs: that one has begun, and that it is over."""

from collections.abc import Callable, Sequence
from typing import Protocol

from clinvk.events import Logged, RunStarted, TextDelta, ThinkingDelta
from clinvk.runtime.runs import Followed


class Watched(Followed, Protocol):
    """A run as it is watched. `entries` is all that happened so far."""

    @property
    def entries(self) -> Sequence[Logged]:
        """Its events, in their order."""
        ...


Watch = Callable[[Watched], Callable[[], None]]
"""Called when a run has begun; what it gives is called when that is over. Both in the context of its request."""


def model_told(run: Watched) -> str | None:
    """Give the model that the agent said it works with; None where it said none."""
    started = next((entry.event for entry in run.entries if isinstance(entry.event, RunStarted)), None)
    return started.model if started else None


def first_word_at(run: Watched) -> float | None:
    """Give when the first piece of the answer, or of the thinking before it, was there; None where there was none."""
    return next((entry.at for entry in run.entries if isinstance(entry.event, TextDelta | ThinkingDelta)), None)
