"""The reaper: keep workers healthy, within the limits on number and memory, and ready for future runs."""

import asyncio
import logging
import os
import time
from collections.abc import Collection, Sequence
from math import inf

import msgspec

from clinvk.config.model import WarmSettings
from clinvk.runtime.pool.file_fingerprints import Fingerprint, fingerprint
from clinvk.runtime.pool.worker import Worker
from clinvk.runtime.pool.worker_set import WorkerGroup, WorkerSet, can_begin
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import WakeUp

logger = logging.getLogger(__name__)

MIB = 1024 * 1024

_REPLACE_AT = 0.8
"""The share of a worker's maximum runs after which another worker is made ready."""

_MAX_GROWTH = 4
"""A process is retired when its memory exceeds the first measurement by this factor."""

_RECENT_S = 2.0
"""Time window; the number of runs inside the window decides the number of spares."""

_FORGET_GROUP_S = 10.0
"""How long an empty group is remembered after other groups were used."""

_SETTLES_S = 1.0
"""How long a CLI may take to write a turn to the conversation record."""

_HOLDS_S = 5.0
"""How long a process keeps a conversation open exclusively."""

_YOUNG_S = 10.0
"""The age up to which a process may grow freely."""

_UNKNOWN_BYTES = 300 * MIB
"""The expected memory of a process before any process of the backend was measured."""

_TICK_S = 1.0
_MEASURE_INTERVAL_S = 0.9
_POLL_INTERVAL_S = 10.0
"""Interval of the checks while all workers are idle."""

_READY_TIMEOUT_S = 60.0


class HealthTimeouts(msgspec.Struct, kw_only=True):
    """Time limits for a worker.

    Attributes:
        begin_timeout_s: until the process has begun a run, while working on other runs.
        silence_s: until a silent process is pinged.
        ping_timeout_s: until the process answers the ping.
    """

    begin_timeout_s: float = 60.0
    silence_s: float = 30.0
    ping_timeout_s: float = 15.0


