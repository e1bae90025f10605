"""Progress of an orchestration on stderr: a line when a part begins or ends, or on a terminal a live table."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice

from clinvk.cli.prompt.questions import Answer, Question, TerminalQuestions
from clinvk.cli.sessions.session_text import part_name
from clinvk.cli.terminal import output
from clinvk.cli.terminal.streams import writable
from clinvk.cli.terminal.table import Column, colored, cut, one_line, table
from clinvk.orchestrate.observers import PartObserver
from clinvk.runtime.runs import Run
from clinvk.types import events
from clinvk.types.orchestration import Chain, Part, PartResult, Plan
from clinvk.types.text import without_sequences
from clinvk.types.tool_text import activity

COLORS = {"failed": output.RED, "cancelled": output.YELLOW, "done": output.GREEN}
"""The color of each status."""


def part_label(plan: Plan, index: int, part: Part) -> str:
    """Return a short name for a part, e.g. `step 2 claude review`."""
    if part.is_judge:
        return f"judge ({part.request.backend})"
    return part_name(plan.kind, index, part.request.backend, part.name or part.id)


def status(result: PartResult) -> str:
    """Return the outcome of a part in a word."""
    if result.error is None:
        return "shown" if result.part.dry_run else "done"
    return "cancelled" if result.is_cancelled else "failed"


def _tokens(result: PartResult) -> int:
    usage = result.result.usage
    return usage.total_tokens if usage else 0


def _activity(event: events.Event) -> str:
    """Return an agent's activity, or what clinvk reports of the run, on one line."""
    if isinstance(event, events.Progress):
        return f"{event.stage}: {without_sequences(event.message)}"
    return activity(event)


class PartQuestions(PartObserver):
    """Asks on the terminal what the agents of the parts ask."""

    def __init__(self, plan: Plan, answer: Answer, notes: output.Notes, environ: Mapping[str, str]) -> None:
        self._plan = plan
        self._answer = answer
        self._questions = TerminalQuestions(notes, environ)
        self.show = self._questions.run

    async def event(self, index: int, part: Part, run: Run, batch: Sequence[events.Logged]) -> None:
        """Ask, or take back a question that is resolved."""
        for _, _, event in batch:
            match event:
                case events.InteractionRequested(interaction):
                    agent = part_label(self._plan, index, part)
                    self._questions.open(Question(interaction, agent, run.request.workdir or "", self._answer))
                case events.InteractionResolved(interaction):
                    await self._questions.close(interaction)
                case _:
                    pass


class ProgressLines(PartObserver):
    """Prints a line when a part begins or ends; of a `verbose` request also tool calls and the agent's stderr.

    A reader who does not read stderr blocks the agents, but not Ctrl-C.
    """

    def __init__(self, plan: Plan, notes: output.Notes) -> None:
        self._plan = plan
        self._notes = notes
        self._printing = asyncio.Lock()

    def started(self, index: int, part: Part, run: Run) -> None:
        """Print that a part has begun, unless stderr is blocked."""
        if output.is_writable(output.STDERR):
            self._notes.info(f"{part_label(self._plan, index, part)}: started")

    async def event(self, index: int, part: Part, run: Run, batch: Sequence[events.Logged]) -> None:
        """Print the activity of a verbose part."""
        for _, _, event in batch if part.request.verbose else ():
            if not isinstance(event, events.ThinkingDelta) and (text := _activity(event)):
                await self._print(self._notes.info, f"{part_label(self._plan, index, part)}: {text}")

    async def ended(self, result: PartResult) -> None:
        """Print the outcome of a part."""
        line = f"{part_label(self._plan, result.index, result.part)}: {status(result)}"
        if result.run_id:
            line += f" after {output.duration(result.duration_s)}"
        if used := _tokens(result):
            line += f", {used:,} tokens"
        if result.error:
            await self._print(self._notes.error, f"{line}: {result.error.message}")
        elif not result.part.dry_run:
            await self._print(self._notes.info, line)

    async def _print(self, say: Callable[[str], None], line: str) -> None:
        async with self._printing:
            await writable(output.STDERR)
            say(line)


_INTERVAL_S = 0.2
_TAIL_CHARS = 300
_LINES_AROUND = 3
"""The lines of the terminal besides the parts: head, foot, and the line of the cursor."""

_COLUMNS = (
    *(Column("", 12), Column("STATE"), Column("ELAPSED", to_right=True), Column("TOKENS", to_right=True)),
    Column("ACTIVITY", 1, is_spare=True),
)
_style = colored({**COLORS, "running": output.CYAN})
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_CLEAR_LINE, _CLEAR_LINE_ABOVE = "\r\x1b[2K", "\x1b[1A\x1b[2K"


class _Running:
    """A running part; `text` is the end of the answer so far, `did` the activity after it."""

    def __init__(self, part: Part, run: Run) -> None:
        self.part = part
        self.run = run
        self.did = ""
        self.text = ""


