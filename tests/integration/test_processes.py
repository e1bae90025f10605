"""Processes: lines in, bytes out, and the end of a process with its descendants."""

import asyncio
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from clinvk.runtime.process import process_scan, process_tags
from clinvk.runtime.process.executables import run_tool
from clinvk.runtime.process.orphans import children
from clinvk.runtime.process.process import Process
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.process.waiting import finish_shielded
from clinvk.types.errors import BackendUnavailable, InvalidRequest, ResourcesExhausted
from polling import is_alive, until

ENV = {"PATH": os.environ["PATH"]}
BOTH_TAGS = pytest.mark.parametrize("kind", [process_tags.RlimitTags, process_tags.TreeTags])
Kind = type[process_tags.RlimitTags] | type[process_tags.TreeTags]


class Child:
    """A process under test that records its wake-ups."""

    def __init__(self, spawner: Spawner, *argv: str, stderr_lines: bool = False) -> None:
        self.changed = asyncio.Event()
        self.lines: list[bytes] = []
        self.process: Process = spawner.spawn(argv, ENV, None, self.changed.set, stderr_lines)

    async def until(self, condition: Callable[[], bool], within_s: float = 30) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                await self.changed.wait()
                self.changed.clear()
                self.lines += self.process.take()

    async def end(self) -> None:
        await self.until(lambda: self.process.exit_code is not None and self.process.at_eof)


def spawner(kind: Kind = process_tags.RlimitTags) -> Spawner:
    """Return a spawner with its own number: concurrent tests must not end each other's processes."""
    return Spawner(kind(10**8 + int.from_bytes(os.urandom(4)) % 10**8))


def block_until_exit(pid: int) -> None:
    """Block the loop until a process has exited, so that the loop sees output and exit together."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def can_have_wide_pipes() -> bool:
    """Return whether the user's other pipes leave room for some of a megabyte."""
    with suppress(PermissionError), ExitStack() as pipes:
        for _ in range(4):
            reading, writing = os.pipe()
            pipes.callback(os.close, reading)
            pipes.callback(os.close, writing)
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 1024 * 1024)
        return True
    return False


def pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


async def test_all_output_is_available_when_the_exit_is_known() -> None:
    """Even on a busy loop: output still in the pipe would be read for half a second only."""
    await until(can_have_wide_pipes)
    child = Child(spawner(), sys.executable, "-c", "print(f'{1:09}\\n' * 100_000, end='')")
    block_until_exit(child.process.pid)
    while child.process.exit_code is None:
        await child.changed.wait()
        child.changed.clear()
    assert len(child.process.take()) == 100_000
    assert child.process.at_eof
    child.process.discard()


async def test_output_of_a_surviving_child_is_not_waited_for() -> None:
    own = spawner()
    child = Child(own, "sh", "-c", "yes & exit")
    await child.until(lambda: child.process.exit_code is not None)
    assert not child.process.at_eof
    await own.sweep(child.process)
    child.process.discard()


@BOTH_TAGS
async def test_measuring_memory_leaves_the_process_running(kind: Kind) -> None:
    own = spawner(kind)
    child = Child(own, "sh", "-c", "sleep 60 >/dev/null & cat")
    sizes = await own.memory([child.process.number, 77])
    assert sizes[child.process.number] > 0
    assert sizes[77] == 0
    child.process.write(b"on\n", close=True)
    await child.end()
    assert child.lines == [b"on"]
    await own.sweep(child.process)
    child.process.discard()


@BOTH_TAGS
async def test_end_tools_ends_only_processes_with_the_variable(kind: Kind) -> None:
    own = spawner(kind)
    child = Child(own, "sh", "-c", "X=1 sh -c 'echo $$; exec sleep 60' & sleep 60 & echo $!; cat")
    await child.until(lambda: len(child.lines) == 2)
    await own.end_tools(child.process, ("X", "1"))
    assert sorted(is_alive(int(pid)) for pid in child.lines) == [False, True]
    child.process.write(b"on\n", close=True)
    await child.until(lambda: child.lines[-1] == b"on")
    await own.sweep(child.process)
    child.process.discard()


