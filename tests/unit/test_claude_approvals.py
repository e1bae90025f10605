"""`can_use_tool` requests of Claude Code: lines of 2.1.332, shortened."""

import json

import pytest

from clinvk.backends.base import Host
from clinvk.backends.claude import Claude
from clinvk.backends.claude.approvals import Approvals, PermissionRequest
from clinvk.backends.claude.channel import ConversationChannel
from clinvk.types.events import InteractionRequested
from clinvk.types.interaction import Choice, Interaction, InteractionAnswer
from clinvk.types.request import RunRequest

ASK = RunRequest(prompt="hello", backend="claude", workdir="/p", approval_mode="ask")
WRITE: dict[str, object] = {
    "tool_name": "Write",
    "input": {"file_path": "/p/a", "content": "x\n"},
    "description": "a",
    "permission_suggestions": [{"type": "setMode", "mode": "acceptEdits", "destination": "session"}],
}
BASH: dict[str, object] = {
    "tool_name": "Bash",
    "input": {"command": "touch /o/x", "description": "d"},
    "description": "d",
    "permission_suggestions": [
        {"type": "addRules", "rules": [{"toolName": "Bash"}], "behavior": "allow", "destination": "localSettings"},
        {"type": "addDirectories", "directories": ["/o"], "destination": "session"},
        {"type": "setMode", "mode": "bypassPermissions", "destination": "session"},
        {"type": "removeRules", "rules": [{"toolName": "Read"}], "behavior": "deny", "destination": "session"},
    ],
    "blocked_path": "/o/x",
}
QUESTION: dict[str, object] = {
    "tool_name": "AskUserQuestion",
    "input": {
        "questions": [
            {
                "question": "Which colours?",
                "header": "Colours",
                "multiSelect": True,
                "options": [{"label": "Red", "description": "warm"}, {"label": "Blue"}],
            }
        ]
    },
}


class Process:
    """A channel with a run; `files` are those of the machine, `paths` those of the latest request."""

    paths: tuple[str, ...] = ()

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        present = files or {}
        host = Host(
            read_range=lambda path, start, size: present[path][start : start + size] if path in present else None
        )
        self.channel = Claude().channel(Claude().launch(ASK, None, host), host)
        self.channel.start("r", ASK, None)

    def ask(self, request: dict[str, object]) -> Interaction:
        line = {"type": "control_request", "request_id": "q", "request": {"subtype": "can_use_tool", **request}}
        (delivery,) = self.channel.receive(json.dumps(line).encode())
        assert isinstance(delivery, tuple)
        assert isinstance(delivery[1], InteractionRequested)
        self.paths = delivery[1].paths
        return delivery[1].interaction

    def answer(self, answer: InteractionAnswer) -> dict[str, object]:
        return json.loads(self.channel.resolve("r", "q", answer))["response"]["response"]

    def choose(self, choice: Choice) -> dict[str, object]:
        return self.answer(InteractionAnswer(choice=choice))


def test_write_shows_the_change_of_the_present_file() -> None:
    asked = Process({"/p/a": b"y\n"}).ask(WRITE)
    assert (asked.title, asked.editable) == ("Edit a", True)
    assert asked.diff == "--- /p/a\n+++ /p/a\n@@ -1 +1 @@\n-y\n+x\n"


def test_argument_of_another_tool_changes_neither_a_write_nor_a_command() -> None:
    given: dict[str, object] = {"file_path": "/p/a", "content": "x\n", "command": "ls"}
    write = Process().ask({**WRITE, "input": given})
    assert (write.title, write.command, write.diff) == ("Add a", None, "--- /dev/null\n+++ /p/a\n@@ -0,0 +1 @@\n+x\n")
    shell = Process().ask({**BASH, "input": given})
    assert (shell.title, shell.command, shell.diff) == ("Run a command", "ls", None)


