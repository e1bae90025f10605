"""Runs with client tools: each of a run's answers ends with calls, and the client's next request has their outputs.

Between two answers a run is *parked*: its agent process waits for the outputs, as the log of the run says. Answers are
views over the log. The next request is recognized by the ids of the calls, and continues the run only if the request
repeats the conversation. The text of the assistant does not matter, since proxies change the text. A request that is
sent again gets the same answer again. Every other request starts a run of its own with the conversation that it sends.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import msgspec
from msgspec.structs import replace

from clinvk.config.model import ServerSettings
from clinvk.dialects.client_tools import TEXT, ToolChoice
from clinvk.dialects.conversation import ToolTurn, check_calls
from clinvk.dialects.dialect import Call, Previous
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run.task import RunTask
from clinvk.types.errors import AgentFailed
from clinvk.types.events import (
    AwaitingTools,
    Event,
    Logged,
    RunFailed,
    RunFinished,
    RunResult,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
    gather,
)
from clinvk.types.request import ToolOutput
from clinvk.types.run import RunFacts

logger = logging.getLogger(__name__)


class AnswerStart(msgspec.Struct, frozen=True):
    """Where an answer begins.

    Attributes:
        index: the number of earlier answers of the run.
        after: the number of the last event before the answer.
        used: the tokens of the earlier answers.
        open_calls: the whole answer, if the request had outputs of some calls only: the calls that are still open.
    """

    index: int = 0
    after: int = 0
    used: Usage = Usage()
    open_calls: tuple[ToolCall, ...] = ()


_ONE_CALL = "The call was not made: make one call at a time."


class ParkedRun:
    """A run with client tools, and its answers so far.

    Attributes:
        turns: the number of turns of the request for the latest answer, with which the next request must begin.
        digest: the digest of these turns.
        start: where the latest answer begins.
        calls: the calls of the latest answer, by id; empty unless the run is parked.
        outputs: the outputs of these calls so far.
        call_ids: the ids of all calls so far.
        starts: where the answer to each request begins, by the request's digest.
        next_start: where the next answer begins.
        readers: the number of requests that read an answer of the run now.
        choice: the choice among the tools for the latest answer.
        seen: the number of the last event of the log that this object reflects.
    """

    def __init__(self, run: RunTask, key_name: str, turn: ToolTurn) -> None:
        self.run = run
        self.key_name = key_name
        self.tools = turn.tools
        self.turns, self.digest = len(turn.turns), turn.digest()
        self.start = self.next_start = AnswerStart()
        self.calls: dict[str, ToolCall] = {}
        self.outputs: dict[str, ToolOutput] = {}
        self.call_ids: set[str] = set()
        self.starts = {self.digest: self.start}
        self.readers = 0
        self.choice = turn.choice
        self.seen = 0
        self.timer: asyncio.TimerHandle | None = None

    @property
    def is_parked(self) -> bool:
        """Whether the agent waits for outputs."""
        return bool(self.calls) and self.run.is_open

    def has_answer(self, turn: ToolTurn) -> bool:
        """Return whether the run has answered a request, or can answer the request next."""
        return turn.digest() in self.starts or self._outputs_with(turn) is not None

    def _outputs_with(self, turn: ToolTurn) -> dict[str, ToolOutput] | None:
        """Return the outputs so far with the outputs of a request; None if it does not continue the conversation."""
        start = 0 if turn.previous else self.turns
        if not (self.is_parked and self._is_same_history(turn)):
            return None
        outputs = turn.outputs(start)
        is_repeated = all(
            call.id in self.calls and _is_same_input(self.calls[call.id], call.arguments) for call in turn.calls(start)
        )
        is_known = bool(outputs) and all(output.call_id in self.calls for output in outputs)
        return self.outputs | {each.call_id: each for each in outputs} if is_repeated and is_known else None

    def _is_same_history(self, turn: ToolTurn) -> bool:
        """Return whether a request begins as the latest request, or names one of the answers since."""
        if not turn.previous:
            return turn.digest(self.turns) == self.digest
        numbers = range(self.start.index, self.next_start.index)
        is_named = any(turn.previous == _answer_id(self.run.id, number) for number in numbers)
        return is_named and turn.tools == self.tools

    def answer(self, turn: ToolTurn) -> AnswerStart:
        """Hand over the outputs of a request that continues the run, and return where the answer begins.

        Raises:
            QueueFull: no slot is free, and the queue has no room for the run. The run stays parked.
        """
        start, outputs = self.next_start, self._outputs_with(turn)
        assert outputs is not None, "the request continues the run"
        if missing := tuple(call for id_, call in self.calls.items() if id_ not in outputs):
            start = replace(start, open_calls=missing)
            self.next_start = replace(self.next_start, index=start.index + 1)
            self.outputs = outputs
        else:
            self.run.answer([*outputs.values()])
            self.calls, self.outputs, self.choice = {}, {}, turn.choice
            self.turns, self.digest, self.start = len(turn.turns), turn.digest(), start
        self.starts[turn.digest()] = start
        return start


def _is_cut(event: AwaitingTools | RunFinished | RunFailed) -> bool:
    """Return whether an answer may end within a call."""
    return isinstance(event, RunFailed) or (isinstance(event, RunFinished) and event.stop_reason != "end_turn")


def _answer_id(run_id: str, index: int) -> str:
    return f"{run_id}-{index}" if index else run_id


def _is_same_input(call: ToolCall, arguments: str) -> bool:
    """Return whether a client repeats the arguments of a call; clients may write the JSON in another way."""
    if call.input == {TEXT: arguments}:
        return True
    try:
        return msgspec.json.decode(arguments or "{}") == call.input
    except msgspec.DecodeError:
        return False


def _calls(entries: Iterable[Logged]) -> dict[str, ToolCall]:
    """Return the calls of the client's tools, by id."""
    calls = (entry.event for entry in entries if isinstance(entry.event, ToolCall))
    return {call.id: call for call in calls if call.for_client}


