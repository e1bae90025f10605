"""A process whose first thread has ended before the others, which the kernel shows as a zombie."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from integration.test_processes import BOTH_TAGS, Child, Kind, spawner
from polling import until

FIRST_THREAD_ENDS = """
import ctypes, platform, threading, time
threading.Thread(target=time.sleep, args=(300,)).start()
print("up", flush=True)
ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the number of the system call is that of Linux")


def threads(pid: int) -> int:
    """Return the number of threads of a process, including an ended first thread."""
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/task"))
    return 0


@BOTH_TAGS
async def test_sweep_ends_a_process_whose_first_thread_has_exited(kind: Kind) -> None:
    own = spawner(kind)
    child = Child(own, sys.executable, "-I", "-c", FIRST_THREAD_ENDS)
    pid = child.process.pid
    await until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert threads(pid) == 2
    await own.sweep(child.process)
    assert threads(pid) < 2
    await child.until(lambda: child.process.exit_code is not None)


async def test_end_tools_ends_a_tool_whose_first_thread_has_exited(tmp_path: Path) -> None:
    own = spawner()
    told = tmp_path / "pid"
    (tmp_path / "tool").write_text(FIRST_THREAD_ENDS)
    child = Child(own, "sh", "-c", f"setsid {sys.executable} -I {tmp_path}/tool & echo $! >{told}; cat")
    await until(lambda: told.exists() and told.read_text().strip())
    pid = int(told.read_text())
    await until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    await own.end_tools(child.process, None)
    assert threads(pid) < 2
    await own.sweep(child.process)
