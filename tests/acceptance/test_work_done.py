"""What an agent did, before the footer on a terminal, and as `clinvk show` prints it."""

import json
import re
from pathlib import Path

import pytest

from acceptance.command import Clinvk, until
from acceptance.terminal import on_terminal
from repositories import Repository
from scripted.steps import Step, claude_says, line, spawn, wait_for

EDIT = {"file_path": "calc.py", "old_string": "b", "new_string": "c"}


def tool(number: int, name: str, given: object, output: str, *, is_error: bool = False) -> list[Step]:
    """Use a tool as Claude Code does."""
    call = {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given}
    result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": output, "is_error": is_error}
    lines = (
        {"type": "assistant", "message": {"id": f"m{number}", "content": [call]}},
        {"type": "user", "message": {"content": [result]}},
    )
    return [line(json.dumps(each)) for each in lines]


def works(clinvk: Clinvk, command: str = "true", seen: Path | None = None) -> None:
    """Make the agent run some tools, and change files by a shell command; `seen` lets it go on after the first."""
    done = clinvk.config.parent / "changed"  # in no repository, and not shared with other tests
    failed = "Exit code 1\nFAILED tests/test_calc.py\n1 failed"
    first, *rest = claude_says("Done.")
    clinvk.agent.play(
        [
            first,
            *tool(1, "Bash", {"command": "pytest -x"}, failed, is_error=True),
            *([] if seen is None else [wait_for(seen)]),
            *tool(2, "Bash", {"command": "make"}, failed, is_error=True),
            *tool(3, "Edit", EDIT, "The file calc.py has been updated."),
            *tool(4, "Bash", {"command": "make"}, "built"),
            *tool(5, "Bash", {"command": "rm -r /"}, "This command requires approval", is_error=True),
            spawn(command=f"{command}; touch {done}"),
            wait_for(done),
            *rest,
        ]
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_terminal_shows_changed_files_and_failed_commands(clinvk: Clinvk, columns: int) -> None:
    repository = Repository(clinvk.folder / "project", clinvk.folder / "home")
    repository.commit(**{"calc.py": "a\nb\n", "mine.py": "x\n"})
    repository.write("mine.py", "x\ny\n")
    seen = clinvk.folder / "seen"
    works(clinvk, "cd project; printf 'a\\nc\\nd\\n' >calc.py; mkdir tests; echo x >tests/new.py", seen)
    with on_terminal(clinvk, "-w", "project", "--new", "fix it", columns=columns) as terminal:
        terminal.until("Bash pytest -x → 1 failed")
        until(lambda: len([*clinvk.config.parent.glob(".git-*/objects/??/*")]) > 1)  # mine.py, and the tree
        seen.touch()
        assert terminal.ended() == 0
    shown = terminal.screen()
    at = shown.index("Done.")
    assert shown[at + 1 : at + 4] == [
        "",
        "changed: calc.py +2 \N{MINUS SIGN}1, tests/new.py (new)",
        "failed: pytest -x (exit 1) · details: clinvk show",
    ]
    assert " · session " in shown[at + 4]


def test_edits_that_the_first_look_at_the_files_may_have_missed_are_named(clinvk: Clinvk) -> None:
    Repository(clinvk.folder / "project", clinvk.folder / "home").commit(**{"calc.py": "a\nb\n"})
    on = clinvk.folder / "on"
    slow_git = clinvk.agent.folder / "git"
    slow_git.write_text(f'#!/bin/sh\nuntil [ -e {on} ]; do sleep 0.1; done\nexec /usr/bin/git "$@"\n')
    slow_git.chmod(0o755)
    works(clinvk)
    with on_terminal(clinvk, "-w", "project", "--new", "fix it", columns=120) as terminal:
        terminal.until("Done.")
        on.touch()
        assert terminal.ended() == 0
    assert "changed: calc.py" in terminal.screen()


def test_edits_of_the_agent_are_named_outside_of_a_repository(clinvk: Clinvk) -> None:
    works(clinvk)
    with on_terminal(clinvk, "--new", "fix it", columns=120) as terminal:
        assert terminal.ended() == 0
    assert "changed: calc.py" in terminal.screen()


def test_pipe_has_no_lines_about_the_work(clinvk: Clinvk) -> None:
    works(clinvk)
    done = clinvk.run("-o", "text", "--new", "fix it")
    assert (done.stdout, done.stderr) == ("Done.\n", "")


def test_show_prints_the_last_run_of_the_directory_with_its_actions(clinvk: Clinvk) -> None:
    assert clinvk.run("show").stderr == "clinvk: no runs yet\n"
    works(clinvk)
    assert clinvk.run("--new", "fix it").returncode == 0
    (clinvk.folder / "other").mkdir()
    clinvk.agent.play(claude_says("Elsewhere."))
    assert clinvk.run("-w", "other", "hello").returncode == 0
    shown = clinvk.run("show").stdout
    failed = r"Bash pytest -x \(failed: 1 failed\)"
    assert re.search(rf"\nfix it\n(.|\n)*\n{failed}\n(.|\n)*\nEdit calc.py\n(.|\n)*\nDone.\n", shown)
    found = clinvk.run("show", "--json").stdout
    run_id = json.loads(found)["id"]
    assert clinvk.run("runs", "show", run_id[:8], "--json").stdout == found
    assert clinvk.run("show", run_id, "--json").stdout == found
    assert "Elsewhere." in clinvk.run("show", before="cd other").stdout
    assert "Elsewhere." in clinvk.run("runs", "show", before="cd /").stdout


@pytest.mark.parametrize(
    ("flags", "env", "is_told"),
    [((), {}, True), (("-o", "json"), {}, False), ((), {"CLINVK_OUTPUT__FORMAT": "json"}, False)],
)
def test_terminal_is_told_why_the_answer_is_json(
    clinvk: Clinvk, flags: tuple[str, ...], env: dict[str, str], is_told: bool
) -> None:
    clinvk.agent.play(claude_says("x"))
    file = clinvk.folder / "answer.json"
    with (
        file.open("wb") as stdout,
        on_terminal(clinvk, *flags, "--new", "hello you", env=env, stdout=stdout.fileno()) as terminal,
    ):
        assert terminal.ended() == 0
    told = "clinvk: JSON, since stdout is not a terminal: -o text for text\r\n"
    assert (told in terminal.plain().decode()) == is_told
    assert json.loads(file.read_text())["content"] == "x"
    assert clinvk.run("--new", "hello").stderr == ""
