"""Runs with client tools: each of a run's answers ends with calls, and the client's next request has their outputs.

Between two answers a run is *parked*: its agent process waits for the outputs. The next request is recognized by the
ids of the calls, and continues the run only if the request repeats the conversation. The text of the assistant does not
matter, since proxies change the text. A request that is sent again gets the same answer again. Every other request
starts a run of its own with the conversation that it sends.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec
from msgspec.structs import replace

from clinvk.config.model import ServerSettings
from clinvk.dialects.client_tools import TEXT, ToolChoice
from clinvk.dialects.conversation import ToolTurn, check_calls
from clinvk.dialects.dialect import Call, Previous
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run.task import Phase, RunTask
from clinvk.types.errors import AgentFailed, CallMissing
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


class _Start(msgspec.Struct, frozen=True):
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
    """

    def __init__(self, run: RunTask, key_name: str, turn: ToolTurn) -> None:
        self.run = run
        self.key_name = key_name
        self.tools = turn.tools
        self.turns, self.digest = len(turn.turns), turn.digest()
        self.start = self.next_start = _Start()
        self.calls: dict[str, ToolCall] = {}
        self.outputs: dict[str, ToolOutput] = {}
        self.call_ids: set[str] = set()
        self.starts = {self.digest: self.start}
        self.readers = 0
        self.timer: asyncio.TimerHandle | None = None

    @property
    def is_parked(self) -> bool:
        """Whether the agent waits for outputs."""
        return bool(self.calls) and self.run.phase is Phase.RUNNING

    def outputs_with(self, turn: ToolTurn) -> dict[str, ToolOutput] | None:
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

    def answer(self, turn: ToolTurn, outputs: dict[str, ToolOutput]) -> _Start:
        """Hand over the outputs for a request, and return where the answer begins.

        Raises:
            QueueFull: no slot is free, and the queue has no room for the run. The run stays parked.
        """
        start = self.next_start
        if missing := tuple(call for id_, call in self.calls.items() if id_ not in outputs):
            start = replace(start, open_calls=missing)
            self.next_start = replace(self.next_start, index=start.index + 1)
            self.outputs = outputs
        else:
            self.run.answer([*outputs.values()])
            self.calls, self.outputs = {}, {}
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


class Answer:
    """One answer of a run: its events after a number, until the run is parked or ends."""

    def __init__(self, parked: ParkedRun, start: _Start, runs: "ParkedRuns", choice: ToolChoice) -> None:
        self.run = parked.run
        self._parked = parked
        self._start = start
        self._runs = runs
        self._choice = choice

    @property
    def facts(self) -> RunFacts:
        """The facts of the run; every answer has an id of its own."""
        return replace(self.run.facts, run_id=_answer_id(self.run.id, self._start.index))

    async def check(self) -> None:
        """Wait for the end of the answer if the request requires a call.

        Raises:
            CallMissing: the answer has no such call. The run is stopped.
        """
        is_checked = self._choice.mode == "required" and not self._start.open_calls
        if is_checked and not self._choice.is_met(await self.result()):
            await self._runs.cancel(self._parked)
            raise CallMissing("tool_choice: the model answered without the required call")

    async def result(self) -> RunResult:
        """Wait for the end of the answer and return the answer."""
        return gather([logged.event async for batch in self.batches(in_pieces=False) for logged in batch])

    async def batches(self, in_pieces: bool = True) -> AsyncIterator[list[Logged]]:
        """Yield the events in batches. The answer of a parked run ends with the stop reason `tool_use`.

        With `in_pieces` the calls begin with pieces of their arguments. Then the answer fails if a call is incomplete.
        """
        start = self._start
        if start.after:
            yield [self.run.log.since(0)[0]]  # the start of the run
        if start.open_calls:
            events = [*start.open_calls, RunFinished("tool_use", Usage())]
            yield [Logged(number, self.run.created_at, event) for number, event in enumerate(events, start.after)]
            return
        calls: dict[str, ToolCall | None] = {}
        async for batch in self.run.log.batches(start.after):
            answered: list[Logged] = []
            is_complete = False
            for number, at, event in batch:
                if isinstance(event, AwaitingTools | RunFinished | RunFailed):
                    event = self._end(calls, number, event)
                    is_complete = True
                if self._is_visible(event, calls, in_pieces):
                    answered.append(Logged(number, at, event))
                if is_complete:
                    break
            yield answered
            if is_complete:
                return

    def _is_visible(self, event: Event, calls: dict[str, ToolCall | None], in_pieces: bool) -> bool:
        """Add a call to `calls`, and return whether the client sees an event.

        The client does not see the output of a call, and a call that is refused.
        """
        match event:
            case ToolResult():
                return event.id not in self._parked.call_ids
            case ToolCallDelta() if in_pieces:
                calls.setdefault(event.id)
            case ToolCall(for_client=True):
                calls[event.id] = event
            case _:
                return not isinstance(event, ToolCallDelta)
        return self._choice.parallel or event.id == next(iter(calls))

    def _end(
        self, begun: Mapping[str, ToolCall | None], number: int, event: AwaitingTools | RunFinished | RunFailed
    ) -> Event:
        """Return the ending of the answer, with the tokens of this answer alone."""
        used = self._start.used
        usage = event.usage - used if event.usage else None
        calls = {id_: call for id_, call in begun.items() if call}
        if len(calls) < len(begun) and not _is_cut(event):
            self._runs.drop(self._parked)
            return RunFailed(AgentFailed.code, "the model broke off a call of a tool, and answered again", usage=usage)
        if isinstance(event, AwaitingTools):
            next_start = _Start(self._start.index + 1, number, event.usage or used)
            refused = () if self._choice.parallel else [*calls][1:]
            outputs = {id_: ToolOutput(id_, (_ONE_CALL,), is_error=True) for id_ in refused}
            self._runs.park(self._parked, calls, outputs, next_start)
            return RunFinished("tool_use", usage=usage or Usage())
        self._runs.keep_ended(self._parked)
        return replace(event, usage=usage)


