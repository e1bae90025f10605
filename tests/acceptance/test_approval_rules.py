"""Rules of the settings decide what an agent asks; a command line says so."""

import pytest

from acceptance.command import Clinvk
from scripted.steps import Step, ask_approval, claude_says


@pytest.fixture
def ruled(clinvk: Clinvk) -> Clinvk:
    """A command whose settings allow the tests, and deny the deletion of files."""
    rules = "tests: {effect: allow, command: npm test}\n    files: {effect: deny, command: rm, reason: keep the files}"
    clinvk.config.parent.mkdir(exist_ok=True)
    clinvk.config.write_text(f"approvals:\n  rules:\n    {rules}\n")
    return clinvk


def asks(clinvk: Clinvk, command: str) -> None:
    """Make the agent ask whether a command may run."""
    begins, *answers = claude_says("Done.")
    request: Step = {"tool_name": "Bash", "input": {"command": command}, "title": "Run a command"}
    clinvk.agent.play([begins, ask_approval(request), *answers], reads=False)


def test_command_that_a_rule_allows_runs_without_a_question(ruled: Clinvk) -> None:
    asks(ruled, "npm test")
    done = ruled.run("-o", "text", "--new", "fix it")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Done.\n", "")
    assert ruled.agent.approvals() == [{"behavior": "allow", "updatedInput": {"command": "npm test"}}]
    assert "allow (rule tests)" in ruled.run("approvals", "list", "--all").stdout


def test_denied_action_is_named_once_with_the_reason(ruled: Clinvk) -> None:
    asks(ruled, "rm -rf build")
    done = ruled.run("-o", "text", "--new", "clean up")
    assert done.returncode == 0
    assert done.stderr.count("denied: ") == 1
    assert "denied: rm -rf build: keep the files" in done.stderr
    assert "deny (rule files)" in ruled.run("approvals", "list", "--all").stdout


def test_rules_are_listed(ruled: Clinvk) -> None:
    lines = ruled.run("approvals", "rules").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["tests", "allow"], ["files", "deny"]]
    rules = ruled.json(dict[str, list[dict[str, str]]], "approvals", "rules")["rules"]
    assert [(rule["name"], rule["command"]) for rule in rules] == [("tests", "npm test"), ("files", "rm")]


@pytest.mark.parametrize(
    ("action", "effect", "rule"),
    [
        ("Bash: npm test", "allow", "tests"),
        ("Bash: npm test && rm x", "deny", "files"),
        ("Bash: npm test > out", None, ""),
        ("Edit: src/a.py", None, ""),
    ],
)
def test_check_explains_what_the_rules_say(ruled: Clinvk, action: str, effect: str | None, rule: str) -> None:
    decision = ruled.json(dict[str, str | None], "approvals", "check", action)
    assert (decision["effect"], decision["rule"]) == (effect, rule)
    assert decision["explanation"]


def test_check_of_a_text_that_is_no_action_is_refused(ruled: Clinvk) -> None:
    done = ruled.run("approvals", "check", "rm -rf /")
    assert done.returncode == 1
    assert "'rm -rf /' is no action; write for example: 'Bash: npm test'" in done.stderr
