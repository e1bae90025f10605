"""The end of workers, including failures."""

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
from clinvk.runtime.pool import worker as worker_module
from clinvk.runtime.pool.worker import Worker
from clinvk.runtime.pool.worker_set import WorkerSet, WorkerSpec
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


async def opened(worker_set: WorkerSet, backend: Lasting) -> Worker:
    """Start a process and wait until it is ready."""
    host = Host(env=ENV)
    launch = backend.launch(RunRequest(prompt="say x", backend="lasting"), None, host).warm
    assert launch
    group = await worker_set.group(WorkerSpec(backend, host, backend.executable, launch))
    worker = worker_set.open(group, launch)
    await until(lambda: worker.is_ready)
    return worker


@asynccontextmanager
async def ready(backend: Lasting) -> AsyncGenerator[tuple[WorkerSet, Worker]]:
    """Return a worker set with a ready process."""
    async with WorkerSet(Spawner(process_tags.choose_tags()), lambda: None) as worker_set:
        yield worker_set, await opened(worker_set, backend)


@pytest.mark.parametrize("graceful", [False, True])
async def test_an_ended_worker_is_released_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graceful: bool
) -> None:
    for timer in ("LINGER_S", "DRAIN_S"):
        monkeypatch.setattr(worker_module, timer, 600.0)

    async def end_one(worker_set: WorkerSet) -> "weakref.ref[Worker]":
        worker = await opened(worker_set, Lasting(tmp_path))
        await worker_set.end_and_wait(worker, graceful=graceful)
        return weakref.ref(worker)

    async with WorkerSet(Spawner(process_tags.choose_tags()), lambda: None) as worker_set:
        ended = await end_one(worker_set)
        await until(lambda: gc.collect() >= 0 and ended() is None)


async def test_timed_out_process_search_leaves_nothing_else_behind(tmp_path: Path) -> None:
    backend, host = Lasting(tmp_path), Host(env=ENV)
    launch = backend.launch(RunRequest(prompt="say x", backend="lasting"), None, host).warm
    assert launch
    launch = replace(launch, files={"secret": b"s"})
    async with WorkerSet(Hanging(process_tags.choose_tags()), lambda: None) as worker_set:
        group = await worker_set.group(WorkerSpec(backend, host, backend.executable, launch))
        worker = worker_set.open(group, launch)
        await worker.opened.wait()
        folder = worker.folder.path
        assert folder
        with pytest.raises(TimeoutError):
            await worker_set.end_and_wait(worker, graceful=False)
        assert not os.path.exists(folder)
        assert not worker_set.ending


async def test_worker_being_ended_counts_until_it_has_exited(
    tmp_path: Path,
) -> None:
    async with ready(Lasting(tmp_path, mode="slow")) as (worker_set, worker):
        ending = asyncio.create_task(worker_set.end_and_wait(worker, graceful=True))
        worker_set.end(worker)
        await asyncio.sleep(0)
        while worker.process.exit_code is None:
            assert worker in worker_set.ending
            await asyncio.sleep(0.02)
        await ending
        assert not worker_set.ending


async def test_abandoned_run_stays_lost_when_its_process_exits(tmp_path: Path) -> None:
    async with ready(Lasting(tmp_path)) as (_, worker):
        handle = worker.admit("one", lambda: None)
        worker.abandon(handle, "it did not begin")
        assert handle.is_lost
        os.kill(worker.process.pid, signal.SIGKILL)
        await until(lambda: worker.is_gone)
        assert handle.is_lost


async def test_worker_of_a_forgotten_group_is_ended_on_close(tmp_path: Path) -> None:
    """A run may wait for a slow disk longer than an empty group is remembered."""
    backend, host = Lasting(tmp_path), Host(env=ENV)
    launch = backend.launch(RunRequest(prompt="say x", backend="lasting"), None, host).warm
    assert launch
    async with WorkerSet(Spawner(process_tags.choose_tags()), lambda: None) as worker_set:
        wanted = WorkerSpec(backend, host, backend.executable, launch)
        forgotten = await worker_set.group(wanted)
        worker_set.groups.clear()
        group = await worker_set.group(wanted)
        worker = worker_set.open(forgotten, launch)
        assert group.workers == worker_set.workers == [worker]
        await worker.opened.wait()
        assert worker.process.exit_code is None
    assert worker.process.exit_code is not None
