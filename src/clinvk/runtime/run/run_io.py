"""The input and output of a run: the specification, the agent process, events, turns, limits and deadlines."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from math import inf

import msgspec
from msgspec.structs import replace

from clinvk.backends.base import HELD, Backend, Host, Launch, ProtocolNotSupported, Report, SteerReply
from clinvk.runtime.pool.pool import Pool
from clinvk.runtime.pool.run_process import OwnProcess, PooledProcess
from clinvk.runtime.process.process import DRAIN_S, LINGER_S, MAX_LINE_BYTES
from clinvk.runtime.run.answer_filter import AnswerFilter
from clinvk.types.errors import AgentCrashed, InvalidRequest, TimedOut
from clinvk.types.events import (
    Ending,
    Event,
    InteractionResolved,
    Progress,
    RunFailed,
    RunFinished,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
    UserMessage,
    Waiting,
)
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.record import HandOver, LimitWindow, Resume
from clinvk.types.request import RunRequest, ToolOutput

_OUTPUT_INTERVAL_S = 1.0
"""The least time between two lines of the output of running tools: each line becomes an event, which is stored."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, in which environment, and the conversation to resume.

    Attributes:
        relaunch: returns the launch that resumes the run's own conversation with another request.
        check: checks the directories again right before the start, since the run may have waited for hours. Returns
            the working directory without symbolic links; raises a `ClinvkError` if the agent must not start.
        hold: locks the clinvk worktree that the run works in; None if the directory lies in no such worktree.
        pool: warm processes that may carry the run; None if the backend has none.
        is_of_user: the environment is that of a command of this machine's user, instead of that of this process.
        handed_over: the hand-over from the agent of the session, if this is another agent. The request then has the
            transcript.
    """

    run_id: str
    request: RunRequest
    backend: Backend
    host: Host
    launch: Launch
    path: str
    resume: Resume | None
    no_progress_s: float
    relaunch: Callable[[RunRequest, Resume | None], Awaitable[Launch]]
    check: Callable[[], Awaitable[str]] | None = None
    hold: Callable[[], AbstractAsyncContextManager[None]] | None = None
    pool: Pool | None = None
    is_of_user: bool = False
    handed_over: HandOver | None = None

    async def checked_directory(self, launch: Launch) -> str:
        """Call `check`, and return the working directory without symbolic links, or an empty text without `check`.

        Raises:
            InvalidRequest: the sandbox of the launch has another directory, which led elsewhere for a moment.
            ClinvkError: the agent must not start.
        """
        if not self.check:
            return ""
        real_path = await self.check()
        for path in (word.removeprefix(HELD) for word in launch.wrapper if word.startswith(HELD)):
            if path not in (real_path, *self.request.add_dirs):
                raise InvalidRequest(f"cannot work in {path!r}: it leads elsewhere since it was checked", "workdir")
        return real_path


class ActivityCounter:
    """Counts turns (requests to the model) and open tool calls from the events of one run.

    A turn ends when all of its tool calls have results: then the agent asks its model again.
    """

    __slots__ = ("_is_in_turn", "open_calls", "turns_ended")

    def __init__(self) -> None:
        self.turns_ended = 0
        self.open_calls: set[str] = set()
        self._is_in_turn = False

    @property
    def turns(self) -> int:
        """The number of turns so far, including the current turn."""
        return self.turns_ended + self._is_in_turn

    def feed(self, event: Event) -> bool:
        """Count an event; return whether the event shows progress of the agent's work."""
        if isinstance(event, ToolResult):
            self.open_calls.discard(event.id)
            if self._is_in_turn and not self.open_calls:
                self._is_in_turn = False
                self.turns_ended += 1
        elif isinstance(event, _MODEL_EVENTS):
            self._is_in_turn = True
            if isinstance(event, ToolCall):
                self.open_calls.add(event.id)
        return not isinstance(event, Progress)


_MODEL_EVENTS = (TextDelta, ThinkingDelta, ToolCall)
_STDERR_CHARS = 300


