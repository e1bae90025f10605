"""A process that is suspended while its tools are ended, and then continues."""

import errno

import psutil
import pytest

from clinvk.runtime.process.process import Process
from integration.test_processes import Child, spawner
from polling import until


def is_stopped(process: Process) -> bool:
    return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


async def test_held_process_resumes_when_the_last_holder_releases_it() -> None:
    own = spawner()
    child = Child(own, "cat")
    with child.process.allow_suspend():
        with child.process.allow_suspend():
            child.process.suspend()
            await until(lambda: is_stopped(child.process))
        assert is_stopped(child.process)
    await until(lambda: not is_stopped(child.process))
    child.process.suspend()  # by whoever has given up waiting for it
    child.process.write(b"on\n", close=True)
    await child.end()
    assert child.lines == [b"on"]
    await own.sweep(child.process)


async def test_hold_ignores_a_permission_error_for_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS raises PermissionError for a group whose members are all dead."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    own = spawner()
    child = Child(own, "cat")
    with monkeypatch.context() as macos:
        macos.setattr("os.killpg", refuse)
        with child.process.allow_suspend():
            child.process.suspend()
    await own.sweep(child.process)