@BOTH_TAGS
async def test_sweep_lets_processes_clean_up(kind: Kind, tmp_path: Path) -> None:
    own = spawner(kind)
    trap = f"trap 'rm {tmp_path}/lock; exit' TERM; touch {tmp_path}/lock; while :; do sleep 0.05; done"
    child = Child(own, "sh", "-c", f'setsid sh -c "{trap}" & trap "" TERM; cat')
    await until(lambda: (tmp_path / "lock").exists())
    await own.sweep(child.process)
    assert not (tmp_path / "lock").exists()
    assert not is_alive(child.process.pid)


async def test_prompt_larger_than_any_pipe_is_written_completely() -> None:
    child = Child(spawner(), "wc", "-c")
    child.process.write(b"x" * 5_000_000, close=True)
    await child.end()
    assert child.lines == [b"5000000"]
    child.process.discard()


async def test_process_that_does_not_read_its_prompt_still_ends() -> None:
    child = Child(spawner(), "sh", "-c", "exec 0<&-; echo done")
    child.process.write(b"x" * 1_000_000, close=True)
    await child.end()
    assert child.lines == [b"done"]
    child.process.discard()


async def test_line_of_twenty_megabytes_arrives_complete() -> None:
    child = Child(spawner(), sys.executable, "-I", "-S", "-c", "print('x' * 20_000_000)")
    child.process.write(b"", close=True)
    await child.end()
    assert (child.process.exit_code, child.process.stderr) == (0, b"")
    assert [len(line) for line in child.lines] == [20_000_000]
    child.process.discard()


async def test_process_that_another_thread_starts_carries_no_tag_of_an_agent() -> None:
    """The removal of a folder in a thread was killed as a process of an agent that ended at that moment."""
    show_limit = (
        sys.executable,
        "-I",
        "-S",
        "-c",
        "import resource; print(resource.getrlimit(resource.RLIMIT_RTTIME)[0])",
    )
    own = str(resource.getrlimit(resource.RLIMIT_RTTIME)[0])
    is_done = threading.Event()

    def start_many() -> list[str]:
        seen: list[str] = []
        while not is_done.is_set() or len(seen) < 20:
            with children.untagged():
                process = subprocess.Popen(show_limit, stdout=subprocess.PIPE)
            seen.append(process.communicate()[0].decode().strip())
        return seen

    spawning = spawner()
    starting = asyncio.create_task(asyncio.to_thread(start_many))
    try:
        for _ in range(100):
            child = Child(spawning, "true")
            child.process.write(b"", close=True)
            await child.end()
            child.process.discard()
    finally:
        is_done.set()
        seen = await starting
    assert {*seen} == {own}


async def test_pipe_holds_a_megabyte_of_non_blocking_output() -> None:
    """Claude Code and Gemini CLI write without waiting and exit: output beyond the pipe's size is lost."""
    script = "import os\nos.set_blocking(1, False)\nos.write(1, b'x' * 1_000_000 + b'\\n')"
    lengths: list[int] = []
    for _ in range(20):  # other processes of the user may take the room for wide pipes at any moment
        await until(can_have_wide_pipes)
        child = Child(spawner(), sys.executable, "-I", "-S", "-c", script)
        child.process.write(b"", close=True)
        await child.end()
        child.process.discard()
        lengths = [len(line) for line in child.lines]
        if lengths == [1_000_000]:
            break
    assert lengths == [1_000_000]


async def test_exit_code_of_a_killed_process_is_128_plus_the_signal() -> None:
    child = Child(spawner(), "sleep", "60")
    child.process.signal(signal.SIGKILL)
    await child.end()
    assert child.process.exit_code == 137
    child.process.discard()


