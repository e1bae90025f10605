"""`clinvk worktrees`: listed, shown, applied and discarded."""

import asyncio
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from acceptance.command import Clinvk, until
from acceptance.server import in_both_ways
from acceptance.terminal import Terminal, on_terminal
from clinvk.cli.terminal.table import width
from clinvk.dialects.rest import views
from clinvk.runtime.process.process_tags import RlimitTags
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.folders import Worktree
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees, State, WorktreeApplied
from clinvk.types.orchestration import ChangedFile
from repositories import Repository
from scripted.steps import claude_says, touch, wait_for

T = TypeVar("T")


class WorktreeItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worktree as JSON."""

    id: str
    state: State
    repository: str
    path: str
    branch: str
    base: str
    made_at: str
    files: tuple[ChangedFile, ...]
    problem: str | None


class WorktreeList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The output of `list` as JSON."""

    worktrees: list[WorktreeItem]


class ShownWorktree(WorktreeItem, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The output of `show` as JSON."""

    runs: list[views.RunItem]
    diff: str | None


class Discarded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The output of `discard` as JSON."""

    discarded: list[str]
    dry_run: bool


@pytest.fixture
def repository(clinvk: Clinvk) -> Repository:
    """A repository in the folder of the command; its user is that of the command."""
    repository = Repository(clinvk.folder / "project", Path(clinvk.agent.env["HOME"]))
    repository.commit(**{"a.txt": "one\n", "inner/b": "b\n"})
    return repository


def worktrees_of(repository: Repository) -> KeptWorktrees:
    """Return the worktrees of the command's user, as another clinvk sees them."""
    marks = RlimitTags(10**8 + int.from_bytes(os.urandom(4)) % 10**8)
    return KeptWorktrees(Spawner(marks), repository.home / ".clinvk", repository.env)


def changed_worktree(repository: Repository, without: Sequence[str] = (), **files: str) -> Worktree:
    """Leave a worktree that an agent has changed."""

    async def make() -> Worktree:
        async with worktrees_of(repository).isolated(str(repository.path), "claude") as worktree:
            for name, content in (files or {"a.txt": "two\n"}).items():
                Path(worktree.root, name).write_text(content)
            for name in without:
                Path(worktree.root, name).unlink()
        return worktree

    return asyncio.run(make())


def listed(clinvk: Clinvk, *arguments: str) -> list[str]:
    """Return the ids of `worktrees list`, in order."""
    return [item.id for item in clinvk.json(WorktreeList, "worktrees", "list", *arguments).worktrees]


def test_list_prints_a_table_of_changed_worktrees(clinvk: Clinvk, repository: Repository) -> None:
    first = changed_worktree(repository)
    second = changed_worktree(repository, **{"a.txt": "two\n", "new": "new\n"})
    done = clinvk.run("worktrees", "list")
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = [line.split() for line in done.stdout.splitlines()]
    assert head == ["ID", "STATE", "FILES", "MADE", "REPOSITORY", "PROMPT"]
    assert [row[:3] for row in rows] == [[first.id, "changed", "1"], [second.id, "changed", "2"]]
    assert all(row[-1] == str(repository.path) for row in rows)
    from_inside = clinvk.run("worktrees", "list", before=f"cd {shlex.quote(str(repository.path))}").stdout
    assert all(line.endswith("  .") for line in from_inside.splitlines()[1:])
    with on_terminal(clinvk, "worktrees", "list", columns=60) as terminal:
        assert terminal.ended() == 0
    assert max(map(width, terminal.read.decode().splitlines())) <= 60


def test_list_prints_the_prompt_that_made_a_worktree(clinvk: Clinvk, repository: Repository) -> None:
    clinvk.agent.play([touch(Path("new")), *claude_says("done")])
    done = clinvk.run(
        "compare", "--backends", "claude", "--isolation", "worktree", "-w", str(repository.path), "fix it"
    )
    assert done.returncode == 0, done.stderr
    assert clinvk.run("worktrees", "list").stdout.splitlines()[1].endswith("  fix it")


def test_list_json_includes_all_fields(clinvk: Clinvk, repository: Repository) -> None:
    worktree = changed_worktree(repository)
    (item,) = clinvk.json(WorktreeList, "worktrees", "list").worktrees
    assert (item.id, item.state, item.branch, item.base) == (worktree.id, "changed", worktree.branch, worktree.base)
    assert (item.repository, item.path, item.problem) == (str(repository.path), worktree.path, None)
    assert item.files == (ChangedFile("a.txt", "modified"),)
    assert item.made_at.endswith("Z")


def test_list_here_shows_one_repository_and_requires_one(clinvk: Clinvk, repository: Repository) -> None:
    other = Repository(clinvk.folder / "other", repository.home)
    other.commit(**{"a.txt": "one\n"})
    mine, theirs = changed_worktree(repository), changed_worktree(other)
    assert listed(clinvk) == [mine.id, theirs.id]
    assert listed(clinvk, "-w", str(repository.path / "inner")) == [mine.id]
    done = clinvk.run("worktrees", "list", "--here")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"clinvk: worktrees need a git repository; {str(clinvk.folder)!r} is not in one\n"


def test_list_without_worktrees_is_empty_with_a_note(clinvk: Clinvk) -> None:
    done = clinvk.run("worktrees", "list")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("clinvk: no worktrees; ")
    assert listed(clinvk) == []


def test_list_shows_a_broken_worktree_with_the_reason(clinvk: Clinvk, repository: Repository) -> None:
    worktree = changed_worktree(repository)
    repository.path.rename(clinvk.folder / "moved")
    done = clinvk.run("worktrees", "list")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].split()[:2] == [worktree.id, "broken"]
    assert done.stderr.startswith(f"clinvk: {worktree.id}: {repository.path} knows no worktree")


