"""The scripted agent does what tests rely on."""

import subprocess
from signal import SIGKILL, SIGTERM

import pytest

from scripted import Scripted
from scripted.steps import (
    Escape,
    Step,
    die,
    exits,
    hang,
    ignore,
    letters,
    line,
    raw,
    says,
    spawn,
    stderr,
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


def test_prints_lines_bytes_and_stderr_and_exits_with_the_code(scripted: Scripted) -> None:
    assert run(scripted, [line("é"), raw(b"\xff"), stderr("oh"), exits(3), line("never")]) == (
        3,
        "é\n".encode() + b"\xff",
        b"oh",
    )


def test_prints_a_line_of_twenty_megabytes(scripted: Scripted) -> None:
    code, out, _ = run(scripted, [letters(20_000_000, '{"a":"', '"}')])
    assert (code, len(out), out[-3:]) == (0, 20_000_009, b'"}\n')


def test_records_how_it_was_started(scripted: Scripted) -> None:
    scripted.play([])
    with start(scripted, "gemini", "-o", "stream-json") as process:
        process.communicate(b"the prompt")
    (call,) = scripted.calls()
    assert (call.name, call.argv, call.stdin) == ("gemini", ("-o", "stream-json"), b"the prompt")
    assert (call.env, call.cwd) == (scripted.env, str(scripted.folder))


def test_chooses_the_latest_play_that_matches_the_prompt(scripted: Scripted) -> None:
    scripted.play([line("any")])
    scripted.play([line("slow")], when="slow")
    answers: list[bytes] = []
    for prompt in (b"a slow one", b"a fast one"):
        with start(scripted) as process:
            answers.append(process.communicate(prompt)[0])
    assert answers == [b"slow\n", b"any\n"]


def test_does_not_read_stdin_if_disabled(scripted: Scripted) -> None:
    scripted.play([line("up")], reads=False)
    with start(scripted) as process:
        assert process.stdout
        assert process.stdout.read() == b"up\n"
    assert scripted.calls()[0].stdin is None


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


def test_grandchild_can_hold_stdout_open(scripted: Scripted) -> None:
    scripted.play([spawn("all", holds_output=True), line("bye")])
    with start(scripted) as process:
        process.stdin.close() if process.stdin else None
        process.wait(30)
        assert scripted.alive()
        scripted.end()
        assert process.stdout
        assert process.stdout.read() == b"bye\n"


def test_hangs_until_terminated(scripted: Scripted) -> None:
    scripted.play([line("up"), hang()], reads=False)
    with start(scripted) as process:
        assert process.stdout
        process.stdout.readline()
        assert scripted.alive() == [process.pid]
        process.terminate()


def test_version_is_printed_and_not_recorded(scripted: Scripted) -> None:
    with start(scripted, "codex", "--version") as process:
        assert process.communicate()[0] == b"9.9.9 (scripted)\n"
    assert scripted.calls() == []


@pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
def test_prints_the_output_format_of_each_cli(scripted: Scripted, backend: str) -> None:
    code, out, _ = run(scripted, says(backend, "hello ", "world"))
    assert code == 0
    assert b"hello " in out
