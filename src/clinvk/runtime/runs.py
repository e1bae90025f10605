"""The protocols that local and remote runs share, the facts of a run, and the events of stored runs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from clinvk.dialects.dialect import RunFacts
from clinvk.store.protocol import UNDER_WAY, SessionStore
from clinvk.types.errors import Cancelled, RunNotFound
from clinvk.types.events import Ending, Logged, RunFailed, RunFinished
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest


class RunInfo(Protocol):
    """The facts of a run so far. Times such as `created_at` are seconds since the epoch."""

    id: str
    request: RunRequest
    created_at: float

    @property
    def started_at(self) -> float | None:
        """When an agent process started; None before."""
        ...

    @property
    def ended_at(self) -> float | None:
        """When the run ended; None before."""
        ...

    @property
    def session_id(self) -> str | None:
        """The session that this run is a turn of; None for an ephemeral run."""
        ...


class FollowedRun(RunInfo, Protocol):
    """A run as the caller sees the run."""

    @property
    def ending(self) -> Ending | None:
        """The ending; None before the run has ended."""
        ...

    @property
    def raw(self) -> bytes:
        """The last line of JSON that the agent printed."""
        ...

    def follow(self, after: int = 0) -> AsyncIterator[Logged]:
        """Yield the events after number `after`, past events first, until the ending, individually."""
        ...

    def resolve(self, reference: str, answer: InteractionAnswer) -> Coroutine[Any, Any, object]:
        """Answer an interaction of this run in the name of this machine's user. The events report the outcome."""
        ...


def run_facts(run: RunInfo) -> RunFacts:
    """Return the facts of a run for the encoders of dialects."""
    request = run.request
    return RunFacts(
        run_id=run.id,
        backend=request.backend,
        session_id=run.session_id,
        model=request.model,
        workdir=request.workdir or "",
        created_at=run.created_at,
        fallback=request.fell_back,
        started_at=run.started_at or run.created_at,
        duration_s=max(0.0, run.ended_at - run.started_at) if run.ended_at and run.started_at else 0.0,
    )


def record_facts(run: RunRecord) -> RunFacts:
    """Return the facts of a stored run for the encoders of dialects."""
    return RunFacts(
        run_id=run.id,
        backend=run.backend,
        session_id=run.session_id,
        model=run.model,
        workdir=run.workdir,
        started_at=run.started_at or run.created_at,
    )


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


class Runner(Protocol):
    """Runs prompts for a command.

    `LocalRuns` runs a prompt in this process, `ServerOrLocalRuns` through a running server if possible.
    """

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[FollowedRun]:
        """Run a prompt; see `LocalRuns.run`."""
        ...
