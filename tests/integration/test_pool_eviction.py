"""Suspect processes take no more runs, and the runs in them end well."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from clinvk.config.model import WarmSettings
from clinvk.runtime.pool import reaper
from clinvk.types.events import RunFailed, RunFinished, TextDelta
from integration.pool_server import Server, begun, gone, request, sleeping
from lasting_backend import AGENT, Lasting
from polling import until


def shorten_timeouts(server: Server) -> None:
    """Shorten the health timeouts for a test."""
    patience = server.pool.timeouts
    patience.begin_timeout_s, patience.silence_s, patience.ping_timeout_s = 5.0, 0.2, 5.0


async def test_process_of_a_replaced_program_takes_no_more_runs(tmp_path: Path) -> None:
    backend = Lasting(tmp_path)
    async with Server(backend) as server, server.runs.run(request("wait")) as other:
        await begun(other)
        old = int((await server.ask("pid")).text)
        backend.install_agent()
        assert int((await server.ask("pid")).text) != old
        assert other.state == "running"
        await server.runs.cancel(other.id)
        await until(lambda: gone(old))


async def test_idle_process_of_a_replaced_program_is_replaced(tmp_path: Path) -> None:
    backend = Lasting(tmp_path)
    async with Server(backend) as server:
        old = int((await server.ask("pid")).text)
        backend.install_agent()
        await until(lambda: gone(old))
        await until(lambda: server.pool.stats.ready == 1)
        hits = server.pool.stats.hits
        assert int((await server.ask("pid")).text) != old
        assert server.pool.stats.hits == hits + 1


async def test_program_without_protocol_support_is_retried_after_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "_POLL_INTERVAL_S", 0.1)
    mute = Lasting(tmp_path, mode="mute")
    async with Server(mute) as server:
        await server.ask("say x")
        assert server.runs.warm_stats
        assert server.runs.warm_stats.one_shot == ("lasting",)
        mute.install_agent(AGENT.replace('"mute"', '"another mode"'))  # this one speaks the protocol
        await until(lambda: server.pool.stats.one_shot == ())


async def test_changed_instructions_start_a_new_process(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        first = (await server.ask("pid")).text
        (tmp_path / "instructions").write_text("be brief")
        second = (await server.ask("pid")).text
        assert first != second
        assert (await server.ask("pid")).text == second


async def test_a_process_that_prints_garbage_takes_no_more_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Server(Lasting(tmp_path)) as server, server.runs.run(request("wait")) as other:
        await begun(other)
        old = int((await server.ask("pid")).text)
        assert isinstance((await server.ask("garbage")).ending, RunFinished)
        assert int((await server.ask("pid")).text) != old
        assert other.state == "running"
        await server.runs.cancel(other.id)
        await until(lambda: gone(old))
    assert sum("takes no more runs" in record.message for record in caplog.records) == 1


@pytest.mark.slow
async def test_a_process_that_has_grown_takes_no_more_runs(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        old = int((await server.ask("pid")).text)
        async with asyncio.timeout(30):
            while not gone(old):
                await server.ask("grow 30")
                await asyncio.sleep(0.2)
        assert (await server.ask("say x")).text == "x"


async def test_process_is_replaced_after_its_maximum_of_runs(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path, max_runs=50)) as server:
        pids = [(await server.ask("pid")).text for _ in range(51)]
        assert len(set(pids[:40])) == 1
        assert pids[50] != pids[0]
        assert server.pool.stats.misses == 1
        await until(lambda: gone(int(pids[0])))


@pytest.mark.slow
async def test_process_that_hangs_mid_run_fails_only_its_own_runs(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server, AsyncExitStack() as stack:
        shorten_timeouts(server)
        other = await stack.enter_async_context(server.runs.run(request("wait", model="other")))
        await begun(other)
        runs = [await stack.enter_async_context(server.runs.run(request("tick 1000"))) for _ in range(2)]
        for run in runs:
            await begun(run, TextDelta)
        pid = int((await server.ask("pid")).text)
        os.kill(pid, signal.SIGSTOP)
        for run in runs:
            ending = (await run.log.result()).ending
            assert isinstance(ending, RunFailed)
            assert ending.code == "agent_crashed"
            assert "did not answer within" in ending.message
        await until(lambda: gone(pid))
        assert other.state == "running"


@pytest.mark.slow
async def test_idle_process_that_hangs_is_replaced_before_the_next_run(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server:
        shorten_timeouts(server)
        pid = int((await server.ask("pid")).text)
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: gone(pid))
        assert (await server.ask("say x")).text == "x"


class CoarseClock(asyncio.SelectorEventLoop):
    """A loop with a coarser clock than uvloop, which has milliseconds."""

    def time(self) -> float:
        return int(super().time() * 10) / 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"loop_factory": CoarseClock}), "asyncio"], ids=["coarse", "fine"]
)
async def test_healthy_silent_process_is_left_alone(tmp_path: Path) -> None:
    """Even if the answer to a ping has the time of the ping. The next ping waits for the answer to the last."""
    asked: set[float] = set()
    async with Server(Lasting(tmp_path)) as server, server.runs.run(request("wait")) as run:
        shorten_timeouts(server)
        await begun(run)
        pid = (await server.ask("pid")).text
        (agent,) = server.pool._warm_set.agents  # pyright: ignore[reportPrivateUsage]
        await until(lambda: asked.add(agent.pinged_at) or len(asked) > 3)
        assert run.state == "running"
        assert (await server.ask("pid")).text == pid


@pytest.mark.slow
async def test_large_prompt_to_a_process_that_does_not_read_is_retried_elsewhere(tmp_path: Path) -> None:
    """The other runs of the process continue to their endings."""
    async with Server(Lasting(tmp_path)) as server, server.runs.run(request("tick 1000")) as other:
        shorten_timeouts(server)
        await begun(other, TextDelta)
        await server.ask("deaf")
        result = await server.ask("say " + "x" * 1_000_000)
        assert result.text == "x" * 1_000_000
        assert result.started
        assert (await other.log.result()).text == "." * 1000


@pytest.mark.parametrize("tells_tools", [True, False], ids=["by a variable", "by session"])
@pytest.mark.parametrize("capacity", [1, 8])
async def test_finished_run_leaves_no_background_processes(tmp_path: Path, capacity: int, tells_tools: bool) -> None:
    async with Server(Lasting(tmp_path, capacity, tells_tools=tells_tools)) as server:
        async with server.runs.run(request("leave")) as run:
            result = await run.log.result()
            assert isinstance(result.ending, RunFinished)
        await until(lambda: not sleeping(run.id))
        again = await server.ask("recall", run.session_id)
        assert again.text.startswith("leave") or capacity > 1


async def test_tool_of_another_run_is_left_running(tmp_path: Path) -> None:
    async with Server(Lasting(tmp_path)) as server, server.runs.run(request("tool")) as other:
        await until(lambda: sleeping(other.id))
        async with server.runs.run(request("leave")) as run:
            await run.log.result()
        await until(lambda: not sleeping(run.id))
        assert sleeping(other.id)


async def test_background_process_left_beside_another_run_ends_after_that_run(tmp_path: Path) -> None:
    """Before, the process cannot be distinguished from the tools of the other run."""
    async with Server(Lasting(tmp_path, tells_tools=False)) as server, server.runs.run(request("wait")) as other:
        await begun(other)
        async with server.runs.run(request("leave")) as run:
            await run.log.result()
        await until(lambda: sleeping(run.id))  # it is not at once what it is to become
        await server.runs.cancel(other.id)
        await until(lambda: not sleeping(run.id))
        assert server.processes == 1


@pytest.mark.slow
async def test_pool_keeps_processes_within_the_memory_limit(tmp_path: Path) -> None:
    """The memory of a kind is known after the first measurement; the longest idle process makes room."""
    async with Server(Lasting(tmp_path), WarmSettings(max_processes=8, max_memory_mb=30)) as server:
        for number in range(6):
            await server.ask("say x", model=f"m{number}")
            await until(lambda: server.pool.stats.memory_bytes > 0 or server.processes == 0)
        limit = 30 * 1024 * 1024
        await until(lambda: server.processes <= 2 and 0 < server.pool.stats.memory_bytes <= limit)
