"""Rules for approvals: which rule decides, and which shell commands are understood."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clinvk.policy.approval_rules import Action, Decision, action_of, decide, is_command
from clinvk.policy.shell_commands import parse
from clinvk.types.interaction import ApprovalRule, Effect, Interaction

DIRECTORY = "/home/me/shop"
RULES = {
    "tests": ApprovalRule(effect="allow", command="npm test"),
    "status": ApprovalRule(effect="allow", command="git status"),
    "push": ApprovalRule(effect="deny", command="git push", reason="a person pushes"),
    "install": ApprovalRule(effect="ask", command="npm install"),
}


def bash(command: str, *paths: str) -> Action:
    return Action("claude", "Bash", command, paths=paths, directories=(DIRECTORY,))


def effect(rule: ApprovalRule, action: Action) -> Effect | None:
    return decide({"rule": rule}, action).effect


@pytest.mark.parametrize(
    ("command", "expected", "rule"),
    [
        ("npm test", "allow", "tests"),
        ("npm test -- --watch 'a b' \"c; d\"", "allow", "tests"),
        ("npm test && git status | npm test; git status || npm test", "allow", "tests"),
        ("npm testing", None, ""),
        ("npm", None, ""),
        ("npm test && ls", None, ""),
        ("npm test && npm install x", "ask", "install"),
        ("npm test && npm install x && git push", "deny", "push"),
        ("ls; npm install x", "ask", "install"),
        ("npm test $(git push)", "deny", "push"),
        ("FORCE=1 git push origin $BRANCH > log", "deny", "push"),
        ("npm install x > log", "ask", "install"),
        ("if true; then git push; fi", "deny", "push"),
        ("/bin/bash -lc 'npm test && git status'", "allow", "tests"),
        ("/bin/zsh -lc 'npm test > out'", None, ""),
        ("./bash -lc 'npm test'", None, ""),
        ("bash -lc 'npm test' x", None, ""),
        ("bash -lc 'git push'", "deny", "push"),
    ],
)
def test_each_part_of_a_command_needs_a_rule_and_the_strictest_decides(
    command: str, expected: Effect | None, rule: str
) -> None:
    decision = decide(RULES, bash(command))
    assert (decision.effect, decision.rule) == (expected, rule)


UNCLEAR = [
    *("npm test > out", "npm test < in", "npm test 2>&1", "npm test <<< x", "cat <<E\nE"),
    *(
        "npm test $X",
        "npm test ${X}",
        "npm test $(id)",
        "npm test `id`",
        'npm test "$X"',
        "npm test $'x'",
        "npm test $((1))",
    ),
    *("X=1 npm test", "npm test *", "npm test ?", "npm test [a]", "npm test {a,b}", "npm test ~", "npm test =ls"),
    *("npm test &", "npm test |& npm test", "! npm test", "(npm test)", "{ npm test; }", "npm test <(id)"),
    *("npm test\nid", "npm test\r\nid", "npm\rtest", "npm test # x", "npm te\\st", "npm test \\\n x", "npm 'te'st"),
    *(
        "[ -f x ]",
        "[[ -f x ]]",
        "((x))",
        "while npm test; do npm test; done",
        "f() { id; }; npm test",
        "npm test ;; id",
    ),
    *(
        "export PATH=/tmp",
        'npm test "a\\\nb"',
        'npm test "!x"',
        "npm\u00a0test",
        "npm test \0id",
        "npm test 'x",
        "",
        " ",
        ";",
    ),
]


@pytest.mark.parametrize("command", UNCLEAR)
def test_rules_for_commands_allow_nothing_but_literal_words(command: str) -> None:
    assert not parse(command).is_understood
    assert decide(RULES, bash(command)).effect is None


def test_rule_for_the_tool_allows_every_command_except_those_with_stricter_rules() -> None:
    rules = {"all": ApprovalRule(effect="allow", tool="Bash"), **RULES}
    assert decide(rules, bash("ls > out")).rule == "all"
    assert decide(rules, bash("ls | wc")).effect == "allow"
    assert decide(rules, bash("ls > out; git push")).rule == "push"


def test_conditions_of_a_rule_match_together() -> None:
    rule = ApprovalRule(effect="allow", agent="claude", tool="mcp__git__*", mcp_server="git")
    assert effect(rule, Action("claude", "mcp__git__log", mcp_server="git")) == "allow"
    assert effect(rule, Action("codex", "mcp__git__log", mcp_server="git")) is None
    assert effect(rule, Action("claude", "Bash", "ls")) is None


@pytest.mark.parametrize(
    ("pattern", "path", "is_matched"),
    [
        ("src", f"{DIRECTORY}/src/a/b.py", True),
        ("src/**/*.py", f"{DIRECTORY}/src/a/b.py", True),
        ("src/*.py", f"{DIRECTORY}/src/a/b.py", False),
        ("**", "/etc/passwd", False),
        ("/etc/*", "/etc/passwd", True),
        ("*.py", f"{DIRECTORY}/a.pyc", False),
    ],
)
def test_path_is_a_pattern_below_the_directory(pattern: str, path: str, is_matched: bool) -> None:
    action = Action("claude", "Edit", paths=(path,), directories=(DIRECTORY,))
    assert effect(ApprovalRule(effect="deny", path=pattern), action) == ("deny" if is_matched else None)


def test_allow_needs_all_paths_and_deny_one() -> None:
    action = Action("codex", "file_change", paths=(f"{DIRECTORY}/a.py", f"{DIRECTORY}/.env"), directories=(DIRECTORY,))
    assert effect(ApprovalRule(effect="allow", path="*.py"), action) is None
    assert effect(ApprovalRule(effect="deny", path=".env"), action) == "deny"
    assert effect(ApprovalRule(effect="allow", tool="file_change"), action) == "allow"


def test_rule_without_a_path_allows_only_what_stays_in_the_directories_of_the_run() -> None:
    rule = ApprovalRule(effect="allow", command="npm test")
    assert effect(rule, bash("npm test", f"{DIRECTORY}/web")) == "allow"
    assert effect(rule, bash("npm test", f"{DIRECTORY}2")) is None


def test_rule_for_a_command_does_not_allow_access_to_a_host() -> None:
    asked = Interaction(
        id="1", backend="codex", tool="command_execution", command="npm test", input={"host": "evil.example"}
    )
    action = action_of(asked, (), (DIRECTORY,))
    assert effect(ApprovalRule(effect="allow", command="npm test"), action) is None
    assert effect(ApprovalRule(effect="allow", command="npm test", host="*.example"), action) == "allow"


def test_action_has_the_host_of_an_address_and_the_server_of_a_tool() -> None:
    fetch = Interaction(id="1", tool="WebFetch", input={"url": "https://me:x@docs.example:8/x?y"})
    assert action_of(fetch, (), ("/",)).host == "docs.example"
    assert action_of(Interaction(id="1", tool="WebFetch", input={"url": "http://[x"}), (), ("/",)).host == ""
    assert action_of(Interaction(id="1", tool="mcp__my_git__log_all"), (), ("/",)).mcp_server == "my_git"


@pytest.mark.parametrize("command", ["npm test && x", "$X", "npm test >", "", "'x"])
def test_command_of_a_rule_must_be_the_words_of_one_command(command: str) -> None:
    assert not is_command(command)


def test_rule_without_a_condition_matches_nothing() -> None:
    assert effect(ApprovalRule(effect="allow"), bash("ls")) is None
    assert effect(ApprovalRule(effect="allow", agent="claude"), bash("ls")) is None


def test_decision_explains_the_part_without_a_rule() -> None:
    decision = decide({"rule": ApprovalRule(effect="allow", command="npm test")}, bash("npm test && ls"))
    assert decision == Decision(None, "", "'ls': no rule matches")


WORDS = st.sampled_from(
    [
        *("npm", "test", "evil", "'npm'", '"test"', "a b", "-x", "a=b", "if", "then", "fi", "time", "eval"),
        *("&&", "||", ";;", "$(", "<(", ">>", "2>", "${", "$'", "\n", "\r", "\t", "\0", "\u00a0", "\u2028", "é"),
        *"$`(){}[]*?~<>&|;'\"^%,:@=#!\\",
    ]
)


@pytest.fixture(scope="module")
def shims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of programs that only note their names: every command that runs is one of them."""
    folder = tmp_path_factory.mktemp("shims")
    for name in ("npm", "evil"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$1" >>"$0.log"\n')
        (folder / name).chmod(0o700)
    return folder


@settings(max_examples=400, deadline=None)
@given(parts=st.lists(WORDS, max_size=8), glue=st.sampled_from(["", " "]))
@example(parts=["evil"], glue="")
def test_allowed_commands_run_only_the_program_of_the_rule(shims: Path, parts: list[str], glue: str) -> None:
    command = "npm test" + glue + glue.join(parts)
    rules = {"tests": ApprovalRule(effect="allow", command="npm test")}
    if decide(rules, bash(command)).effect != "allow":
        return
    env = {"PATH": str(shims), "HOME": str(shims)}
    subprocess.run(["/bin/bash", "-c", command], env=env, cwd=shims, capture_output=True, timeout=60, check=False)
    ran = [path.name for path in shims.glob("*.log")]
    assert "evil.log" not in ran
    assert set((shims / "npm.log").read_text().splitlines()) <= {"npm test"}


def test_parser_is_loaded_only_for_rules_with_commands() -> None:
    program = (
        "import sys; from clinvk.policy.approval_rules import decide, Action; from clinvk.types.interaction import *;"
        "decide({'x': ApprovalRule(effect='deny', tool='Bash')}, Action('claude', 'Bash', 'ls'));"
        "print('tree_sitter' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
