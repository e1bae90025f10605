"""The event log of a run: append-only, numbered and in legal stream order; every answer is a view over the log.

Autosave stores the events of active runs, so that clients lose little if clinvk is killed.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing

from clinvk.runtime.process.waiting import WakeUp
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import ClinvkError
from clinvk.types.events import (
    Ending,
    Event,
    InteractionRequested,
    Logged,
    PlanStep,
    Progress,
    RunFailed,
    RunResult,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolResult,
    gather,
)
from clinvk.types.tool_text import activity

HIGH_WATER_BYTES = 4 * 1024 * 1024
_EVENT_BYTES = 200
"""The estimated memory of an event besides its text."""


class EventLog:
    """The events of one run. `on_caught_up` is called when `is_ahead` becomes false.

    After `release`, no owner reads the log incrementally: the log is never ahead, and no reader slows the agent down.
    `saved` is the number of the last stored event.
    """

    def __init__(self, on_caught_up: Callable[[], None]) -> None:
        self.ending: Ending | None = None
        self.saved = 0
        self._is_held = True
        self._entries: list[Logged] = []
        self._sizes: list[int] = [0]
        self._followers: set[WakeUp] = set()
        self._ended = asyncio.Event()
        self._read = 0
        self._on_caught_up = on_caught_up

    @property
    def is_ahead(self) -> bool:
        """Whether even the fastest reader is so far behind that the agent should slow down."""
        return self._is_held and self._sizes[-1] - self._sizes[self._read] > HIGH_WATER_BYTES

    @property
    def count(self) -> int:
        """The number of the last event; 0 if the log is empty."""
        return len(self._entries)

    @property
    def ended_at(self) -> float | None:
        """When the run ended; None before."""
        return self._entries[-1].at if self.ending else None

    @property
    def model(self) -> str | None:
        """The model that the agent reported; None if the agent reported none."""
        return next((entry.event.model for entry in self._entries if isinstance(entry.event, RunStarted)), None)

    @property
    def first_text_at(self) -> float | None:
        """When the first piece of the answer or of the thinking arrived, or None."""
        return next((entry.at for entry in self._entries if isinstance(entry.event, TextDelta | ThinkingDelta)), None)

    @property
    def activity(self) -> str:
        """What the agent does, on one line; empty before its first step, after a tool, and once the run has ended.

        While a tool waits for an approval, the activity is the tool.
        """
        for event in (entry.event for entry in reversed(self._entries) if not self.ending):
            if isinstance(event, TextDelta):
                return "answering"
            if isinstance(event, ToolResult):
                return ""
            if not isinstance(event, InteractionRequested) and (doing := activity(event)):
                return doing
        return ""

    @property
    def plan(self) -> tuple[PlanStep, ...]:
        """The latest plan of the agent; empty if the agent has made none, and once the run has ended."""
        reported = (entry.event for entry in reversed(self._entries) if not self.ending)
        return next((event.steps for event in reported if isinstance(event, Progress) and event.stage == "plan"), ())

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(entry.event.text for entry in self._entries if isinstance(entry.event, TextDelta))

    def extend(self, events: Iterable[Event], size: int = 0) -> None:
        """Append events that arrived in `size` bytes; repair or drop events that break the stream order."""
        self.append(self.numbered(events), size)

    def numbered(self, events: Iterable[Event]) -> list[Logged]:
        """Return the entries for new events: add a missing start before the first event, and drop misplaced events."""
        entries: list[Logged] = []
        number, at = len(self._entries), time.time()
        for event in () if self.ending else events:
            if number and isinstance(event, RunStarted):
                continue
            if not (number or isinstance(event, RunStarted | RunFailed)):
                number = 1
                entries.append(Logged(number, at, RunStarted()))
            number += 1
            entries.append(Logged(number, at, event))
            if isinstance(event, Ending):
                break
        return entries

    def append(self, entries: Sequence[Logged], size: int = 0) -> None:
        """Append the entries returned by `numbered`, and wake the readers."""
        for entry in entries:
            self._entries.append(entry)
            self._sizes.append(self._sizes[-1] + _EVENT_BYTES)
        self._sizes[-1] += size
        if entries and isinstance(ending := entries[-1].event, Ending):
            self.ending = ending
            self._ended.set()
        for wake_up in self._followers:
            wake_up.set()

    def since(self, number: int) -> list[Logged]:
        """Return the events so far after number `number`."""
        return self._entries[number:]

    def unsaved(self) -> list[Logged]:
        """Return the events that are to be stored; the pieces of a call are not, since the whole call follows."""
        return [entry for entry in self.since(self.saved) if not isinstance(entry.event, ToolCallDelta)]

    def release(self) -> None:
        """Stop slowing the agent down for slow readers."""
        was_ahead = self.is_ahead
        self._is_held = False
        if was_ahead:
            self._on_caught_up()

    async def result(self) -> RunResult:
        """Wait for the ending and return the whole result. A reader of the whole log never slows the agent down."""
        self.release()
        await self._ended.wait()
        return gather([entry.event for entry in self._entries])

    async def follow(self, after: int = 0) -> AsyncIterator[Logged]:
        """Yield the events after number `after` until the ending, individually."""
        async with aclosing(self.batches(after)) as batches:
            async for batch in batches:
                for logged in batch:
                    yield logged

    async def batches(self, after: int = 0) -> AsyncGenerator[list[Logged]]:
        """Yield the events after number `after` until the ending; each batch holds all available events."""
        wake_up = WakeUp()
        self._followers.add(wake_up)
        try:
            while not self.ending or after < len(self._entries):
                if batch := self._entries[after:]:
                    after += len(batch)
                    self._mark_read(after)
                    yield batch
                else:
                    await wake_up.wait()
        finally:
            self._followers.discard(wake_up)

    def _mark_read(self, read: int) -> None:
        """Note that a reader has read the first `read` events."""
        was_ahead = self.is_ahead
        self._read = max(self._read, read)
        if was_ahead and not self.is_ahead:
            self._on_caught_up()


logger = logging.getLogger(__name__)

SAVE_INTERVAL_S = 0.2
"""How long an event stays unsaved, excluding the duration of the transaction."""

_RETRY_AFTER_S = 2.0


class Autosave:
    """Stores the new events of all runs together, in one transaction every `SAVE_INTERVAL_S` if events are pending.

    A store failure does not end a run: the events are stored with later events, or with the end of the run.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._logs: dict[str, EventLog] = {}
        self._changed = WakeUp()
        self._last_error = ""

    def add(self, run_id: str, log: EventLog) -> None:
        """Store the new events of a run with the next transaction."""
        self._logs[run_id] = log
        self._changed.set()

    def forget(self, run_id: str) -> None:
        """Stop saving the events of a run; the record of the run's end includes the rest."""
        self._logs.pop(run_id, None)

    async def run(self) -> None:
        """Store new events until cancelled."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(_RETRY_AFTER_S if self._last_error else SAVE_INTERVAL_S)
            await self._save()

    async def _save(self) -> None:
        events = {run_id: unsaved for run_id, log in self._logs.items() if (unsaved := log.unsaved())}
        try:
            if events:
                await self._store.append(events)
        except Exception as exc:
            self._changed.set()
            if (error := repr(exc)) != self._last_error:
                is_defect = not isinstance(exc, ClinvkError)
                logger.warning("new events of %d runs are not stored: %s", len(events), exc, exc_info=is_defect)
            self._last_error = error
        else:
            self._last_error = ""
            for run_id, entries in events.items():
                if log := self._logs.get(run_id):
                    log.saved = entries[-1].number
