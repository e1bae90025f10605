"""Calls of strict client tools: the client gets a call only if the arguments match the schema of the tool."""

import asyncio
from collections.abc import Mapping, Sequence

from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.run.answer_filter import mismatch
from clinvk.runtime.run.run_io import RunIO
from clinvk.types.errors import AgentFailed, ClinvkError
from clinvk.types.events import AwaitingTools, Event, Progress, RunFailed, ToolCall, ToolCallDelta, ToolResult
from clinvk.types.request import ClientTool, ToolOutput

_TIMEOUT_S = 30.0
"""How long the check of all calls of an answer may take."""

_NOT_MADE = "The call was not made, because the arguments of another call are invalid. Make all calls again."


class StrictCalls:
    """Checks the calls of a run if at least one client tool is strict.

    The calls of each answer of the model are held back until all of them have been checked: a call cannot be withdrawn
    from the client. If arguments are invalid, the model is asked once for other calls; then the run fails.

    Attributes:
        failure: the ending of a run whose calls remain invalid, or cannot be checked; None before.
    """

    def __init__(self, tools: Sequence[ClientTool], spawner: Spawner, environ: Mapping[str, str]) -> None:
        self.failure: RunFailed | None = None
        self._schemas = {tool.name: tool.schema for tool in tools if tool.is_strict}
        self._spawner = spawner
        self._environ = environ
        self._held: dict[str, ToolCall] = {}
        self._refused: set[str] = set()
        self._is_repair = False

    def must_check(self, events: Sequence[Event]) -> bool:
        """Return whether `check` may change some of the events."""
        return bool(self._schemas) and any(
            isinstance(event, ToolCall | ToolCallDelta | ToolResult | AwaitingTools) for event in events
        )

    async def check(self, events: list[Event], io: RunIO, now: float) -> list[Event]:
        """Return the events to log. If calls are invalid, ask the model for other calls."""
        if not self._schemas:
            return events
        passed: list[Event] = []
        for event in events:
            match event:
                case ToolCallDelta():
                    pass
                case ToolCall(for_client=True):
                    self._held[event.id] = event
                case ToolResult() if event.id in self._refused:
                    pass
                case AwaitingTools():
                    if faults := await self._faults():
                        passed += (Progress("retry", fault) for fault in faults.values())
                        self._refuse(faults, io, now)
                    elif not self.failure:
                        passed += (*self._held.values(), event)
                        self._is_repair = False
                    self._held.clear()
                case _:
                    passed.append(event)
        return passed

    async def _faults(self) -> dict[str, str]:
        """Return what is wrong with the arguments of the held calls, by the id of the call.

        If the check itself fails, the result is empty, and `failure` is set.
        """
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return {id_: fault for id_, call in self._held.items() if (fault := await self._fault(call))}
        except TimeoutError:
            code, problem = ClinvkError.code, f"it takes more than {_TIMEOUT_S:g} s"
        except ClinvkError as exc:
            code, problem = exc.code, exc.message
        self.failure = RunFailed(code, f"the arguments of the calls cannot be checked: {problem}")
        return {}

    async def _fault(self, call: ToolCall) -> str:
        if (schema := self._schemas.get(call.name)) is None:
            return ""
        fault = await mismatch(self._spawner, self._environ, schema, call.input)
        return f"the arguments of `{call.name}` do not match its schema: {fault}" if fault else ""

    def _refuse(self, faults: Mapping[str, str], io: RunIO, now: float) -> None:
        if self._is_repair:
            self.failure = RunFailed(AgentFailed.code, next(iter(faults.values())))
            return
        self._is_repair = True
        self._refused |= self._held.keys()
        replies = {id_: f"{fault}; make the call again, with valid arguments" for id_, fault in faults.items()}
        io.answer([ToolOutput(id_, (replies.get(id_, _NOT_MADE),), is_error=True) for id_ in self._held], now)
