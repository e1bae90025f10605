"""The guardian with each kind of tags, and together with the sweep of an outer clinvk."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from clinvk.backends.base import PRIVATE, Launch
from clinvk.config.model import AgentSettings
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.guardian_process import GuardianProcess
from clinvk.runtime.process.private_folder import PrivateFolder
from clinvk.runtime.process.resource_limits import ResourceLimits
from clinvk.runtime.process.spawn import Spawner
from polling import is_alive, until

ENV = {"PATH": os.environ["PATH"]}
UNLIMITED = ResourceLimits(AgentSettings(), 0)
OUTER = """
import asyncio, subprocess, sys, time
from clinvk.config.model import AgentSettings
from clinvk.runtime.process.resource_limits import ResourceLimits
from clinvk.runtime.process.guardian_process import GuardianProcess
from clinvk.runtime.process.process_tags import RlimitTags

async def main():
    own = RlimitTags(int(sys.argv[1]))
    GuardianProcess(own, ResourceLimits(AgentSettings(), 0)).start()
    with own.tagging(1):
        subprocess.run(["sh", "-c", sys.argv[2]])
    print("up", flush=True)  # it has its own mark again
    time.sleep(300)

asyncio.run(main())
"""


def number() -> int:
    """Return a number of a clinvk that no other test uses."""
    return 10**8 + int.from_bytes(os.urandom(4)) % 10**8


@pytest.fixture(params=[process_tags.RlimitTags, process_tags.TreeTags])
def own(request: pytest.FixtureRequest) -> process_tags.ProcessTags:
    return request.param(number())


@pytest.fixture
def agent(own: process_tags.ProcessTags) -> Generator["subprocess.Popen[bytes]"]:
    """Start a tagged process."""
    with own.tagging(1):
        environ = {**ENV, process_tags.TAG_VARIABLE: process_tags.tag_label(own.server, 1)}
        process = subprocess.Popen(["sleep", "300"], env=environ, start_new_session=True)
    yield process
    process.kill()
    process.wait()


async def test_triggered_guardian_ends_remaining_processes(
    own: process_tags.ProcessTags, agent: "subprocess.Popen[bytes]"
) -> None:
    guard = GuardianProcess(own, UNLIMITED)
    guard.start()
    assert agent.poll() is None
    guard.trigger()
    assert await asyncio.to_thread(agent.wait, 30) == -signal.SIGTERM


@pytest.mark.parametrize("is_relative", [False, True], ids=["absolute", "relative"])
async def test_triggered_guardian_removes_only_the_private_folders_of_its_clinvk(
    own: process_tags.ProcessTags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_relative: bool
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("TMPDIR", tmp_path.name if is_relative else str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    secret = Launch(argv=("x",), files={"home/.cli/login": b"secret"}, links={"home/chats/": "~/chats"})
    ours, other = (PrivateFolder(secret, {"HOME": str(tmp_path)}, server) for server in (own.server, number()))
    for folder in (ours, other):
        await folder.prepare()
    guard = GuardianProcess(own, UNLIMITED)
    guard.start()
    guard.trigger()
    await until(lambda: len(list(tmp_path.glob("clinvk-*"))) == 1)
    assert Path(other.filled(f"{PRIVATE}/home/.cli/login")).read_bytes() == b"secret"
    assert (tmp_path / "chats").is_dir()


async def test_dismissed_guardian_exits_and_ends_nothing(
    own: process_tags.ProcessTags, agent: "subprocess.Popen[bytes]"
) -> None:
    guard = GuardianProcess(own, UNLIMITED)
    guard.start()
    pid = guard.pid
    guard.stop()
    assert pid
    assert not psutil.pid_exists(pid)
    assert agent.poll() is None


async def test_finding_all_processes_returns_agents_but_not_the_guardian(
    own: process_tags.ProcessTags, agent: "subprocess.Popen[bytes]"
) -> None:
    guard = GuardianProcess(own, UNLIMITED)
    guard.start()
    assert await asyncio.to_thread(own.find, None) == {agent.pid}
    guard.stop()


async def test_guardian_that_dies_is_replaced(own: process_tags.ProcessTags, caplog: pytest.LogCaptureFixture) -> None:
    guard = GuardianProcess(own, UNLIMITED)
    guard.start()
    first = guard.pid
    assert first
    psutil.Process(first).kill()
    await until(lambda: guard.pid not in (first, None))
    assert "the guardian has ended (-9); another is started" in caplog.text
    guard.stop()


async def test_guardian_that_fails_to_start_is_logged_and_retried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    python = sys.executable
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    guard = GuardianProcess(process_tags.RlimitTags(number()), UNLIMITED)
    guard.start()
    assert guard.pid is None
    assert "no guardian can be started" in caplog.text
    monkeypatch.setattr(sys, "executable", python)
    await until(lambda: guard.pid)
    guard.stop()


async def test_guardian_that_dies_while_out_of_file_descriptors_is_replaced_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    guard = GuardianProcess(process_tags.RlimitTags(number()), UNLIMITED)
    guard.start()
    assert guard.pid

    def exhausted() -> None:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "socketpair", exhausted)
        psutil.Process(guard.pid).kill()
        await until(lambda: "no guardian can be started" in caplog.text)
    await until(lambda: guard.pid)
    guard.stop()


async def test_guardian_of_a_nested_clinvk_ends_its_escaped_processes(tmp_path: Path) -> None:
    """The sweep of the outer clinvk ends the inner one and spares its guardian, which alone can find the processes."""
    spawner = Spawner(process_tags.RlimitTags(number()))
    escaped = tmp_path / "pid"
    hide = f"(env -i setsid /bin/sh -c '(sh -c \"echo \\$\\$ > {escaped}; exec sleep 300\") &' &)"
    argv = [sys.executable, "-c", OUTER, str(number()), hide]
    process = spawner.spawn(argv, ENV, None, lambda: None)
    await until(process.take)
    await until(lambda: escaped.exists() and escaped.read_text().strip())
    pid = int(escaped.read_text())
    assert is_alive(pid)
    await spawner.sweep(process)
    assert not is_alive(process.pid)
    await until(lambda: not is_alive(pid))
    process.discard()


async def test_stray_entry_among_home_claims_is_kept_and_an_empty_claim_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owners = tmp_path / "owners"
    owners.mkdir()
    (owners / "1.guard").symlink_to("nowhere")
    (owners / "2.guard").mkdir()
    (owners / "3.guard").touch()
    guard = GuardianProcess(process_tags.RlimitTags(4), UNLIMITED, tmp_path)
    await guard.take_over()
    assert sorted(entry.name for entry in owners.iterdir()) == ["1.guard", "2.guard", "4.guard"]
    assert (owners / "4.guard").read_text().startswith("rlimit\n4\n\n/")
    assert len(caplog.messages) == 2
    guard.stop()
