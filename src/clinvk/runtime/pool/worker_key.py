"""The key of equal workers, which is all that is fixed at their start, and whether a worker is healthy."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping
from math import inf
from typing import NamedTuple

import msgspec

from clinvk.backends.base import Backend, Host, Launch
from clinvk.runtime.pool.agent_programs import Fingerprint, fingerprint
from clinvk.runtime.pool.worker import Worker

logger = logging.getLogger(__name__)

MOST_HELD = 8
"""So many conversations a process keeps open that nobody else can go on with meanwhile."""

_DAMPED_AT_MOST_S = 20.0

_SOUND_AFTER_S = 10.0
"""A process that was up for so long did not fail because of how it is started."""


class Wanted(NamedTuple):
    """What a process of a run is started with; `launch` is the launch that stays."""

    backend: Backend
    host: Host
    path: str
    env: Mapping[str, str]
    launch: Launch


class Found(NamedTuple):
    """What was found on disk for a process: the program and what it reads, and what beginnings are told."""

    read: Fingerprint
    told: Fingerprint


class Profile:
    """Processes that are as good as each other.

    Attributes:
        wanted: what one is started with; its `continuing` is of no meaning.
        found: what was found for the processes that there are.
        taken_at: when a run has last asked for one.
        begun: when such runs came that begin a conversation, for which one that is ready would do.
        failures: how many have failed since a run went well.
        not_before: none is started before that.
    """

    def __init__(self, wanted: Wanted, found: Found) -> None:
        self.wanted = wanted
        self.found = found
        self.workers: list[Worker] = []
        self.taken_at = -inf
        self.begun: deque[float] = deque(maxlen=64)
        self.failures = 0
        self.not_before = 0.0

    @property
    def is_shared(self) -> bool:
        """Whether a process carries several runs at once."""
        return self.wanted.launch.takes_up != "started"

    @property
    def launch(self) -> Launch:
        """How one is started that has no conversation yet."""
        return _without_conversation(self.wanted.launch)

    def take(self, *, begins: bool) -> None:
        """A run asks for one; `begins` is whether with it a conversation does."""
        self.taken_at = time.monotonic()
        if begins:
            self.begun.append(self.taken_at)

    def renew(self, found: Found) -> None:
        """Take no more runs to processes that were started with another program, or have read something else."""
        is_other = found.read != self.found.read
        if is_other:
            self.failures, self.not_before = 0, 0.0
        if found != self.found:
            self.found = found
            for worker in self.workers:
                if is_other or can_begin(worker):
                    worker.retire()

    def blame(self, worker: Worker, why: str) -> None:
        """One has failed: the next is not started at once, and later each time where none was of any use."""
        if worker.is_blamed:
            return
        worker.is_blamed = True
        is_sound = worker.is_ready and time.monotonic() > worker.since + _SOUND_AFTER_S
        self.failures = 1 if worker.is_proven or is_sound else self.failures + 1
        self.not_before = time.monotonic() + min(_DAMPED_AT_MOST_S, 0.25 * 2.0**self.failures)
        number = f" (pid {worker.process.pid})" if worker.was_started else ""
        logger.warning("a kept process of %s%s failed, %d in a row: %s", self.wanted.path, number, self.failures, why)


def key(wanted: Wanted) -> object:
    """Give what is equal for all of a profile, and for no other: the command and its surroundings."""
    launch = _without_conversation(wanted.launch)
    fixed = (launch.argv, launch.env, launch.cwd, launch.files, launch.links, launch.opening, launch.reads)
    ways = (launch.most_runs, launch.takes_up)
    return wanted.backend.name, wanted.path, frozenset(wanted.env.items()), msgspec.json.encode(fixed), ways


def program_fingerprint(wanted: Wanted) -> Found:
    """Look at the program and at what it reads by itself: where these differ, a process is not as good."""
    launch = wanted.launch
    return Found(fingerprint((wanted.path, *launch.reads), wanted.env), fingerprint(launch.begins_with, wanted.env))


def can_begin(worker: Worker, share: float = 1) -> bool:
    """Say whether a process can begin a conversation within a `share` of its runs: one that holds one, its first."""
    if worker.channel.capacity == 1:
        return not worker.served and not worker.seats and not worker.launch.continuing
    return worker.served + len(worker.seats) < share * worker.launch.most_runs


def best(workers: Iterable[Worker]) -> Worker | None:
    """Give one that is up before one that is just starting, and of those the one with most to do: others can go."""
    return max(workers, key=lambda worker: (worker.is_ready, worker.served, len(worker.seats)), default=None)


def _without_conversation(launch: Launch) -> Launch:
    argv = tuple(word for word in launch.argv if word not in launch.continuing)
    return msgspec.structs.replace(launch, argv=argv, continuing=())


class Patience(msgspec.Struct, kw_only=True):
    """How long things may take.

    Attributes:
        unheard_s: until a process tells that it has begun a run, while it tells of others.
        silent_s: until a process that says nothing is asked for a sign of life.
        answers_within_s: until it gives one.
    """

    unheard_s: float = 60.0
    silent_s: float = 30.0
    answers_within_s: float = 15.0


def look_after(worker: Worker, patience: Patience) -> None:
    """Ask a process that is silent whether it is well; give it up, or a run in it, where that took too long."""
    if not worker.is_up or not worker.is_ready or worker.rests:
        return
    now = asyncio.get_running_loop().time()
    for seat in [*worker.seats.values()]:
        if not seat.is_heard and now > seat.began_at + patience.unheard_s:
            worker.give_up(seat, f"the agent did not begin within {patience.unheard_s:g} s")
    if not worker.launch.ping or now < worker.heard_at + patience.silent_s:
        return
    if worker.pinged_at <= worker.heard_at:  # equal where the answer came at once, by a clock of whole milliseconds
        worker.ping()
    elif now > worker.pinged_at + patience.answers_within_s:
        worker.fail(f"the agent's process hangs: it gave no sign of life within {patience.answers_within_s:g} s")
