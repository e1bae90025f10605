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
        (worktree,) = (await server.client.get("/api/v1/worktrees")).json()["worktrees"]
    assert (worktree["id"], worktree["state"]) == (session["worktree"], "unchanged")


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
