"""The reaper: keep warm agents healthy, within the limits on number and memory, and ready for future runs."""

import asyncio
import logging
import os
import time
from collections.abc import Collection, Sequence
from math import inf

import msgspec

from clinvk.config.model import WarmSettings
from clinvk.runtime.pool.file_fingerprints import Fingerprint, fingerprint
from clinvk.runtime.pool.warm_agent import WarmAgent
from clinvk.runtime.pool.warm_set import WarmGroup, WarmSet, can_begin
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import Alarm

logger = logging.getLogger(__name__)

MIB = 1024 * 1024

_REPLACE_AT = 0.8
"""The share of an agent's maximum runs after which another agent is made ready."""

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
"""Interval of the checks while all agents are idle."""

_READY_TIMEOUT_S = 60.0


class HealthTimeouts(msgspec.Struct, kw_only=True):
    """Time limits for an agent.

    Attributes:
        begin_timeout_s: until the process has begun a run, while working on other runs.
        silence_s: until a silent process is pinged.
        ping_timeout_s: until the process answers the ping.
    """

    begin_timeout_s: float = 60.0
    silence_s: float = 30.0
    ping_timeout_s: float = 15.0


class Reaper:
    """Ends, retires and starts agents alongside the runs when necessary."""

    def __init__(self, spawner: Spawner, settings: WarmSettings, timeouts: HealthTimeouts) -> None:
        self.warm_set = WarmSet(spawner, self.wake)
        self._spawner = spawner
        self._settings = settings
        self._timeouts = timeouts
        self._limit = settings.max_memory_mb * MIB
        self._settled_bytes: dict[str, int] = {}
        self._start_bytes: dict[str, int] = {}
        self._alarm = Alarm()
        self._checked_at = -inf

    def wake(self) -> None:
        """Wake the reaper now."""
        self._alarm.set()

    def check_soon(self) -> None:
        """Wake the reaper within `_TICK_S`."""
        self._alarm.ring_at(asyncio.get_running_loop().time() + _TICK_S)

    async def run(self) -> None:
        """Do all pending work, until cancelled."""
        try:
            while True:
                await self._reap()
                if self.warm_set.groups:
                    self.check_soon()
                await self._alarm.wait()
        finally:
            self._alarm.close()

    async def _reap(self) -> None:
        try:
            now = time.monotonic()
            for group in [*self.warm_set.groups.values()]:
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
        """Return whether the memory of any agent may have grown since the last look."""
        agents = self.warm_set.agents
        return any(agent.handles or agent.idle_since > self._checked_at or _is_young(agent, now) for agent in agents)

    def _forget_groups(self, now: float) -> None:
        """Forget empty groups: the latest `max_processes` after `idle_secs`, the others after `_FORGET_GROUP_S`."""
        empty = [(group.last_requested_at, key) for key, group in self.warm_set.groups.items() if not group.agents]
        for rank, (last_requested_at, key) in enumerate(sorted(empty, key=lambda pair: -pair[0])):
            timeout_s = self._settings.idle_secs if rank < self._settings.max_processes else _FORGET_GROUP_S
            if now > last_requested_at + timeout_s:
                del self.warm_set.groups[key]

    async def _check_files(self) -> None:
        """Retire agents whose program or configuration files have changed."""
        groups = [*self.warm_set.groups.values()]
        known = await asyncio.to_thread(lambda: [group.spec.files() for group in groups])
        for group, files in zip(groups, known, strict=True):
            group.renew(files)

    async def _maintain(self, group: WarmGroup, now: float) -> None:
        """End the finished agents of a group; take fingerprints of the conversations of the remaining agents."""
        for agent in [*group.agents]:
            check_health(agent, self._timeouts)
            if not agent.is_ready and not agent.is_retiring and now > agent.since + _READY_TIMEOUT_S:
                group.blame(agent, f"it was not ready within {_READY_TIMEOUT_S:g} s")
                agent.retire()
            if not agent.handles and self._is_done(agent, now):
                self.warm_set.end(agent)
            elif agent.launch.resumes == "any":
                _release_old(agent, now)
            elif not agent.handles:
                await self._take_fingerprints(group, agent, now)

    def _is_done(self, agent: WarmAgent, now: float) -> bool:
        return agent.is_retiring or agent.is_gone or now > agent.idle_since + self._settings.idle_secs

    async def _take_fingerprints(self, group: WarmGroup, agent: WarmAgent, now: float) -> None:
        for handle, held in [*agent.held.items()]:
            if held.fingerprint is None and now > held.since + _SETTLES_S:
                fingerprint = await record_fingerprint(group, handle)
                if agent.held.get(handle) == held:
                    agent.held[handle] = held._replace(fingerprint=fingerprint)

    def free_capacity(self, group: WarmGroup, idle: Sequence[WarmAgent]) -> bool:
        """End idle agents so that one more agent of a group fits; return whether enough becomes free.

        As few of the first `idle` agents as possible are ended; no agent is ended if ending all would not suffice.
        """
        for count in range(len(idle) + 1):
            if self._has_capacity(group, excluding=idle[:count]):
                for agent in idle[:count]:
                    self.warm_set.end(agent)
                return True
        return False

    def _has_capacity(
        self, group: WarmGroup, *, excluding: Collection[WarmAgent] = (), including: Collection[WarmAgent] = ()
    ) -> bool:
        """Return whether one more agent fits the limits, `excluding` some agents and `including` some others."""
        remaining = [agent for agent in self._remaining if agent not in excluding]
        if len(remaining) >= self._settings.max_processes:
            return False
        used = sum(self._size(agent) for agent in (*remaining, *including))
        return not self._limit or used + self._expected(group) <= self._limit

    @property
    def _remaining(self) -> list[WarmAgent]:
        return [agent for agent in self.warm_set.counted if agent.handles or not agent.is_retiring]

    def _size(self, agent: WarmAgent) -> int:
        """Return the memory of an agent; for a young agent, at least the expected memory."""
        if _is_young(agent, time.monotonic()):
            return max(agent.memory, self._expected(agent.group))
        return max(agent.memory, self._settled_bytes.get(agent.group.backend, 0))

    def _expected(self, group: WarmGroup) -> int:
        """Return the most memory that a starting agent of a group is likely to use, judging by earlier agents."""
        name = group.backend
        return max(self._settled_bytes.get(name, min(_UNKNOWN_BYTES, self._limit)), self._start_bytes.get(name, 0))

    async def _measure(self) -> None:
        """Measure the memory of the agents; retire an agent that has grown out of proportion."""
        agents = {agent.process.number: agent for agent in self.warm_set.counted if agent.is_up}
        for number, size in (await self._spawner.memory([*agents])).items():
            self._note_size(agents[number], size)

    def _note_size(self, agent: WarmAgent, size: int) -> None:
        agent.memory, backend = size, agent.group.backend
        if _is_young(agent, time.monotonic()) and not agent.past_runs:
            if not agent.handles:  # memory of the runs' descendants is no part of the start
                self._start_bytes[backend] = max(size, self._start_bytes.get(backend, 0))
        elif agent.is_ready:
            if not agent.first_memory:
                agent.first_memory = self._settled_bytes[backend] = size
            if size > _MAX_GROWTH * agent.first_memory > 0:
                agent.retire()

    def _enforce_limits(self) -> None:
        """End the longest idle agents above the limits on number and memory, then retire agents with runs.

        Agents with runs are retired only for measured memory.
        """
        remaining = self._remaining
        count, used = len(remaining), sum(map(self._size, remaining))
        for agent in self.warm_set.idle:
            if count <= self._settings.max_processes and (not self._limit or used <= self._limit):
                return
            count, used = count - 1, used - self._size(agent)
            self.warm_set.end(agent)
        busy = sorted(self._remaining, key=lambda agent: (not agent.is_retiring, agent.idle_since))
        excess = sum(agent.memory for agent in busy) - self._limit if self._limit else 0
        for agent in busy:
            if excess <= 0:
                return
            excess -= agent.memory
            agent.retire()

    def _refill(self, now: float) -> None:
        """Start the wanted spares, in the most recently used group first.

        While one group waits for room, less recently used groups do not take the room.
        """
        for group in sorted(self.warm_set.groups.values(), key=lambda group: -group.last_requested_at):
            is_wanted = now - group.last_requested_at <= self._settings.idle_secs and not group.is_mute
            if not is_wanted or now < group.not_before:
                continue
            ready = sum(1 for agent in group.agents if agent.free_slots and can_begin(agent, _REPLACE_AT))
            while ready < self._spares(group, now) and self._has_capacity(group, including=self.warm_set.ending):
                self.warm_set.open(group, group.launch)
                ready += 1
            if ready < self._spares(group, now):
                idle = self.warm_set.idle if not ready else ()
                replaceable = [agent for agent in idle if self._is_replaceable(agent, group, now)]
                if self.free_capacity(group, replaceable):
                    return

    def _spares(self, group: WarmGroup, now: float) -> int:
        """Return the wanted number of ready agents.

        Shared groups want one. Groups of one-conversation processes want as many as conversations began recently, at
        least one, or none while the runs keep all processors busy: a spare would then slow the runs down by as much as
        the spare saves.
        """
        if group.is_shared:
            return 1
        working = sum(any(not handle.is_parked for handle in agent.handles.values()) for agent in group.agents)
        if working >= (os.cpu_count() or 1):
            return 0
        return max(1, min(_recent_count(group, now), self._settings.max_processes))

    def _is_replaceable(self, agent: WarmAgent, requester: WarmGroup, now: float) -> bool:
        """Return whether an idle agent may be ended for a spare of the group `requester`.

        Only the more recently used of two groups may take the other's place, so that groups do not end each other's
        agents in turn. An agent that has just carried a run is likely to be resumed and stays. The exception is a rate
        of new conversations so high that the agent would have to end anyway: without the exception, no new
        conversation would find a spare.
        """
        if agent.group is requester:
            must_end = _recent_count(requester, now) >= self._settings.max_processes
            return bool(agent.past_runs) and (must_end or now - agent.idle_since > _RECENT_S)
        return agent.group.last_requested_at < requester.last_requested_at


