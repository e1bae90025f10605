"""`clinvk sessions`: listed, shown, changed, written out and deleted."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from acceptance import sessions
from acceptance.command import TIMEOUT_S, Clinvk, until
from acceptance.sessions import age
from acceptance.terminal import on_terminal
from clinvk.cli.terminal.table import width
from clinvk.dialects.rest.views import RunItem, RunView, SessionList, SessionView
from scripted.steps import claude_says, exits, stderr, touch, wait_for

T = TypeVar("T")


class Deleted(msgspec.Struct, forbid_unknown_fields=True):
    deleted: list[str]
    dry_run: bool


class Cleaned(msgspec.Struct, forbid_unknown_fields=True):
    deleted: int
    before: str | None
    dry_run: bool


class Shown(SessionView, frozen=True, kw_only=True, forbid_unknown_fields=True):
    turns: list[RunItem]


class Exported(SessionView, frozen=True, kw_only=True, forbid_unknown_fields=True):
    turns: list[RunView]


HANDLE = sessions.SECOND


def begun(clinvk: Clinvk, prompt: str = "hello", **fields: str) -> str:
    """Begin a session; return its id."""
    return sessions.begun(clinvk, prompt=prompt, answer="the answer", **fields)


def shown(clinvk: Clinvk, session: str) -> Shown:
    """Return the output of `sessions show`."""
    return clinvk.json(Shown, "sessions", "show", session)


def listed(clinvk: Clinvk, *arguments: str) -> list[str]:
    """Return the ids of `sessions list`, in order."""
    return [session.id for session in clinvk.json(SessionList, "sessions", "list", *arguments).sessions]


class TestList:
    def test_list_prints_a_table_newest_first_with_usable_ids(self, clinvk: Clinvk) -> None:
        first = begun(clinvk, "the first prompt\nof two lines")
        second = begun(clinvk, "other", backend="codex")
        age(clinvk, first, 7300)
        age(clinvk, second, 3700)
        done = clinvk.run("sessions", "list")
        assert done.stderr == ""
        head, *rows = [line.split(maxsplit=4) for line in done.stdout.splitlines()]
        assert head == ["ID", "BACKEND", "STATE", "TURNS", "USED     DIRECTORY  TOKENS   COST  TITLE"]
        assert [row[:4] for row in rows] == [
            [second[:8], "codex", "done", "1"],
            [first[:8], "claude", "done", "1"],
        ]
        assert [row[4][:9] for row in rows] == ["1 h ago  ", "2 h ago  "]
        assert rows[1][4].endswith("  .              17  $0.01  the first prompt of two lines")
        for row, session in zip(rows, (second, first), strict=True):
            assert shown(clinvk, row[0]).id == session

    def test_list_json_matches_the_api_schema(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        answer = clinvk.json(SessionList, "sessions", "list")
        assert (answer.total, answer.limit, answer.offset) == (1, 20, 0)
        assert clinvk.run("-o", "json", "sessions", "list").stdout == clinvk.run("sessions", "list", "--json").stdout
        (item,) = answer.sessions
        assert (item.id, item.token_usage.output_tokens, item.turn_count) == (session, 5, 1)
        assert item.last_used.endswith("Z")

    def test_list_filters_sessions(self, clinvk: Clinvk) -> None:
        (clinvk.folder / "there").mkdir()
        elsewhere = begun(clinvk, "Wo ist die STRASSE?", folder="there")
        codex = begun(clinvk, "other", backend="codex")
        clinvk.agent.play([stderr("no"), exits(9)])
        clinvk.run("--new", "fails")
        (failed,) = listed(clinvk, "--status", "error")
        clinvk.run("sessions", "tag", elsewhere, "work")
        assert listed(clinvk) == [failed, codex, elsewhere]
        assert listed(clinvk, "-b", "codex") == [codex]
        assert listed(clinvk, "--tag", "work") == [elsewhere]
        assert listed(clinvk, "--search", "strasse") == [elsewhere]
        assert listed(clinvk, "--status", "failed") == [failed]
        assert listed(clinvk, "--search", "answ", "-b", "codex") == [codex]
        found = clinvk.run("sessions", "search", "answer", "other").stdout.splitlines()
        assert (found[0].split()[-2:], found[1].endswith("other  other the answer")) == (["TITLE", "MATCH"], True)
        found = clinvk.run("sessions", "search", "ist", "die").stdout
        assert (found.count("\n"), found.splitlines()[1][:8]) == (2, elsewhere[:8])
        assert clinvk.run("sessions", "search", "strasse", "-b", "codex").stderr == "clinvk: no sessions match\n"
        assert listed(clinvk, "--here") == [failed, codex]
        assert listed(clinvk, "--workdir", "there") == [elsewhere]
        assert listed(clinvk, "-n", "1") == [failed]
        assert listed(clinvk, "--limit", "0") == [failed, codex, elsewhere]
        done = clinvk.run("sessions", "list", "-n", "2")
        assert (len(done.stdout.splitlines()), done.stderr) == (3, "clinvk: 2 of 3; --limit 0 shows all\n")

    def test_empty_list_is_reported_on_stderr(self, clinvk: Clinvk) -> None:
        done = clinvk.run("sessions", "list")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "clinvk: no sessions yet\n"
        begun(clinvk)
        done = clinvk.run("sessions", "list", "-b", "codex")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "clinvk: no sessions match\n")
        assert listed(clinvk, "-b", "codex") == []

    @pytest.mark.parametrize("columns", [80, 20])
    def test_list_fits_the_terminal_for_any_prompt(self, clinvk: Clinvk, columns: int) -> None:
        begun(clinvk, "長い" * 40 + "\x1b[31mred\x07")
        begun(clinvk, "e\u0301" * 50)
        begun(clinvk, "-" * 200)
        with on_terminal(clinvk, "sessions", "list", columns=columns) as terminal:
            assert terminal.ended() == 0
        lines = terminal.read.decode().splitlines()
        assert len(lines) == 4
        assert max(map(width, lines)) <= columns
        assert b"\x1b" not in terminal.read
        if columns == 80:
            assert all("…" in line for line in lines[1:])

    def test_status_is_colored_on_a_terminal_unless_color_is_disabled(self, clinvk: Clinvk) -> None:
        clinvk.agent.play([stderr("no"), exits(9)])
        clinvk.run("fails")
        for env, arguments, is_colored in (
            ({}, [], True),
            ({"NO_COLOR": "1"}, [], False),
            ({"TERM": "dumb"}, [], False),
            ({"CLINVK_OUTPUT__COLOR": "false"}, [], False),
            ({}, ["--json"], False),
        ):
            with on_terminal(clinvk, "sessions", "list", *arguments, env=env) as terminal:
                assert terminal.ended() == 0
            assert (b"\x1b[31mfailed" in terminal.read) == is_colored
        assert "\x1b" not in clinvk.run("sessions", "list").stdout


class TestShow:
    def test_show_prints_all_fields_and_turns(self, clinvk: Clinvk) -> None:
        session = begun(clinvk, "first question")
        clinvk.run("second question")
        clinvk.run("sessions", "tag", session, "work")
        clinvk.run("sessions", "rename", session, "A title")
        lines = clinvk.run("sessions", "show", session[:6]).stdout.splitlines()
        fields = dict(line.split(maxsplit=1) for line in lines[: lines.index("")])
        assert (fields["id"], fields["title"], fields["prompt"]) == (session[:8], "A title", "first question")
        assert fields["backend"] == "claude (claude-scripted)"
        assert (fields["turns"], fields["tags"]) == ("2", "work")
        assert fields["tokens"] == "24 in (4 cached), 10 out"
        assert fields["directory"] == str(clinvk.folder)
        _, *table = lines[lines.index("") + 1 :][:3]
        assert [(turn.split()[:2], turn.split()[-2:]) for turn in table] == [
            (["1", "done"], ["first", "question"]),
            (["2", "done"], ["second", "question"]),
        ]

    def test_show_prints_the_newest_prompts_and_answers(self, clinvk: Clinvk) -> None:
        session = begun(clinvk, "first question")
        clinvk.agent.play([*claude_says("half")[:5], exits(9)], when="second")
        clinvk.run("second question")
        first = "\n── prompt 1 ──\nfirst question\n\n── answer 1 ──\nthe answer\n"
        second = "\n── prompt 2 ──\nsecond question\n\n── answer 2 ──\nhalf\n\n(failed: "
        done = clinvk.run("sessions", "show", session)
        assert (done.returncode, done.stderr) == (0, "")
        assert first + second in done.stdout
        done = clinvk.run("sessions", "show", session, "-n", "1")
        assert done.stderr == "clinvk: the newest 1 of 2 turns; --limit 0 shows all\n"
        assert (first in done.stdout, second in done.stdout) == (False, True)
        assert first + second in clinvk.run("sessions", "show", session, "--limit", "0").stdout
        assert len(shown(clinvk, session).turns) == 2

    def test_show_json_lists_turns_oldest_first(self, clinvk: Clinvk) -> None:
        session = begun(clinvk, "first")
        clinvk.run("second")
        found = shown(clinvk, session)
        assert [(turn.prompt, turn.state, turn.token_usage.input_tokens) for turn in found.turns] == [
            ("first", "finished", 12),
            ("second", "finished", 12),
        ]
        assert (found.id, found.status, found.turn_count) == (session, "completed", 2)

    def test_show_prints_the_error_of_the_last_run(self, clinvk: Clinvk) -> None:
        clinvk.agent.play([stderr("something broke\n"), exits(9)])
        clinvk.run("fails")
        (session,) = listed(clinvk)
        assert "something broke" in clinvk.run("sessions", "show", session).stdout


@pytest.mark.first(6)
@pytest.mark.parametrize(
    "arguments",
    [["show"], ["delete", "--yes"], ["fork"], ["tag", "--remove", "x"], ["rename", "-o", "text"], ["export"]],
)
@pytest.mark.parametrize("reference", ["4", "8", "abc", "no id"])
def test_unknown_id_exits_with_4_and_changes_nothing(clinvk: Clinvk, arguments: Sequence[str], reference: str) -> None:
    session = begun(clinvk)
    if reference.isdecimal():
        reference = ("f" if session[0] != "f" else "0") * int(reference)
    before = clinvk.json(SessionList, "sessions", "list")
    more = ["a title"] if arguments[0] == "rename" else [session] if arguments[0] == "delete" else []
    done = clinvk.run("sessions", *arguments, reference, *more)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert clinvk.json(SessionList, "sessions", "list") == before


class TestDelete:
    def test_delete_removes_each_named_session_once(self, clinvk: Clinvk) -> None:
        first, second, third = begun(clinvk, "one"), begun(clinvk, "two"), begun(clinvk, "three")
        done = clinvk.run("sessions", "delete", "--yes", first[:8], first, third)
        assert (done.returncode, done.stdout) == (0, f"deleted {first[:8]}  one\ndeleted {third[:8]}  three\n")
        assert listed(clinvk) == [second]
        assert clinvk.json(Deleted, "sessions", "delete", "--yes", second) == Deleted([second], dry_run=False)

    def test_dry_run_deletes_nothing(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        assert clinvk.run("sessions", "delete", session, "--dry-run").stdout.startswith("would delete ")
        assert listed(clinvk) == [session]

    @pytest.mark.parametrize(("typed", "is_deleted"), [("y", True), ("YES", True), ("", False), ("n", False)])
    def test_delete_asks_for_confirmation_on_a_terminal(self, clinvk: Clinvk, typed: str, is_deleted: bool) -> None:
        session = begun(clinvk)
        with on_terminal(clinvk, "sessions", "delete", session) as terminal:
            terminal.until(f"Delete session {session[:8]}  hello? [y/N] ")
            terminal.type(f"{typed}\r".encode())
            assert terminal.ended() == (0 if is_deleted else 7)
        assert listed(clinvk) == ([] if is_deleted else [session])

    def test_delete_without_a_terminal_requires_yes(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        done = clinvk.run("sessions", "delete", session)
        assert (done.returncode, done.stdout) == (1, "")
        assert "this needs --yes: there is no terminal to ask on" in done.stderr
        assert listed(clinvk) == [session]

    def test_delete_keeps_a_busy_session_and_removes_the_others(self, clinvk: Clinvk) -> None:
        busy, other = begun(clinvk), begun(clinvk)
        clinvk.agent.play([touch(clinvk.folder / "up"), wait_for(clinvk.folder / "go"), *claude_says("x")], when="slow")
        with clinvk.started("resume", busy, "slow") as process:
            until((clinvk.folder / "up").exists)
            done = clinvk.run("sessions", "delete", "--yes", busy, other)
            (clinvk.folder / "go").touch()
            assert process.wait(30) == 0
        assert done.returncode == 4
        assert done.stdout.startswith(f"deleted {other[:8]}")
        assert listed(clinvk) == [busy]


class TestClean:
    def test_clean_deletes_sessions_older_than_the_retention(self, clinvk: Clinvk) -> None:
        old, older, recent = begun(clinvk), begun(clinvk), begun(clinvk)
        age(clinvk, old, 29 * 86400)
        age(clinvk, older, 31 * 86400)
        assert clinvk.json(Cleaned, "sessions", "clean", "--dry-run").deleted == 1
        assert listed(clinvk) == [recent, old, older]
        assert clinvk.run("sessions", "clean").stdout.startswith("deleted 1 session, last used before ")
        assert listed(clinvk) == [recent, old]

    def test_retention_of_0_keeps_sessions_forever_and_reports_it(self, clinvk: Clinvk) -> None:
        age(clinvk, begun(clinvk), 10**8)
        clinvk.settings("session: {retention_days: 0}")
        done = clinvk.run("sessions", "clean")
        assert (done.returncode, done.stdout) == (0, "")
        assert "forever" in done.stderr
        assert len(listed(clinvk)) == 1
        assert clinvk.run("sessions", "clean", "--older-than", "soon").returncode == 1
        assert len(listed(clinvk)) == 1
        assert clinvk.run("sessions", "clean", "--older-than", "1w").returncode == 0
        assert listed(clinvk) == []

    @pytest.mark.parametrize(("typed", "code", "left"), [(b"y\n", 0, 0), (b"\n", 7, 1)])
    def test_clean_on_a_terminal_asks_first(self, clinvk: Clinvk, typed: bytes, code: int, left: int) -> None:
        age(clinvk, begun(clinvk), 31 * 86400)
        with on_terminal(clinvk, "sessions", "clean") as terminal:
            assert "Delete 1 session, last used before " in terminal.until("? [y/N] ")
            terminal.type(typed)
            assert terminal.ended() == code
        assert len(listed(clinvk)) == left

    def test_clean_on_a_terminal_without_old_sessions_or_with_yes_does_not_ask(self, clinvk: Clinvk) -> None:
        for arguments, number in (((), "0 sessions"), (("--yes",), "1 session")):
            with on_terminal(clinvk, "sessions", "clean", *arguments) as terminal:
                assert terminal.ended() == 0
                assert f"deleted {number}, last used before " in terminal.plain().decode()
            age(clinvk, begun(clinvk), 31 * 86400)


class TestDescribe:
    def test_tags_are_added_and_removed(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        assert clinvk.run("sessions", "tag", session, "a", "b c", "a").stdout == f"{session[:8]}  a, b c\n"
        assert clinvk.json(SessionView, "sessions", "tag", session, "d", "--remove", "a", "--remove=x").tags == (
            "b c",
            "d",
        )
        assert clinvk.run("sessions", "tag", session, "--remove", "b c", "--remove", "d").stdout.endswith("(no tags)\n")

    def test_concurrently_added_tags_are_all_kept(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        tags = [f"t{number}" for number in range(6)]
        with ExitStack() as stack:
            started = [stack.enter_context(clinvk.started("sessions", "tag", session, tag)) for tag in tags]
            assert [process.wait(TIMEOUT_S) for process in started] == [0] * 6
        assert sorted(shown(clinvk, session).tags) == tags

    def test_tag_command_without_a_tag_exits_with_1(self, clinvk: Clinvk) -> None:
        assert clinvk.run("sessions", "tag", begun(clinvk)).returncode == 1

    def test_title_replaces_the_prompt_until_it_is_removed(self, clinvk: Clinvk) -> None:
        session = begun(clinvk, "the prompt")
        assert clinvk.run("sessions", "rename", session, " What it  is ").stdout == f"{session[:8]}  What it is\n"
        assert clinvk.run("sessions", "list").stdout.endswith("  What it is\n")
        assert clinvk.run("sessions", "rename", session, "").returncode == 0
        assert clinvk.run("sessions", "list").stdout.endswith("  the prompt\n")
        assert clinvk.run("sessions", "rename", session, "x" * 501).returncode == 1

    def test_dry_run_changes_nothing(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        before = shown(clinvk, session)
        assert clinvk.json(SessionView, "sessions", "rename", session, "x", "--dry-run").title == "x"
        assert clinvk.json(SessionView, "sessions", "tag", session, "x", "--dry-run").tags == ("x",)
        for command in (["fork", session], ["rename", session, "x"], ["tag", session, "x"]):
            assert clinvk.run("sessions", *command, "--dry-run").stdout.startswith("would ")
        assert shown(clinvk, session) == before
        assert listed(clinvk) == [session]


def test_archived_sessions_are_listed_only_on_request_until_they_continue(clinvk: Clinvk) -> None:
    first, second = begun(clinvk, "one"), begun(clinvk, "two")
    assert clinvk.run("sessions", "archive", first, second, "--dry-run").stdout.startswith("would archive ")
    assert clinvk.run("sessions", "archive", first[:8], first).stdout == f"archived {first[:8]}  one\n"
    assert (listed(clinvk), listed(clinvk, "--archived")) == ([second], [first])
    assert "done, archived" in clinvk.run("sessions", "show", first).stdout
    assert clinvk.run("sessions", "search", "one").stderr == "clinvk: no sessions match\n"
    assert clinvk.run("sessions", "unarchive", first).stdout == f"unarchived {first[:8]}  one\n"
    assert listed(clinvk, "--archived") == []
    done = clinvk.run("sessions", "archive", first, "--json")
    assert json.loads(done.stdout) == {"archived": [first], "dry_run": False}
    clinvk.agent.play(claude_says("again"))
    assert clinvk.run("resume", first, "go on").returncode == 0
    assert listed(clinvk) == [first, second]
    assert clinvk.run("sessions", "archive", "ffff0000").returncode == 4


class TestFork:
    def test_fork_prints_its_id_and_branches_at_its_first_prompt(self, clinvk: Clinvk) -> None:
        session = begun(clinvk, "the prompt")
        done = clinvk.run("sessions", "fork", session[:8])
        fork = done.stdout.strip()
        assert (done.returncode, len(fork)) == (0, 32)
        assert done.stderr == f'clinvk: to continue: clinvk resume {fork[:8]} "..."\n'
        assert shown(clinvk, fork).parent_id == session
        clinvk.agent.play(claude_says("x", session=HANDLE))
        assert clinvk.run("resume", fork, "go on").returncode == 0
        assert "--fork-session" in clinvk.agent.calls()[-1].argv
        assert shown(clinvk, fork).backend_session_id == HANDLE
        assert shown(clinvk, session).backend_session_id != HANDLE

    def test_fork_json_is_the_new_session(self, clinvk: Clinvk) -> None:
        session = begun(clinvk)
        assert clinvk.json(SessionView, "sessions", "fork", session).parent_id == session

    def test_fork_of_a_session_that_cannot_be_resumed_exits_with_4(self, clinvk: Clinvk) -> None:
        clinvk.agent.play([exits(9)])
        clinvk.run("fails")
        (session,) = listed(clinvk)
        assert clinvk.run("sessions", "fork", session).returncode == 4


class TestExport:
    def test_export_markdown_includes_all_prompts_and_answers(self, clinvk: Clinvk) -> None:
        session = begun(clinvk, "first *question*\n\nwith two paragraphs")
        clinvk.agent.play([*claude_says("half")[:5], exits(9)])
        clinvk.run("second question")
        text = clinvk.run("sessions", "export", session).stdout
        assert text.startswith(f"# first *question* with two paragraphs\n\n- session: {session}\n")
        parts = ["## 1. Prompt\n\nfirst *question*\n\nwith two paragraphs\n", "## 1. Answer\n\nthe answer\n"]
        parts += ["## 2. Prompt\n\nsecond question\n", "## 2. Answer\n\nhalf\n", "> failed: "]
        assert [text.find(part) for part in parts] == sorted(text.find(part) for part in parts)
        assert all(part in text for part in parts)

    def test_export_json_includes_the_full_text(self, clinvk: Clinvk) -> None:
        session = begun(clinvk, "long " * 1000)
        (turn,) = clinvk.json(Exported, "sessions", "export", session).turns
        assert (turn.prompt, turn.output) == ("long " * 1000, "the answer")
        as_json = clinvk.run("sessions", "export", session, "--format", "json").stdout
        assert as_json == clinvk.run("sessions", "export", session, "--json").stdout
        assert clinvk.run("sessions", "export", session, "--json", "--format", "markdown").returncode == 1

    @pytest.mark.parametrize("arguments", [[], ["--json"]])
    def test_export_escapes_control_characters_on_a_terminal(self, clinvk: Clinvk, arguments: list[str]) -> None:
        clinvk.agent.play(claude_says("an\x1b[2Jswer\x9b2J"))
        session = json.loads(clinvk.run("hello").stdout)["session_id"]
        with on_terminal(clinvk, "sessions", "export", session, *arguments) as terminal:
            assert terminal.ended() == 0
        assert not set(terminal.all_read.decode()) & {"\x1b", "\x9b"}
        whole = clinvk.run("sessions", "export", session, *arguments).stdout
        assert "\x9b" in whole
        assert ("\x1b" in whole) == (not arguments)


class TestEarlierStore:
    def test_earlier_sessions_are_imported_once_and_damaged_files_reported(self, clinvk: Clinvk) -> None:
        folder = Path(clinvk.agent.env["HOME"]) / ".clinvk" / "sessions"
        folder.mkdir(parents=True)
        for number in range(3):
            session = {
                "id": f"{number}" * 32,
                "backend": "claude",
                "created_at": f"2025-01-0{number + 1}T00:00:00Z",
                "last_used": f"2025-01-0{number + 1}T00:00:00Z",
                "working_dir": str(clinvk.folder),
                "backend_session_id": HANDLE,
                "initial_prompt": f"prompt {number}",
                "status": "completed",
            }
            (folder / f"{number}.json").write_text(json.dumps(session))
        (folder / "broken.json").write_text("{")
        done = clinvk.run("resume", "--last", "--dry-run", "x")
        first, *rest = done.stderr.splitlines()
        assert first == "clinvk: imported 3 sessions of an earlier clinvk; its files are unchanged"
        assert rest[0].startswith(f"clinvk: not imported: {folder}/broken.json: ")
        assert f"--resume={HANDLE}" in done.stdout
        assert listed(clinvk) == ["2" * 32, "1" * 32, "0" * 32]
        assert len(list(folder.iterdir())) == 4
