"""The interface of runs, wherever they run, and the events of stored runs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from clinvk.dialects.dialect import copy_as
from clinvk.runtime.run.event_log import EventLog
from clinvk.store.protocol import SessionStore
from clinvk.types.choices import UNDER_WAY
from clinvk.types.errors import Cancelled, RunNotFound
from clinvk.types.events import Logged, RunFailed, RunFinished
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts


class Run(Protocol):
    """A run of this process or of another one. Every answer and stream is a view over the event log.

    Attributes:
        request: the request to the current agent.
    """

    id: str
    request: RunRequest
    log: EventLog

    @property
    def facts(self) -> RunFacts:
        """The facts of the run so far."""
        ...

    async def left_queue(self) -> None:
        """Wait until the run leaves the queue: it has a slot, or was stopped."""

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the run unless it has ended; with `at_once` the agent gets no time to stop by itself."""

    async def cancel(self) -> None:
        """Stop the run unless it has ended, and wait until its agent is gone."""


class Runner(Protocol):
    """Runs prompts for a command.

    `LocalRuns` runs a prompt in this process, `ServerOrLocalRuns` through a running server if possible.
    """

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[Run]:
        """Run a prompt; see `LocalRuns.run`. If the prompt steers another run, the run has only that run's facts."""
        ...

    async def answer(self, reference: str, answer: InteractionAnswer) -> object:
        """Answer an interaction in the name of this machine's user; see `Interactions.answer`."""


def record_facts(run: RunRecord) -> RunFacts:
    """Return the facts of a stored run."""
    return copy_as(RunFacts, run, run_id=run.id, fallback=())


_BATCH = 500


async def poll_events(
    store: SessionStore, run: RunRecord, pause: Callable[[RunRecord], Awaitable[bool]]
) -> AsyncIterator[Sequence[Logged]]:
    """Yield the stored events of a run until the end; poll the store while the run is under way.

    `pause` waits between two reads of the store; after it returns False, the store is read once more.

    Raises:
        RunNotFound: the run has ended, and stored no events because it was ephemeral.
    """
    last, had_ended, is_followed = 0, run.state not in UNDER_WAY, True
    while True:
        while batch := await store.events(run.id, last, _BATCH):
            last = batch[-1].number
            yield batch
            if isinstance(batch[-1].event, RunFinished | RunFailed):
                return
        if run.state not in UNDER_WAY:
            if had_ended and run.request.get("ephemeral"):
                raise RunNotFound(f"run {run.id!r} was ephemeral: none of its events are kept")
            yield [_ending(run, last + 1)]
            return
        if not is_followed:
            return
        is_followed = await pause(run)
        run = await store.run(run.id)


def _ending(run: RunRecord, number: int) -> Logged:
    """Return an ending for a run without a stored ending: ephemeral, or its clinvk died or could not write."""
    at = run.ended_at or run.created_at
    if run.state == "finished":
        return Logged(number, at, RunFinished(run.stop_reason or "end_turn", run.usage, run.cost_usd))
    message = run.error_message or f"the run was {run.state}"
    return Logged(
        number, at, RunFailed(run.error_code or Cancelled.code, message, run.exit_code, run.usage, run.cost_usd)
    )
