"""The pool: find the warm agent that carries a run.

A run goes to a running agent, to a spare that was started ahead, or to a new agent that is kept afterwards. If no agent
can be kept, the run gets its own process, as without a pool.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from typing import Self

import msgspec
from msgspec.structs import asdict

from clinvk.backends.base import Launch
from clinvk.config.model import WarmSettings
from clinvk.runtime.pool.reaper import MIB, HealthTimeouts, Reaper, record_fingerprint
from clinvk.runtime.pool.run_process import PooledProcess
from clinvk.runtime.pool.warm_agent import HeldConversation, WarmAgent
from clinvk.runtime.pool.warm_set import MAX_HELD, WarmGroup, WarmSpec, best_agent, can_begin
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
    """The warm agents of one clinvk. Enter the pool to keep agents; `timeouts` limit a silent agent."""

    def __init__(self, spawner: Spawner, settings: WarmSettings) -> None:
        self._spawner = spawner
        self._settings = settings
        self.timeouts = HealthTimeouts()
        self._reaper = Reaper(spawner, settings, self.timeouts)
        self._warm_set = self._reaper.warm_set
        self._reaping: asyncio.Task[None] | None = None
        self._hits: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        await self._warm_set.__aenter__()
        self._reaping = asyncio.create_task(self._reaper.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all agents; call after the last run."""
        if self._reaping:
            self._reaping.cancel()
            await asyncio.wait([self._reaping])
        await self._warm_set.__aexit__()

    @property
    def stats(self) -> WarmStats:
        """The current counts and memory of the agents."""
        groups = self._warm_set.groups.values()
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
        agents = [agent for agent in self._warm_set.agents if agent.group.backend in backends]
        return PoolStats(
            processes=len(agents),
            ready=sum(agent.is_ready and agent.free_slots > 0 and can_begin(agent) for agent in agents),
            runs=sum(len(agent.handles) for agent in agents),
            hits=sum(self._hits[backend] for backend in backends),
            misses=sum(self._misses[backend] for backend in backends),
            memory_bytes=sum(agent.memory for agent in agents),
        )

    async def admit(
        self,
        spec: WarmSpec,
        resume: Resume | None,
        turns: int,
        run: str,
        wake: Callable[[], None],
        wait_to_start: Callable[[], Awaitable[bool]],
    ) -> PooledProcess | None:
        """Return a handle on an agent for a run, or None; the run's session has had `turns` turns.

        Without a free agent, `wait_to_start` returns whether an agent may start. The request is recorded afterwards,
        because the reaper starts agents for recorded requests.
        """
        group = await self._warm_set.group(spec)
        agent = await self._free_agent(group, resume, turns)
        if agent is None:
            if not await wait_to_start():
                return None
            agent = await self._free_agent(group, resume, turns)
        group.record_request(begins=resume is None)
        self._reaper.check_soon()
        if agent:
            self._hits[group.backend] += 1
        else:
            self._misses[group.backend] += 1
            agent = self._new_agent(group, spec.launch, resume)
        if agent is None:
            return None
        handle = agent.admit(run, wake)
        try:
            if resume and not resume.fork:
                await self.forget(resume.handle, agent)
            await agent.opened.wait()
            async with agent.ending_tools:
                pass
        except BaseException:
            agent.leave(run)
            raise
        if agent.is_up:
            return handle
        agent.leave(run)
        return None

    async def release(self, handle: PooledProcess, turns: int, *, trusted: bool, keep: bool) -> None:
        """Take an agent back after a run. The session has had `turns` turns, and stays open if `keep`.

        An agent that is not `trusted` is retired, and the run's leftover tools in the agent are killed.
        """
        agent = handle.agent
        if not handle.is_over:
            handle.interrupt()
        is_done = agent.channel.capacity == 1 and not (keep and handle.conversation)
        if not trusted or is_done or agent.past_runs + 1 >= agent.launch.max_runs:
            agent.retire()
        if trusted and handle.is_over:
            agent.group.failures, agent.group.is_mute = 0, False
            agent.is_proven = True
        try:
            await self._end_tools(handle, trusted=trusted)
        finally:
            agent.leave(handle.run)
            if agent.is_retiring and not agent.handles:
                await finish_shielded(self._warm_set.end_and_wait(agent, graceful=trusted))
            elif handle.conversation:
                await self._keep(agent, handle.conversation, turns, keep=keep)
            self._reaper.wake()

    async def _end_tools(self, handle: PooledProcess, *, trusted: bool) -> None:
        """Kill the leftover tools of a run in a surviving process if the tools can be told from other runs' tools."""
        agent = handle.agent
        is_alone = len(agent.handles) == 1
        if not agent.is_up or not (handle.has_used_tools or agent.has_leftover_tools or not trusted):
            return
        if agent.is_retiring and is_alone:
            return  # the process ends with all its descendants
        if not (handle.tools or is_alone):
            agent.has_leftover_tools = True
            return
        agent.has_leftover_tools = agent.has_leftover_tools and not is_alone
        async with nullcontext() if handle.tools else agent.ending_tools:
            await finish_shielded(self._spawner.end_tools(agent.process, handle.tools))
            if not trusted:  # a tool may have been starting when the run was stopped
                await asyncio.sleep(_LATE_TOOL_DELAY_S)
                await finish_shielded(self._spawner.end_tools(agent.process, handle.tools))

    async def _keep(self, agent: WarmAgent, conversation: str, turns: int, *, keep: bool) -> None:
        """Keep a conversation for its next turn; keep at most `MAX_HELD` conversations open exclusively."""
        if not keep:
            await agent.release(conversation)
            return
        agent.held[conversation] = HeldConversation(time.monotonic(), turns)
        if agent.launch.resumes == "any" and len(agent.held) > MAX_HELD:
            agent.release_session(min(agent.held, key=lambda handle: agent.held[handle].since))

    def evict(self, handle: PooledProcess, reason: str) -> None:
        """Retire a failed agent, and delay the next start in its group."""
        handle.agent.retire()
        handle.agent.group.blame(handle.agent, reason)

    async def forget(self, handle: str, except_agent: WarmAgent | None = None) -> None:
        """Drop a conversation that is resumed elsewhere from all agents except `except_agent`.

        Afterwards every agent that held the conversation exclusively has released the conversation, or is gone.
        """
        for agent in (*self._warm_set.agents, *self._warm_set.ending):
            if agent is except_agent:
                continue
            if agent.held.pop(handle, None) and agent.channel.capacity == 1:
                agent.retire()
                self._reaper.wake()
            await agent.release(handle)

    async def prestart(self, spec: WarmSpec) -> None:
        """Start an agent before any run asks for one, and keep an agent ready as after a real request."""
        group = await self._warm_set.group(spec)
        group.record_request(begins=True)
        self._reaper.check_soon()
        if agent := self._new_agent(group, spec.launch, None):
            await agent.opened.wait()

    async def _free_agent(self, group: WarmGroup, resume: Resume | None, turns: int) -> WarmAgent | None:
        """Return a running agent that can take the conversation, or None."""
        if resume and not resume.fork and (holder := await self._holder(group, resume.handle, turns)):
            return holder
        if resume and group.spec.launch.resumes != "any":
            return None
        return best_agent(agent for agent in group.agents if agent.free_slots and can_begin(agent))

    async def _holder(self, group: WarmGroup, handle: str, turns: int) -> WarmAgent | None:
        holder = next((agent for agent in group.agents if agent.free_slots and handle in agent.held), None)
        if holder is None:
            return None
        held = holder.held[handle]
        fingerprint = held.fingerprint
        if turns != held.turns or (fingerprint is not None and fingerprint != await record_fingerprint(group, handle)):
            await self.forget(handle)  # the conversation was resumed elsewhere
            return None
        return holder if holder.free_slots and handle in holder.held else None

    def _new_agent(self, group: WarmGroup, launch: Launch, resume: Resume | None) -> WarmAgent | None:
        """Start an agent, unless the limits or earlier failures forbid a start."""
        if resume and launch.resumes == "held":
            return None
        if time.monotonic() < group.not_before or not self._settings.max_processes:
            return None
        if group.is_shared and not self._reaper.free_capacity(group, self._warm_set.idle):
            return None
        return self._warm_set.open(group, launch)
