"""The live display of an orchestration on a terminal: a line for each part, redrawn a few times a second."""

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from clinvk.cli.orchestrate.progress import activity, label, status, tokens
from clinvk.cli.orchestrate.result_text import COLORS
from clinvk.cli.terminal.output import STDERR, Notes, is_writable, without_sequences, write
from clinvk.cli.terminal.table import Column, colored, cut, cut_left, one_line, table, width
from clinvk.cli.terminal.times import duration
from clinvk.orchestrate.orchestration import Observer
from clinvk.runtime.runs import Run
from clinvk.types.events import Logged, TextDelta
from clinvk.types.orchestration import Chain, Part, PartResult, Plan

_EVERY_S = 0.2
_TAIL_CHARS = 300
_ENDED_KEPT = 500
_LINES_AROUND = 3
"""The lines of the terminal besides the parts: head, foot, and the line of the cursor."""

_LABEL_LEAST = 12
_COLUMNS = (
    Column("", _LABEL_LEAST),
    Column("STATE"),
    Column("ELAPSED", to_right=True),
    Column("TOKENS", to_right=True),
)
_GAP = 2
_style = colored({**COLORS, "running": "\x1b[36m"})
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_CLEAR_LINE, _CLEAR_LINE_ABOVE = "\r\x1b[2K", "\x1b[1A\x1b[2K"


class _Running:
    """A running part; `text` is the end of the answer so far."""

    def __init__(self, part: Part, run: Run) -> None:
        self.part = part
        self.run = run
        self.did = ""
        self.text = ""

    def add(self, batch: Sequence[Logged]) -> None:
        for _, _, event in batch:
            if isinstance(event, TextDelta):
                self.text = (self.text + event.text)[-_TAIL_CHARS:]
                self.did = ""
            else:
                self.did = activity(event) or self.did


class Row(NamedTuple):
    """A part in the table; with `is_text`, `last` is cut at the beginning, since the end of an answer says more."""

    cells: tuple[str, str, str, str]
    last: str = ""
    is_text: bool = False


_HEAD = Row(("", "STATE", "ELAPSED", "TOKENS"), "LAST")


class Display(Observer):
    """Shows the parts in a table; parts that do not fit the terminal are only counted."""

    def __init__(self, plan: Plan, notes: Notes, color: bool) -> None:
        self._plan = plan
        self._notes = notes
        self._color = color
        self._height = 0
        self._running: dict[int, _Running] = {}
        self._ended: deque[tuple[int, Row]] = deque(maxlen=_ENDED_KEPT)
        self._counts: Counter[str] = Counter()
        self._begun: set[int] = set()  # only indices above the first waiting part
        self._first = 0
        for result in plan.done if isinstance(plan, Chain) else ():
            self._add(result)

    def begun(self, index: int, part: Part, run: Run) -> None:
        """Show that a part has begun."""
        self._running[index] = _Running(part, run)
        self._note_begun(index)

    async def heard(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Show the activity of a part."""
        self._running[index].add(batch)

    async def ended(self, result: PartResult) -> None:
        """Show the outcome of a part."""
        self._running.pop(result.index, None)
        self._add(result)

    async def show(self) -> None:
        """Redraw the display until cancelled, then clear it. Notes of the meantime are printed above the display.

        While the terminal blocks (Ctrl-S), nothing is drawn: drawing would block the agents.
        """
        try:
            with self._notes.written_by(self._redraw):
                self._redraw(_HIDE_CURSOR)
                while True:
                    await asyncio.sleep(_EVERY_S)
                    if is_writable(STDERR):
                        self._redraw()
        finally:
            with suppress(OSError):
                write(STDERR, _SHOW_CURSOR + self._cleared())

    def _redraw(self, above: str = "") -> None:
        """Replace the display; `above` is text for the lines above the display."""
        with suppress(OSError):  # the terminal is gone
            columns, height = os.get_terminal_size(STDERR)
            lines = self.drawn(columns or 80, height or 24)
            text = self._cleared() + above + "\n".join(lines)
            self._height = len(lines)
            write(STDERR, text)

    def _cleared(self) -> str:
        return _CLEAR_LINE + _CLEAR_LINE_ABOVE * (self._height - 1)

    def drawn(self, columns: int, height: int) -> list[str]:
        """Return the lines of the display for a terminal of this size."""
        rows = self._rows(max(1, height - _LINES_AROUND))
        cells = [row.cells for row in rows]
        plain = table(_COLUMNS, cells, columns)
        styled = table(_COLUMNS, cells, columns, _style) if self._color else plain
        left = max(map(width, plain)) + _GAP
        lines: list[str] = []
        for row, text, seen in zip([_HEAD, *rows], styled, plain, strict=True):
            last = (cut_left if row.is_text else cut)(row.last, columns - left)
            lines.append(f"{text}{' ' * (left - width(seen))}{self._dim(last)}".rstrip())
        return [*lines, self._dim(cut(self._foot(), columns))]

    def _dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self._color and text else text

    def _note_begun(self, index: int) -> None:
        self._begun.add(index)
        while self._first in self._begun:
            self._begun.remove(self._first)
            self._first += 1

    def _add(self, result: PartResult) -> None:
        self._note_begun(result.index)
        state = status(result)
        self._counts[state] += 1
        used = tokens(result)
        answer = result.result.text.strip().rpartition("\n")[2]
        elapsed = duration(result.duration_s) if result.run_id else ""
        cells = (self._label(result.index, result.part), state, elapsed, f"{used:,}" if used else "")
        last = without_sequences(result.error.message) if result.error else answer
        self._ended.append((result.index, Row(cells, one_line(last, _TAIL_CHARS))))

    def _label(self, index: int, part: Part) -> str:
        return one_line(label(self._plan, index, part))

    def _rows(self, most: int) -> list[Row]:
        """Return as many rows as fit, in the order of the parts: running, then ended, then waiting parts go first."""
        now = time.time()
        chosen = {index: self._row(index, running, now) for index, running in sorted(self._running.items())[:most]}
        for index, row in list(self._ended)[-most + len(chosen) :] if len(chosen) < most else ():
            chosen[index] = row
        for index in islice(self._waiting(), most - len(chosen)):
            chosen[index] = Row((self._label(index, self._plan.parts[index]), "waiting", "", ""))
        return [chosen[index] for index in sorted(chosen)]

    def _waiting(self) -> Iterator[int]:
        return (index for index in range(self._first, len(self._plan.parts)) if index not in self._begun)

    def _row(self, index: int, running: _Running, now: float) -> Row:
        """Return the row of a part, with its activity or the last line of its answer so far."""
        started_at = running.run.started_at
        line = next((line for line in reversed(running.text.split("\n")) if line.strip()), "")
        elapsed = duration(max(0.0, now - started_at)) if started_at else ""
        cells = (self._label(index, running.part), "running" if started_at else "waiting", elapsed, "")
        return Row(cells, one_line(running.did or line, _TAIL_CHARS), is_text=not running.did)

    def _foot(self) -> str:
        waiting = len(self._plan.parts) - len(self._running) - self._counts.total()
        counts = {**self._counts, "running": len(self._running), "waiting": max(0, waiting)}
        return ", ".join(f"{number:,} {state}" for state, number in counts.items() if number)
