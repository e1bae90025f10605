"""Which process carries a run: one that carries others too, one that was started ahead, or a fresh one that is kept.

Processes are as good as each other where all that is fixed at their start is equal: that is their profile. Of a profile
that is in use there is always one ready, and more where more were asked for of late; what is idle for long goes, and so
does what was used least recently where the limits are reached. A process in doubt takes no more runs. Where nothing can
be kept a run gets a process of its own, as without a pool.
"""

import asyncio
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, Self

import msgspec

from clinvk.backends.base import Backend, Host, Launch
from clinvk.config import WarmSettings
from clinvk.errors import ClinvkError
from clinvk.runtime import private
from clinvk.runtime.carrier import CarriedSeat, Carrier, Held, Stamp
from clinvk.runtime.cleanup import finished
from clinvk.runtime.process import Spawner
from clinvk.runtime.wake import Wake
from clinvk.session import Resume

logger = logging.getLogger(__name__)

_MOST_RUNS = 100
"""After so many a process goes: what it keeps of each run adds up."""

_REPLACE_AT = 80
"""From so many on another is made ready."""

_GROWN = 4
"""A process that takes so many times what it took at first is not kept."""

_RECENT_S = 2.0
"""Runs that came within this time say how many spares are wanted."""

_SETTLES_S = 1.0
"""After so long a CLI has written down all of a turn."""

_TICK_S = 1.0
_MEASURE_EVERY_S = 5.0
_READY_WITHIN_S = 60.0
_LEAVES_WITHIN_S = 2.0
_DAMPED_AT_MOST_S = 60.0
_MIB = 1024 * 1024


class Wanted(NamedTuple):
    """What a process of a run is started with; `launch` is the launch that stays."""

    backend: Backend
    host: Host
    path: str
    env: Mapping[str, str]
    launch: Launch


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Kept processes at this moment.

    Attributes:
        processes: those that are kept.
        ready: of these, those that a run can go to at once.
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


class Standing(Kept, frozen=True, kw_only=True):
    """All of them, and those of each backend of which any may be kept; `memory_limit_bytes` is 0 for no limit."""

    backends: Mapping[str, Kept]
    slots: int
    memory_limit_bytes: int


