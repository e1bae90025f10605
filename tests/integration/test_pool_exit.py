"""Warm processes and leftover tools that are still being ended when the next run comes."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from clinvk.backends.base import Channel, Host, Launch
from clinvk.runtime.pool.warm_agent import WarmAgent
from clinvk.runtime.process.process import Process
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.run.task import RunTask
from clinvk.types.events import ToolCall
from integration.pool_server import Server, begun, request, sleeping
from lasting_backend import AGENT, Lasting, LastingChannel
from polling import until

LOCKS = """
    if handle not in locks:
        import fcntl
        locks[handle] = open(sys.argv[0] + "." + handle, "w")
        try: fcntl.flock(locks[handle], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return tell(run, type="run_failed", code="session_busy", message="it has an active writer")
    told = memory.setdefault(handle, [])"""

LEAVES = "\nlocks = {}\ndef work("
LINGERS = "\ntime.sleep(0.7)\n"


class Exclusive(Lasting):
    """A backend whose process locks its conversations until its exit."""

    def install_agent(self, program: str = AGENT) -> None:
        agent = program.replace("\n    told = memory.setdefault(handle, [])", LOCKS).replace("\ndef work(", LEAVES)
        super().install_agent(agent + LINGERS)

    def channel(self, launch: Launch, host: Host) -> Channel:
        return ExclusiveChannel(8, tells_tools=True) if launch.long_lived else super().channel(launch, host)


class ExclusiveChannel(LastingChannel):
    """The channel of one process."""

    def release_session(self, conversation: str) -> bytes | None:
        return b""


def agents(server: Server) -> list[WarmAgent]:
    """Return the warm agents."""
    return server.pool._warm_set.agents  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("graceful", [True, False])
async def test_resume_waits_for_a_process_that_is_being_ended(tmp_path: Path, graceful: bool) -> None:
    async with Server(Exclusive(tmp_path)) as server:
        first, session = await server.ask_in_session("pid")
        (agent,) = agents(server)
        if not graceful:
            agent.fail("it is in the way")
        server.pool._warm_set.end(agent)  # pyright: ignore[reportPrivateUsage]
        await until(lambda: agent not in agents(server))
        again = await server.ask("pid", session)
        assert again.error is None
        assert again.text != first.text


@pytest.mark.slow
async def test_resume_succeeds_after_its_process_hangs(tmp_path: Path) -> None:
    async with Server(Exclusive(tmp_path)) as server:
        patience = server.pool.timeouts
        patience.silence_s, patience.ping_timeout_s = 0.2, 0.5
        first, session = await server.ask_in_session("pid")
        (agent,) = agents(server)
        os.kill(int(first.text), signal.SIGSTOP)
        await until(lambda: agent.is_gone)
        again = await server.ask("pid", session)
        assert again.error is None
        assert again.text != first.text


async def test_ending_leftovers_of_one_run_spares_the_tools_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run may come during the search, to a process whose tools carry no tag of their run."""
    asked, may_go_on, end_tools = asyncio.Event(), asyncio.Event(), Spawner.end_tools

    async def late(self: Spawner, process: Process, variable: tuple[str, str] | None) -> None:
        asked.set()
        await may_go_on.wait()
        await end_tools(self, process, variable)

    async with Server(Lasting(tmp_path, tells_tools=False)) as server:
        monkeypatch.setattr(Spawner, "end_tools", late)
        async with server.runs.run(request("leave")) as run:
            await asked.wait()
            async with server.runs.run(request("tool")) as other:
                await begins_soon(other)
                may_go_on.set()
                await until(lambda: not sleeping(run.id))
                await until(lambda: sleeping(other.id))
        assert server.misses == 1


async def begins_soon(run: RunTask) -> None:
    """Wait until a run may have a tool at work."""
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            await begun(run, ToolCall)
