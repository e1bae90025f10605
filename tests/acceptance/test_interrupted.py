"""Commands that are interrupted, perhaps twice, and commands whose terminal or reader is gone or stalled."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from acceptance.command import Clinvk, read_until, until
from acceptance.terminal import ENTER, on_terminal
from clinvk.runtime.process.process_tags import RlimitTags
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.folders import Worktree
from clinvk.runtime.worktrees.worktrees import Worktrees
from polling import is_alive
from repositories import Repository
from scripted.steps import claude_says, hang, touch

BEGUN = claude_says("begun ")[:4]


def full_pipe() -> tuple[int, int]:
    """Return a pipe that is full until somebody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"full\n" * 100)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"\n")
    os.set_blocking(writing, True)
    return reading, writing


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_ctrl_c_during_import_or_interpreter_exit_exits_with_7(clinvk: Clinvk, again: bool) -> None:
    program = (
        "import os, signal, sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'clinvk.cli.parse.arguments':\n"
        "            raise KeyboardInterrupt\n"
        "class Last:\n"
        "    def __del__(self, kill=os.kill, of=(os.getpid(), signal.SIGINT)):\n"
        "        kill(*of)\n"
        "from clinvk.cli import main\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "code = main()\n"
        f"sys.modules['last'] = Last() if {again} else None\n"
        "sys.exit(code)\n"
    )
    command = [sys.executable, "-c", program, "hello"]
    done = subprocess.run(command, env=clinvk.agent.env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (7, b"clinvk: cancelled\n")


@pytest.mark.parametrize("is_full", [False, True], ids=["closed", "full"])
def test_unwritable_stderr_does_not_change_the_exit_code(clinvk: Clinvk, is_full: bool) -> None:
    clinvk.agent.play([*claude_says("x")])
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full" if is_full else os.devnull, "wb") as full:
        done = subprocess.run(
            [clinvk.command, "--continue", "hello"],
            stdin=subprocess.DEVNULL,
            stderr=full if is_full else writing,
            cwd=clinvk.folder,
            env=clinvk.agent.env,
            check=False,
        )
    os.close(writing)
    assert done.returncode == 4


def test_picker_exits_with_7_when_its_terminal_closes(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    assert clinvk.run("hello").returncode == 0
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [clinvk.command, "resume"],
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=follower,
        cwd=clinvk.folder,
        env={**clinvk.agent.env, "TERM": "xterm"},
        start_new_session=True,
    )
    try:
        os.close(follower)
        read_until(leader, b"search")
        os.close(leader)
        assert process.wait(30) == 7
    finally:
        process.kill()
        process.communicate()


def test_agent_program_does_not_open_when_a_run_has_started_meanwhile(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    session = json.loads(clinvk.run("-o", "json", "hello").stdout)["session_id"]
    clinvk.agent.play([*BEGUN, touch(clinvk.folder / "up"), hang()])
    with on_terminal(clinvk, "resume", session) as terminal:
        terminal.until("prompt for claude")
        with clinvk.started("resume", session, "meanwhile"):
            until((clinvk.folder / "up").exists)
            clinvk.agent.play(claude_says("x"), reads=False)
            terminal.type(ENTER)
            assert terminal.ended() == 4
    assert "is busy" in terminal.plain().decode()


def test_doctor_interrupted_twice_cleans_up(clinvk: Clinvk) -> None:
    log, temporary = clinvk.folder / "log", clinvk.folder / "tmp"
    temporary.mkdir()
    claude = shutil.which("claude", path=clinvk.agent.env["PATH"])
    assert claude
    Path(claude).write_text(f"#!/bin/sh\necho $$ >> {log}; exec sleep 600\n")
    with clinvk.started("doctor", "-b", "claude", env={"TMPDIR": str(temporary)}) as process:
        until(lambda: log.exists() and len(log.read_text().split()) >= 2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (7, b"clinvk: cancelled\n")
    assert not list(temporary.iterdir())
    assert not any(is_alive(int(pid)) for pid in log.read_text().split())


def test_worktrees_apply_interrupted_twice_is_atomic(clinvk: Clinvk) -> None:
    repository = Repository(clinvk.folder / "project", Path(clinvk.agent.env["HOME"]))
    repository.commit(**{"a.txt": "one\n", "b.txt": "one\n"})
    up, go = clinvk.folder / "up", clinvk.folder / "go"

    async def make() -> Worktree:
        marks = RlimitTags(10**8 + int.from_bytes(os.urandom(4)) % 10**8)
        worktrees = Worktrees(Spawner(marks), repository.home / ".clinvk", repository.env)
        async with worktrees.isolated(str(repository.path), "claude") as worktree:
            for name in ("a.txt", "b.txt"):
                Path(worktree.root, name).write_text("two\n")
        return worktree

    worktree = asyncio.run(make())
    git = clinvk.folder / "bin" / "git"
    git.parent.mkdir()
    git.write_text(
        f'#!/bin/sh\ncase "$PWD $*" in *" apply "*--check*) ;;\n'
        f'"{repository.path} "*" apply "*|*" -C {repository.path} "*" apply "*)'
        f' printf "two\\n" >{repository.path}/a.txt; touch {up}; while ! [ -e {go} ]; do sleep 0.02; done;'
        f' printf "two\\n" >{repository.path}/b.txt; exit 0;;\n'
        f'esac\nexec {shutil.which("git")} "$@"\n'
    )
    git.chmod(0o755)
    env = {"PATH": f"{git.parent}:{clinvk.agent.env['PATH']}"}
    with clinvk.started("worktrees", "apply", worktree.id, env=env) as process:
        until(up.exists)
        import time

        process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two signals at once would be one
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        go.touch()
        _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (7, b"clinvk: cancelled\n")
    contents = {(repository.path / name).read_text() for name in ("a.txt", "b.txt")}
    assert len(contents) == 1


def test_interrupted_parallel_writes_every_result_while_stdout_is_unread(clinvk: Clinvk) -> None:
    tasks: list[dict[str, str]] = []
    for name, text in (("one", "x" * 500_000), ("two", "y")):
        clinvk.agent.play([*claude_says(text)[:4], touch(clinvk.folder / name), hang()], when=name)
        tasks.append({"backend": "claude", "prompt": name})
    (clinvk.folder / "t.json").write_text(json.dumps({"tasks": tasks, "output_dir": "out"}))
    with clinvk.started("parallel", "-f", "t.json", "-o", "stream-json") as process:
        until(lambda: (clinvk.folder / "one").exists() and (clinvk.folder / "two").exists())
        process.send_signal(signal.SIGINT)
        until((clinvk.folder / "out" / "summary.json").exists)
        process.communicate(timeout=30)
    assert process.returncode == 7
    assert sorted(os.listdir(clinvk.folder / "out")) == ["0.json", "1.json", "summary.json"]
