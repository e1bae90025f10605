"""Agents ask on the terminal of `clinvk PROMPT`; the terminal is restored whatever the answer."""

import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from acceptance.command import Clinvk, until
from acceptance.terminal import Terminal, on_terminal
from scripted.steps import Step, ask_approval, claude_says

KEYS = "[?]: "
COMMAND = "pytest -x"
ASK = ("--approval-mode", "ask", "--new", "fix it")


def bash(command: str) -> Step:
    return {
        "tool_name": "Bash",
        "input": {"command": command},
        "title": "Run the tests",
        "permission_suggestions": [{"type": "addRules", "rules": [{"toolName": "Bash"}], "behavior": "allow"}],
    }


def play(clinvk: Clinvk, *requests: Step) -> None:
    """Make the agent ask for approval before its answer."""
    begins, *answers = claude_says("All ", "done.")
    clinvk.agent.play([begins, ask_approval(*requests), *answers], reads=False)


def id_of_pending(clinvk: Clinvk) -> str:
    def ids() -> Sequence[str]:
        return re.findall(r"^([0-9a-f]{8,}) ", clinvk.run("approvals", "list").stdout, re.MULTILINE)

    until(lambda: bool(ids()))
    return ids()[0]


def is_restored(terminal: Terminal) -> bool:
    return terminal.present_mode() == terminal.mode


def test_yes_allows_the_action(clinvk: Clinvk) -> None:
    play(clinvk, bash(COMMAND))
    with on_terminal(clinvk, *ASK) as terminal:
        shown = terminal.until(KEYS)
        assert (
            f"claude wants to run a command in {clinvk.folder}:\r\n\r\n    Run the tests\r\n\r\n    {COMMAND}" in shown
        )
        assert shown.endswith("[y]es  [a]lways in this session  [n]o  [s]top  [e]dit  [?]: ")
        terminal.type(b"y")
        assert terminal.ended() == 0
        assert "All done." in terminal.plain().decode()
        assert is_restored(terminal)
    assert clinvk.agent.approvals() == [{"behavior": "allow", "updatedInput": {"command": COMMAND}}]


@pytest.mark.parametrize(("typed", "message"), [(b"\n", "the user denied the action"), (b"use make\n", "use make")])
def test_no_asks_for_a_reason_that_the_agent_reads(clinvk: Clinvk, typed: bytes, message: str) -> None:
    play(clinvk, bash(COMMAND))
    with on_terminal(clinvk, *ASK) as terminal:
        terminal.until(KEYS)
        terminal.type(b"n")
        terminal.until("Reason for the agent")
        terminal.type(typed)
        assert terminal.ended() == 0
        assert is_restored(terminal)
    assert clinvk.agent.approvals() == [{"behavior": "deny", "message": message}]