class Answer:
    """One answer of a run: a view over the log from where the answer starts until the run is parked or ends.

    Attributes:
        is_void: whether no request can continue the run after this answer.
    """

    def __init__(self, run: RunTask, start: AnswerStart, choice: ToolChoice, before_end: Callable[[], None]) -> None:
        """Call `before_end` before the last event."""
        self.run = run
        self.is_void = False
        self._ended_at: float | None = None
        self._before_end = before_end
        self._start = start
        self._choice = choice

    @property
    def facts(self) -> RunFacts:
        """The facts of the run; every answer has an id and an end of its own."""
        return replace(self.run.facts, run_id=_answer_id(self.run.id, self._start.index), ended_at=self._ended_at)

    async def lacks_call(self) -> bool:
        """Return whether the answer lacks a call that the request requires; wait for the end of such an answer."""
        if self._choice.mode == "required" and not self._start.open_calls:
            self.is_void = not self._choice.is_met(await self.result())
        return self.is_void

    async def result(self) -> RunResult:
        """Wait for the end of the answer and return the answer."""
        return gather([logged.event async for batch in self.batches(in_pieces=False) for logged in batch])

    async def batches(self, in_pieces: bool = True) -> AsyncIterator[list[Logged]]:
        """Yield the events in batches. The answer of a parked run ends with the stop reason `tool_use`.

        With `in_pieces` the calls begin with pieces of their arguments. Then the answer fails if a call is incomplete.
        """
        start, log = self._start, self.run.log
        if start.after:
            yield [log.since(0)[0]]  # the start of the run
        if start.open_calls:
            events = [*start.open_calls, RunFinished("tool_use", Usage())]
            yield [Logged(number, self.run.created_at, event) for number, event in enumerate(events, start.after)]
            return
        earlier = _calls(log.since(0)[: start.after])
        calls: dict[str, ToolCall | None] = {}
        async for batch in log.batches(start.after):
            answered: list[Logged] = []
            is_complete = False
            for number, at, event in batch:
                if isinstance(event, AwaitingTools | RunFinished | RunFailed):
                    event = self._ending(calls, event)
                    self._ended_at = at
                    is_complete = True
                if self._is_visible(event, calls, earlier, in_pieces):
                    answered.append(Logged(number, at, event))
                if is_complete:
                    self._before_end()
                    break
            yield answered
            if is_complete:
                return

    def _is_visible(
        self, event: Event, calls: dict[str, ToolCall | None], earlier: Collection[str], in_pieces: bool
    ) -> bool:
        """Add a call to `calls`, and return whether the client sees an event.

        The client does not see the output of a call of an `earlier` answer, and a call that is refused.
        """
        match event:
            case ToolResult():
                return event.id not in earlier
            case ToolCallDelta() if in_pieces:
                calls.setdefault(event.id)
            case ToolCall(for_client=True):
                calls[event.id] = event
            case _:
                return not isinstance(event, ToolCallDelta)
        return self._choice.parallel or event.id == next(iter(calls))

    def _ending(
        self, calls: Mapping[str, ToolCall | None], event: AwaitingTools | RunFinished | RunFailed
    ) -> RunFinished | RunFailed:
        """Return the ending of the answer, with the tokens of this answer alone."""
        usage = event.usage - self._start.used if event.usage else None
        if None in calls.values() and not _is_cut(event):
            self.is_void = True
            return RunFailed(AgentFailed.code, "the model broke off a call of a tool, and answered again", usage=usage)
        if isinstance(event, AwaitingTools):
            return RunFinished("tool_use", usage=usage or Usage())
        return replace(event, usage=usage)


