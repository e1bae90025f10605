"""Review, apply and discard the worktrees of agents over HTTP."""

from pathlib import Path

import httpx
import pytest

from clinvk.api.access.key_file import KeyLimits
from clinvk.config.model import PolicySettings
from integration.test_http_isolation import compare, post
from integration.test_http_keys import made as key_for
from integration.worktree_home import left_over
from polling import until
from repositories import Repository
from scripted import Scripted
from scripted.steps import claude_says, hang, touch
from serving import LiveServer, serving

URL = "/api/v1/worktrees"


@pytest.fixture
def repository(scripted: Scripted, tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "project", Path(scripted.env["HOME"]))
    repository.commit(**{"kept.txt": "kept\n"})
    scripted.play([touch(Path("made.txt")), *claude_says("x")])
    return repository


async def changed_by_agent(server: LiveServer, repository: Repository, **headers: str) -> str:
    """Return the id of a worktree in which an agent has made a file."""
    answer = await post(server, "compare", compare(repository.path, "claude"), **headers)
    (result,) = answer.json()["results"]
    return result["branch"].removeprefix("clinvk/")


async def test_worktree_is_listed_and_shown_with_its_runs_and_diff(scripted: Scripted, repository: Repository) -> None:
    async with serving(scripted.env) as server:
        id_ = await changed_by_agent(server, repository)
        (item,) = (await server.client.get(URL)).json()["worktrees"]
        shown = (await server.client.get(f"{URL}/{id_[:-2]}")).json()
        (session,) = (await server.client.get("/api/v1/sessions")).json()["sessions"]
    assert (session["project"], session["worktree"]) == (str(repository.path), id_)
    assert session["working_dir"] == item["path"]
    assert (item["id"], item["state"], item["repository"]) == (id_, "changed", str(repository.path))
    assert item["files"] == [{"path": "made.txt", "change": "added"}]
    assert item["problem"] is None
    assert {name: shown[name] for name in item} == item
    assert [run["prompt"] for run in shown["runs"]] == ["edit"]
    assert shown["runs"][0]["workdir"] == item["path"]
    assert "diff --git a/made.txt b/made.txt" in shown["diff"]
    assert shown["diff_is_cut"] is False


async def test_changes_of_a_worktree_are_applied_uncommitted(scripted: Scripted, repository: Repository) -> None:
    async with serving(scripted.env) as server:
        id_ = await changed_by_agent(server, repository)
        answer = await server.client.post(f"{URL}/{id_}/apply")
        again = await server.client.post(f"{URL}/{id_}/apply")
        shown = await server.client.get(f"{URL}/{id_}")
    assert answer.status_code == 200
    assert (answer.json()["removed"], answer.json()["files"]) == (True, [{"path": "made.txt", "change": "added"}])
    assert repository.git("status", "--porcelain") == "?? made.txt\n"
    assert left_over(repository) == []
    for missing in (again, shown):
        assert (missing.status_code, missing.json()["code"]) == (404, "worktree_not_found")


async def test_discarded_worktree_leaves_nothing(scripted: Scripted, repository: Repository) -> None:
    async with serving(scripted.env) as server:
        id_ = await changed_by_agent(server, repository)
        answer = await server.client.delete(f"{URL}/{id_}")
        listed = (await server.client.get(URL)).json()
    assert answer.json() == {"discarded": True, "id": id_}
    assert listed == {"worktrees": []}
    assert left_over(repository) == []
    assert repository.git("status", "--porcelain") == ""


async def test_worktree_in_use_is_neither_applied_nor_discarded(scripted: Scripted, repository: Repository) -> None:
    scripted.play([touch(Path("made.txt")), *claude_says("x")[:4], hang()])
    async with serving(scripted.env) as server:
        body = {**compare(repository.path, "claude"), "detach": True}
        run = (await post(server, "compare", body, prefer="respond-async")).json()["run_id"]
        await until(lambda: bool(scripted.calls()))
        (item,) = (await server.client.get(URL)).json()["worktrees"]
        applied = await server.client.post(f"{URL}/{item['id']}/apply")
        discarded = await server.client.delete(f"{URL}/{item['id']}")
        shown = (await server.client.get(f"{URL}/{item['id']}")).json()
        await server.client.post(f"/api/v1/runs/{run}/cancel")
    assert (item["state"], shown["diff"]) == ("in use", None)
    for answer in (applied, discarded):
        assert answer.status_code == 400
        assert "is in use" in answer.json()["detail"]


async def refused(server: LiveServer, id_: str, **headers: str) -> set[tuple[int, str]]:
    """Return status and code of the attempts to apply and to discard a worktree."""
    answers: list[httpx.Response] = [
        await server.client.post(f"{URL}/{id_}/apply", headers=headers),
        await server.client.delete(f"{URL}/{id_}", headers=headers),
    ]
    return {(answer.status_code, answer.json()["code"]) for answer in answers}


async def test_worktree_is_changed_only_by_requests_that_may_write_in_the_repository(
    scripted: Scripted, repository: Repository, tmp_path: Path
) -> None:
    async with serving(scripted.env) as server:
        id_ = await changed_by_agent(server, repository)
        assert await refused(server, id_, origin="https://evil.example") == {(403, "foreign_origin")}
    async with serving(scripted.env, policy=PolicySettings(max_sandbox_mode="read-only")) as server:
        assert await refused(server, id_) == {(403, "beyond_policy")}
    async with serving(scripted.env, blocked_workdir_prefixes=(str(repository.path),)) as server:
        assert await refused(server, id_) == {(403, "directory_not_allowed")}
    assert repository.git("status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (KeyLimits(backends=("codex",)), "backend_not_allowed"),
        (KeyLimits(workdirs=("/srv/other",)), "directory_not_allowed"),
    ],
)
async def test_key_changes_only_worktrees_of_its_agents_and_directories(
    scripted: Scripted, repository: Repository, limits: KeyLimits, code: str
) -> None:
    async with serving(scripted.env) as server:
        id_ = await changed_by_agent(server, repository)
    key, keys = await key_for(scripted, limits)
    async with serving(scripted.env, keys=keys) as server:
        assert await refused(server, id_, authorization=f"Bearer {key}") == {(403, code)}
        assert await refused(server, id_) == {(401, "unauthorized")}
    assert repository.git("status", "--porcelain") == ""
