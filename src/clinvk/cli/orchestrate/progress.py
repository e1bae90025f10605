"""Progress of an orchestration on stderr: a line when a part begins or ends, and the words of every display."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from clinvk.cli.terminal.output import STDERR, Notes, is_writable, without_sequences
from clinvk.cli.terminal.streams import writable
from clinvk.cli.terminal.times import duration
from clinvk.orchestrate.orchestration import Observer
from clinvk.runtime.runs import Run
from clinvk.types.errors import TimedOut
from clinvk.types.events import Event, Logged, Progress, ThinkingDelta, ToolCall
from clinvk.types.orchestration import Chain, Part, PartResult, Plan

_INPUT_SHOWN = 200


def label(plan: Plan, index: int, part: Part) -> str:
    """Return a short name for a part, e.g. `step 2 claude review`."""
    if part.is_judge:
        return f"judge ({part.request.backend})"
    number = f"step {index + 1}" if isinstance(plan, Chain) else f"[{index}]"
    about = part.name or part.id
    return f"{number} {part.request.backend}" + (f" {about}" if about else "")


def status(result: PartResult) -> str:
    """Return the outcome of a part in a word or two."""
    if result.error is None:
        return "shown" if result.part.dry_run else "done"
    if result.is_cancelled:
        return "cancelled"
    return "timed out" if result.error.code == TimedOut.code else "failed"


def tokens(result: PartResult) -> int:
    """Return the number of tokens that a part used."""
    usage = result.result.usage
    return usage.input_tokens + usage.output_tokens if usage else 0


def activity(event: Event) -> str:
    """Return an agent's activity on one line; empty for an event that shows no activity."""
    match event:
        case ToolCall(name=name, input=given):
            return f"{name} {msgspec.json.encode(given).decode(errors='replace')[:_INPUT_SHOWN]}"
        case Progress(stage=stage, message=message):
            return f"{stage}: {without_sequences(message)}"
        case ThinkingDelta():
            return "thinking"
        case _:
            return ""


class ProgressLines(Observer):
    """Prints a line when a part begins or ends; of a `verbose` request also tool calls and the agent's stderr.

    A reader who does not read stderr blocks the agents, but not Ctrl-C.
    """

    def __init__(self, plan: Plan, notes: Notes) -> None:
        self._plan = plan
        self._notes = notes
        self._turn = asyncio.Lock()

    def begun(self, index: int, part: Part, run: Run) -> None:
        """Print that a part has begun, unless stderr is blocked."""
        if is_writable(STDERR):
            self._notes.say(f"{label(self._plan, index, part)}: started")

    async def heard(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Print the activity of a verbose part."""
        if not part.request.verbose:
            return
        for _, _, event in batch:
            if not isinstance(event, ThinkingDelta) and (text := activity(event)):
                await self._print(self._notes.say, f"{label(self._plan, index, part)}: {text}")

    async def ended(self, result: PartResult) -> None:
        """Print the outcome of a part."""
        if result.part.dry_run:
            return
        line = f"{label(self._plan, result.index, result.part)}: {status(result)}"
        if result.run_id:
            line += f" after {duration(result.duration_s)}"
        if used := tokens(result):
            line += f", {used:,} tokens"
        if result.error:
            await self._print(self._notes.error, f"{line}: {result.error.message}")
        else:
            await self._print(self._notes.say, line)

    async def _print(self, say: Callable[[str], None], line: str) -> None:
        async with self._turn:
            await writable(STDERR)
            say(line)
