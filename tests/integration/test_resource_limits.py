"""Limits and cgroups of agent processes."""

import os
import resource
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from clinvk.config.model import AgentSettings
from clinvk.runtime.process import resource_limits
from clinvk.runtime.process.executables import ProgramResult, run_tool
from clinvk.runtime.process.guardian_process import GuardianProcess
from clinvk.runtime.process.process_tags import RlimitTags
from clinvk.runtime.process.resource_limits import ResourceLimits
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import BackendUnavailable, ConfigError, InvalidRequest
from polling import is_alive, until

ENV = {"PATH": os.environ["PATH"]}
PYTHON = (sys.executable, "-I", "-S", "-c")
CLEARS_ITS_TAG = """
import os, resource, sys, time
resource.setrlimit(15, (-1, -1))
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(f"{os.getpid()}\\n")
        time.sleep(300)
    os._exit(0)
time.sleep(300)
"""


linux = pytest.mark.skipif(sys.platform != "linux", reason="the limits of another process can be set on Linux only")


def tags() -> RlimitTags:
    """Return tags that no other test uses."""
    return RlimitTags(10**8 + int.from_bytes(os.urandom(4)) % 10**8)


async def done(agents: AgentSettings, *argv: str, open_files: int | None = None) -> ProgramResult:
    """Run a command to its end, within limits."""
    own = tags()
    return await run_tool(Spawner(own, ResourceLimits(agents, own.server, open_files)), argv, ENV, 30)


async def test_limits_apply_to_a_process_and_its_children() -> None:
    agents = AgentSettings(max_memory_mb=500, max_cpu_secs=70, max_open_files=123)
    result = await done(agents, "sh", "-c", "(setsid sh -c 'ulimit -d; ulimit -S -t; ulimit -H -t; ulimit -n' &) | cat")
    assert result == (0, b"512000\n70\n71\n123\n", b"")


def test_process_without_limits_starts_without_a_shell() -> None:
    argv = ("claude", "-p")
    assert ResourceLimits(AgentSettings(), 1).wrap(argv, 1) is argv


async def test_arguments_are_passed_unchanged() -> None:
    words = ("", "-n", "a b", "$HOME", "`id`", "'", '"', "\\", "*", "a\nb", "ü")
    result = await done(AgentSettings(max_open_files=100), "printf", "%s|", *words)
    assert result == (0, "".join(f"{word}|" for word in words).encode(), b"")


async def test_shell_execs_the_agent() -> None:
    result = await done(AgentSettings(max_open_files=100), "sh", "-c", "echo $$ $PPID")
    assert result.stdout.split()[1] == str(os.getpid()).encode()


async def test_process_over_its_memory_limit_fails() -> None:
    script = f"bytearray({300 * 1024 * 1024})"
    assert (await done(AgentSettings(), *PYTHON, script)).exit_code == 0
    result = await done(AgentSettings(max_memory_mb=200), *PYTHON, script)
    assert result.exit_code == 1
    assert b"MemoryError" in result.stderr


async def test_process_over_its_cpu_limit_is_killed() -> None:
    result = await done(AgentSettings(max_cpu_secs=1), *PYTHON, "while True: pass")
    assert result.exit_code == 128 + signal.SIGXCPU


async def test_limit_above_the_hard_limit_of_clinvk_is_lowered_to_it() -> None:
    result = await done(AgentSettings(max_open_files=10**9), "sh", "-c", "ulimit -n")
    assert result == (0, f"{resource.getrlimit(resource.RLIMIT_NOFILE)[1]}\n".encode(), b"")


@linux
@pytest.mark.parametrize("agents", [AgentSettings(), AgentSettings(max_memory_mb=500)], ids=["no others", "others"])
async def test_process_gets_the_open_file_limit_that_clinvk_was_started_with(agents: AgentSettings) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    waits = 'while [ "$(ulimit -S -n)" != 100 ]; do sleep 0.01; done; sh -c "ulimit -S -n; ulimit -H -n"'
    assert await done(agents, "sh", "-c", waits, open_files=100) == (0, f"100\n{hard}\n".encode(), b"")


