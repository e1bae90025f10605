"""How flags, commands and prompts are told apart."""

import fcntl
import os

import pytest

from acceptance.command import Clinvk
from scripted.steps import claude_says


@pytest.fixture(autouse=True)
def answers(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "text", "-m", "opus", "a prompt"],
        ["a prompt", "-o", "text", "-m", "opus"],
        ["--output-format=text", "a prompt", "--model=opus"],
        ["-otext", "-mopus", "--", "a prompt"],
    ],
)
def test_flags_are_accepted_before_and_after_the_prompt(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments)
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert clinvk.prompts == ["a prompt"]
    assert any("opus" in word for word in clinvk.agent.calls()[0].argv)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "--new", "hello"], "--continue and --new exclude each other"),
        (["-c", "--ephemeral", "hello"], "--continue and --ephemeral exclude each other"),
        (
            ["resume", "--last", "--ephemeral"],
            "resume has no --ephemeral: prompt and answer become part of the conversation",
        ),
        (["serve", "--ephemeral"], "a server has no --ephemeral: set it per request"),
    ],
)
def test_wrong_usage_exits_with_1_and_one_line(clinvk: Clinvk, arguments: list[str], message: str) -> None:
    done = clinvk.run(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"clinvk: {message}\n")
    assert clinvk.agent.calls() == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["hello"], 1, "the current directory is gone; change to another one"),
        (["--workdir", "x", "hello"], 1, "the current directory is gone; change to another one"),
        (["compare", "--backends", "claude", "hello"], 1, "the current directory is gone; change to another one"),
        (["resume", "--last", "hello"], 1, "the current directory is gone; change to another one"),
        (["config", "show", "--config", "x.yaml"], 3, "'x.yaml' is in the current directory, which is gone"),
    ],
    ids=["a prompt", "a directory in it", "compare", "resume", "a settings file in it"],
)
def test_deleted_current_directory_is_reported(clinvk: Clinvk, arguments: list[str], code: int, message: str) -> None:
    done = clinvk.run(*arguments, before="mkdir gone; cd gone; rmdir ../gone")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"clinvk: {message}\n")


@pytest.mark.parametrize("arguments", [["--version"], ["-b", "codex", "version"]])
def test_version_is_printed(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("clinvk 0.")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(["-h"], "clinvk help prompt"), (["help", "exit-codes"], "Ctrl-C"), (["serve", "-h"], "--port")],
)
def test_help_is_printed(clinvk: Clinvk, arguments: list[str], shown: str) -> None:
    done = clinvk.run(*arguments)
    assert (done.returncode, done.stderr, shown in done.stdout) == (0, "", True)


def test_help_is_utf_8_in_any_locale(clinvk: Clinvk) -> None:
    done = clinvk.run("help", "prompt", env={"PYTHONIOENCODING": "latin-1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "low, … max" in done.stdout


@pytest.mark.parametrize("arguments", [["version"], ["help"], ["completion", "bash"], ["sessions", "list", "--json"]])
def test_every_command_reports_a_full_disk(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments, close_fds=">/dev/full")
    assert (done.returncode, done.stderr) == (1, "clinvk: cannot write to stdout: No space left on device\n")


def test_closed_pipe_exits_with_7_and_no_message(clinvk: Clinvk) -> None:
    for arguments in (["version"], ["help"], ["completion", "zsh"]):
        reading, writing = os.pipe()
        os.close(reading)
        with clinvk.started(*arguments, stdout=writing) as process:
            os.close(writing)
            assert process.wait() == 7
            assert process.stderr
            assert process.stderr.read() == b""


def test_output_to_a_non_blocking_pipe_is_complete(clinvk: Clinvk) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with clinvk.started("completion", "bash", stdout=writing) as process, open(reading, "rb") as pipe:
        os.close(writing)
        assert pipe.read().endswith(b"complete -F _clinvk clinvk\n")
        assert process.wait() == 0
