"""Sessions that live in a git worktree of their own, over HTTP."""

from pathlib import Path

import httpx
import pytest

from clinvk.api.access.key_file import KeyLimits
from clinvk.config.load import WORKTREES
from integration.test_http_keys import made as key_for
from repositories import Repository
from scripted import Scripted
from scripted.steps import claude_says, exits, touch
from serving import LiveServer, serving

HANDLE = "11111111-1111-4111-8111-111111111112"
JSON = dict[str, object]


@pytest.fixture
def repository(scripted: Scripted, tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "project", Path(scripted.env["HOME"]))
    repository.commit(**{"kept.txt": "kept\n", "sub/inner.txt": "inner\n"})
    scripted.play([touch(Path("one.txt")), *claude_says("x", session=HANDLE)])
    scripted.play([touch(Path("two.txt")), *claude_says("y", session=HANDLE)], when="again")
    return repository


async def prompt(server: LiveServer, **body: object) -> JSON:
    answer = await server.prompt(**body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["exit_code"] == 0, answer.text
    return answer.json()


async def begun(server: LiveServer, directory: Path, **body: object) -> JSON:
    """Return a new session that has had one turn in a worktree of its own."""
    answer = await prompt(server, workdir=str(directory), isolation="worktree", **body)
    return (await server.client.get(f"/api/v1/sessions/{answer['session_id']}")).json()


async def end(server: LiveServer, session: JSON, how: str) -> httpx.Response:
    url = f"/api/v1/worktrees/{session['worktree']}"
    return await (server.client.delete(url) if how == "discard" else server.client.post(f"{url}/{how}"))


async def test_session_stays_in_its_worktree_from_turn_to_turn(scripted: Scripted, repository: Repository) -> None:
    repository.write("kept.txt", "uncommitted\n")
    async with serving(scripted.env) as server:
        session = await begun(server, repository.path / "sub")
        await prompt(server, prompt="again", session_id=session["id"])
        shown = (await server.client.get(f"/api/v1/worktrees/{session['worktree']}")).json()
        (worktree,) = (await server.client.get("/api/v1/worktrees")).json()["worktrees"]
    directory = Path(str(session["working_dir"]))
    assert session["project"] == str(repository.path / "sub")
    assert directory.parts[-4:-2] == (WORKTREES, session["worktree"])
    assert {path.name for path in directory.iterdir()} == {"inner.txt", "one.txt", "two.txt"}
    assert [call.cwd for call in scripted.calls()] == [str(directory)] * 2
    assert f"--resume={HANDLE}" in scripted.calls()[1].argv
    assert repository.git("status", "--porcelain") == " M kept.txt\n"
    assert [run["prompt"] for run in shown["runs"]] == ["hi", "again"]
    assert (worktree["id"], worktree["state"]) == (session["worktree"], "changed")


async def test_uncommitted_changes_are_reported_as_missing_in_the_worktree(
    scripted: Scripted, repository: Repository
) -> None:
    repository.write("kept.txt", "uncommitted\n")
    async with serving(scripted.env) as server:
        answer = await server.prompt(workdir=str(repository.path), isolation="worktree", output_format="stream-json")
    assert "uncommitted changes in " in answer.text
    assert "are not in it: kept.txt" in answer.text


async def test_unchanged_worktree_of_a_session_stays(scripted: Scripted, repository: Repository) -> None:
    scripted.play(claude_says("x", session=HANDLE))
    async with serving(scripted.env) as server:
        session = await begun(server, repository.path)
        other = await begun(server, repository.path)
        deleted = await server.client.delete(f"/api/v1/sessions/{session['id']}")
        several = await server.client.post("/api/v1/sessions/delete", json={"ids": [other["id"]]})
        worktrees = (await server.client.get("/api/v1/worktrees")).json()["worktrees"]
    assert [(each["id"], each["state"]) for each in worktrees] == [
        (session["worktree"], "unchanged"),
        (other["worktree"], "unchanged"),
    ]
    assert (deleted.json()["worktree"], several.json()["worktrees"]) == (session["worktree"], [other["worktree"]])


@pytest.mark.parametrize("how", ["apply", "discard"])
async def test_session_continues_after_the_end_of_its_worktree(
    scripted: Scripted, repository: Repository, how: str
) -> None:
    async with serving(scripted.env) as server:
        session = await begun(server, repository.path / "sub")
        assert (await end(server, session, how)).status_code == 200
        directory = Path(str(session["working_dir"]))
        assert not directory.exists()
        repository.commit(**{"later.txt": "later\n"})
        await prompt(server, prompt="again", session_id=session["id"])
    assert (directory.parent / "later.txt").exists()
    assert (directory / "two.txt").exists()
    assert (directory / "one.txt").exists() == (how == "apply")
    assert [call.cwd for call in scripted.calls()] == [str(directory)] * 2
    assert f"--resume={HANDLE}" in scripted.calls()[1].argv


async def test_winner_of_a_comparison_continues_after_its_changes_were_applied(
    scripted: Scripted, repository: Repository
) -> None:
    body = {"prompt": "edit", "backends": ["claude"], "workdir": str(repository.path), "isolation": "worktree"}
    async with serving(scripted.env) as server:
        (result,) = (await server.client.post("/api/v1/compare", json=body, timeout=30)).json()["results"]
        session = (await server.client.get(f"/api/v1/sessions/{result['session_id']}")).json()
        assert (await end(server, session, "apply")).status_code == 200
        await prompt(server, prompt="again", session_id=session["id"])
    assert (Path(result["worktree"]) / "two.txt").exists()


@pytest.mark.parametrize("case", ["no repository", "no commit", "ephemeral", "session"])
async def test_worktree_that_cannot_be_made_is_refused(scripted: Scripted, tmp_path: Path, case: str) -> None:
    scripted.play(claude_says("x", session=HANDLE))
    body: JSON = {"workdir": str(tmp_path / "project"), "isolation": "worktree"}
    repository = Repository(tmp_path / "project", Path(scripted.env["HOME"]), make=case != "no repository")
    if case in ("ephemeral", "session"):
        repository.commit()
    async with serving(scripted.env) as server:
        if case == "session":
            body["session_id"] = (await prompt(server, workdir=body["workdir"]))["session_id"]
        answer = await server.prompt(**body, **({"ephemeral": True} if case == "ephemeral" else {}))
    reasons = {"no repository": "not in one", "no commit": "no commit yet", "ephemeral": "no session"}
    assert (answer.status_code, answer.json().get("field")) == (400, "isolation"), answer.text
    assert reasons.get(case, "only a new session") in answer.json()["detail"]


async def test_failed_start_leaves_no_session_and_no_lasting_worktree(
    scripted: Scripted, repository: Repository
) -> None:
    (scripted.folder / "claude").unlink()
    async with serving(scripted.env) as server:
        answer = await server.prompt(workdir=str(repository.path), isolation="worktree")
        listed = (await server.client.get("/api/v1/worktrees")).json()
    assert answer.json()["code"] == "backend_unavailable"
    assert listed == {"worktrees": []}
    assert repository.worktrees() == []


async def test_run_that_fails_keeps_its_worktree(scripted: Scripted, repository: Repository) -> None:
    scripted.play([touch(Path("one.txt")), exits(3)])
    async with serving(scripted.env) as server:
        await server.prompt(workdir=str(repository.path), isolation="worktree")
        (worktree,) = (await server.client.get("/api/v1/worktrees")).json()["worktrees"]
    assert worktree["files"] == [{"path": "one.txt", "change": "added"}]


async def test_directories_of_a_key_are_checked_against_the_project(scripted: Scripted, repository: Repository) -> None:
    key, keys = await key_for(scripted, KeyLimits(workdirs=(str(repository.path),)))
    async with serving(scripted.env, keys=keys, allowed_workdir_prefixes=(str(repository.path),)) as server:
        server.client.headers["authorization"] = f"Bearer {key}"
        session = await begun(server, repository.path)
        for _ in range(2):
            await prompt(server, prompt="again", session_id=session["id"])
            assert (await end(server, session, "discard")).status_code == 200
        (repository.path.parent / "other").mkdir()
        refused = await server.prompt(workdir=str(repository.path.parent / "other"), isolation="worktree")
    assert refused.json()["code"] == "directory_not_allowed"


async def committed(server: LiveServer, session: JSON, message: str = "Add a file\n\nBecause.") -> JSON:
    answer = await server.client.post(f"/api/v1/worktrees/{session['worktree']}/commit", json={"message": message})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def changes(server: LiveServer, session: JSON, **query: str) -> httpx.Response:
    return await server.client.get(f"/api/v1/sessions/{session['id']}/changes", params=query)


@pytest.fixture
def author(repository: Repository) -> Repository:
    """The repository, whose own settings name the author of commits."""
    repository.git("config", "user.name", "Ana")
    repository.git("config", "user.email", "ana@example.com")
    return repository


async def test_commit_keeps_the_branch_from_which_the_next_turn_continues(
    scripted: Scripted, author: Repository
) -> None:
    hook = author.write(".git/hooks/pre-commit", f"#!/bin/sh\ntouch {author.home}/hooked\n")
    hook.chmod(0o755)
    async with serving(scripted.env) as server:
        session = await begun(server, author.path / "sub")
        done = await committed(server, session)
        branch = f"clinvk/{session['worktree']}"
        assert (done["branch"], done["files"]) == (branch, [{"path": "sub/one.txt", "change": "added"}])
        shown = author.git("show", "--no-patch", "--format=%H %an <%ae>%n%B", branch).strip()
        assert shown == f"{done['commit']} Ana <ana@example.com>\nAdd a file\n\nBecause."
        assert author.git("diff", "--name-only", "main", branch) == "sub/one.txt\n"
        assert author.worktrees() == []
        await prompt(server, prompt="again", session_id=session["id"])
        directory = Path(str(session["working_dir"]))
        assert {path.name for path in directory.iterdir()} == {"inner.txt", "one.txt", "two.txt"}
        shown = (await changes(server, session)).json()
        assert [file["path"] for file in shown["files"]] == ["sub/two.txt"]
        assert (await end(server, session, "discard")).status_code == 200
    assert author.git("rev-parse", branch).strip() == done["commit"]
    assert author.git("status", "--porcelain") == ""
    assert not (author.home / "hooked").exists()


async def test_commit_follows_the_commits_of_the_agent(scripted: Scripted, author: Repository) -> None:
    async with serving(scripted.env) as server:
        session = await begun(server, author.path)
        directory = Path(str(session["working_dir"]))
        author.git("add", "--all", cwd=directory)
        author.git("commit", "--quiet", "--message=by the agent", cwd=directory)
        await prompt(server, prompt="again", session_id=session["id"])
        done = await committed(server, session)
    log = author.git("log", "--format=%s", str(done["commit"])).split("\n")
    assert log[:2] == ["Add a file", "by the agent"]


@pytest.mark.parametrize(
    ("case", "detail"), [("message", "message is empty"), ("unchanged", "no changes"), ("author", "not committed")]
)
async def test_commit_that_cannot_be_made_changes_nothing(
    scripted: Scripted, repository: Repository, case: str, detail: str
) -> None:
    if case == "unchanged":
        scripted.play(claude_says("x", session=HANDLE))
    if case == "author":
        repository.git("config", "user.useConfigOnly", "true")
        (repository.home / ".gitconfig").write_text("[user]\nuseConfigOnly = true\n")
    async with serving(scripted.env) as server:
        session = await begun(server, repository.path)
        url = f"/api/v1/worktrees/{session['worktree']}/commit"
        answer = await server.client.post(url, json={"message": " " if case == "message" else "x"})
    assert answer.status_code == 400, answer.text
    assert detail in answer.json()["detail"]
    assert Path(str(session["working_dir"])).exists()


async def test_agent_proposes_a_commit_message(scripted: Scripted, author: Repository) -> None:
    answer = '{"subject": "Add one.txt", "body": "The test needs the file."}'
    scripted.play(claude_says(answer, session=HANDLE), when="Write the message")
    async with serving(scripted.env) as server:
        session = await begun(server, author.path)
        url = f"/api/v1/worktrees/{session['worktree']}/message"
        message = (await server.client.post(url, timeout=30)).json()["message"]
        listed = (await server.client.get("/api/v1/sessions")).json()
    assert message == "Add one.txt\n\nThe test needs the file."
    assert listed["total"] == 1
    assert b"one.txt" in (scripted.calls()[-1].stdin or b"")


async def test_changes_of_a_worktree_are_shown_since_a_turn(scripted: Scripted, repository: Repository) -> None:
    repository.write(".gitignore", "*.log\n")
    repository.commit()
    scripted.play([touch(Path("noise.log")), touch(Path("two.txt")), *claude_says("y", session=HANDLE)], when="again")
    async with serving(scripted.env) as server:
        session = await begun(server, repository.path)
        Path(str(session["working_dir"]), "one.txt").write_text("1\n2\n")
        second = await prompt(server, prompt="again", session_id=session["id"])
        whole = (await changes(server, session)).json()
        since = (await changes(server, session, since=str(second["run_id"]))).json()
        unknown = await changes(server, session, since="f" * 32)
        first = repository.git("rev-parse", "HEAD")
    one = {"path": "one.txt", "status": "added", "added": 2, "removed": 0}
    two = {"path": "two.txt", "status": "added", "added": 0, "removed": 0}
    assert whole["files"] == [one, two]
    assert "+++ b/one.txt" in whole["diff"]
    assert (whole["diff_is_cut"], whole["since"], whole["worktree"]) == (False, None, session["worktree"])
    assert whole["branch"] == f"clinvk/{session['worktree']}"
    assert since["files"] == [two]
    assert "one.txt" not in since["diff"]
    assert since["since"] == second["run_id"]
    assert (unknown.status_code, unknown.json()["field"]) == (400, "since")
    assert repository.git("rev-parse", "HEAD") == first


async def test_changes_outside_of_a_repository_are_refused(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x", session=HANDLE))
    async with serving(scripted.env) as server:
        answer = await prompt(server, workdir=str(tmp_path))
        refused = await changes(server, {"id": answer["session_id"]})
    assert refused.status_code == 400
    assert "is in no git repository" in refused.json()["detail"]


async def test_changes_of_another_session_are_those_not_committed(scripted: Scripted, repository: Repository) -> None:
    repository.write("kept.txt", "changed\n")
    async with serving(scripted.env, blocked_workdir_prefixes=(str(repository.path / "secret"),)) as server:
        answer = await prompt(server, workdir=str(repository.path / "sub"))
        repository.write("secret/key", "s")
        session: JSON = {"id": answer["session_id"]}
        shown = (await changes(server, session)).json()
        refused = await changes(server, session, since=str(answer["run_id"]))
    assert shown["files"] == [
        {"path": "kept.txt", "status": "modified", "added": 1, "removed": 1},
        {"path": "sub/one.txt", "status": "added", "added": 0, "removed": 0},
    ]
    assert (shown["branch"], shown["worktree"]) == ("main", None)
    assert "key" not in shown["diff"]
    assert (refused.status_code, refused.json()["field"]) == (400, "since")
    assert repository.git("status", "--porcelain") == " M kept.txt\n?? secret/\n?? sub/one.txt\n"
