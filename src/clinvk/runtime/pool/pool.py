"""Which process carries a run: one that carries others too, one that was started ahead, or a fresh one that is kept.

Of a profile that is in use there is always a process ready, and more where more were asked for of late; what is idle
for long goes, and so does what was used least recently where the limits are reached. A process in doubt takes no more
runs. Where nothing can be kept a run gets a process of its own, as without a pool.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from math import inf
from typing import Self

from clinvk.backends.base import Launch
from clinvk.config.model import WarmSettings
from clinvk.runtime.pool.reaper import MIB, Upkeep, record_fingerprint
from clinvk.runtime.pool.worker import Held, PooledProcess, Worker
from clinvk.runtime.pool.worker_key import MOST_HELD, Patience, Profile, Wanted, best, can_begin
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import finished
from clinvk.runtime.runs import Kept, Warm
from clinvk.types.session import Resume

_LATE_S = 0.2
"""How late a tool may begin after its run was stopped: between fork and exec it cannot be told from the CLI."""


class Pool:
    """The kept processes of one clinvk. Enter it to keep any; `patience` is for those that say nothing."""

    def __init__(self, spawner: Spawner, settings: WarmSettings) -> None:
        self._spawner = spawner
        self._settings = settings
        self.patience = Patience()
        self._upkeep = Upkeep(spawner, settings, self.patience)
        self._stock = self._upkeep.stock
        self._tending: asyncio.Task[None] | None = None
        self._hits: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        await self._stock.__aenter__()
        self._tending = asyncio.create_task(self._upkeep.tend())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all of them; the runs that they carried are over."""
        if self._tending:
            self._tending.cancel()
            await asyncio.wait([self._tending])
        await self._stock.__aexit__()

    @property
    def standing(self) -> Warm:
        """What there is at this moment."""
        backends = {name: self._standing_of(name) for name in self._settings.kept_backends}
        every = backends.values()
        return Warm(
            processes=sum(kept.processes for kept in every),
            ready=sum(kept.ready for kept in every),
            runs=sum(kept.runs for kept in every),
            hits=sum(kept.hits for kept in every),
            misses=sum(kept.misses for kept in every),
            memory_bytes=sum(kept.memory_bytes for kept in every),
            backends=backends,
            slots=self._settings.max_processes,
            memory_limit_bytes=self._settings.max_memory_mb * MIB,
        )

    def _standing_of(self, backend: str) -> Kept:
        profiles = [profile for profile in self._stock.profiles.values() if profile.wanted.backend.name == backend]
        workers = [worker for profile in profiles for worker in profile.workers]
        return Kept(
            processes=len(workers),
            ready=sum(worker.is_ready and worker.room > 0 and can_begin(worker) for worker in workers),
            runs=sum(len(worker.seats) for worker in workers),
            hits=self._hits[backend],
            misses=self._misses[backend],
            memory_bytes=sum(worker.memory for worker in workers),
        )

    async def admit(
        self, wanted: Wanted, resume: Resume | None, turns: int, run: str, wake: Callable[[], None]
    ) -> PooledProcess | None:
        """Find a seat for a run, whose session has had so many `turns`; None: it gets a process of its own."""
        profile = await self._stock.profile(wanted)
        profile.take(begins=resume is None)
        self._upkeep.look_soon()
        worker = await self._standing_by(profile, resume, turns)
        if worker:
            self._hits[wanted.backend.name] += 1
        else:
            self._misses[wanted.backend.name] += 1
            worker = self._fresh(profile, wanted.launch, resume)
        if worker is None:
            return None
        seat = worker.admit(run, wake)
        try:
            if resume and not resume.fork:
                await self.forget(resume.handle, worker)
            await worker.opened.wait()
            async with worker.ending_tools:
                pass
        except BaseException:
            worker.leave(run)
            raise
        if worker.is_up:
            return seat
        worker.leave(run)
        return None

    async def release(self, seat: PooledProcess, turns: int, *, trusted: bool, kept: bool) -> None:
        """Take a seat back from a run that is over; its session has had so many `turns`, and may go on if `kept`.

        One that is not `trusted` takes no more runs, and what the run left at work in it is ended.
        """
        worker = seat.worker
        if not seat.is_over:
            worker.stop(seat.run)
        is_done = worker.channel.capacity == 1 and not (kept and seat.conversation)
        if not trusted or is_done or worker.served + 1 >= worker.launch.most_runs:
            worker.retire()
        if trusted and seat.is_over and (profile := self._stock.profile_of(worker)):
            profile.failures = 0
            worker.is_proven = True
        try:
            await self._end_tools(seat, trusted=trusted)
        finally:
            worker.leave(seat.run)
            if worker.is_retiring and not worker.seats:
                await finished(self._stock.ended(worker, patient=trusted))
            elif seat.conversation:
                await self._keep(worker, seat.conversation, turns, kept=kept)
            self._upkeep.wake()

    async def _end_tools(self, seat: PooledProcess, *, trusted: bool) -> None:
        """End what a run has left at work in a process that goes on, as far as it can be told from that of others."""
        worker = seat.worker
        is_alone = len(worker.seats) == 1
        if not worker.is_up or not (seat.has_used_tools or worker.has_leavings or not trusted):
            return
        if worker.is_retiring and is_alone:
            return  # it ends with all that came of it
        if not (seat.tools or is_alone):
            worker.has_leavings = True
            return
        worker.has_leavings = worker.has_leavings and not is_alone
        async with nullcontext() if seat.tools else worker.ending_tools:
            await finished(self._spawner.end_tools(worker.process, seat.tools))
            if not trusted:  # a tool was perhaps about to begin when the run was stopped
                await asyncio.sleep(_LATE_S)
                await finished(self._spawner.end_tools(worker.process, seat.tools))

    async def _keep(self, worker: Worker, conversation: str, turns: int, *, kept: bool) -> None:
        """Hold a conversation for its next turn, of those that nobody else can go on with only the latest."""
        if not kept:
            await worker.left_to_others(conversation)
            return
        worker.held[conversation] = Held(time.monotonic(), turns)
        if worker.launch.takes_up == "asked" and len(worker.held) > MOST_HELD:
            worker.let_go(min(worker.held, key=lambda handle: worker.held[handle].since))

    def distrust(self, seat: PooledProcess, why: str, *, speaks: bool = True) -> None:
        """A process did not do what it should: it takes no more runs, and its like is not started again at once.

        Where it does not speak its protocol, none is until another run asks for one.
        """
        seat.worker.retire()
        if profile := self._stock.profile_of(seat.worker):
            profile.blame(seat.worker, why)
            if not speaks:
                profile.taken_at = -inf

    async def forget(self, handle: str, but: Worker | None = None) -> None:
        """A conversation goes on elsewhere: what another process knows of it is out of date.

        One that keeps it from others has let go of it then, or is gone.
        """
        for worker in (*self._stock.workers, *self._stock.leaving):
            if worker is but:
                continue
            if worker.held.pop(handle, None) and worker.channel.capacity == 1:
                worker.retire()
                self._upkeep.wake()
            await worker.left_to_others(handle)

    async def prestart(self, wanted: Wanted) -> None:
        """Start a process before any run asks for one, and have one be there as if one had."""
        profile = await self._stock.profile(wanted)
        profile.take(begins=True)
        self._upkeep.look_soon()
        if worker := self._fresh(profile, wanted.launch, None):
            await worker.opened.wait()

    async def _standing_by(self, profile: Profile, resume: Resume | None, turns: int) -> Worker | None:
        """Find one that is up, and can take the conversation."""
        if resume and not resume.fork and (holder := await self._holder(profile, resume.handle, turns)):
            return holder
        if resume and profile.wanted.launch.takes_up != "asked":
            return None
        return best(worker for worker in profile.workers if worker.room and can_begin(worker))

    async def _holder(self, profile: Profile, handle: str, turns: int) -> Worker | None:
        holder = next((worker for worker in profile.workers if worker.room and handle in worker.held), None)
        if holder is None:
            return None
        held = holder.held[handle]
        known = held.fingerprint
        if turns != held.turns or (known is not None and known != await record_fingerprint(profile, handle)):
            await self.forget(handle)  # somebody else went on with it
            return None
        return holder if holder.room and handle in holder.held else None

    def _fresh(self, profile: Profile, launch: Launch, resume: Resume | None) -> Worker | None:
        """Start one, where one may be."""
        if resume and launch.takes_up == "held":
            return None
        if time.monotonic() < profile.not_before or not self._settings.max_processes:
            return None
        if profile.is_shared and not self._upkeep.make_room(profile, self._stock.idle):
            return None
        return self._stock.open(profile, launch)