def test_show_prints_the_changes_and_the_run(clinvk: Clinvk, repository: Repository) -> None:
    worktree = changed_worktree(repository, **{"a.txt": "two\n", "new": "new\n"})
    clinvk.agent.play(claude_says("x"))
    prompted = json.loads(clinvk.run("-b", "claude", "--workdir", worktree.path, "change it").stdout)
    done = clinvk.run("worktrees", "show", worktree.branch)
    assert (done.returncode, done.stderr) == (0, "")
    head, _, diff = done.stdout.partition("\n\n")
    *fields, changed, new = [line.split(maxsplit=1) for line in head.splitlines()]
    told_of = {name: value for name, value in fields if name != "made"}
    assert told_of == {
        "id": worktree.id,
        "state": "changed",
        "repository": str(repository.path),
        "directory": worktree.path.replace(str(repository.home), "~"),
        "branch": worktree.branch,
        "base": worktree.base,
        "run": f"{prompted['run_id'][:8]} (done)",
        "backend": "claude (claude-scripted)",
        "session": prompted["session_id"][:8],
        "prompt": "change it",
        "files": "2",
    }
    assert (changed, new) == (["modified", "a.txt"], ["added", "new"])
    assert diff.startswith("diff --git a/a.txt b/a.txt\n")
    assert "\n-one\n+two\ndiff --git a/new b/new\n" in diff


def test_show_json_includes_the_list_fields_and_the_diff(clinvk: Clinvk, repository: Repository) -> None:
    worktree = changed_worktree(repository)
    shown = clinvk.json(ShownWorktree, "worktrees", "show", worktree.id)
    (item,) = clinvk.json(WorktreeList, "worktrees", "list").worktrees
    assert {name: getattr(shown, name) for name in item.__struct_fields__} == msgspec.structs.asdict(item)
    assert shown.runs == []
    assert str(shown.diff).endswith("\n-one\n+two\n")
    assert clinvk.json(ShownWorktree, "worktrees", "show", worktree.id, "--diff") == shown