class _Profile:
    """All that are as good as each other."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.carriers: list[Carrier] = []
        self.taken: deque[float] = deque(maxlen=64)
        self.failures = 0
        self.not_before = 0.0


class Pool:
    """The kept processes of one clinvk. Enter it to keep any."""

    def __init__(self, spawner: Spawner, settings: WarmSettings) -> None:
        self._spawner = spawner
        self._settings = settings
        self._profiles: dict[object, _Profile] = {}
        self._group = asyncio.TaskGroup()
        self._changed = Wake()
        self._timer: asyncio.TimerHandle | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self._measured_at = 0.0
        self._hits: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._upkeep = self._group.create_task(self._tend())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all of them; the runs that they carried are over."""
        if self._upkeep:
            self._upkeep.cancel()
        if self._timer:
            self._timer.cancel()
        for carrier in self._carriers():
            self._end(carrier)
        await self._group.__aexit__(None, None, None)

    @property
    def standing(self) -> Standing:
        """What there is at this moment."""
        backends = {name: self._standing_of(name) for name in self._settings.kept_backends}
        numbers = [msgspec.structs.asdict(kept) for kept in backends.values()]
        return Standing(
            **{name: sum(of_one[name] for of_one in numbers) for name in Kept.__struct_fields__},
            backends=backends,
            slots=self._settings.max_processes,
            memory_limit_bytes=self._settings.max_memory_mb * _MIB,
        )

    def _standing_of(self, backend: str) -> Kept:
        profiles = [profile for profile in self._profiles.values() if profile.wanted.backend.name == backend]
        carriers = [carrier for profile in profiles for carrier in profile.carriers]
        return Kept(
            processes=len(carriers),
            ready=sum(carrier.is_ready and carrier.room > 0 for carrier in carriers),
            runs=sum(len(carrier.seats) for carrier in carriers),
            hits=self._hits[backend],
            misses=self._misses[backend],
            memory_bytes=sum(carrier.memory for carrier in carriers),
        )

    async def seat(
        self, wanted: Wanted, resume: Resume | None, run: str, wake: Callable[[], None]
    ) -> CarriedSeat | None:
        """Find a seat for a run; None: it gets a process of its own."""
        profile = self._profile(wanted)
        profile.taken.append(time.monotonic())
        self._wake_in(_TICK_S)
        carrier = await self._standing_by(profile, resume)
        if carrier:
            self._hits[wanted.backend.name] += 1
        else:
            self._misses[wanted.backend.name] += 1
            carrier = self._fresh(profile, wanted.launch, resume)
        if carrier is None:
            return None
        seat = carrier.sit(run, wake)
        if resume and not resume.fork:
            self.forget(resume.handle, carrier)
        try:
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
        carrier.leave(seat.run)
        profile = self._profile_of(carrier)
        if seat.conversation and kept and carrier.launch.takes_up != "asked":
            carrier.held[seat.conversation] = Held(time.monotonic())
        is_done = carrier.channel.capacity == 1 and not (kept and seat.conversation)
        if not trusted or is_done or carrier.launch.once or carrier.served >= _MOST_RUNS:
            carrier.retire()
        if trusted and profile:
            profile.failures = 0
        if carrier.is_retiring and not carrier.seats:
            await finished(self._ended(carrier, patient=trusted))
        elif not trusted and seat.tools and carrier.is_up:
            await finished(self._spawner.end_tools(carrier.process, seat.tools))
        self._changed.set()

    def distrust(self, seat: CarriedSeat) -> None:
        """A process did not do what it should: it takes no more runs, and its like is not started again at once."""
        seat.carrier.retire()
        if profile := self._profile_of(seat.carrier):
            self._damp(profile)

    def forget(self, handle: str, but: Carrier | None = None) -> None:
        """A conversation goes on elsewhere: what another process knows of it is out of date."""
        for carrier in self._carriers():
            if carrier is but or not carrier.held.pop(handle, None):
                continue
            if carrier.channel.capacity == 1:
                carrier.retire()
                self._changed.set()

    async def prestart(self, wanted: Wanted) -> None:
        """Start a process before any run asks for one."""
        if carrier := self._fresh(self._profile(wanted), wanted.launch, None):
            await carrier.opened.wait()

    def _profile(self, wanted: Wanted) -> _Profile:
        key = _key(wanted)
        if key not in self._profiles:
            self._profiles[key] = _Profile(wanted)
        return self._profiles[key]

    def _profile_of(self, carrier: Carrier) -> _Profile | None:
        return next((profile for profile in self._profiles.values() if carrier in profile.carriers), None)

    def _carriers(self) -> list[Carrier]:
        return [carrier for profile in self._profiles.values() for carrier in profile.carriers]

    async def _standing_by(self, profile: _Profile, resume: Resume | None) -> Carrier | None:
        """Find one that is up, and can take the conversation."""
        takes_up = profile.wanted.launch.takes_up
        if resume is None:
            return _best(carrier for carrier in profile.carriers if carrier.room and _is_new(carrier))
        if not resume.fork and (holder := await self._holder(profile, resume.handle)):
            return holder
        if takes_up != "asked":
            return None
        return _best(carrier for carrier in profile.carriers if carrier.room and _is_new(carrier))

    async def _holder(self, profile: _Profile, handle: str) -> Carrier | None:
        holder = next((carrier for carrier in profile.carriers if carrier.room and handle in carrier.held), None)
        if holder is None:
            return None
        known = holder.held[handle].stamp
        if known is not None and known != await self._stamp(profile.wanted, handle):
            self.forget(handle)  # somebody else went on with it
            return None
        return holder if holder.room and handle in holder.held else None

    async def _stamp(self, wanted: Wanted, handle: str) -> Stamp:
        return await asyncio.to_thread(lambda: _stamps(wanted.backend.records(handle, wanted.host), wanted.env))

    def _fresh(self, profile: _Profile, launch: Launch, resume: Resume | None) -> Carrier | None:
        """Start one, where one may be."""
        if resume and launch.takes_up == "held":
            return None
        if time.monotonic() < profile.not_before or not self._settings.max_processes:
            return None
        if _is_shared(profile) and not self._makes_room():
            return None
        return self._open(profile, launch)

    def _open(self, profile: _Profile, launch: Launch) -> Carrier:
        """Begin to start one: it can be sat in at once, and spoken to when it is `opened`."""
        folder = private.PrivateFolder(launch, profile.wanted.env)
        channel = profile.wanted.backend.channel(launch)
        carrier = Carrier(launch, channel, folder, lambda: self._told(profile, carrier))
        profile.carriers.append(carrier)
        self._group.create_task(self._start(profile, carrier))
        return carrier

    async def _start(self, profile: _Profile, carrier: Carrier) -> None:
        wanted, folder, launch = profile.wanted, carrier.folder, carrier.launch
        try:
            if folder.is_needed:
                await finished(asyncio.to_thread(folder.write))
            env = {**wanted.env, **{name: folder.filled(value) for name, value in launch.env.items()}}
            argv = [wanted.path, *map(folder.filled, launch.argv[1:])]
            carrier.carry(self._spawner.spawn(argv, env, launch.cwd, carrier.pump))
        except (ClinvkError, TimeoutError) as exc:
            logger.warning("no process of %s can be kept: %s", wanted.path, exc)
            self._damp(profile)
            profile.carriers.remove(carrier)
            if folder.path:
                await finished(asyncio.to_thread(folder.remove))
        finally:
            carrier.opened.set()

    def _told(self, profile: _Profile, carrier: Carrier) -> None:
        """A process has said something, or is gone."""
        if carrier.is_gone and not carrier.seats and carrier in profile.carriers:
            if not carrier.served:
                self._damp(profile)
            self._changed.set()

    def _damp(self, profile: _Profile) -> None:
        profile.failures += 1
        profile.not_before = time.monotonic() + min(_DAMPED_AT_MOST_S, 0.25 * 2.0**profile.failures)
        logger.warning("a kept process of %s failed, %d in a row", profile.wanted.path, profile.failures)

    def _makes_room(self) -> bool:
        """Have there be room for one more, if need be by ending what is idle longest."""
        kept = self._kept()
        if len(kept) < self._settings.max_processes:
            return True
        idle = [carrier for carrier in kept if not carrier.seats and not carrier.is_retiring]
        if not idle:
            return False
        self._end(min(idle, key=lambda carrier: carrier.idle_since))
        return True

    def _wake_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._changed.set()

    async def _tend(self) -> None:
        """Do what is due, for as long as the pool is open."""
        while True:
            try:
                await self._keep_up()
            except Exception:
                logger.exception("kept processes are not tended")
            if self._profiles:
                self._wake_in(_TICK_S)
            await self._changed.wait()

    async def _keep_up(self) -> None:
        now = time.monotonic()
        for key, profile in [*self._profiles.items()]:
            for carrier in [*profile.carriers]:
                if not carrier.seats and self._is_done(carrier, now):
                    self._end(carrier)
                elif not carrier.seats:
                    await self._take_stamps(profile, carrier, now)
            if not profile.carriers and (not profile.taken or now - profile.taken[-1] > self._settings.idle_secs):
                del self._profiles[key]
        self._bound_processes()
        if now >= self._measured_at + _MEASURE_EVERY_S:
            await self._bound_memory()
            self._measured_at = now
        self._refill(now)

    def _is_done(self, carrier: Carrier, now: float) -> bool:
        if carrier.is_retiring or carrier.is_gone:
            return True
        if not carrier.is_ready and now > carrier.since + _READY_WITHIN_S:
            return True
        return now > carrier.idle_since + self._settings.idle_secs

    async def _take_stamps(self, profile: _Profile, carrier: Carrier, now: float) -> None:
        for handle, held in [*carrier.held.items()]:
            if held.stamp is None and now > held.since + _SETTLES_S:
                stamp = await self._stamp(profile.wanted, handle)
                if carrier.held.get(handle) == held:
                    carrier.held[handle] = held._replace(stamp=stamp)

    def _bound_processes(self) -> None:
        idle = [carrier for carrier in self._carriers() if not carrier.seats and not carrier.is_retiring]
        shared = sum(carrier.channel.capacity > 1 and bool(carrier.seats) for carrier in self._carriers())
        for carrier in sorted(idle, key=lambda carrier: carrier.idle_since):
            if len(idle) + shared <= self._settings.max_processes:
                return
            idle.remove(carrier)
            self._end(carrier)

    async def _bound_memory(self) -> None:
        """End what is idle longest while all take too much; what has seats takes no more runs."""
        carriers = {carrier.process.number: carrier for carrier in self._kept() if carrier.is_up}
        sizes = await self._spawner.memory([*carriers])
        for number, size in sizes.items():
            carrier = carriers[number]
            carrier.memory = size
            if carrier.is_ready and not carrier.memory_at_first:
                carrier.memory_at_first = size
            if carrier.memory_at_first and size > _GROWN * carrier.memory_at_first:
                carrier.retire()
        over = sum(sizes.values()) - self._settings.max_memory_mb * _MIB if self._settings.max_memory_mb else 0
        for carrier in sorted(carriers.values(), key=lambda carrier: (bool(carrier.seats), carrier.idle_since)):
            if over <= 0:
                return
            over -= carrier.memory
            carrier.retire()
            if not carrier.seats:
                self._end(carrier)

    def _refill(self, now: float) -> None:
        """Start what is wanted and is not there, one after another, the profile used last first."""
        profiles = [profile for profile in self._profiles.values() if profile.taken]
        for profile in sorted(profiles, key=lambda profile: -profile.taken[-1]):
            if now - profile.taken[-1] > self._settings.idle_secs or now < profile.not_before:
                continue
            there = sum(1 for carrier in profile.carriers if carrier.room and _is_new(carrier, _REPLACE_AT))
            while there < self._spares(profile, now) and self._has_place(profile, now):
                self._open(profile, _without_conversation(profile.wanted.launch))
                there += 1

    def _spares(self, profile: _Profile, now: float) -> int:
        """Give how many are to be ready: one, or for processes of one run as many as came of late.

        While there are runs enough to keep all processors at work, a spare would only take from them what it gives.
        """
        if _is_shared(profile):
            return 1
        if sum(bool(carrier.seats) for carrier in profile.carriers) >= (os.cpu_count() or 1):
            return 0
        recent = sum(1 for at in profile.taken if now - at < _RECENT_S)
        return max(1, min(recent, self._settings.max_processes))

    def _has_place(self, profile: _Profile, now: float) -> bool:
        """Say whether a spare may be started; in the place of what is less likely to be wanted, if need be."""
        kept = self._kept()
        taken = sum(carrier.memory for carrier in kept)
        typical = max((carrier.memory for carrier in kept), default=0)
        if self._settings.max_memory_mb and taken + typical > self._settings.max_memory_mb * _MIB:
            return False
        if len(kept) < self._settings.max_processes:
            return True
        fallow = [carrier for carrier in kept if not carrier.seats and self._is_fallow(carrier, profile, now)]
        if fallow:
            self._end(min(fallow, key=lambda carrier: carrier.idle_since))
        return bool(fallow)

    def _is_fallow(self, carrier: Carrier, wanting: _Profile, now: float) -> bool:
        """Say whether a spare of a profile may take the place of an idle process.

        Of two profiles only the one that was used last may; so that they do not end each other's in turn.
        """
        profile = self._profile_of(carrier)
        if profile is wanting:
            return bool(carrier.served) and now - carrier.idle_since > _RECENT_S
        return profile is None or not profile.taken or profile.taken[-1] < wanting.taken[-1]

    def _kept(self) -> list[Carrier]:
        """Give all but those that are a single run's own as long as it goes."""
        return [carrier for carrier in self._carriers() if carrier.channel.capacity > 1 or not carrier.seats]

    def _end(self, carrier: Carrier) -> None:
        carrier.retire()
        self._group.create_task(self._end_quietly(carrier))

    async def _end_quietly(self, carrier: Carrier) -> None:
        try:
            await carrier.opened.wait()
            await self._ended(carrier, patient=True)
        except Exception:
            logger.exception("a kept process could not be ended")

    async def _ended(self, carrier: Carrier, *, patient: bool) -> None:
        """End a process with all that came of it; if `patient` it may leave by itself first."""
        profile = self._profile_of(carrier)
        if profile is None:
            return
        profile.carriers.remove(carrier)
        process = carrier.process
        try:
            if patient:
                process.write(b"", close=True)
                until = time.monotonic() + _LEAVES_WITHIN_S
                while process.exit_code is None and time.monotonic() < until:
                    await asyncio.sleep(0.02)
                    process.take()
        finally:
            carrier.is_gone = True
            await self._spawner.sweep(process)
            process.discard()
            if carrier.folder.path:
                await finished(asyncio.to_thread(carrier.folder.remove))


