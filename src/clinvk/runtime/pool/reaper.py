"""How many processes are kept: what is idle for long goes, what is too much goes, and what is wanted is started."""

import asyncio
import logging
import os
import time
from collections.abc import Collection, Sequence
from math import inf

from clinvk.config.model import WarmSettings
from clinvk.runtime.pool.agent_programs import Fingerprint, fingerprint
from clinvk.runtime.pool.worker import Worker
from clinvk.runtime.pool.worker_key import Patience, Profile, can_begin, look_after, program_fingerprint
from clinvk.runtime.pool.worker_set import Stock
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import Wake

logger = logging.getLogger(__name__)

MIB = 1024 * 1024

_REPLACE_AT = 0.8
"""After this share of the runs that a process serves, another is made ready."""

_GROWN = 4
"""A process that takes so many times what it took at first is not kept."""

_RECENT_S = 2.0
"""Runs that came within this time say how many spares are wanted."""

_LATELY_S = 10.0
"""For so long a kind of run is remembered of which there is no process, and nothing is likely to come."""

_SETTLES_S = 1.0
"""After so long a CLI has written down all of a turn."""

_HOLDS_S = 5.0
"""So long a process keeps a conversation open that nobody else can go on with meanwhile."""

_GROWS_S = 10.0
"""So long after its start a process may grow by itself."""

_UNKNOWN = 300 * MIB
"""What a process is taken to need of whose backend none was measured yet."""

_TICK_S = 1.0
_MEASURE_EVERY_S = 0.9
_LOOK_EVERY_S = 10.0
"""How often it is looked at processes that carry nothing."""

_READY_WITHIN_S = 60.0