class RunIO:
    """The conversation of one run with one process: read events, and watch limits and deadlines.

    All times are on the event loop's clock.

    Attributes:
        process: the handle on the process.
        reported: the first ending that the agent reported, or that follows from the exit, even for a run that was cut.
        text_filter: the filter of the answer's text; None passes the text on.
        activity: the turns and open tool calls.
        raw: the last line of JSON.
        events: the events since the last `take`; their lines have `events_bytes` bytes.
        used: the tokens so far; None if the agent has not reported any.
        limits: the states of limits that were reported since the list was last emptied.
    """

    def __init__(
        self,
        process: OwnProcess | PooledProcess,
        spec: RunSpec,
        launch: Launch,
        text_filter: AnswerFilter | None,
        now: float,
        spent_s: float,
        max_tokens: float,
        answer_timeout_s: float,
    ) -> None:
        """Send the prompt. Earlier processes of the run have used `spent_s` of the time limit.

        At `max_tokens` input and output tokens the run ends.

        The process must answer in its channel's protocol within `answer_timeout_s`.
        """
        self.process = process
        self.reported: Ending | None = None
        self.text_filter = text_filter
        self.activity = ActivityCounter()
        self.raw = b""
        self.events: list[Event] = []
        self.events_bytes = 0
        self.used: Usage | None = None
        self.limits: list[LimitWindow] = []
        self._steerings: list[tuple[str, asyncio.Future[bool]]] = []
        self._own = process if isinstance(process, OwnProcess) else None
        self._early_stderr: list[Event] | None = []
        self._timeout_s = spec.request.timeout_s
        self._silence_s = spec.no_progress_s or inf
        self._max_turns = launch.max_turns or inf
        self._max_tokens = max_tokens
        self._is_over_budget = False
        self._answer_s = answer_timeout_s if launch.long_lived else inf
        self._answer_by = now + self._answer_s
        self._wall_at = now + max(0.1, self._timeout_s - spent_s) if self._timeout_s else inf
        self._progress_at = now
        self._closed_at = inf
        self._waits = 0
        self._output_at = -inf
        self._waits_since = inf
        process.begin(spec.request, spec.resume)

    @property
    def ending(self) -> Ending | None:
        """The reported ending; None for a run that was cut at a stop sequence or at the maximum number of turns."""
        is_cut = self.activity.turns_ended >= self._max_turns or (self.text_filter and self.text_filter.matched)
        return None if is_cut else self.reported

    def read(self, now: float) -> None:
        """Read new output into `events` and `ending`.

        Stderr is held back until the agent has reported its start, which must be the first event of a stream.

        Raises:
            ProtocolNotSupported: the process does not speak its channel's protocol.
        """
        for line in self._own.process.take_stderr() if self._own else ():
            early = self.events if self._early_stderr is None else self._early_stderr
            early.append(Progress("stderr", line.decode(errors="replace")))
        self._read_stdout(now)
        if now >= self._answer_by and not self.process.is_answered:
            raise ProtocolNotSupported(f"it did not answer within {self._answer_s:g} s")
        if self._early_stderr is not None and (self.events or self.ending):
            self.events[1:1] = self._early_stderr
            self._early_stderr = None

    def take(self) -> tuple[list[Event], int]:
        """Return the events since the last call, and the size in bytes of their lines."""
        events, size = self.events, self.events_bytes
        self.events, self.events_bytes = [], 0
        return events, size

    def pause(self, now: float) -> None:
        """Reset the timers for silence and exit, since the reader of the run is holding the agent up."""
        self._progress_at = now
        self._closed_at = inf

    @property
    def is_waiting(self) -> bool:
        """Whether the agent waits for outputs of client tools, or for a person; no time limit counts meanwhile."""
        return self._waits > 0

    def steer(self, request: RunRequest) -> asyncio.Future[bool] | None:
        """Give the agent a further prompt within its turn; return None if the agent cannot receive a prompt now.

        The result is whether the agent has received the prompt. There is no result if the run ends before.
        """
        if self.ending or self.is_waiting or not self.process.steer(request):
            return None
        self._steerings.append((request.prompt, asyncio.get_running_loop().create_future()))
        return self._steerings[-1][1]

    def answer(self, outputs: Iterable[ToolOutput], now: float) -> None:
        """Send the agent the outputs of all pending calls of client tools."""
        self._end_wait(now)
        for output in outputs:
            self.process.answer(output)

    def resolve(self, request_id: str, answer: InteractionAnswer, now: float) -> None:
        """Send the agent the answer to an interaction."""
        self._end_wait(now)
        self.process.resolve(request_id, answer)

    def _end_wait(self, now: float) -> None:
        """Record the end of one wait of the agent."""
        self._waits -= 1
        if not self._waits:
            self._wall_at += now - self._waits_since
            self._waits_since, self._progress_at = inf, now

    def limit(self, now: float) -> Ending | None:
        """Return the ending of a run that has reached a limit, else None."""
        if self.text_filter and self.text_filter.matched:
            return RunFinished("stop_sequence", stop_sequence=self.text_filter.matched)
        if self._is_over_budget or self.activity.turns_ended >= self._max_turns:
            return RunFinished("max_budget" if self._is_over_budget else "max_turns")
        if now < self.deadline():
            return None
        if now >= self._closed_at + LINGER_S and not self.process.is_lost:
            return RunFailed(AgentCrashed.code, "the agent closed its output but did not exit")
        if now >= self._wall_at:
            problem = f"timed out after {self._timeout_s:g} s"
        elif now >= self._silent_at:
            problem = f"the agent made no progress for {self._silence_s:g} s"
        else:
            return None
        stderr = self.process.stderr_message()  # only stderr explains why a CLI repeats its requests to the model
        return RunFailed(
            TimedOut.code, f"{problem}; its last words on stderr: {stderr[:_STDERR_CHARS]}" if stderr else problem
        )

    def deadline(self) -> float:
        """Return the time of the next check if the process stays silent."""
        answer_by = inf if self.process.is_answered else self._answer_by
        exit_by = self._closed_at + (DRAIN_S if self.process.is_lost else LINGER_S)
        return exit_by if self.is_waiting else min(self._wall_at, self._silent_at, answer_by, exit_by)

    @property
    def _silent_at(self) -> float:
        return inf if self.activity.open_calls else self._progress_at + self._silence_s

    def _read_stdout(self, now: float) -> None:
        for line, events in self.process.read():
            if line.startswith(b"{"):
                self.raw = line
            self.events_bytes += len(line)
            self._handle(events, now)
        if self._own:
            self._check_exit(self._own, now)

    def _check_exit(self, own: OwnProcess, now: float) -> None:
        process = own.process
        if process.has_overlong_line:
            self._end(RunFailed(AgentCrashed.code, f"the agent printed a line of over {MAX_LINE_BYTES} bytes"))
        if self.ending or (process.exit_code is None and not process.at_eof):
            return
        self._closed_at = min(self._closed_at, now)
        if process.exit_code is not None and (process.at_eof or now >= self._closed_at + DRAIN_S):
            self._handle(own.closed(), now)

    def _handle(self, events: Iterable[Report], now: float) -> None:
        for event in () if self.ending else events:
            if isinstance(event, Ending):
                self._end(event)
                break
            if isinstance(event, LimitWindow):
                self.limits.append(event)
            elif isinstance(event, SteerReply):
                if self._steerings:  # a channel of a plug-in may reply to a prompt that was not sent
                    prompt, reply = self._steerings.pop(0)
                    if event.is_accepted:
                        self._handle_event(UserMessage(prompt), now)
                    reply.set_result(event.is_accepted)
            elif isinstance(event, Usage):
                self.used = event
                self._stop_if_over_budget(agent_continues=bool(self.activity.open_calls))
            elif self.activity.turns_ended < self._max_turns and not self._is_over_budget:
                self._handle_event(event, now)

    def _handle_event(self, event: Event, now: float) -> None:
        if self.activity.feed(event):
            self._progress_at = now
            self._stop_if_over_budget(agent_continues=True)
        if isinstance(event, Progress) and event.stage == "output":
            if now < self._output_at + _OUTPUT_INTERVAL_S:
                return
            self._output_at = now
        if isinstance(event, Waiting):
            self._waits += 1
            self._waits_since = min(self._waits_since, now)
        elif isinstance(event, InteractionResolved):
            self._end_wait(now)
        self.events += self.text_filter.feed(event) if self.text_filter else (event,)

    def _stop_if_over_budget(self, agent_continues: bool) -> None:
        """End the run if the agent continues after the tokens of the run are used up."""
        used = self.used.total_tokens if self.used else 0
        self._is_over_budget = self._is_over_budget or (agent_continues and used >= self._max_tokens)

    def _end(self, ending: Ending) -> None:
        self.reported = self.reported or ending
        if self._own:
            self._own.finish()


