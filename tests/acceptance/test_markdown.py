"""Markdown of answers on a terminal."""

import re

import pytest

from acceptance.command import Clinvk
from acceptance.terminal import on_terminal
from scripted.steps import claude_says, wait_for

ANSWER = "# Title\n\nSome **bold** text.\n\n```python\nx = 1\n```\n"


@pytest.mark.parametrize("columns", [80, 120])
def test_unfinished_block_is_shown_and_then_rendered_in_place(clinvk: Clinvk, columns: int) -> None:
    go = clinvk.folder / "go"
    says = claude_says("One **two**.\n\nThr", "ee **fo", "ur**\n")
    clinvk.agent.play([*says[:5], wait_for(go), *says[5:]])
    with on_terminal(clinvk, "--new", "hello world", columns=columns) as terminal:
        terminal.until("Three **fo")
        terminal.until("claude · ")  # the text has stopped: the status line is below
        *shown, status = terminal.screen()
        assert (shown, "claude · " in status) == (["One two.", "", "Three **fo"], True)
        go.touch()
        assert terminal.ended() == 0
    assert b"\x1b[1mtwo\x1b[0m" in terminal.all_read
    assert terminal.screen()[:4] == ["One two.", "", "Three four", ""]


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        ((), {"NO_COLOR": "1"}),
        ((), {"CLINVK_OUTPUT__MARKDOWN": "false"}),
        ((), {"TERM": "dumb"}),
        (("-o", "json"), {}),
    ],
)
def test_answer_is_not_rendered_if_the_user_does_not_want_that(
    clinvk: Clinvk, arguments: tuple[str, ...], env: dict[str, str]
) -> None:
    go = clinvk.folder / "go"
    clinvk.agent.play([wait_for(go), *claude_says(ANSWER)])
    with on_terminal(clinvk, *arguments, "hello world", env=env) as terminal:
        if env.get("TERM") != "dumb":
            terminal.until("claude · 0 s")
        go.touch()
        assert terminal.ended() == 0
    if env.keys() & {"NO_COLOR", "CLINVK_OUTPUT__COLOR", "TERM"}:
        assert not re.search(rb"\x1b\[[0-9;]*m", terminal.all_read)
    assert b"# Title" in terminal.all_read
    assert b"**bold**" in terminal.all_read


def test_followed_run_is_rendered_on_a_terminal(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says(ANSWER))
    assert clinvk.run("hello").returncode == 0
    run = clinvk.run("runs", "list").stdout.splitlines()[1].split()[0]
    with on_terminal(clinvk, "runs", "follow", run) as terminal:
        assert terminal.ended() == 0
    assert b"\x1b[1mbold\x1b[0m" in terminal.all_read
    assert b"```" not in terminal.all_read


@pytest.mark.parametrize("command", ["compare", "parallel", "chain", "runs show"])
def test_answers_of_commands_are_rendered_on_a_terminal_only(clinvk: Clinvk, command: str) -> None:
    clinvk.agent.play(claude_says(ANSWER))
    (clinvk.folder / "tasks.json").write_text('[{"backend": "claude", "prompt": "hello"}]')
    arguments = {
        "compare": ("compare", "--backends", "claude", "hello"),
        "parallel": ("parallel", "-f", "tasks.json"),
        "chain": ("chain", "-f", "tasks.json"),
    }
    if command == "runs show":
        assert clinvk.run("hello").returncode == 0
        run = clinvk.run("runs", "list").stdout.splitlines()[1].split()[0]
        arguments["runs show"] = ("runs", "show", run)
    with on_terminal(clinvk, *arguments[command]) as terminal:
        assert terminal.ended() == 0
    assert b"\x1b[1mbold\x1b[0m" in terminal.all_read
    assert b"\r\n```" not in terminal.all_read
    assert "**bold**" in clinvk.run(*arguments[command]).stdout