@pytest.mark.parametrize("flags", [(), ("--diff",)], ids=["whole", "diff"])
def test_show_output_in_a_pipe_is_a_git_patch(clinvk: Clinvk, repository: Repository, flags: tuple[str, ...]) -> None:
    files = {"a.txt": b"tw\xf6\r\n", "pixel": bytes(range(256)), "with space": b"x" * 2**21 + b"\nno end"}
    worktree = changed_worktree(repository, without=("inner/b",))
    for name, content in files.items():
        Path(worktree.root, name).write_bytes(content)
    done = clinvk.run("worktrees", "show", worktree.id, *flags, close_fds="> change.patch")
    assert (done.returncode, done.stderr) == (0, "")
    patch = clinvk.folder / "change.patch"
    assert patch.read_bytes().startswith(b"diff --git " if flags else b"id ")
    repository.git("apply", "--whitespace=nowarn", str(patch))
    assert repository.files() == files
    assert listed(clinvk) == [worktree.id]


def test_show_on_a_terminal_colors_the_diff_and_escapes_control_characters(
    clinvk: Clinvk, repository: Repository
) -> None:
    worktree = changed_worktree(repository, **{"a.txt": "two \x1b[2J\n", "pixel": "\0"})
    with on_terminal(clinvk, "worktrees", "show", "--diff", worktree.id) as terminal:
        assert terminal.ended() == 0
    colored = terminal.read.decode().split("\r\n")
    assert colored[0] == "\x1b[1mdiff --git a/a.txt b/a.txt\x1b[m"
    assert colored[4:7] == ["\x1b[36m@@ -1 +1 @@\x1b[m", "\x1b[31m-one\x1b[m", "\x1b[32m+two ?[2J\x1b[m"]
    assert colored[-2:] == ["Binary files differ", ""]
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"CLINVK_OUTPUT__COLOR": "false"}):
        with on_terminal(clinvk, "worktrees", "show", worktree.id, env=env) as terminal:
            assert terminal.ended() == 0
        assert "\x1b" not in terminal.read.decode()


def test_show_reports_why_a_worktree_has_no_diff(clinvk: Clinvk, repository: Repository) -> None:
    worktrees = worktrees_of(repository)
    busy = asyncio.run(worktrees.make(str(repository.path), "busy"))
    other = Repository(clinvk.folder / "other", repository.home)
    other.commit(**{"a.txt": "one\n"})
    broken = changed_worktree(other)
    other.path.rename(clinvk.folder / "moved")
    for worktree, state, why in (
        (busy, "in use", "an agent is at work in it: its diff is there when that has ended"),
        (broken, "broken", f"{other.path} knows no worktree '{broken.root}' any more"),
    ):
        done = clinvk.run("worktrees", "show", worktree.id)
        assert (done.returncode, done.stderr) == (0, f"clinvk: {worktree.id}: {why}\n")
        assert done.stdout.splitlines()[1] == f"state        {state}"
        alone = clinvk.run("worktrees", "show", "--diff", worktree.id)
        assert (alone.returncode, alone.stdout, alone.stderr) == (1, "", done.stderr)
        shown = clinvk.json(ShownWorktree, "worktrees", "show", worktree.id)
        assert (shown.state, shown.diff) == (state, None)
    asyncio.run(worktrees.leave(busy))


def test_show_prints_the_diff_when_the_run_database_is_unreadable(clinvk: Clinvk, repository: Repository) -> None:
    worktree = changed_worktree(repository)
    (repository.home / ".clinvk" / "clinvk.db").write_text("no database")
    done = clinvk.run("worktrees", "show", worktree.id)
    assert done.returncode == 0
    assert done.stdout.endswith("\n-one\n+two\n")
    assert done.stderr.startswith("clinvk: the runs in this worktree are unknown: ")


def test_apply_changes_the_files_and_removes_the_worktree(clinvk: Clinvk, repository: Repository) -> None:
    worktree = changed_worktree(repository, **{"a.txt": "two\n", "new": "new\n"})
    tried = clinvk.run("worktrees", "apply", "--dry-run", worktree.id[:-2])
    assert tried.stdout.startswith(f"would apply {worktree.id} to ")
    assert repository.files()["a.txt"] == b"one\n"
    done = clinvk.run("worktrees", "apply", worktree.branch)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"applied {worktree.id} to {repository.path}, uncommitted\n  modified      a.txt\n  added         new\n"
    )
    assert repository.files()["a.txt"] == b"two\n"
    assert listed(clinvk) == []
    assert repository.branches() == ["main"]


