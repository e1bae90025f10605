"""How an orchestration goes, told on stderr while it does: lines, or on a terminal a display of its own."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from clinvk.cli.terminal.output import STDERR, Notes, is_writable, without_sequences
from clinvk.cli.terminal.streams import writable
from clinvk.cli.terminal.times import duration
from clinvk.orchestrate.parts import Observer
from clinvk.runtime.runs import Run
from clinvk.types.errors import TimedOut
from clinvk.types.events import Event, Logged, Progress, ThinkingDelta, ToolCall
from clinvk.types.orchestration import Chain, Part, PartResult, Plan

_INPUT_SHOWN = 200


class Teller(Observer, Protocol):
    """An observer that tells of what it hears; `show` is under way until all has ended."""

    async def show(self) -> None:
        """Tell of it until this is cancelled, or do nothing."""
        ...


def label(plan: Plan, index: int, part: Part) -> str:
    """Say in a few words which part it is."""
    if part.is_judge:
        return f"judge ({part.request.backend})"
    number = f"step {index + 1}" if isinstance(plan, Chain) else f"[{index}]"
    about = part.name or part.id
    return f"{number} {part.request.backend}" + (f" {about}" if about else "")


def status(result: PartResult) -> str:
    """Say in a word or two how a part went."""
    if result.error is None:
        return "shown" if result.part.dry_run else "done"
    if result.is_cancelled:
        return "cancelled"
    return "timed out" if result.error.code == TimedOut.code else "failed"


def tokens(result: PartResult) -> int:
    """Give how many tokens a part has used."""
    usage = result.result.usage
    return usage.input_tokens + usage.output_tokens if usage else 0


def activity(event: Event) -> str:
    """Say what an agent does, on a line; empty where an event does not tell."""
    match event:
        case ToolCall(name=name, input=given):
            return f"{name} {msgspec.json.encode(given).decode(errors='replace')[:_INPUT_SHOWN]}"
        case Progress(stage=stage, message=message):
            return f"{stage}: {without_sequences(message)}"
        case ThinkingDelta():
            return "thinking"
        case _:
            return ""


class Lines:
    """A line for each beginning and end; with `verbose` in a request also its agent's tools and stderr.

    Who does not read them holds up the agents, but not Ctrl-C.
    """

    def __init__(self, plan: Plan, notes: Notes) -> None:
        self._plan = plan
        self._notes = notes
        self._turn = asyncio.Lock()

    async def show(self) -> None:
        """Do nothing: each line is said at once."""

    def begun(self, index: int, part: Part, run: Run) -> None:
        """Say so, if nobody would be held up."""
        if is_writable(STDERR):
            self._notes.say(f"{label(self._plan, index, part)}: started")

    async def heard(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Say what of it is worth a line."""
        if not part.request.verbose:
            return
        for _, _, event in batch:
            if not isinstance(event, ThinkingDelta) and (told := activity(event)):
                await self._tell(self._notes.say, f"{label(self._plan, index, part)}: {told}")

    async def ended(self, result: PartResult) -> None:
        """Say how a part went."""
        if result.part.dry_run:
            return
        told = f"{label(self._plan, result.index, result.part)}: {status(result)}"
        if result.run_id:
            told += f" after {duration(result.duration_s)}"
        if used := tokens(result):
            told += f", {used:,} tokens"
        if result.error:
            await self._tell(self._notes.error, f"{told}: {result.error.message}")
        else:
            await self._tell(self._notes.say, told)

    async def _tell(self, say: Callable[[str], None], line: str) -> None:
        async with self._turn:
            await writable(STDERR)
            say(line)


class Silence:
    """Says nothing."""

    async def show(self) -> None:
        """Do nothing."""

    def begun(self, index: int, part: Part, run: Run) -> None:
        """Say nothing."""

    async def heard(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Say nothing."""

    async def ended(self, result: PartResult) -> None:
        """Say nothing."""