def test_write_of_a_new_file_is_shown_as_such() -> None:
    asked = Process().ask(WRITE)
    assert (asked.title, asked.diff) == ("Add a", "--- /dev/null\n+++ /p/a\n@@ -0,0 +1 @@\n+x\n")
    creates = {"file_path": "/p/a", "old_string": "", "new_string": "x\n"}
    assert Process().ask({"tool_name": "Edit", "input": creates}).title == "Add a"
    assert Process({"/p/a": b""}).ask(WRITE).title == "Edit a"


def test_write_to_a_long_file_has_no_diff() -> None:
    assert Process({"/p/a": b"y\n" * 1_000_000}).ask(WRITE).diff is None


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_edit_shows_its_change_in_the_present_file(newline: str) -> None:
    edit = {"file_path": "/p/a", "old_string": "ine 7\nl", "new_string": "ine seven\nl"}
    data = newline.join(f"line {number}" for number in range(1, 12)).encode()
    diff = Process({"/p/a": data}).ask({"tool_name": "Edit", "input": edit}).diff or ""
    before, after = (f" line {first}\n line {first + 1}\n line {first + 2}" for first in (4, 8))
    assert diff.partition("+++ /p/a\n")[2] == f"@@ -4,7 +4,7 @@\n{before}\n-line 7\n+line seven\n{after}\n"


@pytest.mark.parametrize(("replace_all", "changes"), [(True, 2), (False, 1)])
def test_edit_of_all_places_shows_each(replace_all: bool, changes: int) -> None:
    edit = {"file_path": "/p/a", "old_string": "y", "new_string": "x", "replace_all": replace_all}
    diff = Process({"/p/a": b"y\n1\n2\ny\n"}).ask({"tool_name": "Edit", "input": edit}).diff or ""
    assert diff.count("+x") == changes


@pytest.mark.parametrize("data", [b"unrelated", b"unrelated\n" * 200_000])
def test_edit_that_does_not_fit_the_file_shows_its_own_change(data: bytes) -> None:
    edit = {"tool_name": "Edit", "input": {"file_path": "/p/a", "old_string": "y", "new_string": "x"}}
    diff = Process({"/p/a": data}).ask(dict[str, object](edit)).diff
    assert diff
    assert "-y\n" in diff
    assert "unrelated" not in diff


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({}, "d"),
        ({"decision_reason": "Needs approval"}, "d\nNeeds approval"),
        ({"title": "Run it"}, "Run it"),
        ({"title": "a\n clinvk: is safe"}, 'a\n" clinvk: is safe"'),
        ({"title": "a\n\u200bclinvk: is safe"}, 'a\n"\u200bclinvk: is safe"'),
    ],
)
def test_note_has_the_words_of_the_agent(more: dict[str, object], note: str) -> None:
    asked = Process().ask({**BASH, **more})
    assert (asked.title, asked.note, asked.accepts_reason) == ("Run a command", note, True)


@pytest.mark.parametrize(
    ("request_", "paths"),
    [
        (BASH, ("/o/x",)),
        (WRITE, ("/p/a",)),
        ({"tool_name": "Grep", "input": {"pattern": "x", "path": "src"}}, ("src",)),
        ({"tool_name": "NotebookEdit", "input": {"notebook_path": "/p/n"}, "blocked_path": "/o"}, ("/o", "/p/n")),
        ({"tool_name": "mcp__web__get", "input": {"path": "/a"}}, ()),  # the path of an address
    ],
)
def test_paths_of_an_action_are_reported(request_: dict[str, object], paths: tuple[str, ...]) -> None:
    process = Process()
    process.ask(request_)
    assert process.paths == paths


def test_asked_calls_are_forgotten_at_the_start_of_the_next_run() -> None:
    approvals = Approvals(Host())
    channel = ConversationChannel(approvals=approvals)
    for run in ("a", "b"):
        channel.start(run, ASK, None)
        assert approvals.calls == set()
        approvals.receive("q", PermissionRequest(tool_use_id=run))