def test_apply_keeps_the_current_directory_when_its_contents_are_replaced(
    clinvk: Clinvk, repository: Repository
) -> None:
    worktree = changed_worktree(repository, **{"inner/new": "new\n"}, without=("inner/b",))
    inner = repository.path / "inner"
    directory = os.open(inner, os.O_RDONLY)  # while it is open, no other gets its number
    try:
        done = clinvk.run("worktrees", "apply", worktree.id, before="cd project/inner")
        assert (done.returncode, done.stderr) == (0, "")
        assert os.path.samestat(os.fstat(directory), inner.stat())
    finally:
        os.close(directory)
    assert [file.name for file in inner.iterdir()] == ["new"]


def test_apply_works_from_a_deleted_directory(clinvk: Clinvk, repository: Repository) -> None:
    worktree = changed_worktree(repository)
    done = clinvk.run("worktrees", "apply", worktree.id, before="mkdir gone; cd gone; rmdir ../gone")
    assert (done.returncode, done.stderr) == (0, "")
    assert repository.files()["a.txt"] == b"two\n"


def test_apply_json_reports_the_files_and_the_repository(clinvk: Clinvk, repository: Repository) -> None:
    worktree = changed_worktree(repository)
    done = clinvk.json(WorktreeApplied, "worktrees", "apply", worktree.id, "--keep")
    assert done == WorktreeApplied(
        id=worktree.id,
        repository=str(repository.path),
        files=(ChangedFile("a.txt", "modified"),),
        removed=False,
        dry_run=False,
    )
    assert listed(clinvk) == [worktree.id]


def test_commit_keeps_a_branch_with_the_given_or_the_proposed_message(clinvk: Clinvk, repository: Repository) -> None:
    repository.git("config", "user.name", "Ana")
    repository.git("config", "user.email", "ana@example.com")
    (repository.home / ".gitconfig").write_text("[user]\nname = Ana\nemail = ana@example.com\n")
    clinvk.agent.play([touch(Path("made.txt")), *claude_says("x")], when="make it")
    clinvk.agent.play(claude_says('{"subject": "Add made.txt", "body": ""}'), when="Write the message")
    for flags, message in ((("--message", "By hand"), "By hand"), ((), "Add made.txt")):
        done = clinvk.run("--worktree", "make it", "-w", str(repository.path))
        assert done.returncode == 0, done.stderr
        (session,) = clinvk.json(views.SessionList, "sessions", "list", "--limit", "1").sessions
        assert session.worktree
        done = clinvk.run("worktrees", "commit", session.worktree, *flags, "-o", "text")
        assert done.returncode == 0, done.stderr
        branch = f"clinvk/{session.worktree}"
        assert done.stdout.endswith(f" on the branch {branch}\n")
        assert repository.git("show", "--no-patch", "--format=%an %s", branch) == f"Ana {message}\n"
    assert repository.worktrees() == []
    assert repository.git("status", "--porcelain") == ""
    refused = clinvk.run("worktrees", "commit", "x", "-m", "by hand")
    assert (refused.returncode, "--message" in refused.stderr) == (1, True)


