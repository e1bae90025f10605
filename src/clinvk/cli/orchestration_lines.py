"""`-o stream-json` of several agents: each event with its part, one JSON object a line, then the whole."""

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from clinvk.cli.orchestrated import outcome
from clinvk.cli.stdout import ReaderGone, Stdout
from clinvk.dialects.base import Facts
from clinvk.dialects.batch.answers import tag_of
from clinvk.dialects.unified import Tag, UnifiedEncoder
from clinvk.events import Logged, RunFailed, RunStarted, TextDelta
from clinvk.plan import Chain, Part, PartResult, Plan, Summary
from clinvk.runtime.runs import Run


class JsonLines:
    """Prints events as they happen. Where nobody reads them any more, `stop` is called."""

    def __init__(self, plan: Plan, stop: Callable[[], None]) -> None:
        self._plan = plan
        self._stop = stop
        self._stdout = Stdout(1)
        self._turn = asyncio.Lock()
        self._encoders: dict[int, UnifiedEncoder] = {}

    async def show(self) -> None:
        """Do nothing: each event is printed at once."""

    def begun(self, index: int, run: Run) -> None:
        """Do nothing: the events tell it."""

    async def heard(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Print events of a run."""
        encoder = self._encoders.get(index)
        if encoder is None:
            facts = Facts(
                run_id=run.id,
                backend=run.request.backend,
                session_id=run.session_id,
                model=run.request.model,
                workdir=run.request.workdir or "",
                started_at=run.started_at or run.created_at,
            )
            encoder = self._encoders[index] = UnifiedEncoder(facts, self._tag(index, part))
        await self._print(b"".join(encoder.feed(event, at) for _, at, event in batch))

    async def ended(self, result: PartResult) -> None:
        """Print what stands for the events of a part whose agent was not started."""
        if self._encoders.pop(result.index, None):
            return
        request, ending = result.part.request, result.result.ending
        facts = Facts(run_id="", backend=request.backend, model=request.model, workdir=request.workdir or "")
        encoder = UnifiedEncoder(facts, self._tag(result.index, result.part))
        shown = (RunStarted(request.model), TextDelta(result.result.text), ending)
        at = time.time()
        events = (ending,) if isinstance(ending, RunFailed) else shown
        await self._print(b"".join(encoder.feed(event, at) for event in events))

    async def _print(self, lines: bytes) -> None:
        try:
            async with self._turn:
                await self._stdout.write(lines)
        except ReaderGone:
            self._stop()

    def _tag(self, index: int, part: Part) -> Tag:
        if index >= len(self._plan.parts):
            return Tag(name=part.name)
        return tag_of(index, part, isinstance(self._plan, Chain))


def last_line(summary: Summary) -> str:
    """Give the JSON of the whole, marked as the last line of a stream."""
    return '{"type":"summary",' + msgspec.json.encode(outcome(summary)).decode()[1:]
