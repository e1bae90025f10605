"""The live display of an orchestration on a terminal: a line for each part, redrawn a few times a second.

The only module that knows rich.
"""

import asyncio
import select
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from clinvk.cli.orchestrate.progress import activity, label, status, tokens
from clinvk.cli.terminal.output import Notes, without_sequences
from clinvk.cli.terminal.table import cut_left, one_line
from clinvk.cli.terminal.times import duration
from clinvk.orchestrate.orchestration import Observer
from clinvk.runtime.runs import Run
from clinvk.types.events import Logged, TextDelta
from clinvk.types.orchestration import Chain, Part, PartResult, Plan

_EVERY_S = 0.2
_TAIL_CHARS = 300
_ROWS_AROUND = 3
"""The lines of the display besides the parts: head, foot, and the line of the cursor."""
_KEPT = 500
_STYLES = {"running": "cyan", "done": "green", "failed": "red", "timed out": "red", "cancelled": "yellow"}


class _Running:
    """A running part; `text` is the end of the answer so far."""

    def __init__(self, part: Part, run: Run) -> None:
        self.part = part
        self.run = run
        self.did = ""
        self.text = ""

    def take(self, batch: Sequence[Logged]) -> None:
        for _, _, event in batch:
            if isinstance(event, TextDelta):
                self.text = (self.text + event.text)[-_TAIL_CHARS:]
                self.did = ""
            elif told := activity(event):
                self.did = told

    @property
    def last(self) -> str:
        """The last activity of the agent, or the last line of the answer."""
        lines = self.text.split("\n")
        return self.did or next((line for line in reversed(lines) if line.strip()), "")


class Row(NamedTuple):
    """The cells of a part; with `is_text`, `last` is cut at the beginning, since the end of an answer says more."""

    label: str
    state: str
    elapsed: str = ""
    tokens: str = ""
    last: str = ""
    is_text: bool = False


class _End:
    """A line that is cut at the beginning if there is no room for all of it."""

    def __init__(self, line: str) -> None:
        self._line = line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(cut_left(self._line, options.max_width), "dim")


class Display(Observer):
    """Shows the parts in a table; parts that do not fit the terminal are only counted."""

    def __init__(self, plan: Plan, notes: Notes, color: bool) -> None:
        self._plan = plan
        self._notes = notes
        self._console = Console(file=sys.stderr, color_system="auto" if color else None, highlight=False)
        self._running: dict[int, _Running] = {}
        self._ended: deque[tuple[int, Row]] = deque(maxlen=_KEPT)
        self._counts: dict[str, int] = {}
        self._begun: set[int] = set()  # only indices above the first waiting part
        self._first = 0
        for result in plan.done if isinstance(plan, Chain) else ():
            self._begin(result.index)
            self._end(result)

    def begun(self, index: int, part: Part, run: Run) -> None:
        """Show that a part has begun."""
        self._running[index] = _Running(part, run)
        self._begin(index)

    async def heard(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Show the activity of a part."""
        self._running[index].take(batch)

    async def ended(self, result: PartResult) -> None:
        """Show the outcome of a part."""
        if not self._running.pop(result.index, None):
            self._begin(result.index)
        self._end(result)

    async def show(self) -> None:
        """Redraw the display until cancelled, then clear it. Notes of the meantime are printed above the display.

        While the terminal blocks (Ctrl-S), nothing is drawn: drawing would block the agents.
        """
        poll = select.poll()
        poll.register(self._console.file.fileno(), select.POLLOUT)
        live = Live(console=self._console, auto_refresh=False, transient=True, get_renderable=self.drawn)
        with live, self._notes.written_by(self._above):
            while True:
                if poll.poll(0):
                    live.refresh()
                await asyncio.sleep(_EVERY_S)

    def _above(self, line: str) -> None:
        self._console.print(Text.from_ansi(line.rstrip("\n")), soft_wrap=True)

    def drawn(self) -> Group:
        """Return the display in its current state."""
        rows = Table(box=None, expand=True, pad_edge=False, header_style="dim")
        most = max(1, self._console.width // 3)
        rows.add_column("", no_wrap=True, overflow="ellipsis", max_width=most)
        rows.add_column("STATE", no_wrap=True)
        rows.add_column("ELAPSED", justify="right", no_wrap=True)
        rows.add_column("TOKENS", justify="right", no_wrap=True)
        rows.add_column("LAST", no_wrap=True, overflow="ellipsis", ratio=1)
        for row in self._rows(max(1, self._console.height - _ROWS_AROUND)):
            state = Text(row.state, _STYLES.get(row.state, "dim"))
            last = _End(row.last) if row.is_text else Text(row.last, "dim")
            rows.add_row(Text(row.label), state, row.elapsed, row.tokens, last)
        return Group(rows, Text(self._foot(), "dim"))

    def _begin(self, index: int) -> None:
        self._begun.add(index)
        while self._first in self._begun:
            self._begun.remove(self._first)
            self._first += 1

    def _end(self, result: PartResult) -> None:
        state = status(result)
        self._counts[state] = self._counts.get(state, 0) + 1
        used = tokens(result)
        said = (
            without_sequences(result.error.message) if result.error else result.result.text.strip().rpartition("\n")[2]
        )
        row = Row(
            label=one_line(label(self._plan, result.index, result.part)),
            state=state,
            elapsed=duration(result.duration_s) if result.run_id else "",
            tokens=f"{used:,}" if used else "",
            last=one_line(said, _TAIL_CHARS),
        )
        self._ended.append((result.index, row))

    def _rows(self, most: int) -> Iterator[Row]:
        """Return as many rows as fit, in the order of the parts: running, then ended, then waiting parts go first."""
        now = time.time()
        chosen = {index: self._row(index, running, now) for index, running in sorted(self._running.items())[:most]}
        for index, row in list(self._ended)[-most + len(chosen) :] if len(chosen) < most else ():
            chosen[index] = row
        for index in self._waiting(most - len(chosen)):
            part = self._plan.parts[index]
            chosen[index] = Row(one_line(label(self._plan, index, part)), "waiting")
        return (chosen[index] for index in sorted(chosen))

    def _waiting(self, most: int) -> Iterator[int]:
        """Yield the indices of the next parts."""
        waiting = (index for index in range(self._first, len(self._plan.parts)) if index not in self._begun)
        return islice(waiting, most)

    def _row(self, index: int, running: _Running, now: float) -> Row:
        started_at = running.run.started_at
        return Row(
            label=one_line(label(self._plan, index, running.part)),
            state="running" if started_at else "waiting",
            elapsed=duration(max(0.0, now - started_at)) if started_at else "",
            last=one_line(running.last, _TAIL_CHARS),
            is_text=not running.did,
        )

    def _foot(self) -> str:
        waiting = len(self._plan.parts) - len(self._running) - sum(self._counts.values())
        counts = {**self._counts, "running": len(self._running), "waiting": max(0, waiting)}
        return ", ".join(f"{number:,} {state}" for state, number in counts.items() if number)