class Upkeep:
    """What is done beside the runs, as soon as it is due."""

    def __init__(self, spawner: Spawner, settings: WarmSettings, patience: Patience) -> None:
        self.stock = Stock(spawner, self.wake)
        self._spawner = spawner
        self._settings = settings
        self._patience = patience
        self._limit = settings.max_memory_mb * MIB
        self._typical: dict[str, int] = {}
        self._at_start: dict[str, int] = {}
        self._changed = Wake()
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = -inf

    def wake(self) -> None:
        """Something may be due."""
        self._changed.set()

    def look_soon(self) -> None:
        """Something will be due."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.wake()

    async def tend(self) -> None:
        """Do what is due, until cancelled."""
        try:
            while True:
                await self._keep_up()
                if self.stock.profiles:
                    self.look_soon()
                await self._changed.wait()
        finally:
            if self._timer:
                self._timer.cancel()

    async def _keep_up(self) -> None:
        try:
            now = time.monotonic()
            for profile in [*self.stock.profiles.values()]:
                await self._clear(profile, now)
            self._forget_profiles(now)
            self._bound()
            if now >= self._looked_at + (_MEASURE_EVERY_S if self._has_changed(now) else _LOOK_EVERY_S):
                self._looked_at = now
                await self._look_at_programs()
                await self._bound_memory()
            self._refill(now)
        except Exception:
            logger.exception("kept processes are not tended")

    def _has_changed(self, now: float) -> bool:
        """Say whether any carries runs, has since the last look, or is young: what it takes may be more."""
        workers = self.stock.workers
        return any(worker.seats or worker.idle_since > self._looked_at or _is_young(worker, now) for worker in workers)

    def _forget_profiles(self, now: float) -> None:
        """Forget those without processes: of long ago, and where each run is of another kind all but the latest."""
        empty = [(profile.taken_at, key) for key, profile in self.stock.profiles.items() if not profile.workers]
        for place, (taken_at, key) in enumerate(sorted(empty, key=lambda pair: -pair[0])):
            long_s = self._settings.idle_secs if place < self._settings.max_processes else _LATELY_S
            if now > taken_at + long_s:
                del self.stock.profiles[key]

    async def _look_at_programs(self) -> None:
        """Retire what was started with a program that was replaced since, or has read what was changed."""
        profiles = [*self.stock.profiles.values()]
        known = await asyncio.to_thread(lambda: [program_fingerprint(profile.wanted) for profile in profiles])
        for profile, own in zip(profiles, known, strict=True):
            profile.renew(own)

    async def _clear(self, profile: Profile, now: float) -> None:
        """End what is to go of a profile; remember the records of what is to stay, or leave it to others in time."""
        for worker in [*profile.workers]:
            look_after(worker, self._patience)
            if not worker.is_ready and not worker.is_retiring and now > worker.since + _READY_WITHIN_S:
                profile.blame(worker, f"it was not ready within {_READY_WITHIN_S:g} s")
                worker.retire()
            if not worker.seats and self._is_done(worker, now):
                self.stock.end(worker)
            elif worker.launch.takes_up == "asked":
                _let_go(worker, now)
            elif not worker.seats:
                await self._take_fingerprints(profile, worker, now)

    def _is_done(self, worker: Worker, now: float) -> bool:
        return worker.is_retiring or worker.is_gone or now > worker.idle_since + self._settings.idle_secs

    async def _take_fingerprints(self, profile: Profile, worker: Worker, now: float) -> None:
        for handle, held in [*worker.held.items()]:
            if held.fingerprint is None and now > held.since + _SETTLES_S:
                fingerprint = await record_fingerprint(profile, handle)
                if worker.held.get(handle) == held:
                    worker.held[handle] = held._replace(fingerprint=fingerprint)

    def make_room(self, profile: Profile, idle: Sequence[Worker]) -> bool:
        """Have there be room for one more of a profile once what is being ended has left; say whether there will be.

        If need be the first of what is idle are ended; none where that would not do: they would be started again.
        """
        for count in range(len(idle) + 1):
            if self._has_room(profile, without=idle[:count]):
                for worker in idle[:count]:
                    self.stock.end(worker)
                return True
        return False

    def _has_room(self, profile: Profile, *, without: Collection[Worker] = (), beside: Collection[Worker] = ()) -> bool:
        """Say whether one more of a profile is within the limits, `without` some that are kept or `beside` others."""
        staying = [worker for worker in self._staying if worker not in without]
        if len(staying) >= self._settings.max_processes:
            return False
        taken = sum(self._size(worker) for worker in (*staying, *beside))
        return not self._limit or taken + self._expected(profile) <= self._limit

    @property
    def _staying(self) -> list[Worker]:
        return [worker for worker in self.stock.kept if worker.seats or not worker.is_retiring]

    def _size(self, worker: Worker) -> int:
        """Give what a process takes; one that has just started, what it will."""
        profile = self.stock.profile_of(worker) or self.stock.leaving[worker]
        if _is_young(worker, time.monotonic()):
            return max(worker.memory, self._expected(profile))
        return max(worker.memory, self._typical.get(profile.wanted.backend.name, 0))

    def _expected(self, profile: Profile) -> int:
        """Give what a process of a profile is likely to take at most while it starts: as much as one before it."""
        name = profile.wanted.backend.name
        return max(self._typical.get(name, min(_UNKNOWN, self._limit)), self._at_start.get(name, 0))

    def _bound(self) -> None:
        """End what is idle longest while there are too many, or they take too much as far as is known."""
        staying = self._staying
        count, taken = len(staying), sum(map(self._size, staying))
        for worker in self.stock.idle:
            if count <= self._settings.max_processes and (not self._limit or taken <= self._limit):
                return
            count, taken = count - 1, taken - self._size(worker)
            self.stock.end(worker)

    async def _bound_memory(self) -> None:
        """End what is idle longest while all take too much; what has seats takes no more runs."""
        workers = {worker.process.number: worker for worker in self.stock.kept if worker.is_up}
        sizes = await self._spawner.memory([*workers])
        for number, size in sizes.items():
            self._note_size(workers[number], size)
        over = sum(sizes.values()) - self._limit if self._limit else 0
        for worker in sorted(workers.values(), key=lambda worker: (bool(worker.seats), worker.idle_since)):
            if over <= 0:
                return
            over -= worker.memory
            worker.retire()
            if not worker.seats:
                self.stock.end(worker)

    def _note_size(self, worker: Worker, size: int) -> None:
        """Take what a process takes; one that has grown out of proportion takes no more runs."""
        worker.memory = size
        profile = self.stock.profile_of(worker)
        if _is_young(worker, time.monotonic()) and not worker.served:
            if profile and not worker.seats:  # what runs have begun in it is no part of its start
                name = profile.wanted.backend.name
                self._at_start[name] = max(size, self._at_start.get(name, 0))
            return
        if not worker.is_ready:
            return
        if profile and not worker.memory_at_first:
            worker.memory_at_first = self._typical[profile.wanted.backend.name] = size
        if size > _GROWN * worker.memory_at_first > 0:
            worker.retire()

    def _refill(self, now: float) -> None:
        """Start what is wanted and is not there, one after another, the profile used last first.

        While room is being made for one, what is wanted less does not take it.
        """
        for profile in sorted(self.stock.profiles.values(), key=lambda profile: -profile.taken_at):
            if now - profile.taken_at > self._settings.idle_secs or now < profile.not_before:
                continue
            there = sum(1 for worker in profile.workers if worker.room and can_begin(worker, _REPLACE_AT))
            while there < self._spares(profile, now) and self._has_room(profile, beside=self.stock.leaving):
                self.stock.open(profile, profile.launch)
                there += 1
            if there < self._spares(profile, now) and self._waits(profile, now, may_take=not there):
                return

    def _waits(self, profile: Profile, now: float, *, may_take: bool) -> bool:
        """Say whether there will be room for a spare; where it `may_take` one, in the place of what is wanted less."""
        if not may_take:
            return self._has_room(profile)
        return self.make_room(profile, [worker for worker in self.stock.idle if self._is_fallow(worker, profile, now)])

    def _spares(self, profile: Profile, now: float) -> int:
        """Give how many are to be ready: one, or for processes of one conversation as many as began of late.

        While there are runs enough to keep all processors at work, a spare would only take from them what it gives.
        """
        if profile.is_shared:
            return 1
        if sum(bool(worker.seats) for worker in profile.workers) >= (os.cpu_count() or 1):
            return 0
        return max(1, min(_begun_lately(profile, now), self._settings.max_processes))

    def _is_fallow(self, worker: Worker, wanting: Profile, now: float) -> bool:
        """Say whether a spare of a profile may take the place of an idle process.

        Of two profiles only the one that was used last may; so that they do not end each other's in turn. A process
        that has just carried a run is likely to be asked to go on, unless so many conversations begin that it would
        have to go for one of theirs: else each of those would be started for, and none ever find one ready.
        """
        profile = self.stock.profile_of(worker)
        if profile is wanting:
            would_go = _begun_lately(wanting, now) >= self._settings.max_processes
            return bool(worker.served) and (would_go or now - worker.idle_since > _RECENT_S)
        assert profile  # of what is idle nothing is being ended
        return profile.taken_at < wanting.taken_at


def _begun_lately(profile: Profile, now: float) -> int:
    return sum(1 for at in profile.begun if now - at < _RECENT_S)


async def record_fingerprint(profile: Profile, handle: str) -> Fingerprint:
    """Look at the record that a CLI keeps of a conversation."""
    wanted = profile.wanted
    return await asyncio.to_thread(lambda: fingerprint(wanted.backend.records(handle, wanted.host), wanted.env))


def _let_go(worker: Worker, now: float) -> None:
    """Have a process leave to others what they could not go on with until then."""
    for handle in [handle for handle, held in worker.held.items() if now > held.since + _HOLDS_S]:
        worker.let_go(handle)


def _is_young(worker: Worker, now: float) -> bool:
    return now < worker.since + _GROWS_S
