"""The event log of a run: append-only, numbered, keeping the stream law; every answer is a view over it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable

from clinvk.events import (
    Ending,
    Event,
    Logged,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
)
from clinvk.runtime.wake import Wake

HIGH_WATER_BYTES = 4 * 1024 * 1024
_EVENT_BYTES = 200
"""What an event takes beside its text."""


class _Follower:
    def __init__(self, after: int) -> None:
        self.read = after
        self.news = Wake()


class EventLog:
    """The events of one run. `caught_up` is called when the log `is_ahead` no more.

    A log that was let go has no owner who reads it bit by bit: it is never ahead, and whoever looks on slows nobody
    down. `saved` is the number of the last event that is stored.
    """

    def __init__(self, caught_up: Callable[[], None]) -> None:
        self.ending: Ending | None = None
        self.saved = 0
        self._is_held = True
        self._entries: list[Logged] = []
        self._sizes: list[int] = [0]
        self._followers: set[_Follower] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._read = 0
        self._caught_up = caught_up

    @property
    def is_ahead(self) -> bool:
        """Whether the fastest reader is so far behind that the agent should be slowed down."""
        return self._is_held and self._sizes[-1] - self._sizes[self._read] > HIGH_WATER_BYTES

    @property
    def count(self) -> int:
        """The number of the last event."""
        return len(self._entries)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(entry.event.text for entry in self._entries if isinstance(entry.event, TextDelta))

    def extend(self, events: Iterable[Event], size: int = 0) -> None:
        """Append events, which came in `size` bytes. What would break the stream law is mended or dropped."""
        for event in events:
            self._keep(self.mended(event))
        self._sizes[-1] += size
        self._tell()

    def mended(self, event: Event) -> list[Logged]:
        """Give the entries that an event makes: with the start that must come before it, none where it comes amiss."""
        is_start = isinstance(event, RunStarted)
        if self.ending or (is_start and self._entries):
            return []
        number, at = len(self._entries) + 1, time.time()
        if self._entries or is_start or isinstance(event, RunFailed):
            return [Logged(number, at, event)]
        return [Logged(number, at, RunStarted()), Logged(number + 1, at, event)]

    def append(self, entries: Iterable[Logged]) -> None:
        """Append what `mended` gave."""
        self._keep(entries)
        self._tell()

    def since(self, number: int) -> list[Logged]:
        """Give the events after a number that are there."""
        return self._entries[number:]

    def unsaved(self) -> list[Logged]:
        """Return the events that are not stored yet."""
        return self.since(self.saved)

    def let_go(self) -> None:
        """Wait for no reader from now on."""
        was_ahead = self.is_ahead
        self._is_held = False
        if was_ahead:
            self._caught_up()

    async def whole(self) -> list[Logged]:
        """Wait for the ending, then give all events. Whoever waits for all of them takes each as it comes."""
        self.let_go()
        if not self.ending:
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(ended)
            await ended
        return self._entries

    async def batches(self, after: int = 0) -> AsyncGenerator[list[Logged]]:
        """Give the events after number `after` to the ending, each time all that are there."""
        follower = _Follower(after)
        self._followers.add(follower)
        try:
            while not self.ending or follower.read < len(self._entries):
                if batch := self._entries[follower.read :]:
                    self._advance(follower, len(batch))
                    yield batch
                else:
                    await follower.news.wait()
        finally:
            self._followers.discard(follower)

    def _keep(self, entries: Iterable[Logged]) -> None:
        for entry in entries:
            self._entries.append(entry)
            self._sizes.append(self._sizes[-1] + _EVENT_BYTES)
            if isinstance(entry.event, RunFinished | RunFailed):
                self.ending = entry.event

    def _tell(self) -> None:
        for follower in self._followers:
            follower.news.set()
        if self.ending:
            for ended in self._waiters:
                if not ended.done():
                    ended.set_result(None)
            self._waiters.clear()

    def _advance(self, follower: _Follower, count: int) -> None:
        follower.read += count
        if follower.read <= self._read:
            return
        was_ahead = self.is_ahead
        self._read = follower.read
        if was_ahead and not self.is_ahead:
            self._caught_up()
