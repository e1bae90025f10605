"""The protocol of runs, local or remote, and the callbacks and figures for observers."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol

import msgspec

from clinvk.backends.base import Launch
from clinvk.dialects.dialect import RunFacts
from clinvk.runtime.slots import Capacity, Occupancy, SlotShare
from clinvk.types.errors import ClinvkError
from clinvk.types.events import Ending, Logged, RunStarted, TextDelta, ThinkingDelta
from clinvk.types.record import RunRecord
from clinvk.types.request import RunRequest
from clinvk.types.result import RunResult


class PoolStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of warm processes now.

    Attributes:
        processes: the warm processes.
        ready: the processes among them that can take a run without a session at once.
        runs: the runs in the processes.
        hits, misses: the runs that found a process, and the runs that did not.
        memory_bytes: the memory of the processes, as last measured.
    """

    processes: int
    ready: int
    runs: int
    hits: int
    misses: int
    memory_bytes: int

    @property
    def memory_mb(self) -> int:
        """The memory of the processes in MiB."""
        return self.memory_bytes // 1024**2


class WarmStats(PoolStats, frozen=True, kw_only=True):
    """Counts of all warm processes, and of each backend that may be kept warm; `memory_limit_bytes` 0 means no limit.

    `one_shot` lists backends whose program turned out not to speak its long-lived protocol.
    """

    backends: Mapping[str, PoolStats]
    one_shot: tuple[str, ...] = ()
    slots: int
    memory_limit_bytes: int


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


class Run(FollowedRun, Protocol):
    """One prompt through one agent. Every answer and stream is a view over the event log.

    `refusal` is why the agent could not start, if the run failed because no agent started.
    """

    refusal: ClinvkError | None

    @property
    def state(self) -> str:
        """One of queued, running, finished, failed, cancelled."""
        ...

    @property
    def queue_position(self) -> int | None:
        """The position in the queue, from 1; None unless the run waits there."""
        ...

    def batches(self, after: int = 0) -> AsyncIterator[list[Logged]]:
        """Yield the events of `follow` in batches of all available events."""
        ...

    async def left_queue(self) -> None:
        """Wait until the run leaves the queue: the run has a slot, or was stopped."""
        ...

    async def result(self) -> RunResult:
        """Wait for the ending and return the whole result."""
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
    """Runs prompts for a command: in agent processes of this clinvk, or through a server."""

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[FollowedRun]:
        """Run a prompt; see `Runs.run`."""
        ...


class Runs(Runner, Protocol):
    """The runtime as api, cli and orchestrate see it."""

    async def plan(self, request: RunRequest) -> Launch:
        """Return the launch that `run` would start (a dry run); raise the errors that `run` raises before the start."""
        ...

    def run(self, request: RunRequest, share: SlotShare | None = None) -> AbstractAsyncContextManager[Run]:
        """Run a prompt; leaving the context ends the run.

        `request` must name a backend and be completed from the settings. With a `share`, the run waits until its share
        has room, and joins the queue only then.

        Raises:
            BackendUnavailable, Unsupported, InvalidRequest, SessionNotFound, NotResumable: raised before the start.
            SessionBusy, QueueFull, ShuttingDown: the run cannot start at present.
            StoreUnavailable: the run cannot be stored.
        """
        ...

    async def start(self, request: RunRequest) -> Run:
        """Run a prompt in the background until the run ends or is cancelled. Raise the errors of `run`."""
        ...

    def live(self, run_id: str) -> Run | None:
        """Return the run with this id if queued or running here, else None."""
        ...

    @property
    def capacity(self) -> Capacity:
        """How many runs may be active at once, and why."""
        ...

    @property
    def occupancy(self) -> Occupancy:
        """The numbers of running and waiting runs, by backend."""
        ...

    @property
    def warm_stats(self) -> WarmStats | None:
        """Counts and memory of the warm agent processes; None if no process is kept warm."""
        ...

    async def wait_for_capacity(self, request: RunRequest) -> None:
        """After a `QueueFull`, wait until an orchestration's run would be accepted; another run may be faster."""
        ...

    def reserved(self, requests: Sequence[RunRequest]) -> AbstractContextManager[None]:
        """Reserve queue memory for an orchestration's requests, all of one client, inside this context.

        Raises:
            QueueFull: the queue lacks room for the first request, or for the memory of all.
        """
        ...

    async def cancel(self, run_id: str) -> None:
        """Stop a queued or running run, and wait until its agent is gone. Ignore unknown runs."""
        ...


class WatchedRun(FollowedRun, Protocol):
    """A run as observers see it."""

    @property
    def entries(self) -> Sequence[Logged]:
        """All events so far, in order."""
        ...


RunObserver = Callable[[WatchedRun], Callable[[], None]]
"""Called when a run has begun; returns a callback for the end of the run. Both run in the request's context."""


def reported_model(run: WatchedRun) -> str | None:
    """Return the model that the agent reported; None if the agent reported none."""
    started = next((entry.event for entry in run.entries if isinstance(entry.event, RunStarted)), None)
    return started.model if started else None


def first_text_at(run: WatchedRun) -> float | None:
    """Return when the first piece of the answer or of the thinking arrived, or None."""
    return next((entry.at for entry in run.entries if isinstance(entry.event, TextDelta | ThinkingDelta)), None)