class Reaper:
    """Ends, retires and starts workers alongside the runs when necessary."""

    def __init__(self, spawner: Spawner, settings: WarmSettings, timeouts: HealthTimeouts) -> None:
        self.worker_set = WorkerSet(spawner, self.wake)
        self._spawner = spawner
        self._settings = settings
        self._timeouts = timeouts
        self._limit = settings.max_memory_mb * MIB
        self._settled_bytes: dict[str, int] = {}
        self._start_bytes: dict[str, int] = {}
        self._changed = WakeUp()
        self._timer: asyncio.TimerHandle | None = None
        self._checked_at = -inf

    def wake(self) -> None:
        """Wake the reaper now."""
        self._changed.set()

    def check_soon(self) -> None:
        """Wake the reaper within `_TICK_S`."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.wake()

    async def run(self) -> None:
        """Do all pending work, until cancelled."""
        try:
            while True:
                await self._reap()
                if self.worker_set.groups:
                    self.check_soon()
                await self._changed.wait()
        finally:
            if self._timer:
                self._timer.cancel()

    async def _reap(self) -> None:
        try:
            now = time.monotonic()
            for group in [*self.worker_set.groups.values()]:
                await self._maintain(group, now)
            self._forget_groups(now)
            if now >= self._checked_at + (_MEASURE_INTERVAL_S if self._has_changed(now) else _POLL_INTERVAL_S):
                self._checked_at = now
                await self._check_files()
                await self._measure()
            self._enforce_limits()
            self._refill(now)
        except Exception:
            logger.exception("cannot maintain the kept processes")

    def _has_changed(self, now: float) -> bool:
        """Return whether the memory of any worker may have grown since the last look."""
        workers = self.worker_set.workers
        return any(
            worker.handles or worker.idle_since > self._checked_at or _is_young(worker, now) for worker in workers
        )

    def _forget_groups(self, now: float) -> None:
        """Forget empty groups: the latest `max_processes` after `idle_secs`, the others after `_FORGET_GROUP_S`."""
        empty = [(group.last_requested_at, key) for key, group in self.worker_set.groups.items() if not group.workers]
        for rank, (last_requested_at, key) in enumerate(sorted(empty, key=lambda pair: -pair[0])):
            timeout_s = self._settings.idle_secs if rank < self._settings.max_processes else _FORGET_GROUP_S
            if now > last_requested_at + timeout_s:
                del self.worker_set.groups[key]

    async def _check_files(self) -> None:
        """Retire workers whose program or configuration files have changed."""
        groups = [*self.worker_set.groups.values()]
        known = await asyncio.to_thread(lambda: [group.spec.files() for group in groups])
        for group, files in zip(groups, known, strict=True):
            group.renew(files)

    async def _maintain(self, group: WorkerGroup, now: float) -> None:
        """End the finished workers of a group; take fingerprints of the conversations of the remaining workers."""
        for worker in [*group.workers]:
            check_health(worker, self._timeouts)
            if not worker.is_ready and not worker.is_retiring and now > worker.since + _READY_TIMEOUT_S:
                group.blame(worker, f"it was not ready within {_READY_TIMEOUT_S:g} s")
                worker.retire()
            if not worker.handles and self._is_done(worker, now):
                self.worker_set.end(worker)
            elif worker.launch.resumes == "any":
                _release_old(worker, now)
            elif not worker.handles:
                await self._take_fingerprints(group, worker, now)

    def _is_done(self, worker: Worker, now: float) -> bool:
        return worker.is_retiring or worker.is_gone or now > worker.idle_since + self._settings.idle_secs

    async def _take_fingerprints(self, group: WorkerGroup, worker: Worker, now: float) -> None:
        for handle, held in [*worker.held.items()]:
            if held.fingerprint is None and now > held.since + _SETTLES_S:
                fingerprint = await record_fingerprint(group, handle)
                if worker.held.get(handle) == held:
                    worker.held[handle] = held._replace(fingerprint=fingerprint)

    def free_capacity(self, group: WorkerGroup, idle: Sequence[Worker]) -> bool:
        """End idle workers so that one more worker of a group fits; return whether enough becomes free.

        As few of the first `idle` workers as possible are ended; no worker is ended if ending all would not suffice.
        """
        for count in range(len(idle) + 1):
            if self._has_capacity(group, excluding=idle[:count]):
                for worker in idle[:count]:
                    self.worker_set.end(worker)
                return True
        return False

    def _has_capacity(
        self, group: WorkerGroup, *, excluding: Collection[Worker] = (), including: Collection[Worker] = ()
    ) -> bool:
        """Return whether one more worker fits the limits, `excluding` some workers and `including` some others."""
        remaining = [worker for worker in self._remaining if worker not in excluding]
        if len(remaining) >= self._settings.max_processes:
            return False
        used = sum(self._size(worker) for worker in (*remaining, *including))
        return not self._limit or used + self._expected(group) <= self._limit

    @property
    def _remaining(self) -> list[Worker]:
        return [worker for worker in self.worker_set.counted if worker.handles or not worker.is_retiring]

    def _size(self, worker: Worker) -> int:
        """Return the memory of a worker; for a young worker, at least the expected memory."""
        if _is_young(worker, time.monotonic()):
            return max(worker.memory, self._expected(worker.group))
        return max(worker.memory, self._settled_bytes.get(worker.group.backend, 0))

    def _expected(self, group: WorkerGroup) -> int:
        """Return the most memory that a starting worker of a group is likely to use, judging by earlier workers."""
        name = group.backend
        return max(self._settled_bytes.get(name, min(_UNKNOWN_BYTES, self._limit)), self._start_bytes.get(name, 0))

    async def _measure(self) -> None:
        """Measure the memory of the workers; retire a worker that has grown out of proportion."""
        workers = {worker.process.number: worker for worker in self.worker_set.counted if worker.is_up}
        for number, size in (await self._spawner.memory([*workers])).items():
            self._note_size(workers[number], size)

    def _note_size(self, worker: Worker, size: int) -> None:
        worker.memory, backend = size, worker.group.backend
        if _is_young(worker, time.monotonic()) and not worker.past_runs:
            if not worker.handles:  # memory of the runs' descendants is no part of the start
                self._start_bytes[backend] = max(size, self._start_bytes.get(backend, 0))
        elif worker.is_ready:
            if not worker.first_memory:
                worker.first_memory = self._settled_bytes[backend] = size
            if size > _MAX_GROWTH * worker.first_memory > 0:
                worker.retire()

    def _enforce_limits(self) -> None:
        """End the longest idle workers above the limits on number and memory, then retire workers with runs.

        Workers with runs are retired only for measured memory.
        """
        remaining = self._remaining
        count, used = len(remaining), sum(map(self._size, remaining))
        for worker in self.worker_set.idle:
            if count <= self._settings.max_processes and (not self._limit or used <= self._limit):
                return
            count, used = count - 1, used - self._size(worker)
            self.worker_set.end(worker)
        busy = sorted(self._remaining, key=lambda worker: (not worker.is_retiring, worker.idle_since))
        excess = sum(worker.memory for worker in busy) - self._limit if self._limit else 0
        for worker in busy:
            if excess <= 0:
                return
            excess -= worker.memory
            worker.retire()

    def _refill(self, now: float) -> None:
        """Start the wanted spares, in the most recently used group first.

        While one group waits for room, less recently used groups do not take the room.
        """
        for group in sorted(self.worker_set.groups.values(), key=lambda group: -group.last_requested_at):
            is_wanted = now - group.last_requested_at <= self._settings.idle_secs and not group.is_mute
            if not is_wanted or now < group.not_before:
                continue
            ready = sum(1 for worker in group.workers if worker.free_slots and can_begin(worker, _REPLACE_AT))
            while ready < self._spares(group, now) and self._has_capacity(group, including=self.worker_set.ending):
                self.worker_set.open(group, group.launch)
                ready += 1
            if ready < self._spares(group, now):
                idle = self.worker_set.idle if not ready else ()
                replaceable = [worker for worker in idle if self._is_replaceable(worker, group, now)]
                if self.free_capacity(group, replaceable):
                    return

    def _spares(self, group: WorkerGroup, now: float) -> int:
        """Return the wanted number of ready workers.

        Shared groups want one. Groups of one-conversation processes want as many as conversations began recently, at
        least one, or none while the runs keep all processors busy: a spare would then slow the runs down by as much as
        the spare saves.
        """
        if group.is_shared:
            return 1
        working = sum(any(not handle.is_parked for handle in worker.handles.values()) for worker in group.workers)
        if working >= (os.cpu_count() or 1):
            return 0
        return max(1, min(_recent_count(group, now), self._settings.max_processes))

    def _is_replaceable(self, worker: Worker, requester: WorkerGroup, now: float) -> bool:
        """Return whether an idle worker may be ended for a spare of the group `requester`.

        Only the more recently used of two groups may take the other's place, so that groups do not end each other's
        workers in turn. A worker that has just carried a run is likely to be resumed and stays. The exception is a rate
        of new conversations so high that the worker would have to end anyway: without the exception, no new
        conversation would find a spare.
        """
        if worker.group is requester:
            must_end = _recent_count(requester, now) >= self._settings.max_processes
            return bool(worker.past_runs) and (must_end or now - worker.idle_since > _RECENT_S)
        return worker.group.last_requested_at < requester.last_requested_at


def _recent_count(group: WorkerGroup, now: float) -> int:
    return sum(1 for at in group.begin_times if now - at < _RECENT_S)


async def record_fingerprint(group: WorkerGroup, handle: str) -> Fingerprint:
    """Return the fingerprint of the CLI's record of a conversation."""
    spec = group.spec
    return await asyncio.to_thread(lambda: fingerprint(spec.backend.record_files(handle, spec.host), spec.env))


