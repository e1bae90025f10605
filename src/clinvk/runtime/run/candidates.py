"""The agents that may take the prompt of a run: which is next after an error, and when a limit resets."""

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from msgspec.structs import replace

from clinvk.config.model import agent_options
from clinvk.runtime.run.run_io import RunSpec
from clinvk.types import errors
from clinvk.types.errors import BackendUnavailable, ClinvkError, InvalidRequest
from clinvk.types.events import Ending, Event, Progress, RunFinished, RunStarted
from clinvk.types.record import LimitWindow
from clinvk.types.request import FailedAgent, RunRequest

_TRUSTED_S = 600.0
"""How long a reported limit keeps an agent from being started: its user may log in to another account."""

_UNAVAILABLE = (errors.AgentRateLimited, errors.AgentUnauthenticated, BackendUnavailable)
"""Errors with which an agent cannot have acted, and another agent may take the prompt."""

_MAX_HELD_EVENTS, _MAX_HELD_CHARS = 100, 1 << 16
"""How much an agent may report before its output while another agent can still take the prompt."""

_REFUSALS = (errors.AgentUnauthenticated.code, errors.AgentRateLimited.code, errors.AgentUnpaid.code)


class Refusals:
    """The agents whose accounts refused their last runs: the login is missing, or a limit is used up."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._refusals: dict[str, tuple[str, float]] = {}

    def note(self, request: RunRequest, ending: Ending | None) -> None:
        """Note the ending of a run. A run without an error shows that the account accepts runs.

        If several agents failed, the code of the ending is that of the first.
        """
        failed = [(each.backend, each.error_code) for each in request.fell_back]
        if isinstance(ending, RunFinished):
            self._refusals.pop(request.backend, None)
        elif ending and not failed:
            failed.append((request.backend, ending.code))
        self._refusals |= {backend: (code, self._now()) for backend, code in failed if code in _REFUSALS}

    def codes(self) -> dict[str, str]:
        """Return the error codes by agent. A user may log in, so old refusals do not count."""
        since = self._now() - _TRUSTED_S
        return {backend: code for backend, (code, at) in self._refusals.items() if at > since}


class Candidates:
    """The agent of a request and those of its `fallback`, in order.

    A session stays with its agent, unless the request says `continue_with`.

    `limits` returns the known limits of all agents, `spec_of` the spec of a request for one agent. While `is_open`, an
    error of the current agent need not end the run, and its first events are `held` back. The request `has_several`
    agents if it has a fallback. `warnings` are about the worktree of the run.
    """

    def __init__(
        self,
        request: RunRequest,
        limits: Callable[[], Awaitable[list[LimitWindow]]],
        spec_of: Callable[[RunRequest], Awaitable[RunSpec]],
        warnings: Sequence[str] = (),
    ) -> None:
        others = () if request.session_id and not request.continue_with else request.fallback or ()
        self._requests = (replace(request, fallback=()), *(_of_agent(request, other) for other in others))
        self._waits = request.on_limit == "wait"
        self.has_several = bool(others)
        self.is_open = self._waits or self.has_several or request.continue_with
        self.held: list[Event] = []
        self._errors: list[ClinvkError] = []
        self._limits = limits
        self._spec_of = spec_of
        self._warnings = warnings

    @property
    def failed(self) -> tuple[FailedAgent, ...]:
        """The agents that could not take the prompt."""
        pairs = zip(self._requests, self._errors, strict=False)
        return tuple(FailedAgent(request.backend, error.message, error.code) for request, error in pairs)

    def open_with(self, events: list[Event], handed_over: str = "") -> list[Event]:
        """Hold the first events back until no other agent can take the prompt; then add which agents could not.

        `handed_over` is the note of a hand-over.
        """
        events = [*self.held, *events]
        self.held = []
        chars = sum(len(event.message) for event in events if isinstance(event, Progress))
        is_small = len(events) <= _MAX_HELD_EVENTS and chars <= _MAX_HELD_CHARS
        if self.is_open and is_small and all(isinstance(event, RunStarted | Progress) for event in events):
            self.held = events
            return []
        notes = [
            *(Progress("worktree", warning) for warning in self._warnings),
            *(Progress("fallback", f"{each.backend} could not take the prompt: {each.error}") for each in self.failed),
            *([Progress("handover", handed_over)] if handed_over else ()),
        ]
        return [*events[:1], *notes, *events[1:]]

    def accept(self, error: ClinvkError) -> bool:
        """Return whether an error of the current agent is one for `reject`."""
        return self.is_open and isinstance(error, _UNAVAILABLE)

    async def choose(self) -> RunSpec:
        """Return the spec of the next agent that can be started.

        Raises:
            ClinvkError: no agent can; the kind of the error is that of the first agent.
        """
        while True:
            try:
                return await self._spec_of(replace(self._requests[len(self._errors)], fell_back=self.failed))
            except (BackendUnavailable, InvalidRequest) as exc:
                if isinstance(exc, InvalidRequest) and not self._errors:
                    raise
                self.reject(exc)

    def reject(self, error: ClinvkError) -> None:
        """Leave the current agent because of an error; raise the errors of all agents if this is the last one."""
        self.held = []
        self._errors.append(error)
        if len(self._errors) == len(self._requests):
            if not self.has_several:
                raise error
            message = "; ".join(f"{each.backend}: {each.error}" for each in self.failed)
            raise type(self._errors[0])(message) from error

    async def check_limits(self) -> None:
        """Raise AgentRateLimited if the run need not start the current agent, since its limit is known to be used up.

        A limit such as `7d_opus` is that of some models only.
        """
        if not (self._waits or len(self._errors) + 1 < len(self._requests)):
            return
        now, backend = time.time(), self._requests[len(self._errors)].backend
        for window in await self._limits():
            is_current = window.resets_at > now and window.updated_at > now - _TRUSTED_S
            if _is_used_up(window, backend) and is_current and "_" not in window.window:
                until = datetime.fromtimestamp(window.resets_at, UTC).isoformat(timespec="seconds")
                raise errors.AgentRateLimited(f"the limit of {window.window} is used up until {until}")

    async def reset_time(self) -> float | None:
        """Return when the first of the agents that failed for a limit can run again; None if unknown."""
        limits, times = await self._limits(), list[float]()
        for request, error in zip(self._requests, self._errors, strict=True):
            ends = [window.resets_at for window in limits if _is_used_up(window, request.backend)]
            if isinstance(error, errors.AgentRateLimited) and ends:
                times.append(max(ends))
        return min(times, default=None)

    def restart(self) -> RunRequest:
        """Begin with the first agent again, and return its request."""
        self._errors.clear()
        return self._requests[0]


def _is_used_up(window: LimitWindow, backend: str) -> bool:
    return window.backend == backend and window.status == "rejected"


def _of_agent(request: RunRequest, other: RunRequest) -> RunRequest:
    """Return the request for another agent, which gets none of the options that the first agent alone understands."""
    options = agent_options(other)
    return replace(request, fallback=(), backend=other.backend, model=other.model, extra=other.extra, **options)