@pytest.mark.parametrize("key", [b"s", b"interrupt"])
def test_stop_and_interrupt_cancel_the_run(clinvk: Clinvk, key: bytes) -> None:
    play(clinvk, bash(COMMAND))
    with on_terminal(clinvk, *ASK) as terminal:
        terminal.until(KEYS)
        if key == b"s":
            terminal.type(key)
            terminal.until("you denied an action and stopped the run")
        else:
            terminal.process.send_signal(signal.SIGINT)
        assert terminal.ended() == 7
        assert is_restored(terminal)
    assert clinvk.run("approvals", "list").stderr == "clinvk: no agent waits for an answer\n"
    assert not any(answer["behavior"] == "allow" for answer in clinvk.agent.approvals())


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
def test_edited_command_is_shown_and_allowed(clinvk: Clinvk, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\ngrep -qx "pytest -x" "$1" && echo "pytest -q" > "$1"\n')
    editor.chmod(0o755)
    play(clinvk, bash(COMMAND))
    with on_terminal(clinvk, *ASK, env={"EDITOR": str(editor)}) as terminal:
        terminal.until(KEYS)
        terminal.type(b"e")
        shown = terminal.until(KEYS)
        assert "    pytest -q\r\n" in shown
        assert "[a]lways" not in shown
        terminal.type(b"y")
        assert terminal.ended() == 0
    assert clinvk.agent.approvals() == [{"behavior": "allow", "updatedInput": {"command": "pytest -q"}}]


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
def test_command_is_edited_on_a_line_without_an_editor(clinvk: Clinvk) -> None:
    play(clinvk, bash(COMMAND))
    with on_terminal(clinvk, *ASK) as terminal:
        terminal.until(KEYS)
        terminal.type(b"e")
        terminal.until("New command (Enter: unchanged): ")
        terminal.type(b"pytest -q\n")
        terminal.until(KEYS)
        terminal.type(b"y")
        assert terminal.ended() == 0
    assert clinvk.agent.approvals() == [{"behavior": "allow", "updatedInput": {"command": "pytest -q"}}]


def test_answer_from_elsewhere_ends_the_question(clinvk: Clinvk) -> None:
    play(clinvk, bash(COMMAND))
    with on_terminal(clinvk, *ASK) as terminal:
        terminal.until(KEYS)
        assert clinvk.run("approvals", "answer", id_of_pending(clinvk), "deny", "--reason", "no").returncode == 0
        terminal.until("clinvk: answered by this machine's user: deny (no)")
        assert terminal.ended() == 0
        assert is_restored(terminal)
    assert clinvk.agent.approvals() == [{"behavior": "deny", "message": "no"}]


@pytest.mark.parametrize("served", [False], indirect=True)  # the server has read its settings before
def test_expired_question_is_denied(clinvk: Clinvk) -> None:
    clinvk.settings("interactions: {timeout_secs: 1}\n")
    play(clinvk, bash(COMMAND))
    with on_terminal(clinvk, *ASK) as terminal:
        terminal.until("clinvk: nobody answered in time: denied")
        assert terminal.ended() == 0
    assert clinvk.agent.approvals() == [{"behavior": "deny", "message": "nobody answered in time"}]


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
def test_hostile_content_cannot_control_the_terminal(clinvk: Clinvk, tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\nwc -c < "$1"\n')
    pager.chmod(0o755)
    hostile = "rm x\r\x1b]0;title\x07\x1b[2J\u202egnp.exe\u200b\n[y]es  [n]o\n" + "x" * 65_000
    request: Step = {"tool_name": "Bash", "title": "\x1b[2Jhello\r", "input": {"command": hostile}}
    long: Step = {"tool_name": "Write", "input": {"file_path": "/tmp/long", "content": f"{'y' * 899}\n" * 1_000}}
    play(clinvk, {**request, "tool_name": "\x1b[31mBash"}, request, long)
    with on_terminal(clinvk, *ASK, env={"PAGER": str(pager)}) as terminal:
        terminal.until(KEYS)
        terminal.type(b"y")
        terminal.until(KEYS)
        raw = terminal.all_read.decode()
        assert "    rm x\\r\\x1b]0;title\\x07\\x1b[2J\\u202egnp.exe\\u200b" in raw
        assert not re.search("\x1b\\]|\x1b\\[2J|\x07|\u202e|\u200b|\x1b\\[31mBash", raw)
        assert re.search(r"… 6\d,\d{3} more characters", raw)
        assert "[v]iew all" in raw
        assert len(raw) < 10_000
        terminal.type(b"v")
        assert re.search(r"\s65\d{3}\s", terminal.until(KEYS))
        terminal.type(b"y")
        assert re.search(r"… (899|900),\d{3} more characters", terminal.until(KEYS))
        terminal.type(b"v")
        assert re.search(r"\s90\d{4}\s", terminal.until(KEYS))
        terminal.type(b"s")
        assert terminal.ended() == 7


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
@pytest.mark.parametrize(
    ("flags", "setting", "asks"),
    [
        ((), "true", True),
        (("--sandbox-mode", "full"), "true", True),
        (("--sandbox-mode", "workspace"), "true", False),
        (("--approval-mode", "auto"), "true", False),
        ((), "false", False),
    ],
)
def test_default_mode_asks_on_a_terminal(clinvk: Clinvk, flags: tuple[str, ...], setting: str, asks: bool) -> None:
    env = {"CLINVK_INTERACTIONS__ASK_ON_TERMINAL": setting}
    clinvk.agent.play(claude_says("x"))
    for arguments in (["--new", "hello you"], ["resume", "--last", "hello you"]):
        with on_terminal(clinvk, *flags, *arguments, env=env, columns=200) as terminal:
            assert terminal.ended() == 0
            assert "approval mode ask" not in terminal.plain().decode()
    assert clinvk.run(*flags, "--new", "hello").returncode == 0
    asked = ["--permission-prompt-tool=stdio" in call.argv for call in clinvk.agent.calls()]
    assert asked == [asks, asks, False]


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
@pytest.mark.parametrize("backend", ["codex", "gemini"])
def test_terminal_prompt_runs_as_elsewhere_if_the_agent_would_ask_about_more(clinvk: Clinvk, backend: str) -> None:
    arguments = ("--dry-run", "-b", backend, "--sandbox-mode", "full", "-w", str(clinvk.folder), "hello you")
    with on_terminal(clinvk, *arguments) as terminal:
        assert terminal.ended() == 0
    assert terminal.plain().decode().replace("\r", "") == clinvk.run(*arguments).stdout


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
@pytest.mark.parametrize("command", ["compare", "parallel", "chain"])
def test_agents_of_a_command_ask_on_a_terminal(clinvk: Clinvk, command: str) -> None:
    (clinvk.folder / "tasks.json").write_text('[{"backend": "claude", "prompt": "x"}]')
    play(clinvk, bash(COMMAND))
    rest = ("--backends", "claude", "fix it") if command == "compare" else ("-f", "tasks.json")
    with on_terminal(clinvk, command, *rest) as terminal:
        assert "claude wants to run a command" in terminal.until(KEYS)
        terminal.type(b"y")
        assert terminal.ended() == 0
    assert [answer["behavior"] for answer in clinvk.agent.approvals()] == ["allow"]


def test_without_a_terminal_a_line_says_how_to_answer(clinvk: Clinvk) -> None:
    play(clinvk, bash(COMMAND))
    with clinvk.started(*ASK, "-o", "text") as process:
        id_ = id_of_pending(clinvk)
        assert clinvk.run("approvals", "answer", id_, "allow").stdout == f"allow {id_}  Bash {COMMAND}\n"
        out, err = process.communicate(timeout=30)
    assert out == b"All done.\n"
    assert err.decode() == (
        f"clinvk: waiting for approval: Bash {COMMAND}; answer it with: clinvk approvals answer {id_} allow\n"
    )


def test_all_pending_approvals_are_asked_by_one_command(clinvk: Clinvk) -> None:
    play(clinvk, bash("first"), bash("second"))
    with clinvk.started(*ASK) as process:
        id_of_pending(clinvk)
        until(lambda: len(clinvk.json(dict[str, list[object]], "approvals", "list")["interactions"]) == 2)
        with on_terminal(clinvk, "approvals", "answer") as terminal:
            for command in ("first", "second"):
                assert f"    {command}\r\n" in terminal.until(KEYS)
                terminal.type(b"y")
            assert terminal.ended() == 0
        process.communicate(timeout=30)
    assert [answer["behavior"] for answer in clinvk.agent.approvals()] == ["allow", "allow"]


def test_show_and_follow_say_what_is_asked_and_how_it_ended(clinvk: Clinvk) -> None:
    play(clinvk, bash(COMMAND))
    with clinvk.started(*ASK) as process:
        id_ = id_of_pending(clinvk)
        shown = clinvk.run("approvals", "show", id_)
        assert f"\n\nRun the tests\n\n{COMMAND}\n" in shown.stdout
        assert shown.stderr == f"clinvk: to answer: clinvk approvals answer {id_} allow\n"
        assert " waiting " in clinvk.run("runs", "list").stdout
        run_id = clinvk.run("runs", "list").stdout.splitlines()[1].split()[0]
        with clinvk.started("runs", "follow", run_id) as follower:
            clinvk.run("approvals", "answer", id_, "allow")
            out, err = follower.communicate(timeout=30)
        process.communicate(timeout=30)
    assert out == b"All done.\n"
    assert f"clinvk approvals answer {id_} allow\nclinvk: answered by this machine's user: allow\n" in err.decode()
    again = clinvk.run("approvals", "answer", id_, "deny")
    assert (again.returncode, "answered before: allow, by this machine's user" in again.stderr) == (1, True)


@pytest.mark.parametrize("served", [False], ids=["here"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["answer"], "answer needs ID and CHOICE: there is no terminal"),
        (["answer", "ffff", "allow"], "clinvk approvals list shows them"),
        (["show", "ffff"], "clinvk approvals list shows them"),
    ],
)
def test_wrong_use_is_refused(clinvk: Clinvk, arguments: list[str], message: str) -> None:
    done = clinvk.run("approvals", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr


def test_part_of_a_plan_asks_with_its_label(clinvk: Clinvk) -> None:
    (clinvk.folder / "tasks.json").write_text('[{"prompt": "x", "approval_mode": "ask"}]')
    play(clinvk, bash(COMMAND))
    with on_terminal(clinvk, "parallel", "-f", "tasks.json") as terminal:
        assert "[1] claude wants to run a command" in terminal.until(KEYS)
        terminal.type(b"y")
        assert terminal.ended() == 0
        assert is_restored(terminal)
    assert clinvk.agent.approvals() == [{"behavior": "allow", "updatedInput": {"command": COMMAND}}]


def test_agent_cannot_answer_by_the_command(clinvk: Clinvk) -> None:
    done = clinvk.run("approvals", "answer", "ffff", "allow", env={"CLINVK_PROCESS_ID": "1-1"})
    assert (done.returncode, "an agent has sent this answer" in done.stderr) == (1, True)
