"""A run whose events are known, for code that shows runs."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from clinvk.runtime.run.event_log import EventLog
from clinvk.types.events import Event
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts


class KnownRun:
    """A run, and its runner. The run has `events`; `facts` add to those of the request."""

    id = "run"

    def __init__(self, request: RunRequest, *events: Event, **facts: object) -> None:
        self.request = request
        self.log = EventLog(lambda: None)
        self.log.extend(events)
        known = RunFacts(
            run_id=self.id,
            backend=request.backend,
            model=request.model,
            workdir=request.workdir or "",
            session_id=request.session_id,
        )
        self.facts = replace(known, **facts)

    async def left_queue(self) -> None:
        """Return at once."""

    def stop(self, *, at_once: bool = False) -> None:
        """Do nothing."""

    async def cancel(self) -> None:
        """Do nothing."""

    @asynccontextmanager
    async def run(self, request: RunRequest) -> AsyncGenerator["KnownRun"]:
        """Run."""
        yield self

    async def answer(self, reference: str, answer: InteractionAnswer) -> None:
        """Accept no answer."""
        raise AssertionError(f"{reference} is answered: {answer}")
