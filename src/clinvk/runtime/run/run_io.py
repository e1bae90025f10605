"""What passes between a run and its agent process: lines to events, the process's side, progress and deadlines."""

from collections.abc import Iterable, Iterator
from math import inf
from typing import Protocol

import msgspec

from clinvk.backends.base import Channel, Delivery, NotSpoken
from clinvk.runtime.process.spawn import DRAIN_S, LINGER_S, MAX_LINE_BYTES, Process
from clinvk.runtime.run.answer_filter import Words
from clinvk.types.errors import AgentCrashed, TimedOut
from clinvk.types.events import (
    Ending,
    Event,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
)
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume


class Seat(Protocol):
    """What a run sees of its process.

    `exit_code` and `at_eof` are of a process that is the run's own; of one that carries others too the run learns by
    its ending alone.
    """

    @property
    def exit_code(self) -> int | None:
        """How the process exited, once it has."""
        ...

    @property
    def at_eof(self) -> bool:
        """Whether it has closed its output and all was heard."""
        ...

    @property
    def too_long(self) -> bool:
        """Whether it printed a line that is too long to be kept."""
        ...

    @property
    def is_answered(self) -> bool:
        """Whether the process is known to have said something since."""
        ...

    def begin(self, request: RunRequest, resume: Resume | None) -> None:
        """Give it the prompt."""
        ...

    def hear(self) -> Iterable[tuple[bytes, Iterable[Delivery]]]:
        """Give the lines that came since the last call, and what each delivers."""
        ...

    def hear_stderr(self) -> list[bytes]:
        """Give the lines of stderr, where these were asked for."""
        ...

    def closed(self) -> Iterable[Delivery]:
        """Give what follows from the exit."""
        ...

    def write(self, data: bytes) -> None:
        """Answer it."""
        ...

    def complaint(self) -> str:
        """Give the line of stderr that says best what troubles the agent."""
        ...

    def finish(self) -> None:
        """The run has told how it ended."""
        ...


class OwnSeat:
    """The seat in a process that was started for this run and serves no other."""

    __slots__ = ("_channel", "_long_lived", "_run", "process")

    is_answered = False

    def __init__(self, run: str, process: Process, channel: Channel, long_lived: bool) -> None:
        self.process = process
        self._run = run
        self._channel = channel
        self._long_lived = long_lived

    @property
    def exit_code(self) -> int | None:
        """How it exited, once it has."""
        return self.process.exit_code

    @property
    def at_eof(self) -> bool:
        """Whether it has closed its output and all was heard."""
        return self.process.at_eof

    @property
    def too_long(self) -> bool:
        """Whether it printed a line that is too long to be kept."""
        return self.process.too_long

    def begin(self, request: RunRequest, resume: Resume | None) -> None:
        """Give it the prompt; stdin stays open only where the protocol needs it."""
        self.process.write(self._channel.start(self._run, request, resume), close=not self._long_lived)

    def hear(self) -> Iterator[tuple[bytes, Iterable[Delivery]]]:
        """Give each line when the one before has been looked through."""
        return ((line, self._channel.receive(line)) for line in self.process.take())

    def hear_stderr(self) -> list[bytes]:
        """Give the lines of stderr, where these were asked for."""
        return self.process.take_stderr()

    def closed(self) -> Iterable[Delivery]:
        """Give the ending that it did not tell."""
        return self._channel.closed(self.process.exit_code or 0, self.process.stderr)

    def write(self, data: bytes) -> None:
        """Answer it."""
        self.process.write(data, close=False)

    def interrupt(self) -> bool:
        """Have the run end, so that it tells what it cost; say whether the process can be told so."""
        data = self._channel.interrupt(self._run)
        if data:
            self.process.write(data, close=False)
        return data is not None

    def complaint(self) -> str:
        """Give the line of stderr that says best what troubles the agent."""
        return self._channel.complaint(self.process.stderr)

    def finish(self) -> None:
        """Close stdin: a process that would stay has no other run, and exits."""
        self.process.write(b"", close=True)


