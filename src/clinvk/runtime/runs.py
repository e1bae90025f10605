"""The protocols that local and remote runs share, and the facts of a run."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from clinvk.dialects.dialect import RunFacts
from clinvk.types.events import Ending, Logged
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest


class FollowedRun(Protocol):
    """A run as the caller sees the run. Times such as `created_at` are seconds since the epoch."""

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
    def ending(self) -> Ending | None:
        """The ending; None before the run has ended."""
        ...

    @property
    def raw(self) -> bytes:
        """The last line of JSON that the agent printed."""
        ...

    @property
    def session_id(self) -> str | None:
        """The session that this run is a turn of; None for an ephemeral run."""
        ...

    def follow(self, after: int = 0) -> AsyncIterator[Logged]:
        """Yield the events after number `after`, past events first, until the ending, individually."""
        ...


def run_facts(run: FollowedRun) -> RunFacts:
    """Return the facts of a run for the encoders of dialects."""
    request = run.request
    return RunFacts(
        run_id=run.id,
        backend=request.backend,
        session_id=run.session_id,
        model=request.model,
        workdir=request.workdir or "",
        created_at=run.created_at,
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


class Runner(Protocol):
    """Runs prompts for a command: `LocalRuns` in agent processes of this clinvk, `RemoteRuns` through a server."""

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[FollowedRun]:
        """Run a prompt; see `LocalRuns.run`."""
        ...
