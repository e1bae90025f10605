"""`kill -9` of clinvk ends all processes of its agents, however they hide, and no other process."""

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from acceptance.command import Clinvk, until
from acceptance.server import Server
from scripted import Scripted
from scripted.steps import Step, claude_says, hang, spawn, touch, wait_for

BEGUN = claude_says("begun ")[:4]
HIDING: list[Step] = [spawn("plain"), spawn("setsid"), spawn("double-fork"), spawn("env-i"), spawn("all")]
KILLS = 12


def guardians(pid: int) -> list[psutil.Process]:
    """Return the guardians of a clinvk."""
    try:
        children = psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if _is_guardian(child)]


def guardian(pid: int) -> psutil.Process:
    """Return the guardian of a clinvk once it is ready."""
    until(lambda: len(guardians(pid)) == 1)
    return guardians(pid)[0]


def _is_guardian(process: psutil.Process) -> bool:
    try:
        return any(word.endswith("/guardian.py") for word in process.cmdline())
    except psutil.Error:
        return False


def gone(process: psutil.Process) -> bool:
    """Return whether a process has exited, reaped or not."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_agent_process_outlives_a_server_killed_at_a_random_time(scripted: Scripted) -> None:
    chance = random.Random(6)
    scripted.play([*HIDING[:2], *BEGUN, *HIDING[2:], hang()])
    for number in range(4 * KILLS):
        if number >= KILLS and len(scripted.grandchildren()) > KILLS:
            break  # on a busy machine hardly an agent has come as far as to start something by then
        with Server(scripted) as server:
            if number % 4 == 3:  # killed while it comes up
                time.sleep(chance.uniform(0, 0.5))
            else:
                server.ready()
                for _ in range(3):
                    server.detached("hello")
                time.sleep(chance.uniform(0, 0.4 * (1 + number // KILLS)))
            guarding = guardians(server.process.pid)
            server.kill()
        until(lambda guarding=guarding: all(map(gone, guarding)))
        assert scripted.alive() == [], number
    assert len(scripted.grandchildren()) > KILLS


def test_no_agent_process_outlives_a_server_killed_during_long_runs(scripted: Scripted) -> None:
    scripted.play([*BEGUN, *HIDING, hang()])
    with Server(scripted) as server:
        for _ in range(4):
            server.ready().detached("hello")
        until(lambda: len(scripted.grandchildren()) == 20)
        guarding = guardian(server.process.pid)
        until(lambda: len(scripted.alive()) == 24)  # those in between, by which some hide, have gone
        server.kill()
    until(lambda: gone(guarding))
    assert scripted.alive() == []


def test_no_agent_process_outlives_a_killed_command(clinvk: Clinvk) -> None:
    clinvk.agent.play([*BEGUN, *HIDING, hang()])
    with clinvk.started("-o", "text", "hello") as process:
        until(lambda: len(clinvk.agent.grandchildren()) == 5)
        guarding = guardian(process.pid)
        process.kill()
        stdout, _ = process.communicate(timeout=30)  # to the end: what is left holds nothing of the terminal's
    assert stdout == b"begun "
    until(lambda: gone(guarding))
    assert clinvk.agent.alive() == []


@pytest.mark.parametrize("is_relative", [False, True], ids=["absolute", "relative"])
def test_temporary_files_of_a_killed_command_are_removed(clinvk: Clinvk, is_relative: bool) -> None:
    temporary = clinvk.folder / "temporary"
    temporary.mkdir()
    env = {"TMPDIR": "temporary" if is_relative else str(temporary)}
    clinvk.agent.play([*BEGUN, hang()])
    with clinvk.started("-o", "text", "--system-prompt", "secret", "hello", env=env) as process:
        until(lambda: any("secret" in file.read_text() for file in temporary.rglob("*") if file.is_file()))
        guarding = guardian(process.pid)
        process.kill()
    until(lambda: gone(guarding))
    assert list(temporary.iterdir()) == []


def test_agents_of_another_server_keep_running(scripted: Scripted, tmp_path: Path) -> None:
    go, up = tmp_path / "go", tmp_path / "up"
    scripted.play([*BEGUN, spawn("all"), hang()], when="one")
    scripted.play([*claude_says("x")[:4], touch(up), wait_for(go), *claude_says("x")[4:]], when="other")
    with Server(scripted) as one, Server(scripted) as other:
        run_id = other.ready().detached("other")["run_id"]
        one.ready().detached("one")
        until(lambda: len(scripted.grandchildren()) == 1 and up.exists())
        guarding = guardian(one.process.pid)
        one.kill()
        until(lambda: gone(guarding))
        assert [call.pid for call in scripted.calls() if call.stdin == b"other"] == scripted.alive()
        assert not gone(guardian(other.process.pid))
        go.touch()
        until(lambda: other.client.get(f"/api/v1/runs/{run_id}").json()["state"] == "finished")


def kill_with_guardian(pid: int) -> None:
    """Kill a clinvk and its guardian at the same moment, so that neither sees the other exit."""
    guarding = guardian(pid)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for each in (guarding.pid, pid):
            os.kill(each, number)
    until(lambda: gone(guarding))


def test_next_server_kills_agents_left_when_a_server_and_its_guardian_were_killed(scripted: Scripted) -> None:
    scripted.play([*BEGUN, *HIDING, hang()])
    with Server(scripted) as server:
        server.ready().detached("hello")
        until(lambda: len(scripted.grandchildren()) == len(HIDING))
        kill_with_guardian(server.process.pid)
    assert scripted.alive()
    with Server(scripted) as successor:
        successor.ready()
        until(lambda: not scripted.alive())
        assert len(list(scripted.folder.glob(".clinvk/owners/*.guard"))) == 1  # its own
        assert successor.stop() == 0
    assert not list(scripted.folder.glob(".clinvk/owners/*.guard"))


def test_next_command_kills_agents_left_when_a_command_and_its_guardian_were_killed(clinvk: Clinvk) -> None:
    clinvk.agent.play([*BEGUN, *HIDING, hang()], when="hello")
    clinvk.agent.play(claude_says("x"), when="next")
    with clinvk.started("-o", "text", "hello") as process:
        until(lambda: len(clinvk.agent.grandchildren()) == len(HIDING))
        kill_with_guardian(process.pid)
    with clinvk.started("next") as process:
        process.communicate(timeout=30)
    assert clinvk.agent.alive() == []


def test_second_server_does_not_kill_agents_of_a_running_server(scripted: Scripted) -> None:
    scripted.play([*BEGUN, *HIDING, hang()])
    with Server(scripted) as living:
        living.ready().detached("hello")
        until(lambda: len(scripted.grandchildren()) == len(HIDING))
        until(lambda: len(scripted.alive()) == len(HIDING) + 1)
        guarding = guardian(living.process.pid)
        guarding.kill()  # its server alone holds the lock until there is another
        with Server(scripted) as other:
            other.ready()
            assert other.stop() == 0
        assert len(scripted.alive()) == len(HIDING) + 1


def test_guardian_has_its_own_session_and_ignores_signals(scripted: Scripted) -> None:
    scripted.play([*BEGUN, spawn("all"), hang()])
    with Server(scripted) as server:
        server.ready().detached("hello")
        until(lambda: len(scripted.grandchildren()) == 1)
        guarding = guardian(server.process.pid)
        assert os.getsid(guarding.pid) == guarding.pid
        until(lambda: _is_at_work(guarding.pid))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.killpg(guarding.pid, number)
        server.kill()
        until(lambda: gone(guarding))
    assert scripted.alive() == []


def _is_at_work(pid: int) -> bool:
    """Say whether a process ignores the hangup, which a program does not that has just been started."""
    ignored = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn"))
    return bool(int(ignored.split()[1], 16) & 1 << signal.SIGHUP - 1)


def test_guardian_is_small_and_inherits_nothing_from_clinvk(scripted: Scripted) -> None:
    with Server(scripted, {"CLINVK_API_KEYS": "sk-secret"}) as server:
        guarding = guardian(server.ready().process.pid)
        until(lambda: _is_at_work(guarding.pid))
        assert guarding.environ().keys() - {"LD_LIBRARY_PATH"} == {"CLINVK_PROCESS_ID"}
        assert guarding.cwd() == "/"
        until(lambda: _has_only_its_socket(guarding.pid))  # the import system opens folders for a moment
        assert guarding.memory_info().rss < 20 * 1024 * 1024


def _has_only_its_socket(pid: int) -> bool:
    """Return whether the open files of a process are a socket as stdin, and nothing as stdout and stderr."""
    try:
        files = {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    except FileNotFoundError:  # a file was closed in between
        return False
    return files.pop(0, "").startswith("socket:") and files == {1: os.devnull, 2: os.devnull}


def test_guardian_exits_with_its_server(scripted: Scripted) -> None:
    with Server(scripted) as server:
        guarding = guardian(server.ready().process.pid)
        assert server.stop() == 0
        assert gone(guarding)
