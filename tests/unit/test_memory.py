"""Free memory returns to the system; each test has a process with a fresh heap."""

import subprocess
import sys

_PRINT_ARENAS = """
import ctypes, threading
from clinvk.api.server import housekeeping as memory
memory.limit_malloc_arenas()
ready = threading.Barrier(8)
def allocate():
    held = [bytes(5000) for _ in range(100)]
    ready.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL(None).malloc_stats()
"""

_GIVE_BACK = """
import asyncio, itertools, os, time
from clinvk.api.server import housekeeping as memory
from clinvk.runtime.process.waiting import in_background
def resident_pages():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
async def main():
    held = [os.urandom(2000) for _ in range(50_000)]
    held = held[::50]
    before = resident_pages()
    async with in_background(memory.trim_memory(itertools.count().__next__, 0.01)):
        until = time.monotonic() + 30
        while resident_pages() > 0.6 * before and time.monotonic() < until:
            await asyncio.sleep(0.01)
    print(resident_pages() / before, len(held))
asyncio.run(main())
"""


def run_python(program: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def test_threads_share_one_malloc_arena() -> None:
    text = run_python(_PRINT_ARENAS).stderr
    assert "Arena 1" in text
    assert "Arena 2" not in text


def test_free_memory_between_used_blocks_is_returned() -> None:
    """Like the heap of a server after a busy hour: nothing at its end is free."""
    assert float(run_python(_GIVE_BACK).stdout.split()[0]) < 0.6
