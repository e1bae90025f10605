"""Runs: slots and queue, the event log, cancel, deadlines, recording."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, Protocol

from clinvk.backends.base import Launch
from clinvk.events import Event
from clinvk.request import RunRequest
from clinvk.result import RunResult

RunState = Literal["queued", "running", "finished", "failed", "cancelled"]


class Logged(NamedTuple):
    """An event in a run's log: its number (from 1), and when it happened in seconds since the epoch."""

    number: int
    at: float
    event: Event


class Run(Protocol):
    """One prompt through one agent. Every answer and stream is a view over its event log.

    `raw` is the last line of JSON that the agent printed.
    """

    id: str
    request: RunRequest
    session_id: str | None
    state: RunState
    created_at: float
    started_at: float | None
    ended_at: float | None
    raw: bytes

    def follow(self, after: int = 0) -> AsyncIterator[Logged]:
        """Give the events after number `after`, those of the past first, to the ending."""
        ...

    async def result(self) -> RunResult:
        """Wait for the ending, then give all in one."""
        ...


class Runs(Protocol):
    """All that api, cli and orchestration see of the runtime."""

    def plan(self, request: RunRequest) -> Launch:
        """Say what would be started. Raises what `run` would raise before the start (for a dry run)."""
        ...

    def run(self, request: RunRequest) -> AbstractAsyncContextManager[Run]:
        """Run a prompt. `request` has its backend and is completed from the settings. Leaving it ends the run.

        Raises:
            BackendUnavailable, Unsupported, InvalidRequest, SessionNotFound: before anything runs.
            QueueFull, ShuttingDown: no place.
        """
        ...