class Spending:
    """What the turns of a run have used.

    Attributes:
        earlier: the ending of the earlier turns together; None in the first turn.
        budgets: how many times the run may use the budget of its request.
    """

    def __init__(self) -> None:
        self.earlier: Ending | None = None
        self.budgets = 1

    def total(self, ending: Ending) -> Ending:
        """Return the ending of the current turn with the usage, cost and turns of all turns."""
        earlier = self.earlier
        if not earlier:
            return ending
        used = [each.usage for each in (earlier, ending) if each.usage]
        costs = [each.cost_usd for each in (earlier, ending) if each.cost_usd is not None]
        total = replace(ending, usage=sum(used[1:], used[0]) if used else None, cost_usd=sum(costs) if costs else None)
        if isinstance(total, RunFinished) and isinstance(earlier, RunFinished) and total.turns is not None:
            return replace(total, turns=total.turns + (earlier.turns or 0))
        return total

    def begin_turn(self, ending: Ending) -> None:
        """Count the ended turn. A run that continues beyond its budget may use the budget once more."""
        self.earlier = self.total(ending)
        if isinstance(ending, RunFinished) and ending.stop_reason == "max_budget":
            self.budgets += 1

    def tokens(self, io: RunIO | None) -> int:
        """Return the tokens that the agent has reported so far; `io` is the conversation of the current turn."""
        used = [self.earlier.usage] if self.earlier else []
        if io and not (self.earlier and io.reported):  # else the turn is one of the earlier turns
            used.append(io.used)
        return sum(usage.total_tokens for usage in used if usage)

    def tokens_left(self, request: RunRequest) -> float:
        """Return how many tokens the next turn may use."""
        return (request.max_total_tokens or inf) * self.budgets - self.tokens(None)

    def used_budget(self, request: RunRequest, ending: Ending) -> str:
        """Return the used part of the budget that ended the run, and the budget, as text."""
        total = self.total(ending)
        tokens = total.usage.total_tokens if total.usage else 0
        if request.max_total_tokens and tokens >= (most := request.max_total_tokens * self.budgets):
            return f"{tokens:,} tokens; its budget is {most:,}"
        return f"${total.cost_usd or 0:.2f}; its budget is ${(request.max_cost_usd or 0) * self.budgets:.2f}"
