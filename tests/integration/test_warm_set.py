"""The end of warm agents, including failures."""

import asyncio
import gc
import os
import signal
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.backends.base import Host
from clinvk.runtime.pool import warm_agent as warm_agent_module
from clinvk.runtime.pool.warm_agent import WarmAgent
from clinvk.runtime.pool.warm_set import WarmSet, WarmSpec
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.process import Process
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.request import RunRequest
from lasting_backend import Lasting
from polling import until

ENV = {"PATH": os.environ["PATH"]}


class Hanging(Spawner):
    """A spawner whose search times out after it has ended the process."""

    async def sweep(self, process: Process) -> None:
        await super().sweep(process)
        raise TimeoutError("it took too long")


async def opened(warm_set: WarmSet, backend: Lasting, **environ: str) -> WarmAgent:
    """Start a process and wait until it is ready."""
    host = Host(env={**ENV, **environ})
    launch = backend.launch(RunRequest(prompt="say x", backend="lasting"), None, host).warm
    assert launch
    group = await warm_set.group(WarmSpec(backend, host, backend.executable, launch))
    agent = warm_set.open(group, launch)
    await until(lambda: agent.is_ready)
    return agent


@asynccontextmanager
async def ready(backend: Lasting, **environ: str) -> AsyncGenerator[tuple[WarmSet, WarmAgent]]:
    """Return a warm agent set with a ready process."""
    async with WarmSet(Spawner(process_tags.choose_tags()), lambda: None) as warm_set:
        yield warm_set, await opened(warm_set, backend, **environ)


async def test_log_has_no_secrets_of_the_environment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with ready(Lasting(tmp_path), DEPLOY_TOKEN="hush-0123456789") as (_, agent):
        handle = agent.admit("one", lambda: None)
        handle.begin(RunRequest(prompt="print hush-0123456789", backend="lasting"), None)
        await until(lambda: agent.is_retiring)
        agent.group.blame(agent, "hush-0123456789 is refused")
    assert "it printed '[redacted]" in caplog.text
    assert "1 in a row: [redacted] is refused" in caplog.text
    assert "hush" not in caplog.text


async def test_removed_directory_ends_the_start_of_agents_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend, host = Lasting(tmp_path), Host(env=ENV)
    launch = backend.launch(RunRequest(prompt="say x", backend="lasting"), None, host).warm
    assert launch
    launch = replace(launch, cwd=str(tmp_path / "removed"))
    async with WarmSet(Spawner(process_tags.choose_tags()), lambda: None) as warm_set:
        group = await warm_set.group(WarmSpec(backend, host, backend.executable, launch))
        warm_set.open(group, launch)
        await until(lambda: not group.agents)
        assert group.is_mute
    assert not caplog.text


@pytest.mark.parametrize("graceful", [False, True])
async def test_an_ended_agent_is_released_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graceful: bool
) -> None:
    for timer in ("LINGER_S", "DRAIN_S"):
        monkeypatch.setattr(warm_agent_module, timer, 600.0)

    async def end_one(warm_set: WarmSet) -> "weakref.ref[WarmAgent]":
        agent = await opened(warm_set, Lasting(tmp_path))
        await warm_set.end_and_wait(agent, graceful=graceful)
        return weakref.ref(agent)

    async with WarmSet(Spawner(process_tags.choose_tags()), lambda: None) as warm_set:
        ended = await end_one(warm_set)
        await until(lambda: gc.collect() >= 0 and ended() is None)


async def test_timed_out_process_search_leaves_nothing_else_behind(tmp_path: Path) -> None:
    backend, host = Lasting(tmp_path), Host(env=ENV)
    launch = backend.launch(RunRequest(prompt="say x", backend="lasting"), None, host).warm
    assert launch
    launch = replace(launch, files={"secret": b"s"})
    async with WarmSet(Hanging(process_tags.choose_tags()), lambda: None) as warm_set:
        group = await warm_set.group(WarmSpec(backend, host, backend.executable, launch))
        agent = warm_set.open(group, launch)
        await agent.opened.wait()
        folder = agent.folder.path
        assert folder
        with pytest.raises(TimeoutError):
            await warm_set.end_and_wait(agent, graceful=False)
        assert not os.path.exists(folder)
        assert not warm_set.ending


async def test_agent_being_ended_counts_until_it_has_exited(tmp_path: Path) -> None:
    async with ready(Lasting(tmp_path, mode="slow")) as (warm_set, agent):
        ending = asyncio.create_task(warm_set.end_and_wait(agent, graceful=True))
        warm_set.end(agent)
        await asyncio.sleep(0)
        while agent.process.exit_code is None:
            assert agent in warm_set.ending
            await asyncio.sleep(0.02)
        await ending
        assert not warm_set.ending


async def test_abandoned_run_stays_lost_when_its_process_exits(tmp_path: Path) -> None:
    async with ready(Lasting(tmp_path)) as (_, agent):
        handle = agent.admit("one", lambda: None)
        agent.abandon(handle, "it did not begin")
        assert handle.is_lost
        os.kill(agent.process.pid, signal.SIGKILL)
        await until(lambda: agent.is_gone)
        assert handle.is_lost


async def test_agent_of_a_forgotten_group_is_ended_on_close(tmp_path: Path) -> None:
    """A run may wait for a slow disk longer than an empty group is remembered."""
    backend, host = Lasting(tmp_path), Host(env=ENV)
    launch = backend.launch(RunRequest(prompt="say x", backend="lasting"), None, host).warm
    assert launch
    async with WarmSet(Spawner(process_tags.choose_tags()), lambda: None) as warm_set:
        wanted = WarmSpec(backend, host, backend.executable, launch)
        forgotten = await warm_set.group(wanted)
        warm_set.groups.clear()
        group = await warm_set.group(wanted)
        agent = warm_set.open(forgotten, launch)
        assert group.agents == warm_set.agents == [agent]
        await agent.opened.wait()
        assert agent.process.exit_code is None
    assert agent.process.exit_code is not None
