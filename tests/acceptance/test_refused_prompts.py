"""Prompts that are refused before an agent starts."""

import pytest

from acceptance.command import Clinvk
from acceptance.terminal import on_terminal
from scripted.steps import claude_says


def test_missing_cli_exits_with_2_and_an_install_hint(clinvk: Clinvk) -> None:
    done = clinvk.run("-b", "codex", "hello", env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "'codex' is not installed" in done.stderr
    assert "npm install" in done.stderr


@pytest.mark.parametrize("arguments", [["-b", "cluade", "hello"], ["-b", "", "hello"]])
def test_unknown_backend_exits_with_2(clinvk: Clinvk, arguments: list[str]) -> None:
    done = clinvk.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "(available: claude, codex, gemini)" in done.stderr


@pytest.mark.parametrize("arguments", [["-b", "qwen", "hello"], ["compare", "--backends", "claude,qwen", "hello"]])
def test_agent_that_is_not_in_the_settings_exits_with_2_and_the_command_that_enables_it(
    clinvk: Clinvk, arguments: list[str]
) -> None:
    done = clinvk.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "to enable it: clinvk config set backends.qwen.acp 'qwen --acp'" in done.stderr


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_disabled_backend_exits_with_2(clinvk: Clinvk, more: list[str]) -> None:
    clinvk.settings("backends: {claude: {enabled: false}}")
    clinvk.agent.play(claude_says("x"))
    done = clinvk.run("hello", *more)
    assert done.returncode == 2
    assert "disabled (backends.claude.enabled: false)" in done.stderr
    assert clinvk.agent.calls() == []


def test_invalid_settings_exit_with_3(clinvk: Clinvk) -> None:
    clinvk.settings("server:\n  prot: 1\n")
    done = clinvk.run("hello")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{clinvk.config}:2: unknown key 'server.prot'" in done.stderr
    assert clinvk.run("hello", "--config", "/nowhere.yaml").returncode == 3


@pytest.mark.first(2)
@pytest.mark.parametrize("path", ["nowhere", "/etc/passwd", ""])
def test_workdir_that_is_not_a_directory_is_rejected(clinvk: Clinvk, path: str) -> None:
    done = clinvk.run("-w", path, "hello")
    assert (done.returncode, done.stderr) == (1, f"clinvk: --workdir: no directory {path!r}\n")


def test_closed_stdout_is_an_error_before_an_agent_starts(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("x"))
    done = clinvk.run("hello", close_fds=">&-")
    assert (done.returncode, done.stderr) == (1, "clinvk: stdout is closed\n")
    assert clinvk.agent.calls() == []


def test_word_of_a_command_is_not_sent_from_a_terminal(clinvk: Clinvk) -> None:
    with on_terminal(clinvk, "list") as terminal:
        terminal.until("did you mean `clinvk sessions list`?")
        assert terminal.ended() == 1
    assert clinvk.agent.calls() == []


def test_single_word_on_a_terminal_is_sent_after_confirmation(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says("hi"))
    with on_terminal(clinvk, "hello") as terminal:
        terminal.until("[y/N] ")
        terminal.type(b"n\n")
        assert terminal.ended() == 7
    assert clinvk.agent.calls() == []
    with on_terminal(clinvk, "hello") as terminal:
        terminal.until("[y/N] ")
        terminal.type(b"y\n")
        terminal.until("hi")
        assert terminal.ended() == 0


def test_agent_that_is_not_enabled_is_refused_before_a_single_word_is_confirmed(clinvk: Clinvk) -> None:
    with on_terminal(clinvk, "-b", "opencode", "hi", columns=200) as terminal:
        terminal.until("to enable it: clinvk config set ")
        assert terminal.ended() == 2
    assert b"[y/N]" not in terminal.all_read