class ParkedRuns:
    """The runs with client tools of a server.

    A parked run is stopped after `server.parked_timeout_secs`. An ended run is kept for as long, for requests that are
    sent again. Above `server.max_parked_runs` ended runs are dropped, then the run that was parked first is stopped.
    """

    def __init__(self, runs: LocalRuns, settings: ServerSettings) -> None:
        self._runs = runs
        self._settings = settings
        self.on_call: Callable[[ParkedRun, str, bool], None] | None = None
        """Called with a run, the id of a call, and whether requests with the call find the run from now on."""
        self._by_call: dict[str, ParkedRun] = {}
        self._kept: dict[str, ParkedRun] = {}

    @property
    def count(self) -> int:
        """The number of parked runs."""
        return sum(parked.is_parked for parked in self._kept.values())

    def has(self, turn: ToolTurn, key_name: str) -> bool:
        """Return whether a request continues a parked run, or is sent again."""
        parked = self._find(turn, key_name)
        return parked is not None and (turn.digest() in parked.starts or parked.outputs_with(turn) is not None)

    @asynccontextmanager
    async def answer(self, call: Call, turn: ToolTurn) -> AsyncGenerator[Answer]:
        """Continue the run that a request continues, or start a run.

        Stop the run at the end of the context if the run still works and no other request reads it.

        Raises:
            ClinvkError: as `Runs.start`.
        """
        parked, start = self._continued(turn, call.request.key_name) or await self._started(call, turn)
        parked.readers += 1
        try:
            yield Answer(parked, start, self, turn.choice)
        finally:
            parked.readers -= 1
            if parked.run.log.ending:
                self.keep_ended(parked)  # the request may not have read the end
            elif not (parked.readers or parked.calls):
                self.drop(parked)

    async def stop_in_session(self, session_id: str) -> None:
        """Stop the parked run of a session that another request is to continue."""
        for parked in [*self._kept.values()]:
            if parked.is_parked and parked.run.session_id == session_id:
                await self.cancel(parked)

    async def stop_named(self, previous: Previous, key_name: str) -> None:
        """Stop a parked run of the key: a request names the run, but does not continue it.

        Raises:
            InvalidRequest: the request has the output of a call that the run has not made. The run stays parked.
        """
        parked = self._kept.get(previous.run_id)
        if parked and parked.is_parked and parked.key_name == key_name:
            check_calls(previous.conversation, "prompt", parked.call_ids)
            await self.cancel(parked)

    async def cancel(self, parked: ParkedRun) -> None:
        """Forget a run, stop the run, and wait until its agent is gone."""
        self.drop(parked)
        await self._runs.cancel(parked.run.id)

    def park(
        self, parked: ParkedRun, calls: dict[str, ToolCall], outputs: dict[str, ToolOutput], next_start: _Start
    ) -> None:
        """Keep a run whose agent waits for the outputs of `calls` and has `outputs` already.

        Ignored if another reader of the answer was first.
        """
        if next_start.after <= parked.next_start.after:
            return
        parked.calls, parked.outputs, parked.next_start = calls, outputs, next_start
        parked.call_ids |= calls.keys()
        self._by_call |= dict.fromkeys(calls, parked)
        if self.on_call:
            for call_id in calls:
                self.on_call(parked, call_id, True)
        self._keep(parked)

    def keep_ended(self, parked: ParkedRun) -> None:
        """Keep an ended run, unless no request can find the run."""
        if any(self._by_call.get(call_id) is parked for call_id in parked.call_ids):
            self._keep(parked)

    def _keep(self, parked: ParkedRun) -> None:
        self._release(parked)
        self._kept[parked.run.id] = parked
        timeout_s = self._settings.parked_timeout_secs
        parked.timer = asyncio.get_running_loop().call_later(timeout_s, self.drop, parked)
        while len(self._kept) > self._settings.max_parked_runs:
            oldest = next(iter(self._kept.values()))
            self.drop(next((kept for kept in self._kept.values() if not kept.is_parked), oldest))

    def _continued(self, turn: ToolTurn, key_name: str) -> tuple[ParkedRun, _Start] | None:
        parked = self._find(turn, key_name)
        if parked is None:
            return None
        if start := parked.starts.get(turn.digest()):
            return parked, start
        if (outputs := parked.outputs_with(turn)) is None:
            return None
        start = parked.answer(turn, outputs)
        if parked.is_parked:
            self._keep(parked)
        else:
            self._release(parked)
        return parked, start

    def _find(self, turn: ToolTurn, key_name: str) -> ParkedRun | None:
        """Return the run of the key that made the call of the last output of a request."""
        parked = self._by_call.get(turn.last_call)
        return parked if parked and parked.key_name == key_name else None

    async def _started(self, call: Call, turn: ToolTurn) -> tuple[ParkedRun, _Start]:
        parked = ParkedRun(await self._runs.start(call.request), call.request.key_name, turn)
        return parked, parked.start

    def _release(self, parked: ParkedRun) -> None:
        """Stop the time of a run that continues, and do not count the run."""
        if parked.timer:
            parked.timer.cancel()
        self._kept.pop(parked.run.id, None)

    def drop(self, parked: ParkedRun) -> None:
        """Forget a run, and stop the run if it has not ended."""
        self._release(parked)
        for call_id in parked.call_ids:
            if self._by_call.get(call_id) is parked:
                del self._by_call[call_id]
                if self.on_call:
                    self.on_call(parked, call_id, False)
        self._runs.stop(parked.run.id)
