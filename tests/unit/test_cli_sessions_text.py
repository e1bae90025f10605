"""Sessions as text."""

import pytest
from msgspec.structs import replace

from clinvk.cli.sessions.runs import run_summary
from clinvk.cli.sessions.session_text import (
    TextView,
    details,
    directory,
    markdown,
    session_title,
    sessions_table,
    short_tokens,
    turns,
)
from clinvk.cli.terminal.table import width
from clinvk.types.events import Usage
from clinvk.types.record import RunRecord, Session, SteeringPrompt

NOW = 1_700_000_000.0
VIEW = TextView(NOW, None, 80)


SESSION = Session(
    id="a" * 32,
    backend="claude",
    created_at=NOW - 90,
    last_used=NOW - 60,
    working_dir="/home/me/x",
    initial_prompt="the prompt",
    status="completed",
)


def test_directory_under_home_starts_with_a_tilde() -> None:
    assert directory("/home/me/x", "/home/me") == "~/x"
    assert directory("/home/me", "/home/me/") == "~"
    assert directory("/home/mean", "/home/me") == "/home/mean"
    assert directory("/home/me/x", None) == "/home/me/x"
    assert directory("/a\x1b\n", "/") == "~/a??"


def test_title_takes_precedence_over_the_first_prompt() -> None:
    assert session_title(SESSION) == "the prompt"
    assert session_title(replace(SESSION, title="a\ntitle")) == "a title"


def test_piped_list_truncates_only_very_long_fields() -> None:
    long = replace(SESSION, initial_prompt="word " * 10_000, project="/d" * 100)
    (_, row) = sessions_table([long], {}, TextView(NOW))
    assert "/d" * 100 in row
    assert len(row) < 400


def test_titles_leave_out_the_context_from_stdin() -> None:
    piped = replace(SESSION, initial_prompt="review this\n\n<stdin>\ndiff --git a/x b/x\n</stdin>")
    assert session_title(piped) == "review this"
    run = RunRecord(id="1" * 32, backend="claude", prompt=piped.initial_prompt, state="queued", created_at=NOW)
    assert turns([run], VIEW)[1].endswith("  review this")
    assert run_summary(run) == "review this"
    assert run_summary(replace(run, prompt="", request={"ephemeral": True})) == "(ephemeral)"


def test_list_prints_the_current_directory_as_a_dot_and_costs_if_there_is_room() -> None:
    used = replace(SESSION, token_usage=Usage(18_000, 249))
    head, row = sessions_table([used], {used.id: 0.126}, TextView(NOW, None, 120, here="/home/me/x"))
    assert head.split() == ["ID", "BACKEND", "STATE", "TURNS", "USED", "DIRECTORY", "TOKENS", "COST", "TITLE"]
    assert row.split()[5:8] == ["min", "ago", "."]
    assert row.endswith("   18.2k  $0.13  the prompt")
    long = replace(used, initial_prompt="word " * 20)
    assert "TOKENS" not in sessions_table([long], {}, TextView(NOW, None, 80, here="/home/me/x"))[0]


def test_sessions_of_a_cluster_name_their_node() -> None:
    head, *rows = sessions_table([SESSION, replace(SESSION, node="web")], {}, VIEW)
    assert "NODE" in head
    assert ["web" in row for row in rows] == [False, True]
    assert "NODE" not in sessions_table([SESSION], {}, VIEW)[0]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1000, "1.0k"), (999_949, "999.9k"), (999_950, "1.0M")]
)
def test_tokens_as_short_text(count: int, text: str) -> None:
    assert short_tokens(Usage(count)) == text


def test_details_omit_empty_fields() -> None:
    names = [line.split("  ")[0] for line in details(SESSION, VIEW)]
    assert names == ["id", "prompt", "backend", "status", "directory", "created", "last used", "turns"]
    more = replace(SESSION, tags=("a", "b"), token_usage=Usage(1234, 5, 6), parent_id="b" * 32, metadata={"k": 1})
    lines = details(more, VIEW)
    assert "tokens       1,234 in (6 cached), 5 out" in lines
    assert "tags         a, b" in lines
    assert 'metadata     {"k":1}' in lines


@pytest.mark.parametrize("most", [80, 41])
def test_prompt_is_truncated_to_the_terminal_width(most: int) -> None:
    lines = details(replace(SESSION, initial_prompt="長い" * 400), TextView(NOW, None, most))
    assert most - 2 < width(lines[1]) <= most
    assert lines[1].endswith("…")


def test_turns_show_their_creation_time() -> None:
    run = RunRecord(id="1" * 32, backend="claude", prompt="one", state="queued", created_at=NOW)
    head, row = turns([run], TextView(NOW))
    assert head.split() == ["TURN", "STATE", "CREATED", "DURATION", "IN", "OUT", "PROMPT"]
    assert row.split() == ["1", "queued", "just", "now", "one"]


def test_markdown_shows_steering_prompts_where_they_divide_the_answer() -> None:
    run = RunRecord(id="1" * 32, backend="codex", prompt="one", state="finished", created_at=NOW, ended_at=NOW)
    steering = (SteeringPrompt("more", NOW, 5), SteeringPrompt("and", NOW, 5))
    text = markdown(SESSION, [replace(run, output="begun\n\nended", steering=steering)], None)
    headings = "## 1. Prompt\n\none\n\n## 1. Answer\n\nbegun\n\n## 1. Prompt\n\nmore\n\n## 1. Prompt\n\nand\n"
    assert text.endswith(f"{headings}\n## 1. Answer\n\nended\n")


def test_markdown_shows_failed_and_running_turns() -> None:
    failed = RunRecord(
        id="1" * 32,
        backend="claude",
        prompt="one",
        state="failed",
        created_at=NOW,
        ended_at=NOW,
        error_message="it\nbroke",
    )
    running = RunRecord(id="2" * 32, backend="claude", prompt="two", state="running", created_at=NOW)
    text = markdown(SESSION, [failed, running], "/home/me")
    assert text.startswith("# the prompt\n\n- session: aaaa")
    assert "- directory: `~/x`\n" in text
    assert text.endswith("## 1. Prompt\n\none\n\n> failed: it broke\n\n## 2. Prompt\n\ntwo\n\n> running\n")
