"""The estimated memory of processes that were not measured yet."""

import asyncio
from pathlib import Path

from clinvk.config.model import WarmSettings
from integration.pool_server import Server
from lasting_backend import Lasting
from polling import until


async def test_new_process_counts_with_the_measured_memory_of_its_backend(tmp_path: Path) -> None:
    """A process needs about 12 MB, so two fit."""
    async with Server(Lasting(tmp_path), WarmSettings(max_processes=8, max_memory_mb=30)) as server:
        await server.ask("say x")
        await until(lambda: server.pool.stats.memory_bytes > 0)
        await server.ask("speak_and_die x")
        await until(lambda: server.processes == 0)
        await asyncio.gather(*(server.ask("say x", model=f"m{number}") for number in range(6)))
        assert server.processes <= 3


async def test_memory_limit_below_the_estimate_still_keeps_one_process(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path), WarmSettings(max_memory_mb=60)) as server:
        await server.ask("say x")
        await until(lambda: server.pool.stats.ready == 1)
        assert (await server.ask("say y")).text == "y"
        assert server.pool.stats.hits == 1
