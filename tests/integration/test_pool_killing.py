"""Warm processes that are killed or stopped at any moment: their runs end, other runs continue, the pool recovers."""

import asyncio
import random
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from clinvk.runtime.run import execution
from clinvk.types.events import RunFailed, RunFinished, RunResult
from integration.pool_server import Server
from lasting_backend import Lasting

pytestmark = pytest.mark.slow

KINDS = ("one", "two", "three")
RUNS = 100


class Killer:
    """Kills or stops warm processes, with and without runs."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.victims: set[int] = set()

    async def work(self) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(0.02, 0.15))
            await asyncio.to_thread(self._strike)

    def _strike(self) -> None:
        with suppress(psutil.Error, IndexError):
            victim = self._chance.choice(warm_processes())
            self.victims.add(victim.pid)
            victim.send_signal(signal.SIGSTOP if self._chance.random() < 0.1 else signal.SIGKILL)


def warm_processes() -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            found += [process] if "lasting" in process.cmdline() else []
    return found


def judge(result: RunResult, ticks: int, victims: set[int]) -> None:
    """Check that a run ends well, or with a clear error if its process was killed after the first output."""
    pid, _, rest = result.text.partition(" ")
    if isinstance(result.ending, RunFinished):
        assert rest == "." * ticks
        return
    assert isinstance(result.ending, RunFailed)
    assert result.ending.code == "agent_crashed"
    assert "killed by signal 9" in result.ending.message or "did not answer within" in result.ending.message
    assert int(pid) in victims, "a bystander has failed, or a run without output"


@pytest.mark.parametrize("capacity", [1, 8], ids=["a process a run", "shared"])
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_runs_recover_from_random_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, capacity: int
) -> None:
    chance = random.Random(seed)
    killer = Killer(chance)
    todo = [(chance.choice(KINDS), chance.randint(0, 30)) for _ in range(RUNS)]
    judged = 0

    async def work(server: Server) -> None:
        nonlocal judged
        while todo:
            kind, ticks = todo.pop()
            judge(await server.ask(f"trace {ticks}", model=kind), ticks, killer.victims)
            judged += 1

    async with Server(Lasting(tmp_path, capacity)) as server:
        patience = server.pool.timeouts
        patience.silence_s, patience.ping_timeout_s = 0.3, 2.0
        monkeypatch.setattr(execution, "ANSWER_TIMEOUT_S", 5.0)
        for kind in KINDS:
            await server.ask("say x", model=kind)
        killing = asyncio.create_task(killer.work())
        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(work(server))
        killing.cancel()
        assert judged == RUNS
        assert len(killer.victims) > 8, "hardly anything was killed"
        await recovered(server)
        assert server.runs.warm_stats
        assert server.runs.warm_stats.one_shot == ()
    assert warm_processes() == []


async def recovered(server: Server) -> None:
    """Wait until a run finds a warm process again."""
    hits = server.pool.stats.hits
    async with asyncio.timeout(30):
        while server.pool.stats.hits == hits:
            result = await server.ask("say well", model=KINDS[0])
            assert result.text == "well"
            await asyncio.sleep(0.05)
