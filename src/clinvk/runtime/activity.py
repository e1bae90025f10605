"""What a run's events tell of its progress: turns, and tools at work."""

from clinvk.events import (
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
