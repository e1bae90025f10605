"""The protocol of runs, wherever their agents are, and the callbacks and figures for those who watch them."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol

import msgspec

from clinvk.backends.base import Launch
from clinvk.runtime.slots import Capacity, Occupancy, Share
from clinvk.types.errors import ClinvkError
from clinvk.types.events import Ending, Logged, RunStarted, TextDelta, ThinkingDelta
from clinvk.types.request import RunRequest
from clinvk.types.result import RunResult


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Kept processes at this moment.

    Attributes:
        processes: those that are kept.
        ready: of these, those that a run without a session can go to at once.
        runs: runs that they carry.
        hits, misses: runs that found a process, and runs that did not.
        memory_bytes: what they take, as last measured.
    """

    processes: int
    ready: int
    runs: int
    hits: int
    misses: int
    memory_bytes: int


class Warm(Kept, frozen=True, kw_only=True):
    """All of them, and those of each backend of which any may be kept; `memory_limit_bytes` is 0 for no limit.

    `one_shot` are backends whose program turned out not to speak the protocol that staying needs.
    """

    backends: Mapping[str, Kept]
    one_shot: tuple[str, ...] = ()
    slots: int
    memory_limit_bytes: int


class Followed(Protocol):
    """A run as the command sees it that asked for it. `created_at` and the like are seconds since the epoch."""

    id: str
    request: RunRequest
    created_at: float

    @property
    def started_at(self) -> float | None:
        """When it got an agent process."""
        ...

    @property
    def ended_at(self) -> float | None:
        """When it was over."""
        ...

    @property
    def ending(self) -> Ending | None:
        """How it ended, once it has."""
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
        """Give the events after number `after`, those of the past first, to the ending, one by one."""
        ...


class Run(Followed, Protocol):
    """One prompt through one agent. Every answer and stream is a view over its event log.

    `refusal` is why the agent could not be started, where that is the reason of the ending.
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
        """Give the same as `follow`, each time all there are."""
        ...

    async def begun(self) -> None:
        """Wait until it leaves the queue: its turn has come, or it has ended before."""
        ...

    async def result(self) -> RunResult:
        """Wait for the ending, then give all in one."""
        ...


class Runner(Protocol):
    """What runs a prompt for a command: agent processes of this clinvk, or a server."""

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[Followed]:
        """Run a prompt; see `Runs.run`."""
        ...


class Runs(Runner, Protocol):
    """All that api, cli and orchestration see of the runtime."""

    async def plan(self, request: RunRequest) -> Launch:
        """Say what would be started; raises what `run` would raise before the start (for a dry run)."""
        ...

    def run(self, request: RunRequest, share: Share | None = None) -> AbstractAsyncContextManager[Run]:
        """Run a prompt. `request` has its backend and is completed from the settings. Leaving it ends the run.

        It waits for its turn among those with the same `share`, and is in the queue from then on.

        Raises:
            BackendUnavailable, Unsupported, InvalidRequest, SessionNotFound, NotResumable: before anything runs.
            SessionBusy, QueueFull, ShuttingDown: not at present.
            StoreUnavailable: the run cannot be recorded.
        """
        ...

    async def start(self, request: RunRequest) -> Run:
        """Run a prompt that goes on whoever leaves, until it ends or is cancelled. Raises what `run` raises."""
        ...

    def live(self, run_id: str) -> Run | None:
        """Give a run that is queued or under way here."""
        ...

    @property
    def capacity(self) -> Capacity:
        """How many runs go at once, and why."""
        ...

    @property
    def occupancy(self) -> Occupancy:
        """Who holds slots and who waits, by backend."""
        ...

    @property
    def warm(self) -> Warm | None:
        """The agent processes that are kept; None where none are."""
        ...

    async def room(self, request: RunRequest) -> None:
        """Wait until a run of an orchestration would be taken: after a `QueueFull`, though another may be faster."""
        ...

    def reserved(self, requests: Sequence[RunRequest]) -> AbstractContextManager[None]:
        """Count the memory of an orchestration's requests, of one client, as that of waiting runs inside this context.

        Raises:
            QueueFull: the queue has no room for so many bytes.
        """
        ...

    async def cancel(self, run_id: str) -> None:
        """End a run that is queued or under way here, and wait until its agent is gone. Others are left as they are."""
        ...


class Watched(Followed, Protocol):
    """A run as it is watched. `entries` is all that happened so far."""

    @property
    def entries(self) -> Sequence[Logged]:
        """Its events, in their order."""
        ...


Watch = Callable[[Watched], Callable[[], None]]
"""Called when a run has begun; what it gives is called when that is over. Both in the context of its request."""


def model_told(run: Watched) -> str | None:
    """Give the model that the agent said it works with; None where it said none."""
    started = next((entry.event for entry in run.entries if isinstance(entry.event, RunStarted)), None)
    return started.model if started else None


def first_word_at(run: Watched) -> float | None:
    """Give when the first piece of the answer, or of the thinking before it, was there; None where there was none."""
    return next((entry.at for entry in run.entries if isinstance(entry.event, TextDelta | ThinkingDelta)), None)
