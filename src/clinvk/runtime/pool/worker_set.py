"""The kept processes that there are: how they are started, and how they are ended."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Self

from msgspec.structs import replace

from clinvk.backends.base import Launch
from clinvk.runtime.pool.worker import Worker
from clinvk.runtime.pool.worker_key import Profile, Wanted, key, program_fingerprint
from clinvk.runtime.process import private_folder
from clinvk.runtime.process.spawn import Process, Spawner
from clinvk.runtime.process.waiting import finished
from clinvk.types.errors import ClinvkError

logger = logging.getLogger(__name__)

_LEAVES_WITHIN_S = 2.0


class Stock:
    """The kept processes, by profile. `changed` is called when one has gone.

    Attributes:
        profiles: by what is equal for all of a profile.
        leaving: those that are being ended, and the profile that each was of.
    """

    def __init__(self, spawner: Spawner, changed: Callable[[], None]) -> None:
        self.profiles: dict[object, Profile] = {}
        self.leaving: dict[Worker, Profile] = {}
        self._spawner = spawner
        self._changed = changed
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all of them; the runs that they carried are over."""
        for worker in self.workers:
            self.end(worker)
        await self._group.__aexit__(None, None, None)

    @property
    def workers(self) -> list[Worker]:
        """All of them."""
        return [worker for profile in self.profiles.values() for worker in profile.workers]

    @property
    def kept(self) -> list[Worker]:
        """All but those that are a single run's own as long as it goes."""
        return [worker for worker in self.workers if worker.channel.capacity > 1 or not worker.seats]

    @property
    def idle(self) -> list[Worker]:
        """Those that carry nothing and may, the one that is idle longest first."""
        idle = [worker for worker in self.workers if not worker.seats and not worker.is_retiring]
        return sorted(idle, key=lambda worker: worker.idle_since)

    async def profile(self, wanted: Wanted) -> Profile:
        """Give the profile of what is wanted. What is on disk is looked at beside the loop: it may be much."""
        own, known = key(wanted), await asyncio.to_thread(program_fingerprint, wanted)
        if own not in self.profiles:
            self.profiles[own] = Profile(wanted, known)
        self.profiles[own].renew(known)
        return self.profiles[own]

    def profile_of(self, worker: Worker) -> Profile | None:
        """Give the profile that a process belongs to; None for one that is being ended."""
        return next((profile for profile in self.profiles.values() if worker in profile.workers), None)

    def open(self, profile: Profile, launch: Launch) -> Worker:
        """Begin to start one: it can be sat in at once, and spoken to when it is `opened`.

        A profile may have been forgotten while somebody was about to ask for this: it is one of `profiles` again.
        """
        profile = self.profiles.setdefault(key(profile.wanted), profile)
        folder = private_folder.PrivateFolder(launch, profile.wanted.env, self._spawner.server)
        env = dict(profile.wanted.env)
        channel = profile.wanted.backend.channel(launch, replace(profile.wanted.host, env=env))
        worker = Worker(launch, channel, folder, lambda: self._told(profile, worker))
        profile.workers.append(worker)
        self._group.create_task(self._start(profile, worker, env))
        return worker

    async def _start(self, profile: Profile, worker: Worker, env: dict[str, str]) -> None:
        """Start one; `env`, which its channel sees, is made what the process has."""
        wanted, folder, launch = profile.wanted, worker.folder, worker.launch
        try:
            await folder.prepare()
            env |= folder.environment()
            command, real = folder.command(wanted.path), launch.cwd or ""
            worker.attach(self._spawner.spawn(command, env, launch.cwd, worker.pump, real=real))
        except Exception as exc:
            foreseen = isinstance(exc, ClinvkError | TimeoutError)
            logger.warning("no process of %s can be kept: %s", wanted.path, exc, exc_info=not foreseen)
            profile.blame(worker, "it could not be started")
            profile.workers.remove(worker)
            self.leaving.pop(worker, None)
            await folder.clear()
        finally:
            worker.opened.set()

    def _told(self, profile: Profile, worker: Worker) -> None:
        """A process has said something, or is gone."""
        if worker.is_gone and not worker.seats and worker in profile.workers:
            if not worker.is_proven:
                profile.blame(worker, worker.trouble)
            self._changed()

    def end(self, worker: Worker) -> None:
        """Have a process end; it takes no more runs."""
        worker.retire()
        profile = self.profile_of(worker)
        if profile is None or worker in self.leaving:
            return
        self.leaving[worker] = profile
        self._group.create_task(self._end_quietly(worker))

    async def _end_quietly(self, worker: Worker) -> None:
        try:
            await worker.opened.wait()
            await self.ended(worker, patient=True)
        except Exception:
            logger.exception("a kept process could not be ended")

    async def ended(self, worker: Worker, *, patient: bool) -> None:
        """End a process with all that came of it; if `patient` it may leave by itself first, unless it was given up."""
        profile = self.profile_of(worker)
        if profile is None:
            return
        profile.workers.remove(worker)
        self.leaving[worker] = profile
        process = worker.process
        try:
            if patient and worker.is_up:
                await worker.all_left_to_others()
                process.write(b"", close=True)
                await _exit(process)
        finally:
            worker.close()
            try:
                await self._spawner.sweep(process)
                await finished(_exit(process))  # the loop that learns of it may end next
            finally:
                del self.leaving[worker]
                self._changed()
                await worker.folder.clear()


async def _exit(process: Process) -> None:
    """Wait a while for the exit of a process; what it still says is nobody's."""
    until = time.monotonic() + _LEAVES_WITHIN_S
    while process.exit_code is None and time.monotonic() < until:
        await asyncio.sleep(0.02)
        process.take()
