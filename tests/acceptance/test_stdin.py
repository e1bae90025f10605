"""Where the prompt comes from: the argument, stdin, or both."""

import os
import subprocess
import time

import pytest

from acceptance.command import Clinvk, read_until, until
from scripted.steps import claude_says


@pytest.fixture(autouse=True)
def answers(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))


@pytest.mark.parametrize("arguments", [[], ["-"], ["-o", "text"], ["-", "-o", "text"]])
def test_stdin_is_the_prompt_without_an_argument_or_with_a_dash(clinvk: Clinvk, arguments: list[str]) -> None:
    assert clinvk.run(*arguments, stdin=b"-from stdin\n").returncode == 0
    assert clinvk.prompts == ["-from stdin\n"]


def test_stdin_follows_the_prompt_as_context(clinvk: Clinvk) -> None:
    assert clinvk.run("review this", stdin=b"line 1\nline 2\n").returncode == 0
    assert clinvk.prompts == ["review this\n\n<stdin>\nline 1\nline 2\n</stdin>"]


@pytest.mark.parametrize(("stdin", "close_fds"), [(subprocess.DEVNULL, ""), (b"", ""), (b" \n", ""), (b"", "<&-")])
def test_empty_or_closed_stdin_adds_nothing(clinvk: Clinvk, stdin: bytes | int, close_fds: str) -> None:
    done = clinvk.run("hello", stdin=stdin, close_fds=close_fds)
    assert (done.returncode, done.stderr) == (0, "")
    assert clinvk.prompts == ["hello"]


def test_no_stdin_flag_ignores_stdin(clinvk: Clinvk) -> None:
    assert clinvk.run("hello", "--no-stdin", stdin=b"context").returncode == 0
    assert clinvk.prompts == ["hello"]


@pytest.mark.slow
def test_silent_pipe_is_ignored_after_3_seconds_with_a_note_on_stderr(clinvk: Clinvk) -> None:
    reading, writing = os.pipe()
    began = time.monotonic()
    done = clinvk.run("hello", stdin=reading)
    took = time.monotonic() - began
    os.close(reading)
    os.close(writing)
    assert done.returncode == 0
    assert took >= 3
    assert done.stderr == "clinvk: no data on stdin for 3 s; continuing without it (--no-stdin does not wait)\n"
    assert clinvk.prompts == ["hello"]


def test_slow_pipe_is_read_to_its_end_after_the_first_data(clinvk: Clinvk) -> None:
    reading, writing = os.pipe()
    with clinvk.started("hello", stdin=reading) as process:
        os.close(reading)
        os.write(writing, b"one ")
        time.sleep(0.2)
        assert clinvk.agent.calls() == []
        os.write(writing, b"two")
        os.close(writing)
        assert process.wait(30) == 0
    assert clinvk.prompts == ["hello\n\n<stdin>\none two\n</stdin>"]


@pytest.mark.parametrize("arguments", [[""], [" \n"], [], ["-"], ["--", ""]])
def test_empty_prompt_is_an_error(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments, stdin=b"")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "clinvk: the prompt is empty\n")
    assert clinvk.agent.calls() == []


@pytest.mark.parametrize("arguments", [[], ["-o", "text"], ["--no-stdin"]])
def test_missing_prompt_is_an_error_that_explains_how_to_pass_one(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments)
    told = "clinvk: no prompt: give one as an argument or on stdin; see clinvk help\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
    assert clinvk.agent.calls() == []


def test_stdin_does_not_replace_an_empty_prompt(clinvk: Clinvk) -> None:
    assert clinvk.run("", stdin=b"rm -rf").returncode == 1


@pytest.mark.parametrize("arguments", [[], ["hello"]])
def test_stdin_that_is_not_utf_8_is_an_error(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments, stdin=b"ab\xff")
    assert (done.returncode, done.stderr) == (1, "clinvk: stdin is not UTF-8 text: byte 0xff at position 2\n")


def test_argument_that_is_not_utf_8_is_an_error(clinvk: Clinvk) -> None:
    done = clinvk.run("-o", "text", b"ab\xff")
    assert (done.returncode, done.stderr) == (1, "clinvk: argument 3 is not valid UTF-8: b'ab\\xff'\n")


def test_prompt_is_not_read_from_a_terminal_without_a_dash(clinvk: Clinvk) -> None:
    leader, follower = os.openpty()
    done = clinvk.run("-o", "text", stdin=follower)
    os.close(leader)
    os.close(follower)
    assert done.returncode == 1
    assert done.stderr.startswith("clinvk: no prompt: ")


def test_dash_reads_the_prompt_from_a_terminal(clinvk: Clinvk) -> None:
    leader, follower = os.openpty()
    with clinvk.started("-", stdin=follower) as process:
        os.write(leader, b"typed\n\x04")
        assert process.wait(30) == 0
    os.close(leader)
    os.close(follower)
    assert clinvk.prompts == ["typed\n"]


def test_no_arguments_on_a_terminal_print_the_help(clinvk: Clinvk) -> None:
    leader, follower = os.openpty()
    done = clinvk.run(stdin=follower)
    os.close(leader)
    os.close(follower)
    assert done.returncode == 0
    assert done.stdout.startswith("examples:\n  clinvk ")


@pytest.mark.slow
def test_waiting_for_stdin_is_reported(clinvk: Clinvk) -> None:
    reading, writing = os.pipe()
    with clinvk.started(stdin=reading) as process:
        assert process.stderr
        assert b"waiting for the prompt on stdin" in read_until(process.stderr.fileno(), b"\n")
        os.write(writing, b"late")
        os.close(writing)
        os.close(reading)
        until(lambda: process.poll() == 0)
    assert clinvk.prompts == ["late"]