async def test_stderr_tail_is_kept_and_returned_in_lines_on_request() -> None:
    child = Child(spawner(), "sh", "-c", "echo one >&2; echo two >&2", stderr_lines=True)
    child.process.write(b"", close=True)
    lines: list[bytes] = []
    await child.end()
    await until(lambda: lines.extend(child.process.take_stderr()) or len(lines) == 2)
    assert lines == [b"one", b"two"]
    assert child.process.stderr == b"one\ntwo\n"
    child.process.discard()


async def test_written_prompt_is_released() -> None:
    starts, prompt = spawner(), os.urandom(1_000_000)
    held = sys.getrefcount(prompt)

    def is_let_go() -> bool:
        process.take()
        return sys.getrefcount(prompt) == held

    process = starts.spawn(["cat"], ENV, None, lambda: None)
    process.write(prompt, close=False)
    assert not is_let_go()
    await until(is_let_go)
    await starts.sweep(process)
    process.discard()


def test_spawn_failure_raises_an_error_the_caller_can_fix(tmp_path: Path) -> None:
    async def spawn(argv: list[str], cwd: str | None = None) -> None:
        spawner().spawn(argv, ENV, cwd, lambda: None)

    (tmp_path / "plain").write_text("no program")
    with pytest.raises(BackendUnavailable, match="plain"):
        asyncio.run(spawn([str(tmp_path / "plain")]))
    with pytest.raises(InvalidRequest, match="nowhere"):
        asyncio.run(spawn(["cat"], str(tmp_path / "nowhere")))
    with pytest.raises(InvalidRequest, match="too long"):
        asyncio.run(spawn(["cat", "x" * 200_000]))


@pytest.mark.parametrize("room", range(8))
async def test_spawn_without_free_descriptors_leaks_none(room: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/proc/self/fd")
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + 20, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for fd in taken[len(taken) - room :]:
            os.close(fd)
        with pytest.raises(ResourcesExhausted, match="cannot start '/bin/true': Too many open files"):
            spawner().spawn(["/bin/true"], ENV, None, lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for fd in taken[: len(taken) - room]:
        os.close(fd)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.ENFILE])
