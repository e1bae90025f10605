"""The kept processes that there are: how they are started, and how they are ended."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Self

from msgspec.structs import replace

from clinvk.backends.base import Launch
from clinvk.errors import ClinvkError
from clinvk.runtime import private
from clinvk.runtime.carrier import Carrier
from clinvk.runtime.cleanup import finished
from clinvk.runtime.process import Process, Spawner
from clinvk.runtime.profiles import Profile, Wanted, key, stamp

logger = logging.getLogger(__name__)

_LEAVES_WITHIN_S = 2.0


class Stock:
    """The kept processes, by profile; `leaving` are being ended. `changed` is called when one has gone by itself."""

    def __init__(self, spawner: Spawner, changed: Callable[[], None]) -> None:
        self.profiles: dict[object, Profile] = {}
        self.leaving: set[Carrier] = set()
        self._spawner = spawner
        self._changed = changed
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all of them; the runs that they carried are over."""
        for carrier in self.carriers:
            self.end(carrier)
        await self._group.__aexit__(None, None, None)

    @property
    def carriers(self) -> list[Carrier]:
        """All of them."""
        return [carrier for profile in self.profiles.values() for carrier in profile.carriers]

    @property
    def kept(self) -> list[Carrier]:
        """All but those that are a single run's own as long as it goes."""
        return [carrier for carrier in self.carriers if carrier.channel.capacity > 1 or not carrier.seats]

    @property
    def idle(self) -> list[Carrier]:
        """Those that carry nothing and may, the one that is idle longest first."""
        idle = [carrier for carrier in self.carriers if not carrier.seats and not carrier.is_retiring]
        return sorted(idle, key=lambda carrier: carrier.idle_since)

    def profile(self, wanted: Wanted) -> Profile:
        """Give the profile of what is wanted."""
        own, known = key(wanted), stamp(wanted)
        if own not in self.profiles:
            self.profiles[own] = Profile(wanted, known)
        self.profiles[own].renew(known)
        return self.profiles[own]

    def profile_of(self, carrier: Carrier) -> Profile | None:
        """Give the profile that a process belongs to; None for one that is being ended."""
        return next((profile for profile in self.profiles.values() if carrier in profile.carriers), None)

    def open(self, profile: Profile, launch: Launch) -> Carrier:
        """Begin to start one: it can be sat in at once, and spoken to when it is `opened`."""
        folder = private.PrivateFolder(launch, profile.wanted.env)
        env = dict(profile.wanted.env)
        channel = profile.wanted.backend.channel(launch, replace(profile.wanted.host, env=env))
        carrier = Carrier(launch, channel, folder, lambda: self._told(profile, carrier))
        profile.carriers.append(carrier)
        self._group.create_task(self._start(profile, carrier, env))
        return carrier

    async def _start(self, profile: Profile, carrier: Carrier, env: dict[str, str]) -> None:
        """Start one; `env`, which its channel sees, is made what the process has."""
        wanted, folder, launch = profile.wanted, carrier.folder, carrier.launch
        try:
            await folder.prepare()
            env |= folder.environment()
            carrier.carry(self._spawner.spawn(folder.command(wanted.path), env, launch.cwd, carrier.pump))
        except Exception as exc:
            foreseen = isinstance(exc, ClinvkError | TimeoutError)
            logger.warning("no process of %s can be kept: %s", wanted.path, exc, exc_info=not foreseen)
            profile.blame(carrier, "it could not be started")
            profile.carriers.remove(carrier)
            await folder.clear()
        finally:
            carrier.opened.set()

    def _told(self, profile: Profile, carrier: Carrier) -> None:
        """A process has said something, or is gone."""
        if carrier.is_gone and not carrier.seats and carrier in profile.carriers:
            if not carrier.is_proven:
                profile.blame(carrier, carrier.trouble)
            self._changed()

    def end(self, carrier: Carrier) -> None:
        """Have a process end; it takes no more runs."""
        carrier.retire()
        self._group.create_task(self._end_quietly(carrier))

    async def _end_quietly(self, carrier: Carrier) -> None:
        try:
            await carrier.opened.wait()
            await self.ended(carrier, patient=True)
        except Exception:
            logger.exception("a kept process could not be ended")

    async def ended(self, carrier: Carrier, *, patient: bool) -> None:
        """End a process with all that came of it; if `patient` it may leave by itself first."""
        profile = self.profile_of(carrier)
        if profile is None:
            return
        profile.carriers.remove(carrier)
        self.leaving.add(carrier)
        process = carrier.process
        try:
            if patient:
                await carrier.all_left_to_others()
                process.write(b"", close=True)
                await _exit(process)
        finally:
            carrier.is_gone = True
            await self._spawner.sweep(process)
            await finished(_exit(process))  # the loop that learns of it may end next
            process.discard()
            self.leaving.discard(carrier)
            await carrier.folder.clear()


async def _exit(process: Process) -> None:
    """Wait a while for the exit of a process; what it still says is nobody's."""
    until = time.monotonic() + _LEAVES_WITHIN_S
    while process.exit_code is None and time.monotonic() < until:
        await asyncio.sleep(0.02)
        process.take()