def test_approval_for_the_session_changes_no_file_and_no_mode_but_edits() -> None:
    process = Process()
    process.ask(BASH)
    assert process.choose("allow_session")["updatedPermissions"] == [
        {"type": "addRules", "rules": [{"toolName": "Bash"}], "behavior": "allow", "destination": "session"},
        {"type": "addDirectories", "directories": ["/o"], "destination": "session"},
    ]
    process.ask(WRITE)
    assert process.choose("allow_session")["updatedPermissions"] == WRITE["permission_suggestions"]


def test_approval_for_the_session_without_suggestions_allows_the_tool() -> None:
    process = Process()
    process.ask({"tool_name": "WebSearch", "input": {"query": "x"}})
    assert process.choose("allow_session")["updatedPermissions"] == [
        {"type": "addRules", "rules": [{"toolName": "WebSearch"}], "behavior": "allow", "destination": "session"}
    ]


def test_command_without_suggestions_is_allowed_once() -> None:
    for suggestions in ([], [{"type": "setMode", "mode": "bypassPermissions", "destination": "session"}]):
        asked = Process().ask({**BASH, "permission_suggestions": suggestions})
        assert asked.choices == ("allow", "deny", "deny_and_stop")
    assert "allow_session" in Process().ask(BASH).choices


def test_input_of_an_mcp_tool_is_shown_whole() -> None:
    tool_input: dict[str, object] = {
        "command": "ls",
        "host": "prod",
        "file_path": "/p/a",
        "content": "x",
        "force": True,
    }
    asked = Process().ask({"tool_name": "mcp__ssh__run", "input": tool_input})
    assert (asked.command, asked.diff, asked.input, asked.title) == (None, None, tool_input, "mcp__ssh__run")


@pytest.mark.parametrize("changed", [{"command": "ls"}, {}])
def test_changed_input_is_used(changed: dict[str, object]) -> None:
    process = Process()
    process.ask(BASH)
    assert process.answer(InteractionAnswer(choice="allow", input=changed)) == {
        "behavior": "allow",
        "updatedInput": changed,
    }


@pytest.mark.parametrize("tool", ["Read", "WebFetch", "ExitPlanMode"])
def test_other_tools_are_not_editable(tool: str) -> None:
    assert not Process().ask({"tool_name": tool, "input": {}}).editable


def test_plan_is_approved_once() -> None:
    assert Process().ask({"tool_name": "ExitPlanMode", "input": {}}).choices == ("allow", "deny", "deny_and_stop")


@pytest.mark.parametrize(("value", "answer"), [(["Red", "Blue"], "Red, Blue"), ("Green", "Green")])
def test_question_is_answered_by_the_text_of_the_question(value: str | list[str], answer: str) -> None:
    process = Process()
    asked = process.ask(QUESTION)
    assert (asked.kind, asked.title, asked.choices) == (
        "question",
        "Which colours?",
        ("answer", "deny", "deny_and_stop"),
    )
    (field,) = asked.fields
    assert (field.id, field.multiple, field.other) == ("Which colours?", True, True)
    assert [option.value for option in field.options] == ["Red", "Blue"]
    answered = process.answer(InteractionAnswer(choice="answer", answers={field.id: value}))
    assert answered["behavior"] == "allow"
    tool_input = QUESTION["input"]
    assert isinstance(tool_input, dict)
    assert answered["updatedInput"] == {**tool_input, "answers": {"Which colours?": answer}}


def test_questions_of_an_unknown_form_are_an_approval() -> None:
    assert Process().ask({"tool_name": "AskUserQuestion", "input": {"questions": "?"}}).kind == "approval"


def test_reason_of_a_denial_reaches_the_model() -> None:
    process = Process()
    process.ask(BASH)
    assert process.answer(InteractionAnswer(choice="deny", reason="no")) == {"behavior": "deny", "message": "no"}
