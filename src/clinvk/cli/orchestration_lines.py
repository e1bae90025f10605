"""`-o stream-json` of several agents: each event with its part, one JSON object a line, then the whole."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from clinvk.cli.orchestrated import outcome
from clinvk.cli.stdout import ReaderGone, Stdout
from clinvk.dialects.base import Facts
from clinvk.dialects.batch.lines import PartLines
from clinvk.events import Logged
from clinvk.plan import Part, PartResult, Plan, Summary
from clinvk.runtime.runs import Run


class JsonLines:
    """Prints events as they happen. Where nobody reads them any more, `stop` is called."""

    def __init__(self, plan: Plan, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._stdout = Stdout(1)
        self._turn = asyncio.Lock()
        self._lines = PartLines(plan)

    async def show(self) -> None:
        """Do nothing: each event is printed at once."""

    def begun(self, index: int, part: Part, run: Run) -> None:
        """Do nothing: the events tell it."""

    async def heard(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Print events of a run."""
        await self._print(b"".join(self._lines.heard(index, part, batch, partial(_facts_of, run))))

    async def ended(self, result: PartResult) -> None:
        """Print what stands for the events of a part whose agent was not started."""
        await self._print(self._lines.ended(result, time.time()))

    async def _print(self, lines: bytes) -> None:
        if not lines:
            return
        try:
            async with self._turn:
                await self._stdout.write(lines)
        except ReaderGone:
            self._stop()


def _facts_of(run: Run) -> Facts:
    return Facts(
        run_id=run.id,
        backend=run.request.backend,
        session_id=run.session_id,
        model=run.request.model,
        workdir=run.request.workdir or "",
        started_at=run.started_at or run.created_at,
    )


def last_line(summary: Summary) -> str:
    """Give the JSON of the whole, marked as the last line of a stream."""
    return '{"type":"summary",' + msgspec.json.encode(outcome(summary)).decode()[1:]