class ParkedRuns:
    """The runs with client tools of a server.

    A parked run is stopped after `server.parked_timeout_secs`. An ended run is kept for as long, for requests that are
    sent again. Above `server.max_parked_runs` ended runs are dropped, then the run that was parked first is stopped.
    """

    def __init__(self, runs: LocalRuns, settings: ServerSettings, background: asyncio.TaskGroup) -> None:
        """Follow the logs of the runs in tasks of `background`."""
        self._runs = runs
        self._settings = settings
        self._background = background
        self.on_call: Callable[[ParkedRun, str, bool], None] | None = None
        """Called with a run, the id of a call, and whether requests with the call find the run from now on."""
        self._by_call: dict[str, ParkedRun] = {}
        self._kept: dict[str, ParkedRun] = {}

    @property
    def count(self) -> int:
        """The number of parked runs."""
        return sum(parked.is_parked for parked in self._kept.values())

    def has(self, turn: ToolTurn | None, key_name: str) -> bool:
        """Return whether a request continues a parked run, or is sent again; False if it has no client tools."""
        return turn is not None and self._find(turn, key_name) is not None

    @asynccontextmanager
    async def answer(self, call: Call, turn: ToolTurn) -> AsyncGenerator[Answer]:
        """Continue the run that a request continues, or start a run.

        Stop the run at the end of the context if the run still works and no other request reads it.

        Raises:
            ClinvkError: as `LocalRuns.start`.
        """
        if parked := self._find(turn, call.request.key_name):
            start = parked.starts.get(turn.digest()) or self._hand_over(parked, turn)
        else:
            parked = ParkedRun(await self._runs.start(call.request), call.request.key_name, turn)
            self._background.create_task(self._watch(parked))
            start = parked.start
        answer = Answer(parked.run, start, turn.choice, partial(self._catch_up, parked))
        parked.readers += 1
        try:
            yield answer
        finally:
            parked.readers -= 1
            self._catch_up(parked)
            if answer.is_void:
                await self._cancel(parked)
            elif not (parked.readers or parked.calls or parked.run.log.ending):
                self._drop(parked)

    async def stop_in_session(self, session_id: str) -> None:
        """Stop the parked run of a session that another request is to continue."""
        for parked in [*self._kept.values()]:
            if parked.is_parked and parked.run.session_id == session_id:
                await self._cancel(parked)

    async def stop_named(self, previous: Previous, key_name: str) -> None:
        """Stop a parked run of the key: a request names the run, but does not continue it.

        Raises:
            InvalidRequest: the request has the output of a call that the run has not made. The run stays parked.
        """
        parked = self._kept.get(previous.run_id)
        if parked and parked.is_parked and parked.key_name == key_name:
            check_calls(previous.conversation, "prompt", parked.call_ids)
            await self._cancel(parked)

    async def _cancel(self, parked: ParkedRun) -> None:
        """Forget a run, stop the run, and wait until its agent is gone."""
        self._drop(parked)
        await self._runs.cancel(parked.run.id)

    async def _watch(self, parked: ParkedRun) -> None:
        """Follow the log of a run."""
        try:
            async for _ in parked.run.log.batches():
                self._catch_up(parked)
        except Exception:
            logger.exception("the calls of run %s are not kept for the next request", parked.run.id)

    def _catch_up(self, parked: ParkedRun) -> None:
        """Park a run whose agent awaits outputs, and keep an ended run that requests can find, as the log says."""
        for number, _, event in parked.run.log.since(parked.seen):
            parked.seen = number
            if isinstance(event, AwaitingTools):
                self._park(parked, number, event.usage)
            elif isinstance(event, RunFinished | RunFailed) and any(
                self._by_call.get(call_id) is parked for call_id in parked.call_ids
            ):
                self._keep(parked)

    def _park(self, parked: ParkedRun, number: int, used: Usage | None) -> None:
        """Keep a run whose agent waits since event `number`. Calls beyond the first are refused unless parallel."""
        start = parked.next_start
        calls = _calls(parked.run.log.since(start.after)[: number - start.after])
        refused = () if parked.choice.parallel else [*calls][1:]
        parked.calls = calls
        parked.outputs = {id_: ToolOutput(id_, (_ONE_CALL,), is_error=True) for id_ in refused}
        parked.next_start = AnswerStart(start.index + 1, number, used or start.used)
        parked.call_ids |= calls.keys()
        self._by_call |= dict.fromkeys(calls, parked)
        if self.on_call:
            for call_id in calls:
                self.on_call(parked, call_id, True)
        self._keep(parked)

    def _keep(self, parked: ParkedRun) -> None:
        self._release(parked)
        self._kept[parked.run.id] = parked
        timeout_s = self._settings.parked_timeout_secs
        parked.timer = asyncio.get_running_loop().call_later(timeout_s, self._drop, parked)
        while len(self._kept) > self._settings.max_parked_runs:
            oldest = next(iter(self._kept.values()))
            self._drop(next((kept for kept in self._kept.values() if not kept.is_parked), oldest))

    def _find(self, turn: ToolTurn, key_name: str) -> ParkedRun | None:
        """Return the run of the key that a request continues, or whose answer it asks for again.

        The run made the call of the last output of the request.
        """
        parked = self._by_call.get(turn.last_call)
        return parked if parked and parked.key_name == key_name and parked.has_answer(turn) else None

    def _hand_over(self, parked: ParkedRun, turn: ToolTurn) -> AnswerStart:
        start = parked.answer(turn)
        (self._keep if parked.is_parked else self._release)(parked)
        return start

    def _release(self, parked: ParkedRun) -> None:
        """Stop the time of a run that continues, and do not count the run."""
        if parked.timer:
            parked.timer.cancel()
        self._kept.pop(parked.run.id, None)

    def _drop(self, parked: ParkedRun) -> None:
        """Forget a run, and stop the run if it has not ended."""
        self._release(parked)
        for call_id in parked.call_ids:
            if self._by_call.get(call_id) is parked:
                del self._by_call[call_id]
                if self.on_call:
                    self.on_call(parked, call_id, False)
        self._runs.stop(parked.run.id)