def test_worktree_of_a_session_is_named_wherever_its_changes_matter(clinvk: Clinvk, repository: Repository) -> None:
    place = ("-w", str(repository.path))
    clinvk.agent.play(claude_says("y"))
    clinvk.agent.play([touch(Path("made.txt")), *claude_says("x")], when="make it")
    planned = clinvk.run("--worktree", "--dry-run", "make it", *place).stdout
    assert f"# for {repository.path}: the same directory in a new git worktree, as HEAD has it\n" in planned
    assert clinvk.run("--worktree", "only look", *place, "-o", "text").stderr == ""
    done = clinvk.run("--worktree", "make it", *place, "-o", "text")
    (session, *_) = clinvk.json(views.SessionList, "sessions", "list", *place).sessions
    id_ = session.worktree
    assert id_
    assert done.stderr == f"clinvk: changes are in worktree {id_}: clinvk worktrees show {id_}, or apply {id_}\n"
    assert clinvk.run("--worktree", "make it", *place, "-o", "json").stderr == ""
    clinvk.run(
        "sessions", "archive", *(each.id for each in clinvk.json(views.SessionList, "sessions", "list").sessions[:1])
    )
    again = clinvk.run("-c", "go on", *place, "-o", "text")
    assert f" in worktree {id_} " in again.stderr
    inside = ("-w", session.working_dir or "")
    assert [each.id for each in clinvk.json(views.SessionList, "sessions", "list", *inside).sessions] == [session.id]
    deleted = clinvk.run("sessions", "delete", "--yes", session.id)
    assert deleted.stderr == f"clinvk: worktree {id_} stays: clinvk worktrees discard {id_} removes it\n"
    assert id_ in listed(clinvk)
    clinvk.run("worktrees", "discard", "--yes", id_)


def test_conflicting_apply_exits_with_1_and_changes_nothing(clinvk: Clinvk, repository: Repository) -> None:
    worktree = changed_worktree(repository)
    repository.write("a.txt", "three\n")
    done = clinvk.run("worktrees", "apply", worktree.id)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing was changed: " in done.stderr
    assert "a.txt: patch does not apply" in done.stderr
    assert repository.files()["a.txt"] == b"three\n"
    assert listed(clinvk) == [worktree.id]


def test_discard_removes_named_worktrees_only_when_confirmed(clinvk: Clinvk, repository: Repository) -> None:
    first, second, third = (changed_worktree(repository) for _ in range(3))
    assert clinvk.run("worktrees", "discard", "--dry-run", first.id).stdout == f"would discard {first.id}\n"
    unasked = clinvk.run("worktrees", "discard", first.id)
    assert (unasked.returncode, unasked.stdout) == (1, "")
    assert unasked.stderr == "clinvk: this needs --yes: there is no terminal to ask on\n"
    done = clinvk.json(Discarded, "worktrees", "discard", "--yes", first.id, second.branch, first.id)
    assert done == Discarded([first.id, second.id], False)
    assert listed(clinvk) == [third.id]
    assert repository.branches() == [third.branch, "main"]


@pytest.mark.parametrize(("typed", "is_gone"), [("y", True), ("", False)])
def test_discard_asks_for_confirmation_on_a_terminal(
    clinvk: Clinvk, repository: Repository, typed: str, is_gone: bool
) -> None:
    worktree = changed_worktree(repository)
    with on_terminal(clinvk, "worktrees", "discard", worktree.id) as terminal:
        terminal.until(f"Discard worktree {worktree.id} (changed files: 1)? [y/N] ")
        terminal.type(f"{typed}\r".encode())
        assert terminal.ended() == (0 if is_gone else 7)
    assert listed(clinvk) == ([] if is_gone else [worktree.id])


def test_worktree_in_use_is_refused_before_asking_or_removing(clinvk: Clinvk, repository: Repository) -> None:
    other = changed_worktree(repository)
    worktrees = worktrees_of(repository)
    worktree = asyncio.run(worktrees.make(str(repository.path), "busy"))
    Path(worktree.root, "new").touch()
    said = f"clinvk: worktree {worktree.id} is in use: its agent is at work"
    for command in (["apply"], ["discard", "--yes", other.id], ["discard", "--dry-run"]):
        done = clinvk.run("worktrees", *command, worktree.id)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(said)
    with on_terminal(clinvk, "worktrees", "discard", worktree.id) as terminal:
        assert terminal.ended() == 1
        assert said.encode() in terminal.plain()
    assert listed(clinvk) == [other.id, worktree.id]
    asyncio.run(worktrees.leave(worktree))
    assert listed(clinvk) == [other.id, worktree.id]