def _recent_count(group: WarmGroup, now: float) -> int:
    return sum(1 for at in group.begin_times if now - at < _RECENT_S)


async def record_fingerprint(group: WarmGroup, handle: str) -> Fingerprint:
    """Return the fingerprint of the CLI's record of a conversation."""
    spec = group.spec
    return await asyncio.to_thread(lambda: fingerprint(spec.backend.record_files(handle, spec.host), spec.host.env))


def _release_old(agent: WarmAgent, now: float) -> None:
    """Ask a process to release all conversations held exclusively for longer than `_HOLDS_S`."""
    for handle in [handle for handle, held in agent.held.items() if now > held.since + _HOLDS_S]:
        agent.release_session(handle)


def _is_young(agent: WarmAgent, now: float) -> bool:
    return now < agent.since + _YOUNG_S


def check_health(agent: WarmAgent, timeouts: HealthTimeouts) -> None:
    """Ping a silent process; give up a process or a run that exceeded its time limit."""
    if not agent.is_up or not agent.is_ready or agent.is_paused:
        return
    now = asyncio.get_running_loop().time()
    for handle in [*agent.handles.values()]:
        if not handle.has_begun and now > handle.began_at + timeouts.begin_timeout_s:
            agent.abandon(handle, f"the agent did not begin within {timeouts.begin_timeout_s:g} s")
    if not agent.launch.ping or now < agent.last_output_at + timeouts.silence_s:
        return
    if agent.pinged_at <= agent.last_output_at:  # equal if the answer came at once, on a clock with milliseconds
        agent.ping()
    elif now > agent.pinged_at + timeouts.ping_timeout_s:
        agent.fail(f"the agent's process hangs: it did not answer within {timeouts.ping_timeout_s:g} s")
