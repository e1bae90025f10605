"""Observers of an orchestration, and the events of all parts as one stream of JSON lines."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from clinvk.dialects.rest.unified import Tag, UnifiedEncoder
from clinvk.runtime.runs import Run
from clinvk.types.events import Logged, RunFailed, RunStarted, TextDelta
from clinvk.types.orchestration import Chain, Part, PartResult, Plan
from clinvk.types.run import RunFacts


class PartObserver:
    """Callbacks for the events of the parts. A slow callback slows down the agent that sent the events."""

    async def show(self) -> None:
        """Redraw a display of the parts until cancelled, or return."""

    def started(self, index: int, part: Part, run: Run) -> None:
        """Note that the run of a part left the queue, or ended in the queue."""

    async def event(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Receive events of a part's run, in order."""

    async def ended(self, result: PartResult) -> None:
        """Receive the result of a part. A part whose agent did not start sends no events before."""


class EventStream(PartObserver):
    """Writes the unified events of all parts; `write` receives the lines of one batch, one call at a time."""

    def __init__(self, plan: Plan, write: Callable[[Iterable[bytes]], Awaitable[None]]) -> None:
        self._is_chain = isinstance(plan, Chain)
        self._write = write
        self._turn = asyncio.Lock()
        self._encoders: dict[int, UnifiedEncoder] = {}

    async def event(self, index: int, part: Part, run: Run, batch: Sequence[Logged]) -> None:
        """Write the events of a run."""
        if index not in self._encoders:
            self._encoders[index] = UnifiedEncoder(run.facts, self._tag(index, part))
        encoder = self._encoders[index]
        async with self._turn:
            await self._write(encoder.feed(event, at) for _, at, event in batch)

    async def ended(self, result: PartResult) -> None:
        """Write the events that stand for a part whose agent did not start."""
        if self._encoders.pop(result.index, None):
            return
        request, ending = result.part.request, result.result.ending
        facts = RunFacts(run_id="", backend=request.backend, model=request.model, workdir=request.workdir or "")
        encoder = UnifiedEncoder(facts, self._tag(result.index, result.part))
        replacement = (RunStarted(request.model), TextDelta(result.result.text), ending)
        events = (ending,) if isinstance(ending, RunFailed) else replacement
        at = time.time()
        async with self._turn:
            await self._write([encoder.feed(event, at) for event in events])

    def _tag(self, index: int, part: Part) -> Tag:
        if part.is_judge:
            return Tag(name=part.name)
        return Tag(index, index + 1 if self._is_chain else None, part.name or None, part.id or None)
