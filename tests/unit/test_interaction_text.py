"""What agents ask, as text for a terminal."""

import json

import pytest

from clinvk.cli.prompt import interaction_text as text
from clinvk.types.interaction import QUESTION_CHOICES, FieldOption, Interaction, QuestionField
from clinvk.types.interaction_text import content, subject

OPTIONS = (FieldOption(value="pg", label="PostgreSQL", description="needs a server"), FieldOption(value="sqlite"))
WHICH = QuestionField(id="db", label="Which database?", options=OPTIONS)


def labels(interaction: Interaction, is_cut: bool = False, is_edited: bool = False) -> str:
    return " ".join(key.label for key in text.keys_of(interaction, is_cut, is_edited).values())


def test_only_the_keys_of_the_interaction_are_offered() -> None:
    approval = Interaction(id="i")
    assert labels(approval) == "[y]es [a]lways in this session [n]o [s]top [?]"
    editable = Interaction(id="i", editable=True, choices=("allow", "allow_session", "deny"))
    assert labels(editable) == "[y]es [a]lways in this session [n]o [e]dit [?]"
    assert labels(editable, is_cut=True, is_edited=True) == "[y]es [n]o [e]dit [v]iew all [?]"
    question = Interaction(id="i", kind="question", choices=QUESTION_CHOICES)
    assert labels(question) == "[r]eply [n]o [s]top [?]"


def test_headline_names_agent_action_and_directory() -> None:
    assert (
        text.headline(Interaction(id="i", command="ls"), "claude", "~/shop")
        == "claude wants to run a command in ~/shop:"
    )
    assert text.headline(Interaction(id="i", diff="+x"), "[0] codex", "") == "[0] codex wants to edit a file:"
    new = Interaction(id="i", diff="--- /dev/null\n+++ a\n")
    assert text.headline(new, "claude", "") == "claude wants to create a file:"
    fetch = Interaction(id="i", tool="Web\x1b[2JFetch")
    assert text.headline(fetch, "claude", "") == "claude wants to use Web?[2JFetch:"
    assert text.headline(Interaction(id="i", kind="question"), "claude", "") == "claude asks:"


def test_budget_is_not_asked_about_like_a_tool() -> None:
    title = "The run has reached its budget of 1 token. Continue with as much again?"
    budget = Interaction(id="budget", kind="budget", title=title, choices=("allow", "deny"))
    assert (text.headline(budget, "claude", ""), content(budget)) == ("claude has used its budget:", title)
    assert subject(budget) == title
    helps = [(key.action, key.help) for key in text.keys_of(budget, is_cut=False).values()]
    assert helps[:2] == [("allow", "continue with as much again"), ("deny", "end the run and keep the answer")]


def test_content_of_an_approval_is_the_command_the_diff_or_the_input() -> None:
    assert content(Interaction(id="i", tool="Bash", title="Run a command", command="ls")) == "ls"
    assert content(Interaction(id="i", tool="Bash", note="List", command="ls")) == "List\n\nls"
    assert content(Interaction(id="i", tool="Edit", title="Edit a", diff="-a\n+b\n")) == "-a\n+b"
    fetch = Interaction(id="i", tool="WebFetch", title="WebFetch", input={"url": "https://x"})
    assert content(fetch) == '{\n  "url": "https://x"\n}'
    call = Interaction(id="i", tool="mcp__x", title="Read it?", note="first use")
    assert content(call) == "Read it?\n\nfirst use\n\n{}"


EVIL: dict[str, object] = {"command": "pytest -x", "content": "evil\n", "file_path": "/h/.bashrc"}
HIDING = {**EVIL, "title": "Write", "mode": 511}
BASHRC = "--- /dev/null\n+++ /h/.bashrc\n@@ -0,0 +1 @@\n+evil\n"


def test_content_of_an_approval_has_all_that_the_action_does() -> None:
    write = Interaction(id="i", tool="edit", title="Add .bashrc", note="Write", input=HIDING, diff=BASHRC)
    assert text.headline(write, "qwen", "") == "qwen wants to create a file:"
    assert content(write) == f'Write\n\n{BASHRC}\n{{\n  "command": "pytest -x",\n  "mode": 511\n}}'
    assert content(write, with_diff=False) == 'Write\n\n{\n  "command": "pytest -x",\n  "mode": 511\n}'
    both = Interaction(id="i", tool="execute", input={**HIDING, "cwd": "/etc"}, command="pytest -x", diff=BASHRC)
    assert text.headline(both, "qwen", "~/shop") == "qwen wants to run a command in ~/shop and create a file:"
    rest = '{\n  "title": "Write",\n  "mode": 511,\n  "cwd": "/etc"\n}'
    assert content(both) == f"pytest -x\n\n{BASHRC}\n{rest}"
    command = Interaction(id="i", tool="Bash", input={"command": "ls", "timeout": 5}, command="ls")
    assert content(command) == 'ls\n\n{\n  "timeout": 5\n}'


