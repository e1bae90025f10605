"""An agent starts in the directory that was checked, even if its path becomes a link meanwhile."""

import _thread
import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from clinvk.backends.registry import BACKENDS
from clinvk.config.model import Settings, WarmSettings
from clinvk.runtime.local import LocalRuns
from clinvk.store.memory import MemoryStore
from clinvk.types.events import RunFailed
from clinvk.types.request import RunRequest
from integration.pool_server import ENV
from lasting_backend import Lasting
from scripted import Scripted
from scripted.steps import claude_says
from serving import serving


def swapping(place: Path, target: Path) -> Callable[[RunRequest], Awaitable[str]]:
    """Return a check that passes, and then replaces the directory by a link to another one."""

    def swap() -> None:
        place.rename(place.with_name("aside"))
        place.symlink_to(target)
        swapped.append(True)

    async def check(_: RunRequest) -> str:
        if not started:
            started.append(_thread.start_new_thread(swap, ()))
        while not swapped:  # any lock or file would count as blocking the loop
            pass
        return str(place)

    started: list[int] = []
    swapped: list[bool] = []

    return check


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "public").mkdir()
    (tmp_path / "secret").mkdir()
    return tmp_path / "public"


async def test_an_agent_does_not_start_in_a_directory_that_was_swapped_after_its_check(
    scripted: Scripted, place: Path
) -> None:
    scripted.play(claude_says("x"))
    admit = swapping(place, place.with_name("secret"))
    runs = LocalRuns(Settings(), MemoryStore(), scripted.env, BACKENDS, admit_dirs=admit)
    request = RunRequest(prompt="hi", backend="claude", workdir=str(place))
    async with runs, runs.run(request) as run:
        ending = (await run.log.result()).ending
    assert isinstance(ending, RunFailed)
    assert ending.code == "invalid_request"
    assert ending.message == f"cannot work in {str(place)!r}: it leads elsewhere since it was checked"
    assert scripted.calls() == []


async def test_a_kept_process_does_not_start_in_a_directory_that_was_swapped_after_its_check(
    tmp_path: Path, place: Path
) -> None:
    secret = place.with_name("secret")
    settings = Settings(warm=WarmSettings(kept_backends=("lasting",), max_processes=3))
    registry = {"lasting": Lasting(tmp_path)}
    admit = swapping(place, secret)
    runs = LocalRuns(settings, MemoryStore(), ENV, registry, admit_dirs=admit, keeps_warm=True)
    request = RunRequest(prompt="hi", backend="lasting", workdir=str(place))
    async with runs, runs.run(request) as run:
        await run.log.result()
        working_in = {child.cwd() for child in psutil.Process().children(recursive=True)}
    assert str(secret) not in working_in


async def test_an_agent_starts_in_a_directory_that_is_named_by_a_link(scripted: Scripted, place: Path) -> None:
    """Only for the command line: over HTTP links are resolved first."""
    scripted.play(claude_says("x"))
    link = place.with_name("link")
    link.symlink_to(place)

    async def admit(_: RunRequest) -> str:
        return str(place)

    runs = LocalRuns(Settings(), MemoryStore(), scripted.env, BACKENDS, admit_dirs=admit)
    async with runs, runs.run(RunRequest(prompt="hi", backend="claude", workdir=str(link))) as run:
        await run.log.result()
    assert [call.cwd for call in scripted.calls()] == [str(place)]


FLIP = """
import os, sys, time
place, aside, link, target = sys.argv[1:]
while True:
    time.sleep(0.001)
    os.symlink(target, link)
    os.rename(place, aside)
    os.rename(link, place)
    time.sleep(0.001)
    os.unlink(place)
    os.rename(aside, place)
"""


@contextmanager
def flipping(place: Path, target: Path) -> Generator[None]:
    """Swap a directory for a link and back, as fast as another process can, until the context ends."""
    paths = [str(path) for path in (place, place.with_name("aside"), place.with_name("link"), target)]
    with subprocess.Popen([sys.executable, "-ISc", FLIP, *paths]) as process:
        try:
            yield
        finally:
            process.kill()
    if place.is_symlink():
        place.unlink()
    if not place.exists():
        place.with_name("aside").rename(place)


async def test_no_run_enters_a_blocked_directory_while_its_path_is_swapped_again_and_again(
    scripted: Scripted, place: Path
) -> None:
    scripted.play(claude_says("x"))
    secret = str(place.with_name("secret"))
    async with serving(scripted.env, blocked_workdir_prefixes=(secret,)) as server:
        with flipping(place, Path(secret)):
            answers = [
                answer
                for _ in range(20)
                for answer in await asyncio.gather(*(server.prompt(workdir=str(place)) for _ in range(4)))
            ]
        assert (await server.prompt(workdir=str(place))).status_code == 200
    assert {answer.status_code for answer in answers} <= {200, 400, 403}
    assert secret not in [call.cwd for call in scripted.calls()]