def _is_shared(profile: _Profile) -> bool:
    return profile.wanted.launch.takes_up != "started"


def _is_new(carrier: Carrier, most: int = _MOST_RUNS) -> bool:
    """Say whether it can begin a conversation: one that holds a single one, its first."""
    return carrier.served + len(carrier.seats) < (1 if carrier.channel.capacity == 1 else most) and not (
        carrier.channel.capacity == 1 and carrier.launch.continuing
    )


def _best(carriers: Iterable[Carrier]) -> Carrier | None:
    """Give one that is up before one that is just starting, and of those the one with most to do: others can go."""
    return max(carriers, key=lambda carrier: (carrier.is_ready, carrier.served, len(carrier.seats)), default=None)


def _without_conversation(launch: Launch) -> Launch:
    argv = tuple(word for word in launch.argv if word not in launch.continuing)
    return msgspec.structs.replace(launch, argv=argv, continuing=())


def _key(wanted: Wanted) -> object:
    """Give what all that are as good as each other have in common: all that is fixed at their start."""
    launch = _without_conversation(wanted.launch)
    program = _stamps((wanted.path,), wanted.env)
    fixed = (launch.argv, launch.env, launch.cwd, launch.files, launch.links, launch.opening)
    return (
        wanted.path,
        program,
        frozenset(wanted.env.items()),
        msgspec.json.encode(fixed),
        launch.once,
        _stamps(launch.reads, wanted.env),
    )


def _stamps(paths: Collection[str], env: Mapping[str, str]) -> Stamp:
    """Give size and time of change of the files that are there."""
    found: list[tuple[str, int, int]] = []
    for path in paths:
        try:
            status = os.stat(private.at_home(path, env))
        except OSError:
            continue
        found.append((path, status.st_size, status.st_mtime_ns))
    return tuple(found)