@pytest.mark.parametrize(
    "given",
    [
        {"file_path": "/h/.profile"},
        {"path": "/h"},
        {"content": {"text": "evil"}},
        {"new_string": ["evil"]},
        {"changes": ["add /h/.profile"]},
        {"changes": [{"text": "evil"}]},
    ],
)
def test_field_that_a_diff_does_not_show_is_shown(given: dict[str, object]) -> None:
    write = Interaction(id="i", tool="edit", title="Add .bashrc", input=given, diff=BASHRC)
    assert content(write, with_diff=False) == json.dumps(given, indent=2)


def test_field_that_a_diff_shows_is_not_repeated() -> None:
    given: dict[str, object] = {"filePath": "/h/.bashrc", "changes": ["add /h/.bashrc"], "newString": "evil\n"}
    assert content(Interaction(id="i", tool="edit", input=given, diff=BASHRC), with_diff=False) == ""


def test_command_is_the_subject_of_an_approval_of_a_command_only() -> None:
    assert subject(Interaction(id="i", tool="edit", input=HIDING, diff=BASHRC)) == "edit /h/.bashrc"
    run = Interaction(id="i", tool="execute", input={"path": "a", "command": "b"}, command="ls -l")
    assert subject(run) == "execute ls -l"
    assert subject(Interaction(id="i", tool="mcp__x", input={"command": "ls"})) == "mcp__x ls"


def test_content_of_a_question_has_numbered_options() -> None:
    question = Interaction(id="i", kind="question", title="Setup", fields=(WHICH,))
    assert content(question) == "Setup\n\nWhich database?\n1  PostgreSQL: needs a server\n2  sqlite"


@pytest.mark.parametrize(
    ("field", "line", "value"),
    [
        (WHICH, "1", "pg"),
        (WHICH, "sqlite", "sqlite"),
        (QuestionField(id="x", label="", options=OPTIONS, multiple=True), "1, 2", ["pg", "sqlite"]),
        (QuestionField(id="x", label="", options=OPTIONS, other=True), "my, own", "my, own"),
        (QuestionField(id="x", label=""), "1", "1"),
    ],
)
def test_numbers_stand_for_the_values_of_options(field: QuestionField, line: str, value: object) -> None:
    assert text.field_value(field, line) == value


def test_lines_are_folded_and_indented_so_that_no_line_looks_like_one_of_clinvk() -> None:
    lines, missing = text.question_lines("x" * 10 + "y" * 5 + "\n世界世界", 14, 10, is_colored=False)
    assert lines == ["    " + "x" * 10, "    yyyyy", "    世界世界"]
    assert missing == 0


@pytest.mark.parametrize(("rows", "missing"), [(1, 20), (2, 10), (3, 0), (4, 0)])
def test_rows_that_do_not_fit_are_counted_in_characters(rows: int, missing: int) -> None:
    lines, left_out = text.question_lines("x" * 10 + "\n" + "y" * 9 + "\n" + "z" * 10, 14, rows, is_colored=False)
    assert (len(lines), left_out) == (min(rows, 3), missing)


def test_controls_are_visible() -> None:
    lines, _ = text.question_lines("\x1b[2J\t\u202e\u00a0\r", 80, 10, is_colored=False)
    assert lines == ["    \\x1b[2J    \\u202e\\xa0\\r"]


def test_combining_characters_do_not_make_a_row_endless() -> None:
    lines, missing = text.question_lines("e" + "\u0301" * 1000, 24, 3, is_colored=False)
    assert len("".join(lines)) == 3 * 24
    assert missing == 1001 - 60


def test_folded_lines_of_a_diff_keep_their_color() -> None:
    lines, _ = text.question_lines("--- a\n@@ -1 +1 @@\n-" + "x" * 12 + "\n y", 14, 10, is_colored=True)
    assert lines == [
        "    \x1b[1m--- a\x1b[0m",
        "    \x1b[36m@@ -1 +1 @\x1b[0m",
        "    \x1b[36m@\x1b[0m",
        "    \x1b[31m-xxxxxxxxx\x1b[0m",
        "    \x1b[31mxxx\x1b[0m",
        "     y",
    ]
