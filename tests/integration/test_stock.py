"""Ending kept processes where what should end them fails."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.backends.base import Host
from clinvk.request import RunRequest
from clinvk.runtime import marks
from clinvk.runtime.process import Process, Spawner
from clinvk.runtime.profiles import Wanted
from clinvk.runtime.stock import Stock
from lasting_backend import Lasting

ENV = {"PATH": os.environ["PATH"]}


class Hanging(Spawner):
    """Its search takes too long, after it has ended what it was to end."""

    async def sweep(self, process: Process) -> None:
        await super().sweep(process)
        raise TimeoutError("it took too long")


async def test_of_a_process_that_cannot_be_searched_for_nothing_else_is_left(tmp_path: Path) -> None:
    backend, host = Lasting(tmp_path), Host(env=ENV)
    launch = backend.launch(RunRequest(prompt="say x", backend="lasting"), None, host).warm
    assert launch
    launch = replace(launch, files={"secret": b"s"})
    async with Stock(Hanging(marks.choose()), lambda: None) as stock:
        profile = await stock.profile(Wanted(backend, host, backend.executable, ENV, launch))
        worker = stock.open(profile, launch)
        await worker.opened.wait()
        folder = worker.folder.path
        assert folder
        with pytest.raises(TimeoutError):
            await stock.ended(worker, patient=False)
        assert not os.path.exists(folder)
        assert not stock.leaving
