"""A run: its states, event log and ending."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import inf

from msgspec.structs import replace

from clinvk.backends.base import Launch, ProtocolNotSupported
from clinvk.runtime.interactions import Interactions, ReadyAnswer, RunInteractions
from clinvk.runtime.pool.run_process import OwnProcess, PooledProcess
from clinvk.runtime.process.process import Process
from clinvk.runtime.process.spawn import Spawner, Start
from clinvk.runtime.process.waiting import Alarm
from clinvk.runtime.run.answer_filter import answer_filter
from clinvk.runtime.run.candidates import Candidates
from clinvk.runtime.run.event_log import EventLog
from clinvk.runtime.run.recording import RunRecorder, state_of
from clinvk.runtime.run.run_io import RunIO, RunSpec, Spending
from clinvk.runtime.run.strict_calls import StrictCalls
from clinvk.runtime.slots import Slot
from clinvk.types.errors import Cancelled, ClinvkError
from clinvk.types.events import (
    AwaitingTools,
    Ending,
    Event,
    InteractionRequested,
    InteractionResolved,
    Progress,
    RunFailed,
    RunStarted,
    UserMessage,
    Waiting,
)
from clinvk.types.interaction import USER, Interaction, InteractionAnswer
from clinvk.types.record import SteeringPrompt
from clinvk.types.redaction import redacted, secrets_in
from clinvk.types.request import RunRequest, ToolOutput
from clinvk.types.run import RunFacts

TURN_POLL_S = 1.0
"""How often a run that waits for its session asks the store."""

CANCELLED = RunFailed(Cancelled.code, Cancelled.DEFAULT_MESSAGE)

TakeTurn = Callable[["RunTask"], Awaitable[bool]]
"""Claim the session of a run, and prepare to continue it. Return False if other runs of the session come first."""


class RunTask:
    """One run, from the queue to its ending. Every answer and stream is a view over the event log.

    `execution.drive` does the work, in a task that `LocalRuns` owns. All other code only reads the log or calls `stop`.

    Attributes:
        spec: what to do. The spec is replaced if the answer is asked for again, and for another agent.
        refusal: the error to report if the run ended before its agent started; None if a caller has stopped the run
            without one.
        stopped_by: the ending that a caller of `stop` asked for.
        no_grace: whether the agent gets no time to stop by itself.
        is_ending: whether the ending is known. From here on another run may claim the session.
        raw: the last line of JSON that the agent printed.
        session_id: the session that this run is a turn of; None for an ephemeral run.
        alarm: wakes the task, at the latest at the next deadline.
        task: the asyncio task that drives the run; set by the owner.
        conversation: the agent's id of the run's conversation, once reported.
        spending: what the turns of the run have used.
        trace: the trace context for the agent: that of the request, or of the span of the run.
        last_process: the final process of the run, once that process has reported the ending.
    """

    task: asyncio.Task[None]

    def __init__(
        self,
        spec: RunSpec,
        spawner: Spawner,
        recorder: RunRecorder,
        interactions: Interactions,
        acquire_slot: Callable[..., Slot],
        candidates: Candidates,
        take_turn: TakeTurn | None = None,
    ) -> None:
        """Take a slot or a place in the queue with `acquire_slot`, which is `LocalRuns.acquire`; raise its errors.

        A run whose session is busy takes no slot before `take_turn` has claimed the session.
        """
        self.id = spec.run_id
        self.spec = spec
        self.request = spec.request
        self.candidates = candidates
        self.spawner = spawner
        self.recorder = recorder
        self.session_id = recorder.record.session_id
        self.created_at = recorder.record.created_at
        self.started_at: float | None = None
        self.is_ending = False
        self.refusal: ClinvkError | None = None
        self.stopped_by: Ending | None = None
        self.no_grace = False
        self.raw = b""
        self.last_process: Process | None = None
        self.alarm = Alarm()
        self.wake = self.alarm.set  # a bound method of this object would be a cycle that keeps the prompt in memory
        self._acquire_slot = acquire_slot
        self._interactions = RunInteractions(interactions, recorder.record, self.request, self.wake)
        self._outputs: Sequence[ToolOutput] = ()
        self._strict_calls = StrictCalls(self.request.client_tools, spawner, spec.host.env)
        self._take_turn = take_turn
        self.slot = acquire_slot(self.request, self.wake, is_blocked=take_turn is not None)
        self.log = EventLog(self.wake)
        self._left_queue = asyncio.Event()
        self.now = asyncio.get_running_loop().time
        self.conversation: str | None = None
        self.spending = Spending()
        self.trace = spec.request.trace
        self._start: Start | None = None
        self._io: RunIO | None = None
        self._inline_io: RunIO | None = None
        self._fault: Exception | None = None

    @property
    def state(self) -> str:
        """One of queued, running, waiting, finished, failed, cancelled."""
        if self.log.ending:
            return state_of(self.log.ending)
        if self._interactions.is_waiting:
            return "waiting"
        return "queued" if self.started_at is None else "running"

    @property
    def is_open(self) -> bool:
        """Whether the run has not been stopped, and its ending is unknown."""
        return not (self.stopped_by or self.is_ending)

    @property
    def ended_at(self) -> float | None:
        """When the run ended; None before."""
        return self.log.ended_at

    @property
    def facts(self) -> RunFacts:
        """The facts of the run so far."""
        request = self.request
        return RunFacts(
            run_id=self.id,
            backend=request.backend,
            session_id=self.session_id,
            model=request.model,
            workdir=request.workdir or "",
            node=self.recorder.record.node,
            state=self.state,
            created_at=self.created_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            has_exited=self.task.done(),
            queue_position=self.slot.position,
            fallback=request.fell_back,
            used_tokens=self.spending.tokens(self._io),
            raw=self.raw if self.log.ending else b"",
            warnings=tuple(self.recorder.warnings),
        )

    async def left_queue(self) -> None:
        """Wait until the run leaves the queue: it has a slot, or was stopped."""
        await self._left_queue.wait()

    def resume_from(self, spec: RunSpec) -> None:
        """Resume a newer state of the conversation than the spec has. Call this before the run is driven."""
        self.spec = spec
        self.recorder.resume_from(spec.resume, spec.handed_over)

    def stop(self, ending: Ending = CANCELLED, at_once: bool = False, refusal: ClinvkError | None = None) -> None:
        """End the run with `ending`, unless the run has ended or was stopped before.

        With `at_once` the agent gets no time to stop by itself. Later calls can only withdraw that time. `refusal` is
        the error to report if no agent has started.
        """
        if self.is_open:
            self.stopped_by, self.refusal = ending, refusal
        self.no_grace = self.no_grace or at_once
        self.wake()

    async def cancel(self) -> None:
        """Stop the run unless it has ended, and wait until its agent is gone."""
        self.stop()
        await asyncio.wait([self.task])

    async def steer(self, request: RunRequest) -> bool:
        """Give the agent a further prompt within its turn. Return False if the agent has not received the prompt."""
        reply = self._io.steer(request) if self._io and self.is_open else None
        if reply:
            await asyncio.wait([reply, self.task], return_when=asyncio.FIRST_COMPLETED)
        return reply is not None and reply.done() and reply.result()

    def answer(self, outputs: Sequence[ToolOutput]) -> None:
        """Hand over the outputs of all client tools that the run awaits. The run continues when it holds a slot.

        Raises:
            QueueFull: no slot is free, and the queue has no room for the run. The run still awaits the outputs.
        """
        self.slot = self._acquire_slot(self.request, self.wake)
        self._outputs = outputs
        self.wake()

    async def wait_for_turn(self) -> None:
        """Wait until the run holds its session or was stopped. Runs of other processes are awaited by polling."""
        while self._take_turn and not self.stopped_by:
            if await self._take_turn(self):
                self._take_turn = None
                self.slot.unblock()
            else:
                await self.alarm.wait_until(self.now() + TURN_POLL_S)

    async def wait_for_slot(self) -> None:
        """Wait until the run has its slot or was stopped."""
        while not (self.slot.held or self.stopped_by):
            await self.alarm.wait_until(inf)
        self._left_queue.set()

    async def wait_to_start(self) -> bool:
        """Wait until few other agents start, and return whether the agent may start: False if the run was stopped."""
        self._start = self._start or self.spawner.starts.begin(self.wake)
        while not (self._start.is_granted or self.stopped_by):
            await self.alarm.wait_until(inf)
        return not self.stopped_by

    def end_start(self) -> None:
        """Let the next agent start: this one has printed its first event, or will not start."""
        if self._start:
            self.spawner.starts.end(self._start)
            self._start = None

    def begin_turn(self, spec: RunSpec, ending: Ending) -> None:
        """Begin one more turn of the conversation after the ending of a turn."""
        self.spending.begin_turn(ending)
        self.spec = spec

    async def wait_for_limit(self, resets_at: float) -> None:
        """Go back to the queue, without a turn there, until the limits of the agents reset."""
        self.started_at = None
        await self._requeue(self.candidates.restart(), resets_at)

    async def reassign(self, spec: RunSpec) -> None:
        """Go back to the queue with another agent."""
        self.resume_from(spec)
        await self._requeue(spec.request)

    async def _requeue(self, request: RunRequest, waits_until: float | None = None) -> None:
        self.request = request
        self._interactions.run["backend"] = request.backend
        self._io = None  # what the earlier agent has said is not the answer of the next one
        await self.recorder.reassign(request, waits_until)
        self.slot = self._acquire_slot(request, self.wake, may_wait=True, is_blocked=waits_until is not None)

    async def started(self) -> None:
        """Record that an agent process works on the run; only the first process sets the start time."""
        self.started_at = self.started_at or time.time()
        await self.recorder.spawned(self.started_at)

    def open_io(self, process: OwnProcess | PooledProcess, launch: Launch, answer_timeout_s: float) -> RunIO:
        """Send the prompt to a process."""
        spent_s = time.time() - self.started_at if self.started_at else 0.0
        max_tokens = self.spending.tokens_left(self.request)
        text_filter = answer_filter(self.request)
        spec = replace(self.spec, request=replace(self.spec.request, trace=self.trace))
        self._io = RunIO(process, spec, launch, text_filter, self.now(), spent_s, max_tokens, answer_timeout_s)
        return self._io

    def on_output(self) -> None:
        """Handle new output or the exit of the agent process.

        Most events only need a log entry and are logged here. Waking the run's task for each piece would cost as much
        as all other work on the piece.
        """
        if self.last_process and self.last_process.exit_code is not None:
            self.slot.release()
        io, self._inline_io = self._inline_io, None
        try:
            if io and self._log_inline(io):
                self._inline_io = io
                return
        except Exception as exc:  # noqa: BLE001 - raised again by `listen`, in the task of the run
            self._fault = exc
        self.wake()

    def free_slot_at_exit(self, process: Process) -> None:
        """Free the slot when the run's last process exits, before the run is completely stored."""
        self.last_process = process
        if process.exit_code is not None:
            self.slot.release()

    def _log_inline(self, io: RunIO) -> bool:
        """Log new events; return False if the run's task must handle the output as well."""
        if self.log.is_ahead or self.stopped_by:
            return False
        now = self.now()
        io.read(now)
        if (
            io.ending
            or io.limits
            or any(isinstance(event, RunStarted | Waiting | InteractionResolved | UserMessage) for event in io.events)
            or self._strict_calls.must_check(io.events)
        ):
            return False
        self._log(*io.take())
        return not io.limit(now) and io.deadline() >= self.alarm.at

    async def listen(self, io: RunIO) -> Ending:
        """Log the agent's events until the run ends, is stopped or reaches a limit; return the ending.

        Raises:
            ProtocolNotSupported: the process does not speak its channel's protocol.
        """
        while True:
            if self._fault:
                raise self._fault
            if self.log.is_ahead:
                io.pause(self.now())
            else:
                io.read(self.now())
                events, size = io.take()
                await self.record(await self._strict_calls.check(events, io, self.now()), size)
                while io.limits:
                    await self.recorder.limit_reported(io.limits.pop(0))
            if ending := self._strict_calls.failure or io.ending or self.stopped_by or io.limit(self.now()):
                return ending
            if self._outputs and self.slot.held:
                io.answer(self._outputs, self.now())
                self._outputs = ()
            await self._pass_on_answers(io)
            self._inline_io = io if self.log.count else None  # the start of a run needs more than a log entry
            await self.alarm.wait_until(io.deadline())
            self._inline_io = None

    async def _pass_on_answers(self, io: RunIO) -> None:
        """Give the agent the answers of its user, once the run holds a slot again."""
        answers = self._interactions.answers
        is_to_stop = any(ready.answer.choice == "deny_and_stop" for ready in answers)
        if not (is_to_stop or (answers and self.slot.reacquire())):
            return
        for request_id, answer, resolved in await self._take_answers():
            io.resolve(request_id, answer, self.now())
            if resolved and answer.choice == "deny_and_stop":
                who = "you" if resolved.answered_by == USER else resolved.answerer
                self.stop(RunFailed(Cancelled.code, f"{who} denied an action and stopped the run"))

    async def ask(self, interaction: Interaction) -> InteractionAnswer | None:
        """Ask the user between two turns, and wait for the answer and a slot; return None if the run was stopped."""
        self.last_process = None  # an exit must not release the slot of the next turn
        await self.record([InteractionRequested(interaction)], 0)
        while not self.stopped_by:
            if self._interactions.answers and self.slot.reacquire():
                [(_, answer, _)] = await self._take_answers()
                return answer
            await self.alarm.wait_until(inf)
        return None

    async def _take_answers(self) -> list[ReadyAnswer]:
        """Return the answers to pass on, and log the resolved interactions."""
        answers = self._interactions.take_answers()
        self._log([InteractionResolved(answer.resolved) for answer in answers if answer.resolved], 0)
        await self._record_waiting()
        return answers

    async def _record_waiting(self) -> None:
        await self.recorder.set_state("waiting" if self._interactions.is_waiting else "running")

    async def drain(self, io: RunIO) -> None:
        """Log the remaining output of a stopped agent; drop the events if the log is ahead of its readers."""
        with suppress(ProtocolNotSupported):  # the run has another ending
            io.read(self.now())
        events, size = io.take()
        if not self.log.is_ahead:
            await self.record(events, size)

    async def record(self, events: list[Event], size: int) -> None:
        """Log events, and store what they change. `size` is the number of bytes of their lines."""
        logged: list[Event] = []
        if events:
            self.end_start()
        handed_over = self.spec.handed_over.note(self.request.backend) if self.spec.handed_over else ""
        for event in events if self.log.count else self.candidates.open_with(events, handed_over):
            if isinstance(event, RunStarted) and not self.spending.earlier:
                self.conversation = event.backend_session_id or self.conversation
                await self.recorder.started(event)
            if isinstance(event, AwaitingTools):
                self.slot.release()
            if isinstance(event, UserMessage):
                self._log(logged, 0)
                logged = []
                await self.recorder.steered(SteeringPrompt(event.text, time.time(), len(self.log.text)))
            if isinstance(event, InteractionRequested | InteractionResolved):
                logged += await self._interactions.record(event)
                await self._record_waiting()
                if self._interactions.is_waiting:
                    self.slot.release()
                else:
                    self.slot.reacquire()
            else:
                logged.append(event)
        self._log(logged, size)

    def _log(self, events: list[Event], size: int) -> None:
        for index, event in enumerate(events):
            if isinstance(event, Progress):
                events[index] = replace(event, message=self.redacted(event.message))
        self.log.extend(events, size)
        self.recorder.save_soon(self.log)

    async def end(self, ending: Ending) -> None:
        """Store the ending and append the ending to the log; do nothing if the run has already ended."""
        if self.log.ending:
            return
        self.is_ending = True
        if self._io:
            self.raw, self._io = self._io.raw, None
        self.candidates.is_open = False
        if self.candidates.held:  # the agent has said nothing
            self.recorder.keeps_agent = isinstance(ending, RunFailed)
            await self.record([], 0)
        ending = self.spending.total(ending)
        if isinstance(ending, RunFailed):
            ending = replace(ending, message=self.redacted(ending.message))
        last = self.log.numbered([*self._interactions.end(), ending])
        try:
            await self.recorder.ended([*self.log.unsaved(), *last], self.log.text)
        finally:
            self.log.append(last)

    async def refuse(self, error: ClinvkError) -> None:
        """End the run with the error for which no agent can work on it."""
        self.refusal = error
        await self.end(RunFailed(error.code, error.message))

    def redacted(self, text: str) -> str:
        """Return an agent's message without secrets, including the secrets of the agent's environment."""
        return redacted(text, secrets_in(self.spec.host.env))