@pytest.mark.slow
def test_discard_removes_nothing_when_a_worktree_becomes_used_while_asking(
    clinvk: Clinvk, repository: Repository
) -> None:
    free, entered = sorted((changed_worktree(repository) for _ in range(2)), key=lambda worktree: worktree.id)

    async def answer(terminal: Terminal) -> None:
        async with worktrees_of(repository).used(entered.root):
            terminal.type(b"y\r")
            assert terminal.ended() == 1

    with on_terminal(clinvk, "worktrees", "discard", free.id, entered.id) as terminal:
        terminal.until("[y/N] ")
        asyncio.run(answer(terminal))
        assert f"worktree {entered.id} is in use: its agent is at work".encode() in terminal.plain()
    assert sorted(listed(clinvk)) == [free.id, entered.id]


def test_worktree_is_in_use_until_an_interactive_agent_exits(clinvk: Clinvk, repository: Repository) -> None:
    worktree = changed_worktree(repository)
    begun, go = clinvk.folder / "begun", clinvk.folder / "go"
    clinvk.agent.play(claude_says("x"))
    assert clinvk.run("--new", "-b", "claude", "--workdir", worktree.path, "first").returncode == 0
    clinvk.agent.play([touch(begun), wait_for(go)], reads=False)
    (session,) = (line["id"] for line in json.loads(clinvk.run("sessions", "list", "--json").stdout)["sessions"])
    with on_terminal(clinvk, "resume", "-i", session) as terminal:
        until(begun.exists)
        assert [item.state for item in clinvk.json(WorktreeList, "worktrees", "list").worktrees] == ["in use"]
        go.touch()
        assert terminal.ended() == 0
    assert [item.state for item in clinvk.json(WorktreeList, "worktrees", "list").worktrees] == ["changed"]


@pytest.mark.slow
@in_both_ways
@pytest.mark.parametrize("resumes", [False, True], ids=["prompt", "resume"])
def test_worktree_is_in_use_until_its_prompt_is_answered(clinvk: Clinvk, repository: Repository, resumes: bool) -> None:
    worktree = changed_worktree(repository)
    begun, go = clinvk.folder / "begun", clinvk.folder / "go"
    clinvk.agent.play(claude_says("x"))
    clinvk.agent.play([touch(begun), wait_for(go), *claude_says("x")], when="more")
    inside = ("--workdir", worktree.path)
    if resumes:
        assert clinvk.run("--new", "-b", "claude", *inside, "first").returncode == 0
    with clinvk.started(*(("resume", "--here") if resumes else ("--new", "-b", "claude")), *inside, "more") as process:
        until(begun.exists)
        assert [item.state for item in clinvk.json(WorktreeList, "worktrees", "list").worktrees] == ["in use"]
        done = clinvk.run("worktrees", "discard", "--yes", worktree.id)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"clinvk: worktree {worktree.id} is in use: its agent is at work")
        go.touch()
        assert process.wait(30) == 0
    assert clinvk.agent.calls()[-1].cwd == worktree.path
    assert clinvk.run("worktrees", "apply", worktree.id).returncode == 0
    assert (repository.path / "a.txt").read_text() == "two\n"
    assert listed(clinvk) == []


@pytest.mark.parametrize("command", ["show", "apply", "discard"])
def test_unknown_or_ambiguous_worktree_exits_with_1(clinvk: Clinvk, repository: Repository, command: str) -> None:
    changed_worktree(repository)
    changed_worktree(repository)
    for word, said in (("nothing", "no worktree 'nothing'"), ("claude", "is the beginning of several worktrees")):
        done = clinvk.run("worktrees", command, word)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
    assert len(listed(clinvk)) == 2


def test_missing_git_is_reported(clinvk: Clinvk, repository: Repository) -> None:
    worktree = changed_worktree(repository)
    done = clinvk.run("worktrees", "apply", worktree.id, env={"PATH": str(clinvk.folder)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("clinvk: worktrees need git: ")
