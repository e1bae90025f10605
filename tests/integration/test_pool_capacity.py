"""Eviction of one process for another in a full pool."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clinvk.backends.base import Host
from clinvk.config.model import WarmSettings
from clinvk.runtime.pool.reaper import HealthTimeouts, Reaper
from clinvk.runtime.pool.warm_agent import WarmAgent
from clinvk.runtime.pool.warm_set import WarmGroup, WarmSpec
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.request import RunRequest
from integration.pool_server import ENV
from integration.test_pool_limits import resident_mb
from lasting_backend import Lasting
from polling import until


class CountingReaper(Reaper):
    """A reaper that counts its searches for capacity."""

    searches = 0

    def free_capacity(self, group: WarmGroup, idle: Sequence[WarmAgent]) -> bool:
        self.searches += 1
        return super().free_capacity(group, idle)

    async def search_again(self) -> None:
        """Wait for one more search."""
        before = self.searches
        self.wake()
        await until(lambda: self.searches > before)


class TwoKinds:
    """A reaper with small processes of about 12 MB and heavy processes of about 72 MB."""

    def __init__(self, folder: Path, limit_mb: int) -> None:
        settings = WarmSettings(max_processes=6, max_memory_mb=limit_mb, kept_backends=("small", "heavy"))
        self.reaper = CountingReaper(Spawner(process_tags.choose_tags()), settings, HealthTimeouts())
        self.limit_mb = limit_mb
        self._backends = {name: _backend(folder / name, mode) for name, mode in (("small", "slow"), ("heavy", "heavy"))}

    async def request(self, backend: str, kind: str) -> WarmGroup:
        """Record that a run asks for a kind of process, and gets a process of its own."""
        own = self._backends[backend]
        launch = own.launch(RunRequest(prompt="x", backend=own.name, model=kind), None, Host()).warm
        assert launch
        group = await self.reaper.warm_set.group(WarmSpec(own, Host(env=ENV), own.executable, launch))
        group.record_request(begins=True)
        self.reaper.wake()
        return group

    async def measured(self, group: WarmGroup) -> WarmAgent:
        """Wait for the process of a group, simulate a run, and wait until the memory is known."""
        await until(lambda: any(agent.is_ready for agent in group.agents), within_s=30)
        agent = next(agent for agent in group.agents if agent.is_ready)
        agent.admit("one", lambda: None)
        agent.leave("one")
        await until(lambda: agent.first_memory, within_s=30)
        return agent

    async def peak_mb(self, group: WarmGroup) -> float:
        """Return the peak memory until a group has a process and all ending processes have exited."""
        peak_mb = 0.0
        while self.reaper.warm_set.ending or not any(agent.is_ready for agent in group.agents):
            peak_mb = max(peak_mb, await asyncio.to_thread(resident_mb))
            await asyncio.sleep(0.02)
        return peak_mb


def _backend(folder: Path, mode: str) -> Lasting:
    folder.mkdir()
    backend = Lasting(folder, mode=mode)
    backend.name = folder.name
    return backend


@asynccontextmanager
async def two_kinds(folder: Path, limit_mb: int) -> AsyncGenerator[TwoKinds]:
    pool = TwoKinds(folder, limit_mb)
    async with pool.reaper.warm_set:
        reaping = asyncio.create_task(pool.reaper.run())
        try:
            yield pool
        finally:
            reaping.cancel()
            await asyncio.wait([reaping])


@pytest.mark.slow
async def test_no_process_is_evicted_for_one_that_still_would_not_fit(tmp_path: Path) -> None:
    """The small process would be started again at once, since there is room for it, and evicted again, forever."""
    async with two_kinds(tmp_path, limit_mb=120) as pool:
        small = await pool.request("small", "one")
        agent = await pool.measured(small)
        busy = await pool.measured(await pool.request("heavy", "one"))
        busy.admit("two", lambda: None)
        await pool.request("small", "one")
        await until(lambda: any(one.is_ready for one in small.agents), within_s=30)
        (agent,) = small.agents
        heavy = await pool.request("heavy", "two")
        for _ in range(5):
            await pool.reaper.search_again()
            assert small.agents == [agent]
            assert not agent.is_retiring
            assert not heavy.agents


@pytest.mark.slow
async def test_replacement_starts_after_the_evicted_process_exits(tmp_path: Path) -> None:
    async with two_kinds(tmp_path, limit_mb=120) as pool:
        first = await pool.measured(await pool.request("heavy", "one"))
        assert 60 < await pool.peak_mb(await pool.request("heavy", "two")) < pool.limit_mb
        assert first.process.exit_code is not None


@pytest.mark.slow
async def test_room_freed_for_one_process_is_not_taken_by_a_less_wanted_one(tmp_path: Path) -> None:
    """During the exit of a small process there is room for another small one, but not for the heavy one."""
    async with two_kinds(tmp_path, limit_mb=80) as pool:
        await pool.measured(await pool.request("heavy", "one"))
        await pool.measured(await pool.request("small", "one"))
        await pool.request("small", "two")
        heavy = await pool.request("heavy", "two")
        await until(lambda: any(agent.is_ready for agent in heavy.agents))


@pytest.mark.slow
async def test_unmeasured_exiting_process_counts_with_the_memory_of_its_backend(tmp_path: Path) -> None:
    async with two_kinds(tmp_path, limit_mb=160) as pool:
        await pool.measured(await pool.request("heavy", "one"))
        second = await pool.request("heavy", "two")
        await until(lambda: second.agents)
        pool.reaper.warm_set.end(second.agents[0])
        third = await pool.request("heavy", "three")
        assert 60 < await pool.peak_mb(third) < pool.limit_mb