def _release_old(worker: Worker, now: float) -> None:
    """Ask a process to release all conversations held exclusively for longer than `_HOLDS_S`."""
    for handle in [handle for handle, held in worker.held.items() if now > held.since + _HOLDS_S]:
        worker.release_session(handle)


def _is_young(worker: Worker, now: float) -> bool:
    return now < worker.since + _YOUNG_S


def check_health(worker: Worker, timeouts: HealthTimeouts) -> None:
    """Ping a silent process; give up a process or a run that exceeded its time limit."""
    if not worker.is_up or not worker.is_ready or worker.is_paused:
        return
    now = asyncio.get_running_loop().time()
    for handle in [*worker.handles.values()]:
        if not handle.has_begun and now > handle.began_at + timeouts.begin_timeout_s:
            worker.abandon(handle, f"the agent did not begin within {timeouts.begin_timeout_s:g} s")
    if not worker.launch.ping or now < worker.last_output_at + timeouts.silence_s:
        return
    if worker.pinged_at <= worker.last_output_at:  # equal if the answer came at once, on a clock with milliseconds
        worker.ping()
    elif now > worker.pinged_at + timeouts.ping_timeout_s:
        worker.fail(f"the agent's process hangs: it did not answer within {timeouts.ping_timeout_s:g} s")