async def test_inherited_open_file_limit_does_not_override_the_settings() -> None:
    agents = AgentSettings(max_open_files=123)
    result = await done(agents, "sh", "-c", "sleep 0.3; ulimit -S -n; ulimit -H -n", open_files=100)
    assert result == (0, b"123\n123\n", b"")


@linux
async def test_process_keeps_a_limit_that_it_set_itself() -> None:
    own = tags()
    spawner = Spawner(own, ResourceLimits(AgentSettings(), own.server))
    process = spawner.spawn(["sh", "-c", "ulimit -S -n 50; echo set; sleep 60"], ENV, None, lambda: None)
    try:
        await until(lambda: process.take() == [b"set"])
        ResourceLimits(AgentSettings(), own.server, 100).lower_open_files(process.pid)
        assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE)[0] == 50
    finally:
        await spawner.sweep(process)
        process.discard()


async def test_error_for_a_missing_program_names_it() -> None:
    with pytest.raises(BackendUnavailable, match="cannot start '/nowhere/claude'"):
        await done(AgentSettings(max_open_files=100), "/nowhere/claude")


@pytest.fixture
def divided() -> Generator[tuple[RlimitTags, ResourceLimits] | None]:
    """Return limits with a cgroup; None if clinvk has no cgroup to divide, and says so."""
    own = tags()
    made = ResourceLimits(AgentSettings(cgroup=True), own.server)
    try:
        made.open()
    except ConfigError as exc:
        refusal = exc.message
        yield None
        assert refusal.startswith("agents.cgroup: ")
        return
    yield own, made
    made.close()
    assert not os.path.exists(made.cgroup)


async def test_process_that_drops_its_tag_is_ended_with_its_cgroup(
    divided: tuple[RlimitTags, ResourceLimits] | None, tmp_path: Path
) -> None:
    if divided is None:
        return
    own, made = divided
    spawner = Spawner(own, made)
    pid_file = tmp_path / "pid"
    process = spawner.spawn([*PYTHON, CLEARS_ITS_TAG, str(pid_file)], ENV, None, lambda: None)
    await until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    pid = int(pid_file.read_text())
    assert Path(f"/proc/{pid}/cgroup").read_text().rstrip().endswith(f"/clinvk-{own.server}/1")
    await spawner.sweep(process)
    assert not is_alive(pid)
    assert os.listdir(made.cgroup) == [name for name in os.listdir(made.cgroup) if "." in name]
    process.discard()


async def test_process_that_fails_to_start_leaves_no_cgroup(
    divided: tuple[RlimitTags, ResourceLimits] | None, tmp_path: Path
) -> None:
    if divided is None:
        return
    own, made = divided
    with pytest.raises(InvalidRequest, match="cannot work in"):
        Spawner(own, made).spawn(["true"], ENV, str(tmp_path / "gone"), lambda: None)
    await until(lambda: all("." in name for name in os.listdir(made.cgroup)))


async def test_guardian_ends_the_cgroups(divided: tuple[RlimitTags, ResourceLimits] | None, tmp_path: Path) -> None:
    if divided is None:
        return
    own, made = divided
    guard = GuardianProcess(own, made)
    guard.start()
    pid_file = tmp_path / "pid"
    process = Spawner(own, made).spawn([*PYTHON, CLEARS_ITS_TAG, str(pid_file)], ENV, None, lambda: None)
    await until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    guard.trigger()
    await until(lambda: not is_alive(int(pid_file.read_text())) and process.exit_code is not None)
    await until(lambda: not os.path.exists(made.cgroup))
    process.discard()


def test_error_for_a_missing_cgroup_says_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resource_limits, "own_cgroup", lambda: str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"agents\.cgroup: No such file .*nowhere/clinvk-.*Delegate=yes"):
        resource_limits.check_resource_limits(AgentSettings(cgroup=True))


def test_directory_that_is_no_cgroup_is_refused_and_left_unchanged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resource_limits, "own_cgroup", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match=r"agents\.cgroup: .*cgroup\.procs"):
        resource_limits.check_resource_limits(AgentSettings(cgroup=True))
    assert os.listdir(tmp_path) == []
