"""The scripted agent does what tests rely on."""

import subprocess
from signal import SIGKILL, SIGTERM

import pytest

from scripted import Scripted
from scripted.steps import (
    Escape,
    Step,
    die,
    ignore,
    line,
    spawn,
    touch,
    wait_for,
)


def start(scripted: Scripted, name: str = "claude", *flags: str) -> "subprocess.Popen[bytes]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [scripted.folder / name, *flags], env=scripted.env, stdin=pipe, stdout=pipe, stderr=pipe, cwd=scripted.folder
    )


def run(scripted: Scripted, steps: list[Step], prompt: bytes = b"hello") -> tuple[int, bytes, bytes]:
    scripted.play(steps)
    with start(scripted) as process:
        out, err = process.communicate(prompt, timeout=30)
    return process.returncode, out, err


def test_chooses_the_latest_play_that_matches_the_prompt(scripted: Scripted) -> None:
    scripted.play([line("any")])
    scripted.play([line("slow")], when="slow")
    answers: list[bytes] = []
    for prompt in (b"a slow one", b"a fast one"):
        with start(scripted) as process:
            answers.append(process.communicate(prompt)[0])
    assert answers == [b"slow\n", b"any\n"]


def test_ignores_sigterm_and_exits_by_signal(scripted: Scripted) -> None:
    ready, go = scripted.folder / "ready", scripted.folder / "go"
    scripted.play([ignore(), touch(ready), line("deaf"), wait_for(go), die(SIGKILL)], reads=False)
    with start(scripted) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(SIGTERM)
        assert ready.exists()
        go.touch()
        process.wait(30)
    assert process.returncode == -SIGKILL


@pytest.mark.parametrize("how", ["plain", "setsid", "double-fork", "env-i", "all"])
def test_leaves_grandchildren_that_can_be_found_and_killed(scripted: Scripted, how: Escape) -> None:
    code, _, err = run(scripted, [spawn(how)])
    assert (code, err) == (0, b"")
    assert scripted.alive() == scripted.grandchildren() != []
    scripted.end()
