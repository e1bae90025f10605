"""The pool stays within its limits, whatever the number of runs and kinds."""

import asyncio
import os
import random
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from clinvk.backends.base import Host
from clinvk.config.model import WarmSettings
from clinvk.runtime.pool.reaper import HealthTimeouts, Reaper
from clinvk.runtime.pool.warm_set import WarmSpec
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import SessionBusy
from clinvk.types.events import RunFinished
from clinvk.types.request import RunRequest
from integration.pool_server import ENV, WARM, Server, gone
from lasting_backend import Lasting
from polling import until

MIB = 1024 * 1024
KINDS = ("one", "two", "three")


def resident_mb() -> float:
    """Return the memory of all warm processes."""
    total = 0
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            total += process.memory_info().rss if {"lasting", "swelling", "heavy", "slow"} & {*process.cmdline()} else 0
    return total / MIB


@pytest.mark.slow
async def test_memory_stays_bounded_through_hundreds_of_mixed_runs(tmp_path: Path) -> None:
    """Without a limit the processes need 100 MB. Growth between two measurements may exceed the limit."""
    chance, peak_mb, limit_mb = random.Random(7), 0.0, 50
    sessions: list[str] = []

    async def work(server: Server, number: int) -> None:
        prompt = "grow 2" if number % 10 == 0 else chance.choice(["say x", "tick 3", "leave"])
        session = chance.choice(sessions) if sessions and chance.random() < 0.2 else None
        kind = chance.choice(KINDS)
        with suppress(SessionBusy):
            result, session_id = await server.ask_in_session(
                prompt, session, model=kind, ephemeral=not session and number % 3 == 0
            )
            assert isinstance(result.ending, RunFinished), result.ending
            sessions.extend([session_id] if session_id else [])

    async def watch() -> None:
        nonlocal peak_mb
        while True:
            peak_mb = max(peak_mb, await asyncio.to_thread(resident_mb))
            await asyncio.sleep(0.05)

    async with Server(Lasting(tmp_path), WarmSettings(max_processes=4, max_memory_mb=limit_mb)) as server:
        watching = asyncio.create_task(watch())
        for start in range(0, 600, 4):
            await asyncio.gather(*(work(server, number) for number in range(start, start + 4)))
        watching.cancel()
        assert server.pool.stats.hits > 300
        assert peak_mb < limit_mb + 35
        await until(lambda: server.pool.stats.memory_bytes <= limit_mb * MIB)
        await until(lambda: resident_mb() <= limit_mb)


@pytest.mark.slow
async def test_concurrent_starts_stay_within_the_memory_limit(tmp_path: Path) -> None:
    """Each process needs 70 MB while it starts and 10 MB afterwards, as measured for the first."""
    backend, limit_mb, peak_mb = Lasting(tmp_path, capacity=1, mode="swelling"), 120, 0.0
    settings = WarmSettings(max_processes=6, max_memory_mb=limit_mb, kept_backends=("lasting",))
    reaper = Reaper(Spawner(process_tags.choose_tags()), settings, HealthTimeouts())

    async def want(kind: str) -> None:
        launch = backend.launch(RunRequest(prompt="x", backend="lasting", model=kind), None, Host()).warm
        assert launch
        (await reaper.warm_set.group(WarmSpec(backend, Host(env=ENV), backend.executable, launch))).record_request(
            begins=True
        )

    async with reaper.warm_set:
        tending = asyncio.create_task(reaper.run())
        await want("one")
        await until(lambda: resident_mb() > 60)
        (first,) = reaper.warm_set.agents
        await until(lambda: first.first_memory > 0, within_s=30)
        await want("two")
        await want("three")
        reaper.wake()
        until_s = asyncio.get_running_loop().time() + 4
        while asyncio.get_running_loop().time() < until_s or peak_mb < 60:
            peak_mb = max(peak_mb, await asyncio.to_thread(resident_mb))
            await asyncio.sleep(0.02)
        assert 60 < peak_mb < limit_mb
        tending.cancel()


async def test_groups_without_processes_are_forgotten(tmp_path: Path) -> None:
    """If each run has a system prompt of its own, there are as many kinds as runs."""
    backend, chosen = Lasting(tmp_path), process_tags.choose_tags()
    reaper = Reaper(Spawner(chosen), WarmSettings(max_processes=3, kept_backends=("lasting",)), HealthTimeouts())
    async with reaper.warm_set:
        for number in range(50):
            launch = backend.launch(RunRequest(prompt="x", backend="lasting", model=f"m{number}"), None, Host()).warm
            assert launch
            group = await reaper.warm_set.group(WarmSpec(backend, Host(env=ENV), backend.executable, launch))
            group.last_requested_at = asyncio.get_running_loop().time() - 60 + number
            group.not_before = asyncio.get_running_loop().time() + 600
        tending = asyncio.create_task(reaper.run())
        await until(lambda: len(reaper.warm_set.groups) < 50)
        assert len(reaper.warm_set.groups) <= 3 + 10
        tending.cancel()


async def test_server_with_hung_processes_stops(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        pid = int((await server.ask("pid")).text)
        os.kill(pid, signal.SIGSTOP)
        begun = asyncio.get_running_loop().time()
    assert gone(pid)
    assert asyncio.get_running_loop().time() - begun < 30


def kept_by_this() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if not gone(child.pid) and "lasting" in child.cmdline()]


async def test_process_is_ready_when_sessions_start_faster_than_processes_are_kept(tmp_path: Path) -> None:
    """Otherwise the processes of earlier sessions would take all places and be evicted in turn."""
    async with Server(Lasting(tmp_path, capacity=1)) as server:
        for _ in range(2 * WARM.max_processes):
            await server.ask("say x")
        hits = server.pool.stats.hits
        async with asyncio.timeout(30):
            while server.pool.stats.hits == hits:
                await server.ask("say x")


async def test_prestarted_process_is_restarted_after_it_dies(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(prestart=("lasting",))) as server:
        await until(lambda: server.pool.stats.ready == 1)
        (ahead,) = kept_by_this()
        ahead.kill()
        await until(lambda: ahead not in kept_by_this() and kept_by_this() and server.pool.stats.ready == 1)
        assert server.pool.stats.misses == 0
        await server.ask("say x", workdir=os.getcwd())
        assert server.pool.stats.hits == 1


class FastLoop(asyncio.SelectorEventLoop):
    """A loop with a fast clock, like uvloop's on a Mac after sleep."""

    def time(self) -> float:
        return super().time() + 5000


def test_idle_process_is_evicted_whatever_the_clock_of_the_loop(tmp_path: Path) -> None:
    async def serve() -> None:
        async with Server(Lasting(tmp_path), WarmSettings(idle_secs=1)) as server:
            await server.ask("say x")
            await until(lambda: server.processes == 0)

    with asyncio.Runner(loop_factory=FastLoop) as runner:
        runner.run(serve())