class LiveProgress(PartObserver):
    """Shows the parts in a table; parts that do not fit the terminal are only counted."""

    def __init__(self, plan: Plan, notes: output.Notes) -> None:
        self._plan = plan
        self._notes = notes
        self._height = 0
        self._running: dict[int, _Running] = {}
        self._ended = {result.index: result for result in plan.done} if isinstance(plan, Chain) else {}
        self._counts = Counter(map(status, self._ended.values()))

    def started(self, index: int, part: Part, run: Run) -> None:
        """Show that a part has begun."""
        self._running[index] = _Running(part, run)

    async def event(self, index: int, part: Part, run: Run, batch: Sequence[events.Logged]) -> None:
        """Show the activity of a part."""
        running = self._running[index]
        for _, _, event in batch:
            if isinstance(event, events.TextDelta):
                running.text = (running.text + event.text)[-_TAIL_CHARS:]
                running.did = ""
            else:
                running.did = _activity(event) or running.did

    async def ended(self, result: PartResult) -> None:
        """Show the outcome of a part."""
        self._running.pop(result.index, None)
        self._ended[result.index] = result
        self._counts[status(result)] += 1

    async def show(self) -> None:
        """Redraw the table until cancelled, then clear it. Notes of the meantime are printed above the table.

        While the terminal blocks (Ctrl-S), nothing is drawn: drawing would block the agents.
        """
        try:
            with self._notes.redirected_to(self._redraw):
                self._redraw()
                while True:
                    await asyncio.sleep(_INTERVAL_S)
                    if output.is_writable(output.STDERR) and not self._notes.is_asking:
                        self._redraw()
        finally:
            with suppress(OSError):
                output.write(output.STDERR, _SHOW_CURSOR + self._cleared())

    def _redraw(self, above: str = "") -> None:
        """Replace the table; `above` is text for the lines above the table. A question takes the place of the table."""
        with suppress(OSError):  # the terminal is gone
            lines = [] if self._notes.is_asking else self.drawn(*output.terminal_size(output.STDERR))
            cursor = "" if self._height and lines else _HIDE_CURSOR if lines else _SHOW_CURSOR
            text = self._cleared() + cursor + above + "\n".join(lines)
            self._height = len(lines)
            output.write(output.STDERR, text)

    def _cleared(self) -> str:
        return _CLEAR_LINE + _CLEAR_LINE_ABOVE * (self._height - 1) if self._height else ""

    def drawn(self, columns: int, height: int) -> list[str]:
        """Return the lines of the table for a terminal of this size."""
        rows = self._rows(max(1, height - _LINES_AROUND), columns // 2)
        queued = len(self._plan.parts) - len(self._running) - self._counts.total()
        counts = {**self._counts, "running": len(self._running), "queued": max(0, queued)}
        foot = ", ".join(f"{number:,} {state}" for state, number in counts.items() if number)
        return [*table(_COLUMNS, rows, columns, _style if self._notes.has_color else None), cut(foot, columns)]

    def _rows(self, most: int, tail: int) -> list[tuple[str, ...]]:
        """Return as many rows as fit, in the order of the parts: running, then ended, then queued parts go first."""
        rows = {index: self._running_row(index, self._running[index], tail) for index in sorted(self._running)[:most]}
        for index in islice(reversed(self._ended), most - len(rows)):
            rows[index] = self._ended_row(self._ended[index])
        parts = enumerate(self._plan.parts)
        queued = ((index, part) for index, part in parts if index not in self._running and index not in self._ended)
        for index, part in islice(queued, most - len(rows)):
            rows[index] = (self._label(index, part), "queued", "", "", "")
        return [rows[index] for index in sorted(rows)]

    def _running_row(self, index: int, running: _Running, tail: int) -> tuple[str, ...]:
        """Return the row of a part, with its activity or the end of its answer so far, `tail` cells at most."""
        started_at = running.run.facts.started_at
        line = next((line for line in reversed(running.text.split("\n")) if line.strip()), "")
        last = one_line(running.did, _TAIL_CHARS) or cut(one_line(line), tail, from_left=True)
        elapsed = output.duration(max(0.0, time.time() - started_at)) if started_at else ""
        state, used = "running" if started_at else "queued", running.run.facts.used_tokens
        return self._label(index, running.part), state, elapsed, f"{used:,}" if used else "", last

    def _ended_row(self, result: PartResult) -> tuple[str, ...]:
        used = _tokens(result)
        elapsed = output.duration(result.duration_s) if result.run_id else ""
        answer = result.result.text.strip().rpartition("\n")[2]
        last = one_line(without_sequences(result.error.message) if result.error else answer, _TAIL_CHARS)
        return self._label(result.index, result.part), status(result), elapsed, f"{used:,}" if used else "", last

    def _label(self, index: int, part: Part) -> str:
        return one_line(part_label(self._plan, index, part))
