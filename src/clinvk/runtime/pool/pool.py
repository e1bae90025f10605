"""The pool: find the warm worker that carries a run.

A run goes to a running worker, to a spare that was started ahead, or to a new worker that is kept afterwards. If no
worker can be kept, the run gets its own process, as without a pool.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Self

import msgspec
from msgspec.structs import asdict

from clinvk.backends.base import Launch
from clinvk.config.model import WarmSettings
from clinvk.runtime.pool.pooled_process import PooledProcess
from clinvk.runtime.pool.reaper import MIB, HealthTimeouts, Reaper, record_fingerprint
from clinvk.runtime.pool.worker import HeldConversation, Worker
from clinvk.runtime.pool.worker_set import MAX_HELD, WorkerGroup, WorkerSpec, best_worker, can_begin
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.types.record import Resume

_LATE_TOOL_DELAY_S = 0.2
"""Delay in which a stopped run's tool may still appear: between fork and exec a tool looks like the CLI."""


class PoolStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of warm processes now.

    Attributes:
        processes: the warm processes.
        ready: the processes among them that can take a run without a session at once.
        runs: the runs in the processes.
        hits, misses: the runs that found a process, and the runs that did not.
        memory_bytes: the memory of the processes, as last measured.
    """

    processes: int
    ready: int
    runs: int
    hits: int
    misses: int
    memory_bytes: int

    @property
    def memory_mb(self) -> int:
        """The memory of the processes in MiB."""
        return self.memory_bytes // 1024**2


class WarmStats(PoolStats, frozen=True, kw_only=True):
    """Counts of all warm processes, and of each backend that may be kept warm; `memory_limit_bytes` 0 means no limit.

    `one_shot` lists backends whose last process did not speak its protocol, so that each run has its own process.
    """

    backends: Mapping[str, PoolStats]
    one_shot: tuple[str, ...] = ()
    slots: int
    memory_limit_bytes: int


class Pool:
    """The warm workers of one clinvk. Enter the pool to keep workers; `timeouts` limit a silent worker."""

    def __init__(self, spawner: Spawner, settings: WarmSettings) -> None:
        self._spawner = spawner
        self._settings = settings
        self.timeouts = HealthTimeouts()
        self._reaper = Reaper(spawner, settings, self.timeouts)
        self._worker_set = self._reaper.worker_set
        self._reaping: asyncio.Task[None] | None = None
        self._hits: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        await self._worker_set.__aenter__()
        self._reaping = asyncio.create_task(self._reaper.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all workers; call after the last run."""
        if self._reaping:
            self._reaping.cancel()
            await asyncio.wait([self._reaping])
        await self._worker_set.__aexit__()

    @property
    def stats(self) -> WarmStats:
        """The current counts and memory of the workers."""
        groups = self._worker_set.groups.values()
        names = tuple(dict.fromkeys((*self._settings.kept_backends, *(group.backend for group in groups))))
        mute = {group.backend for group in groups if group.is_mute}
        return WarmStats(
            **asdict(self._stats_of(*names)),
            backends={name: self._stats_of(name) for name in names},
            one_shot=tuple(sorted(mute)),
            slots=self._settings.max_processes,
            memory_limit_bytes=self._settings.max_memory_mb * MIB,
        )

    def _stats_of(self, *backends: str) -> PoolStats:
        workers = [worker for worker in self._worker_set.workers if worker.group.backend in backends]
        return PoolStats(
            processes=len(workers),
            ready=sum(worker.is_ready and worker.free_slots > 0 and can_begin(worker) for worker in workers),
            runs=sum(len(worker.handles) for worker in workers),
            hits=sum(self._hits[backend] for backend in backends),
            misses=sum(self._misses[backend] for backend in backends),
            memory_bytes=sum(worker.memory for worker in workers),
        )

    async def admit(
        self, spec: WorkerSpec, resume: Resume | None, turns: int, run: str, wake: Callable[[], None]
    ) -> PooledProcess | None:
        """Return a handle on a worker for a run, or None; the run's session has had `turns` turns."""
        group = await self._worker_set.group(spec)
        group.record_request(begins=resume is None)
        self._reaper.check_soon()
        worker = await self._free_worker(group, resume, turns)
        if worker:
            self._hits[group.backend] += 1
        else:
            self._misses[group.backend] += 1
            worker = self._new_worker(group, spec.launch, resume)
        if worker is None:
            return None
        handle = worker.admit(run, wake)
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
            return handle
        worker.leave(run)
        return None

    async def release(self, handle: PooledProcess, turns: int, *, trusted: bool, keep: bool) -> None:
        """Take a worker back after a run. The session has had `turns` turns, and stays open if `keep`.

        A worker that is not `trusted` is retired, and the run's leftover tools in the worker are killed.
        """
        worker = handle.worker
        if not handle.is_over:
            handle.interrupt()
        is_done = worker.channel.capacity == 1 and not (keep and handle.conversation)
        if not trusted or is_done or worker.past_runs + 1 >= worker.launch.max_runs:
            worker.retire()
        if trusted and handle.is_over:
            worker.group.failures, worker.group.is_mute = 0, False
            worker.is_proven = True
        try:
            await self._end_tools(handle, trusted=trusted)
        finally:
            worker.leave(handle.run)
            if worker.is_retiring and not worker.handles:
                await finish_shielded(self._worker_set.end_and_wait(worker, graceful=trusted))
            elif handle.conversation:
                await self._keep(worker, handle.conversation, turns, keep=keep)
            self._reaper.wake()

    async def _end_tools(self, handle: PooledProcess, *, trusted: bool) -> None:
        """Kill the leftover tools of a run in a surviving process if the tools can be told from other runs' tools."""
        worker = handle.worker
        is_alone = len(worker.handles) == 1
        if not worker.is_up or not (handle.has_used_tools or worker.has_leftover_tools or not trusted):
            return
        if worker.is_retiring and is_alone:
            return  # the process ends with all its descendants
        if not (handle.tools or is_alone):
            worker.has_leftover_tools = True
            return
        worker.has_leftover_tools = worker.has_leftover_tools and not is_alone
        async with nullcontext() if handle.tools else worker.ending_tools:
            await finish_shielded(self._spawner.end_tools(worker.process, handle.tools))
            if not trusted:  # a tool may have been starting when the run was stopped
                await asyncio.sleep(_LATE_TOOL_DELAY_S)
                await finish_shielded(self._spawner.end_tools(worker.process, handle.tools))

    async def _keep(self, worker: Worker, conversation: str, turns: int, *, keep: bool) -> None:
        """Keep a conversation for its next turn; keep at most `MAX_HELD` conversations open exclusively."""
        if not keep:
            await worker.release(conversation)
            return
        worker.held[conversation] = HeldConversation(time.monotonic(), turns)
        if worker.launch.resumes == "any" and len(worker.held) > MAX_HELD:
            worker.release_session(min(worker.held, key=lambda handle: worker.held[handle].since))

    def evict(self, handle: PooledProcess, reason: str) -> None:
        """Retire a failed worker, and delay the next start in its group."""
        handle.worker.retire()
        handle.worker.group.blame(handle.worker, reason)

    async def forget(self, handle: str, except_worker: Worker | None = None) -> None:
        """Drop a conversation that is resumed elsewhere from all workers except `except_worker`.

        Afterwards every worker that held the conversation exclusively has released the conversation, or is gone.
        """
        for worker in (*self._worker_set.workers, *self._worker_set.ending):
            if worker is except_worker:
                continue
            if worker.held.pop(handle, None) and worker.channel.capacity == 1:
                worker.retire()
                self._reaper.wake()
            await worker.release(handle)

    async def prestart(self, spec: WorkerSpec) -> None:
        """Start a worker before any run asks for a worker, and keep a worker ready as after a real request."""
        group = await self._worker_set.group(spec)
        group.record_request(begins=True)
        self._reaper.check_soon()
        if worker := self._new_worker(group, spec.launch, None):
            await worker.opened.wait()

    async def _free_worker(self, group: WorkerGroup, resume: Resume | None, turns: int) -> Worker | None:
        """Return a running worker that can take the conversation, or None."""
        if resume and not resume.fork and (holder := await self._holder(group, resume.handle, turns)):
            return holder
        if resume and group.spec.launch.resumes != "any":
            return None
        return best_worker(worker for worker in group.workers if worker.free_slots and can_begin(worker))

    async def _holder(self, group: WorkerGroup, handle: str, turns: int) -> Worker | None:
        holder = next((worker for worker in group.workers if worker.free_slots and handle in worker.held), None)
        if holder is None:
            return None
        held = holder.held[handle]
        fingerprint = held.fingerprint
        if turns != held.turns or (fingerprint is not None and fingerprint != await record_fingerprint(group, handle)):
            await self.forget(handle)  # the conversation was resumed elsewhere
            return None
        return holder if holder.free_slots and handle in holder.held else None

    def _new_worker(self, group: WorkerGroup, launch: Launch, resume: Resume | None) -> Worker | None:
        """Start a worker, unless the limits or earlier failures forbid a start."""
        if resume and launch.resumes == "held":
            return None
        if time.monotonic() < group.not_before or not self._settings.max_processes:
            return None
        if group.is_shared and not self._reaper.free_capacity(group, self._worker_set.idle):
            return None
        return self._worker_set.open(group, launch)