class Activity:
    """Counts turns (requests to the model) and open tool calls from the events of one run.

    A turn ends when all of its tool calls have results: then the agent asks its model again.
    """

    __slots__ = ("_speaking", "open_calls", "turns_ended")

    def __init__(self) -> None:
        self.turns_ended = 0
        self.open_calls: set[str] = set()
        self._speaking = False

    @property
    def turns(self) -> int:
        """Turns so far, the present one included."""
        return self.turns_ended + self._speaking

    def feed(self, event: Event) -> bool:
        """Take an event; say whether it is progress of the agent's work."""
        match event:
            case ToolCall():
                self.open_calls.add(event.id)
                self._speaking = True
            case ToolResult():
                self.open_calls.discard(event.id)
                if self._speaking and not self.open_calls:
                    self._speaking = False
                    self.turns_ended += 1
            case TextDelta() | ThinkingDelta():
                self._speaking = True
            case Progress():
                return False
            case RunStarted() | RunFinished() | RunFailed():
                pass
        return True


_LAST_WORDS = 300


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run may go; 0 and None are no limit. Seconds count from the agent's start.

    Of `wall_s` the run has used up `spent_s` in processes before this one. `answer_s` is how long it may take until a
    process is known to speak its channel's protocol.
    """

    wall_s: float | None
    silence_s: float
    answer_s: float | None
    turns: int | None
    spent_s: float = 0.0


class Exchange:
    """One run's side of a process: reads what it said, knows when it has been silent for too long.

    Times are those of the event loop's clock. `ending` is what the agent told, or what became of it; of a run that was
    cut, by a stop text or at its turns, it is None, and `costs` has what the agent told of its end all the same.
    `unspoken` is why it does not speak its channel's protocol, where that has shown. `heard` are the events that came,
    in lines of `heard_bytes` bytes, and that nobody has taken yet.
    """

    def __init__(self, seat: Seat, request: RunRequest, limits: Limits, words: Words | None = None) -> None:
        self.seat = seat
        self.ending: Ending | None = None
        self.costs: Ending | None = None
        self.words = words
        self.activity = Activity()
        self.raw = b""
        self.heard: list[Event] = []
        self.heard_bytes = 0
        self.unspoken = ""
        self._spoke = False
        self._is_up = False
        self._early: list[Event] = []
        self._request = request
        self._limits = limits
        self._progress_at = 0.0
        self._wall_at = self._answer_by = inf
        self._gone_at: float | None = None

    def begin(self, resume: Resume | None, now: float) -> None:
        """Send the prompt."""
        limits = self._limits
        self._progress_at = now
        if limits.wall_s:
            self._wall_at = now + max(0.1, limits.wall_s - limits.spent_s)
        if limits.answer_s:
            self._answer_by = now + limits.answer_s
        self.seat.begin(self._request, resume)

    def hear(self, now: float) -> None:
        """Have what came in `heard`, without the ending."""
        said: list[Event] = [Progress("stderr", line.decode(errors="replace")) for line in self.seat.hear_stderr()]
        told: list[Event] = []
        try:
            self._hear(told, now)
        except NotSpoken as exc:
            self.unspoken = str(exc)
        if now >= self._answer_deadline():
            self.unspoken = f"it did not answer within {self._limits.answer_s:g} s"
        self.heard += self._in_order(told, said)

    def take(self) -> tuple[list[Event], int]:
        """Give what was heard, and the bytes that it came in."""
        heard, size = self.heard, self.heard_bytes
        self.heard, self.heard_bytes = [], 0
        return heard, size

    def _in_order(self, told: list[Event], said: list[Event]) -> list[Event]:
        """Hold back what stderr says until the agent has told that it is up: a stream begins with that."""
        if self._is_up:
            return said + told
        self._early += said
        if not told and not self.ending:
            return []
        self._is_up = True
        return told[:1] + self._early + told[1:]

    def rest(self, now: float) -> None:
        """The reader holds the run up: until it goes on, neither silence nor an exit means anything."""
        self._progress_at = now
        self._gone_at = None

    def limit(self, now: float) -> Ending | None:
        """Give the ending of a run that has come to a limit."""
        if self.words and self.words.matched is not None:
            return RunFinished("stop_sequence", stop_sequence=self.words.matched)
        if self._out_of_turns():
            return RunFinished("max_turns")
        if self._gone_at is not None and self.seat.exit_code is None and now >= self._gone_at + LINGER_S:
            return RunFailed(AgentCrashed.code, "the agent closed its output but did not exit")
        if now >= self._wall_at:
            return RunFailed(TimedOut.code, f"timed out after {self._limits.wall_s:g} s{self._last_words()}")
        if now >= self._progress_deadline():
            return RunFailed(
                TimedOut.code, f"the agent made no progress for {self._limits.silence_s:g} s{self._last_words()}"
            )
        return None

    def deadline(self) -> float:
        """Give the time at which to look again if nothing happens."""
        first = min(self._wall_at, self._progress_deadline(), self._answer_deadline())
        if self._gone_at is None:
            return first
        return min(first, self._gone_at + (LINGER_S if self.seat.exit_code is None else DRAIN_S))

    def _hear(self, events: list[Event], now: float) -> None:
        for line, deliveries in self.seat.hear():
            self.raw = line if line.startswith(b"{") else self.raw
            self.heard_bytes += len(line)
            self._take_all(deliveries, events, now)
        if self.seat.too_long:
            self._end(RunFailed(AgentCrashed.code, f"the agent printed a line of over {MAX_LINE_BYTES} bytes"))
        self._look_at_exit(events, now)

    def _take_all(self, deliveries: Iterable[Delivery], events: list[Event], now: float) -> None:
        for delivery in deliveries:
            if self.ending:
                break
            self._spoke = True
            self._take(delivery, events, now)

    def _take(self, delivery: Delivery, events: list[Event], now: float) -> None:
        if isinstance(delivery, bytes):
            self.seat.write(delivery)
            return
        event = delivery[1]
        is_last = isinstance(event, RunFinished | RunFailed)
        if self._out_of_turns() and not is_last:
            return
        if self.activity.feed(event):
            self._progress_at = now
        if is_last:
            self._end(event)
        elif self.words:
            events.extend(self.words.feed(event))
        else:
            events.append(event)

    def _look_at_exit(self, events: list[Event], now: float) -> None:
        seat = self.seat
        if self.ending or (seat.exit_code is None and not seat.at_eof):
            return
        self._gone_at = self._gone_at or now
        if seat.exit_code is not None and (seat.at_eof or now >= self._gone_at + DRAIN_S):
            self._take_all(seat.closed(), events, now)

    def _last_words(self) -> str:
        """Tell the end of stderr: where a CLI asks its model again and again, only that says why."""
        last = self.seat.complaint()
        return f"; its last words on stderr: {last[:_LAST_WORDS]}" if last else ""

    def _is_cut(self) -> bool:
        return self._out_of_turns() or (self.words is not None and self.words.matched is not None)

    def _out_of_turns(self) -> bool:
        return bool(self._limits.turns) and self.activity.turns_ended >= self._limits.turns

    def _end(self, ending: Ending) -> None:
        self.costs = self.costs or ending
        if not self._is_cut():
            self.ending = self.ending or ending
        self.seat.finish()

    def _answer_deadline(self) -> float:
        return inf if self._spoke or self.seat.is_answered else self._answer_by

    def _progress_deadline(self) -> float:
        waits = self._limits.silence_s and not self.activity.open_calls
        return self._progress_at + self._limits.silence_s if waits else inf
