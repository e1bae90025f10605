"""Which process carries a run: one that carries others too, one that was started ahead, or a fresh one that is kept.

Of a profile that is in use there is always a process ready, and more where more were asked for of late; what is idle
for long goes, and so does what was used least recently where the limits are reached. A process in doubt takes no more
runs. Where nothing can be kept a run gets a process of its own, as without a pool.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Self

from clinvk.backends.base import Launch
from clinvk.config import WarmSettings
from clinvk.kept import Kept, Warm
from clinvk.runtime.carrier import CarriedSeat, Carrier, Held
from clinvk.runtime.cleanup import finished
from clinvk.runtime.health import Patience
from clinvk.runtime.process import Spawner
from clinvk.runtime.profiles import MOST_HELD, Profile, Wanted, best, can_begin
from clinvk.runtime.upkeep import MIB, Upkeep, stamp_of
from clinvk.session import Resume

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
        carriers = [carrier for profile in profiles for carrier in profile.carriers]
        return Kept(
            processes=len(carriers),
            ready=sum(carrier.is_ready and carrier.room > 0 and can_begin(carrier) for carrier in carriers),
            runs=sum(len(carrier.seats) for carrier in carriers),
            hits=self._hits[backend],
            misses=self._misses[backend],
            memory_bytes=sum(carrier.memory for carrier in carriers),
        )

    async def seat(
        self, wanted: Wanted, resume: Resume | None, run: str, wake: Callable[[], None]
    ) -> CarriedSeat | None:
        """Find a seat for a run; None: it gets a process of its own."""
        profile = self._stock.profile(wanted)
        profile.take(begins=resume is None)
        self._upkeep.look_soon()
        carrier = await self._standing_by(profile, resume)
        if carrier:
            self._hits[wanted.backend.name] += 1
        else:
            self._misses[wanted.backend.name] += 1
            carrier = self._fresh(profile, wanted.launch, resume)
        if carrier is None:
            return None
        seat = carrier.sit(run, wake)
        try:
            if resume and not resume.fork:
                await self.forget(resume.handle, carrier)
            await carrier.opened.wait()
        except BaseException:
            carrier.leave(run)
            raise
        if carrier.is_up:
            return seat
        carrier.leave(run)
        return None

    async def left(self, seat: CarriedSeat, *, trusted: bool, kept: bool) -> None:
        """Take a seat back from a run that is over. `kept` is whether its conversation may go on.

        One that is not `trusted` takes no more runs, and what the run left at work in it is ended.
        """
        carrier = seat.carrier
        if not seat.is_over:
            carrier.stop(seat.run)
        is_done = carrier.channel.capacity == 1 and not (kept and seat.conversation)
        if not trusted or is_done or carrier.served + 1 >= carrier.launch.most_runs:
            carrier.retire()
        if trusted and (profile := self._stock.profile_of(carrier)):
            profile.failures = 0
            carrier.is_proven = True
        try:
            await self._end_tools(seat, trusted=trusted)
        finally:
            carrier.leave(seat.run)
            if carrier.is_retiring and not carrier.seats:
                await finished(self._stock.ended(carrier, patient=trusted))
            elif seat.conversation:
                await self._keep(carrier, seat.conversation, kept=kept)
            self._upkeep.wake()

    async def _end_tools(self, seat: CarriedSeat, *, trusted: bool) -> None:
        """End what a run has left at work in a process that goes on, as far as it can be told from that of others."""
        carrier = seat.carrier
        is_alone = len(carrier.seats) == 1
        if not carrier.is_up or not (seat.has_used_tools or carrier.has_leavings or not trusted):
            return
        if carrier.is_retiring and is_alone:
            return  # it ends with all that came of it
        if not (seat.tools or is_alone):
            carrier.has_leavings = True
            return
        carrier.has_leavings = carrier.has_leavings and not is_alone
        await finished(self._spawner.end_tools(carrier.process, seat.tools))
        if not trusted:  # a tool was perhaps about to begin when the run was stopped
            await asyncio.sleep(_LATE_S)
            await finished(self._spawner.end_tools(carrier.process, seat.tools))

    async def _keep(self, carrier: Carrier, conversation: str, *, kept: bool) -> None:
        """Hold a conversation for its next turn, of those that nobody else can go on with only the latest."""
        if not kept:
            await carrier.left_to_others(conversation)
            return
        carrier.held[conversation] = Held(time.monotonic())
        if carrier.launch.takes_up == "asked" and len(carrier.held) > MOST_HELD:
            carrier.let_go(min(carrier.held, key=lambda handle: carrier.held[handle].since))

    def distrust(self, seat: CarriedSeat, why: str, *, speaks: bool = True) -> None:
        """A process did not do what it should: it takes no more runs, and its like is not started again at once.

        Where it does not speak its protocol, none is until another run asks for one.
        """
        seat.carrier.retire()
        if profile := self._stock.profile_of(seat.carrier):
            profile.blame(seat.carrier, why)
            if not speaks:
                profile.taken_at = -inf

    async def forget(self, handle: str, but: Carrier | None = None) -> None:
        """A conversation goes on elsewhere: what another process knows of it is out of date."""
        for carrier in self._stock.carriers:
            if carrier is but:
                continue
            if carrier.held.pop(handle, None) and carrier.channel.capacity == 1:
                carrier.retire()
                self._upkeep.wake()
            await carrier.left_to_others(handle)

    async def prestart(self, wanted: Wanted) -> None:
        """Start a process before any run asks for one, and have one be there as if one had."""
        profile = self._stock.profile(wanted)
        profile.take(begins=True)
        self._upkeep.look_soon()
        if carrier := self._fresh(profile, wanted.launch, None):
            await carrier.opened.wait()

    async def _standing_by(self, profile: Profile, resume: Resume | None) -> Carrier | None:
        """Find one that is up, and can take the conversation."""
        if resume and not resume.fork and (holder := await self._holder(profile, resume.handle)):
            return holder
        if resume and profile.wanted.launch.takes_up != "asked":
            return None
        return best(carrier for carrier in profile.carriers if carrier.room and can_begin(carrier))

    async def _holder(self, profile: Profile, handle: str) -> Carrier | None:
        holder = next((carrier for carrier in profile.carriers if carrier.room and handle in carrier.held), None)
        if holder is None:
            return None
        known = holder.held[handle].stamp
        if known is not None and known != await stamp_of(profile, handle):
            await self.forget(handle)  # somebody else went on with it
            return None
        return holder if holder.room and handle in holder.held else None

    def _fresh(self, profile: Profile, launch: Launch, resume: Resume | None) -> Carrier | None:
        """Start one, where one may be."""
        if resume and launch.takes_up == "held":
            return None
        if time.monotonic() < profile.not_before or not self._settings.max_processes:
            return None
        if profile.is_shared and not self._upkeep.make_room(profile):
            return None
        return self._stock.open(profile, launch)