async def test_spawn_refused_for_lack_of_resources_is_retryable(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(ResourcesExhausted, match=os.strerror(number)):
        spawner().spawn(["/bin/true"], ENV, "/", lambda: None)


HIDERS = {
    "child": "sleep 300 & echo $! >> {pids}",
    "setsid": "setsid sh -c 'echo $$ >> {pids}; exec sleep 300' &",
    "double fork": "(setsid sh -c '(echo $$ >> {pids}; exec sleep 300) &' &)",
}
ESCAPERS = {
    "env -i": "(env -i /bin/sh -c 'echo $$ >> {pids}; exec sleep 300' &)",
    "env -i setsid double fork": "(env -i setsid /bin/sh -c '(sh -c \"echo \\$\\$ >> {pids}; exec sleep 300\") &' &)",
}


@pytest.mark.parametrize("hide", [*HIDERS, *ESCAPERS])
async def test_no_descendant_outlives_the_sweep(hide: str, tmp_path: Path) -> None:
    script = {**HIDERS, **ESCAPERS}[hide].format(pids=tmp_path / "pids")
    own = spawner()
    child = Child(own, "sh", "-c", f"{script}\nexec sleep 300")
    await until(lambda: pids(tmp_path / "pids"))
    await own.sweep(child.process)
    assert not [pid for pid in [child.process.pid, *pids(tmp_path / "pids")] if is_alive(pid)]
    child.process.discard()


@pytest.mark.parametrize("hide", HIDERS)
async def test_environment_and_tree_find_common_descendants_without_rlimits(hide: str, tmp_path: Path) -> None:
    own = spawner(process_tags.TreeTags)
    child = Child(own, "sh", "-c", f"{HIDERS[hide].format(pids=tmp_path / 'pids')}\nexec sleep 300")
    await until(lambda: pids(tmp_path / "pids"))
    await own.sweep(child.process)
    assert not [pid for pid in [child.process.pid, *pids(tmp_path / "pids")] if is_alive(pid)]
    child.process.discard()


@BOTH_TAGS
async def test_sweep_ends_processes_left_by_an_exited_process(kind: Kind, tmp_path: Path) -> None:
    own = spawner(kind)
    child = Child(own, "sh", "-c", f"setsid sleep 300 >/dev/null 2>&1 & echo $! > {tmp_path / 'pids'}")
    child.process.write(b"", close=True)
    await child.end()
    (left,) = pids(tmp_path / "pids")
    await until(lambda: psutil.Process(left).cmdline()[:1] == ["sleep"])  # no environment can be read during an exec
    await own.sweep(child.process)
    assert not is_alive(left)
    child.process.discard()


async def test_fork_bomb_with_an_empty_environment_is_ended(tmp_path: Path) -> None:
    bomb = (
        "import os, time\n"
        "for _ in range(60):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        f"        open({str(tmp_path / 'pids')!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "        if os.fork() == 0:\n"
        f"            open({str(tmp_path / 'pids')!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        "            time.sleep(300)\n"
        "        os._exit(0)\n"
        "    time.sleep(0.005)\n"
        "time.sleep(300)\n"
    )
    own = spawner()
    child = Child(own, "env", "-i", sys.executable, "-I", "-S", "-c", bomb)
    await until(lambda: len(pids(tmp_path / "pids")) > 40, within_s=30)
    await own.sweep(child.process)
    assert not [pid for pid in pids(tmp_path / "pids") if is_alive(pid)]
    child.process.discard()


SWEEP = """
import asyncio, os, sys
from clinvk.runtime.process.process_tags import choose_tags
from clinvk.runtime.process.process_scan import child_pids
from clinvk.runtime.process.spawn import Spawner

async def main():
    spawner, changed = Spawner(choose_tags()), asyncio.Event()
    async with spawner.adopting():
        process = spawner.spawn(sys.argv[2:], os.environ, None, changed.set)
        while process.exit_code is None:
            await changed.wait()
            changed.clear()
        while not os.path.getsize(sys.argv[1]):
            await asyncio.sleep(0.01)
        await spawner.sweep(process)
        print(process.exit_code, *child_pids())

asyncio.run(main())
"""
RUNNER = """
import os, resource, signal, sys, time
until = time.time() + 30
beat = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
if sys.argv[2] == "hidden":
    resource.setrlimit(15, (-1, -1))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
parent = os.getpid()
while time.time() < until:
    if os.fork():
        os._exit(7 if os.getpid() == parent else 0)
    if sys.argv[2] == "hidden":
        os.setsid()
    os.pwrite(beat, b'%d' % os.getpid(), 0)
"""


@pytest.mark.parametrize("how", ["plain", "hidden"])
def test_sweep_ends_a_process_that_keeps_forking_and_exiting(how: str, tmp_path: Path) -> None:
    """When the process is examined, it has exited, and its child is younger than the list of processes."""
    for number in range(5):
        beat = tmp_path / str(number)
        agent = ["env", "-i", sys.executable, "-I", "-S", "-c", RUNNER, str(beat), how]
        beat.touch()
        command = [sys.executable, "-c", SWEEP, str(beat), *agent]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        seen = beat.read_bytes()
        assert (done.stdout.split(), done.stderr) == (["7"], "")  # neither a process nor a zombie is left
        time.sleep(0.1)
        assert beat.read_bytes() == seen


ESCAPE = "(env -i setsid prlimit --rttime=unlimited /bin/sh -c '(/bin/sh -c \"echo \\$\\$; {then}\") &' &)"
TWO_AGENTS = """
import asyncio, os, sys
from clinvk.runtime.process.process_tags import choose_tags
from clinvk.runtime.process.spawn import Spawner

async def main():
    spawner, changed = Spawner(choose_tags()), asyncio.Event()

    async def escaped():
        process = spawner.spawn(["sh", "-c", sys.argv[1]], os.environ, None, changed.set)
        while not (lines := process.take()):
            await changed.wait()
            changed.clear()
        print(*map(int, lines), flush=True)
        await asyncio.sleep(0.1)  # the kernel counts the age of a process in hundredths of a second
        return process

    async with spawner.adopting():
        for process in [await escaped(), await escaped()]:
            sys.stdin.readline()
            await spawner.sweep(process)
            print("swept", flush=True)

asyncio.run(main())
"""


@pytest.fixture
def two_agents() -> Generator[tuple["subprocess.Popen[str]", list[int]]]:
    """Start a clinvk with two agents; each has left an orphan without a tag. Yield the clinvk and the orphans."""
    command = [sys.executable, "-c", TWO_AGENTS, f"{ESCAPE.format(then='exec sleep 300')}; exec sleep 300"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        orphans = [int(process.stdout.readline()) for _ in range(2)]
        yield process, orphans
        process.stdin.write("\n\n")
        process.stdin.close()
        assert process.wait(30) == 0
        assert not any(map(is_alive, orphans))


def test_orphan_without_a_tag_is_recognised_by_its_clinvk(
    two_agents: tuple["subprocess.Popen[str]", list[int]],
) -> None:
    process, orphans = two_agents
    assert all(map(process_scan.is_tagged, orphans))
    assert not process_scan.is_tagged(process.pid)


def test_orphan_without_a_tag_ends_with_the_last_agent_that_may_have_left_it(
    two_agents: tuple["subprocess.Popen[str]", list[int]],
) -> None:
    process, orphans = two_agents
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "swept\n"
    assert [*map(is_alive, orphans)] == [False, True]


async def test_exited_orphans_are_reaped_and_other_children_keep_their_exit_codes() -> None:
    def exiting(code: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["sh", "-c", f"exit {code}"], start_new_session=True)

    own, others = spawner(), [exiting(3)]
    async with own.adopting():
        others.append(exiting(4))
        child = Child(own, "sh", "-c", f"{ESCAPE.format(then='')}; (setsid sh -c 'echo $$' &); cat; exit 5")
        await child.until(lambda: len(child.lines) == 2)
        await until(lambda: not any(psutil.pid_exists(int(pid)) for pid in child.lines))
        child.process.write(b"", close=True)
        await child.until(lambda: child.process.exit_code == 5)
        await own.sweep(child.process)
    assert [other.wait() for other in others] == [3, 4]


OTHER_GROUP = """
import os, resource, signal
from clinvk.runtime.process import process_scan as remains

SERVER = 987654321

def become_ordinary(saved_group):
    os.setgroups([])
    os.setresgid(65534, 65534, saved_group)
    os.setresuid(65534, 65534, 65534)

ready, told = os.pipe()
pid = os.fork()
if pid == 0:
    resource.setrlimit(remains.RTTIME, (remains.tag_value(SERVER, 7), resource.RLIM_INFINITY))
    become_ordinary(saved_group=12345)
    signal.alarm(10)
    os.write(told, b".")
    signal.pause()
os.read(ready, 1)
become_ordinary(saved_group=65534)
remains.kill_tagged(lambda: remains.stop_tagged(SERVER, {7}))
print("alive" if remains.alive({pid}) else "ended")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another group")
def test_sweep_ends_a_process_with_another_group_id() -> None:
    """For example `ssh-agent`, whose limit the kernel does not report by pid."""
    done = subprocess.run([sys.executable, "-c", OTHER_GROUP], capture_output=True, text=True, timeout=15)
    assert done.stdout.split() == ["ended"], done.stderr


async def test_sweep_leaves_processes_of_other_agents_alone() -> None:
    own = spawner()
    one, other = Child(own, "sleep", "300"), Child(own, "sleep", "300")
    await own.sweep(one.process)
    assert is_alive(other.process.pid)
    await own.sweep(other.process)
    for child in (one, other):
        child.process.discard()


async def test_sweep_ends_processes_tagged_by_a_nested_clinvk(tmp_path: Path) -> None:
    inner = (
        "import subprocess, sys, time\n"
        "from clinvk.runtime.process.process_tags import RlimitTags\n"
        "with RlimitTags(987654321).tagging(1):\n"
        "    child = subprocess.Popen(['sleep', '300'], start_new_session=True)\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(300)\n"
    )
    own = spawner()
    child = Child(own, sys.executable, "-c", inner)
    await until(lambda: pids(tmp_path / "pids"))
    await own.sweep(child.process)
    assert not is_alive(pids(tmp_path / "pids")[0])
    child.process.discard()


def test_tagging_leaves_our_own_limits_unchanged() -> None:
    import resource

    before = resource.getrlimit(15)
    own = process_tags.RlimitTags(123_456_789)
    with own.tagging(7):
        assert resource.getrlimit(15)[0] == 123_456_789_000_000_007
    assert resource.getrlimit(15) == before


def test_process_that_spawns_an_agent_does_not_count_as_an_agent() -> None:
    with process_tags.RlimitTags(987_654_322).tagging(7):
        assert not process_scan.is_tagged(os.getpid())


def test_choose_returns_rlimit_tags_on_linux() -> None:
    assert isinstance(process_tags.choose_tags(), process_tags.RlimitTags)


async def test_run_tool_returns_exit_code_and_output() -> None:
    program = "printf 'out\\n\\n\\0\\rend\\n'; echo err >&2; exit 3"
    assert await run_tool(spawner(), ("sh", "-c", program), ENV, 10) == (3, b"out\n\n\0\rend\n", b"err\n")


@pytest.mark.slow
async def test_run_tool_ends_a_hung_program(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        await run_tool(spawner(), ("sh", "-c", f"echo $$ > {tmp_path / 'pids'}; exec sleep 300"), ENV, 3)
    assert not is_alive(pids(tmp_path / "pids")[0])


async def test_sweep_continues_when_its_caller_is_cancelled() -> None:
    own = spawner()
    child = Child(own, "sleep", "300")
    sweeping = asyncio.create_task(own.sweep(child.process))
    await asyncio.sleep(0)
    sweeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweeping
    assert not is_alive(child.process.pid)


async def test_swept_process_leaves_no_open_pipes() -> None:
    """Not even if the caller of the sweep is cancelled: its pipes would stay open."""
    own = spawner()
    for cancelled in (False, True):
        before = set(os.listdir("/proc/self/fd"))
        child = Child(own, "sleep", "300")
        sweeping = asyncio.create_task(own.sweep(child.process))
        await asyncio.sleep(0)
        if cancelled:
            sweeping.cancel()
        await asyncio.wait([sweeping])
        await child.until(lambda child=child: child.process.exit_code is not None)
        assert set(os.listdir("/proc/self/fd")) <= before


async def test_waiting_without_pidfds_leaves_the_loops_threads_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    own = spawner()
    children = [Child(own, "sleep", "300") for _ in range((os.cpu_count() or 1) + 6)]
    async with asyncio.timeout(10):
        await asyncio.to_thread(lambda: None)
    await asyncio.gather(*(own.sweep(child.process) for child in children))
    for child in children:
        await child.until(lambda child=child: child.process.exit_code == 143)
        child.process.discard()


async def test_cleanup_that_takes_too_long_raises_timeout_error() -> None:
    with pytest.raises(TimeoutError):
        await finish_shielded(asyncio.sleep(30), timeout_s=0.1)


async def test_cancellation_propagates_after_a_cleanup_timeout() -> None:
    cleaning = asyncio.create_task(finish_shielded(asyncio.sleep(30), timeout_s=0.1))
    await asyncio.sleep(0)
    cleaning.cancel()
    await asyncio.wait([cleaning])
    assert cleaning.cancelled()
