"""The input and output of a run: lines to events, turns, progress, limits and deadlines."""

from collections.abc import Iterable
from math import inf

import msgspec

from clinvk.backends.base import Delivery, NotSpoken
from clinvk.runtime.process.spawn import DRAIN_S, LINGER_S, MAX_LINE_BYTES
from clinvk.runtime.run.answer_filter import Words
from clinvk.runtime.run.process_handle import ProcessHandle
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
        """The number of turns so far, including the current turn."""
        return self.turns_ended + self._speaking

    def feed(self, event: Event) -> bool:
        """Count an event; return whether the event shows progress of the agent's work."""
        match event:
            case TextDelta() | ThinkingDelta():
                self._speaking = True
            case ToolCall():
                self.open_calls.add(event.id)
                self._speaking = True
            case ToolResult():
                self.open_calls.discard(event.id)
                if self._speaking and not self.open_calls:
                    self._speaking = False
                    self.turns_ended += 1
            case Progress():
                return False
            case RunStarted() | RunFinished() | RunFailed():
                pass
        return True


_STDERR_CHARS = 300


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a run; 0 and None mean no limit. Seconds count from the agent's start.

    Attributes:
        wall_s: the time limit of the run, of which earlier processes of the run have used `spent_s`.
        silence_s: the time without progress.
        answer_s: the time until a process has answered in its channel's protocol.
        turns: the number of turns.
    """

    wall_s: float | None
    silence_s: float
    answer_s: float | None
    turns: int | None
    spent_s: float = 0.0


class RunIO:
    """The conversation of one run with one process: read events, and watch limits and deadlines.

    All times are on the event loop's clock.

    Attributes:
        process: the handle on the process.
        ending: the ending that the agent reported, or that follows from the exit. None for a run that was cut at a
            stop sequence or at the maximum number of turns.
        costs: the first ending that the agent reported, even for a run that was cut.
        words: the filter of the answer's text; None passes the text on.
        activity: the turns and open tool calls.
        raw: the last line of JSON.
        events: the events since the last `take`; their lines have `events_bytes` bytes.
        unspoken: why the process does not speak its channel's protocol; empty unless found out.
    """

    def __init__(self, process: ProcessHandle, request: RunRequest, limits: Limits, words: Words | None = None) -> None:
        self.process = process
        self.ending: Ending | None = None
        self.costs: Ending | None = None
        self.words = words
        self.activity = Activity()
        self.raw = b""
        self.events: list[Event] = []
        self.events_bytes = 0
        self.unspoken = ""
        self._has_spoken = False
        self._is_up = False
        self._early_stderr: list[Event] = []
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
        self.process.begin(self._request, resume)

    def read(self, now: float) -> None:
        """Read new output into `events`, `ending` and `unspoken`."""
        stderr: list[Event] = [Progress("stderr", line.decode(errors="replace")) for line in self.process.read_stderr()]
        events: list[Event] = []
        try:
            self._read_stdout(events, now)
        except NotSpoken as exc:
            self.unspoken = str(exc)
        if now >= self._answer_deadline():
            self.unspoken = f"it did not answer within {self._limits.answer_s:g} s"
        if self._is_up:
            self.events += stderr + events
        else:
            self.events += self._after_start(events, stderr)

    def take(self) -> tuple[list[Event], int]:
        """Return the events since the last call, and the size in bytes of their lines."""
        events, size = self.events, self.events_bytes
        self.events, self.events_bytes = [], 0
        return events, size

    def _after_start(self, events: list[Event], stderr: list[Event]) -> list[Event]:
        """Hold stderr back until the agent has reported its start, which must be the first event of a stream."""
        self._early_stderr += stderr
        if not events and not self.ending:
            return []
        self._is_up = True
        return events[:1] + self._early_stderr + events[1:]

    def pause(self, now: float) -> None:
        """Reset the timers for silence and exit, since the reader of the run is holding the agent up."""
        self._progress_at = now
        self._gone_at = None

    def limit(self, now: float) -> Ending | None:
        """Return the ending of a run that has reached a limit, else None."""
        if self.words and self.words.matched is not None:
            return RunFinished("stop_sequence", stop_sequence=self.words.matched)
        if self._is_out_of_turns():
            return RunFinished("max_turns")
        if self._gone_at is not None and self.process.exit_code is None and now >= self._gone_at + LINGER_S:
            return RunFailed(AgentCrashed.code, "the agent closed its output but did not exit")
        if now >= self._wall_at:
            return RunFailed(TimedOut.code, f"timed out after {self._limits.wall_s:g} s{self._stderr_suffix()}")
        if now >= self._progress_deadline():
            return RunFailed(
                TimedOut.code, f"the agent made no progress for {self._limits.silence_s:g} s{self._stderr_suffix()}"
            )
        return None

    def deadline(self) -> float:
        """Return the time of the next check if the process stays silent."""
        first = min(self._wall_at, self._progress_deadline(), self._answer_deadline())
        if self._gone_at is None:
            return first
        return min(first, self._gone_at + (LINGER_S if self.process.exit_code is None else DRAIN_S))

    def _read_stdout(self, events: list[Event], now: float) -> None:
        for line, deliveries in self.process.read():
            if line.startswith(b"{"):
                self.raw = line
            self.events_bytes += len(line)
            self._handle(deliveries, events, now)
        process = self.process
        if process.too_long:
            self._end(RunFailed(AgentCrashed.code, f"the agent printed a line of over {MAX_LINE_BYTES} bytes"))
        exit_code = process.exit_code
        if self.ending or (exit_code is None and not process.at_eof):
            return
        self._gone_at = self._gone_at or now
        if exit_code is not None and (process.at_eof or now >= self._gone_at + DRAIN_S):
            self._handle(process.closed(), events, now)

    def _handle(self, deliveries: Iterable[Delivery], events: list[Event], now: float) -> None:
        for delivery in deliveries:
            if self.ending:
                break
            self._has_spoken = True
            if isinstance(delivery, bytes):
                self.process.write(delivery)
            else:
                self._take_event(delivery[1], events, now)

    def _take_event(self, event: Event, events: list[Event], now: float) -> None:
        is_ending = isinstance(event, RunFinished | RunFailed)
        if self._is_out_of_turns() and not is_ending:
            return
        if self.activity.feed(event):
            self._progress_at = now
        if is_ending:
            self._end(event)
        elif self.words:
            events.extend(self.words.feed(event))
        else:
            events.append(event)

    def _end(self, ending: Ending) -> None:
        self.costs = self.costs or ending
        is_cut = self._is_out_of_turns() or (self.words is not None and self.words.matched is not None)
        if not is_cut:
            self.ending = self.ending or ending
        self.process.finish()

    def _stderr_suffix(self) -> str:
        """Return the end of stderr: only stderr explains why a CLI repeats its requests to the model."""
        last = self.process.stderr_message()
        return f"; its last words on stderr: {last[:_STDERR_CHARS]}" if last else ""

    def _is_out_of_turns(self) -> bool:
        return bool(self._limits.turns) and self.activity.turns_ended >= self._limits.turns

    def _answer_deadline(self) -> float:
        return inf if self._has_spoken or self.process.is_answered else self._answer_by

    def _progress_deadline(self) -> float:
        has_deadline = self._limits.silence_s and not self.activity.open_calls
        return self._progress_at + self._limits.silence_s if has_deadline else inf
