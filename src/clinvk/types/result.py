"""Collect the events of a run into one value."""

from collections.abc import AsyncIterable, Iterable

import msgspec

from clinvk.types.events import (
    AwaitingTools,
    Ending,
    Event,
    InteractionRequested,
    InteractionResolved,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
)

Said = TextDelta | ThinkingDelta | ToolCall | ToolResult


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """The events of an ended run, collected.

    `said` has the answer, the thinking and the tool calls of the agent, in order.
    """

    text: str
    started: RunStarted | None
    ending: Ending
    stderr: str = ""
    said: tuple[Said, ...] = ()

    @property
    def exit_code(self) -> int:
        """Return 0 for a finished run, else the agent's exit code, or 1 if the code is missing or 0."""
        match self.ending:
            case RunFinished():
                return 0
            case RunFailed(exit_code=code):
                return code or 1

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Return the tool calls of the agent."""
        return tuple(step for step in self.said if isinstance(step, ToolCall))

    @property
    def usage(self) -> Usage | None:
        """Return the tokens of this run, if the agent reported any."""
        return self.ending.usage

    @property
    def error(self) -> RunFailed | None:
        """Return the failure of the run, or None."""
        return self.ending if isinstance(self.ending, RunFailed) else None


async def collect(events: AsyncIterable[Event]) -> RunResult:
    """Read the event stream to the end and return the result; raise what `gather` raises."""
    return gather([event async for event in events])


def gather(events: Iterable[Event]) -> RunResult:
    """Return the result of all events of a run.

    Raises:
        ValueError: the events have no ending, which breaks the stream law.
    """
    text: list[str] = []
    stderr: list[str] = []
    said: list[Said] = []
    started: RunStarted | None = None
    ending: Ending | None = None
    for event in events:
        match event:
            case TextDelta() | ThinkingDelta() | ToolCall() | ToolResult():
                said.append(event)
                if isinstance(event, TextDelta):
                    text.append(event.text)
            case RunStarted():
                started = event
            case RunFinished() | RunFailed():
                ending = event
            case Progress():
                if event.stage == "stderr":
                    stderr.append(event.message)
            case AwaitingTools() | ToolCallDelta() | InteractionRequested() | InteractionResolved():
                pass
    if ending is None:
        raise ValueError("the events of a run stopped before its ending")
    return RunResult(text="".join(text), started=started, ending=ending, stderr="\n".join(stderr), said=tuple(said))
