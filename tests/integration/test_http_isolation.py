"""Several agents in git worktrees of their own, checked and judged, over HTTP."""

import asyncio
import json
import shutil
from pathlib import Path

import httpx
import msgspec
import pytest

from clinvk.api.access.key_file import KeyLimits
from integration.test_http_keys import made as key_for
from integration.worktree_home import another, changed, home
from polling import until
from repositories import Repository
from scripted import Scripted
from scripted.steps import claude_says, codex_streams, exits, hang, spawn, touch, wait_for
from serving import LiveServer, serving


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "project", tmp_path / "home")
    repository.commit(**{"inner/kept.txt": "kept\n"})
    return repository


@pytest.fixture
def project(repository: Repository) -> Path:
    return repository.path


async def post(server: LiveServer, kind: str, body: object, **headers: str) -> httpx.Response:
    return await server.client.post(f"/api/v1/{kind}", json=body, headers=headers, timeout=30)


def compare(project: Path, *backends: str, **fields: object) -> dict[str, object]:
    return {"prompt": "edit", "backends": backends, "workdir": str(project), "isolation": "worktree", **fields}


async def test_each_agent_edits_its_own_worktree_and_returns_a_diff(
    scripted: Scripted, project: Path, repository: Repository
) -> None:
    scripted.play([touch(Path("one.txt")), *claude_says("x")], when="one")
    scripted.play([touch(Path("two.txt")), *codex_streams("y")], when="two")
    scripted.play(claude_says("nothing"), when="three")
    inner = str(project / "inner")
    tasks = [
        {"backend": "claude", "prompt": "one", "workdir": inner, "isolation": "worktree"},
        {"backend": "codex", "prompt": "two", "workdir": inner, "isolation": "worktree"},
        {"backend": "claude", "prompt": "three", "workdir": inner, "isolation": "worktree", "name": "idle"},
    ]
    async with serving(scripted.env) as server:
        answer = (await post(server, "parallel", {"tasks": tasks})).json()
    one, two, three = answer["results"]
    assert [file for result in answer["results"] for file in result["files"]] == [
        {"path": "inner/one.txt", "change": "added"},
        {"path": "inner/two.txt", "change": "added"},
    ]
    assert "diff --git a/inner/one.txt b/inner/one.txt" in one["diff"]
    assert "two.txt" not in one["diff"]
    assert one["branch"] != two["branch"]
    assert (Path(two["worktree"]) / "two.txt").exists()
    assert (three["diff"], "worktree" in three) == ("", False)
    assert three["branch"].startswith("clinvk/idle-")
    assert repository.git("status", "--porcelain") == ""
    assert {Path(call.cwd).name for call in scripted.calls()} == {"inner"}
    assert len({call.cwd for call in scripted.calls()}) == 3
    assert one["branch"] in repository.git("branch", "--list")
    assert three["branch"] not in repository.git("branch", "--list")
    assert "warnings" not in answer


async def test_isolated_agent_works_where_its_directory_is_allowed(scripted: Scripted, project: Path) -> None:
    """The lists of directories are about the repository, not about where clinvk keeps its worktrees."""
    scripted.play(claude_says("x"))
    async with serving(scripted.env, allowed_workdir_prefixes=(str(project),)) as server:
        answer = (await post(server, "compare", compare(project, "claude"))).json()
        elsewhere = await post(server, "compare", compare(project.parent, "claude"))
    assert answer["results"][0]["exit_code"] == 0
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (403, "directory_not_allowed")


async def test_directory_in_a_worktree_is_checked_as_its_original(
    scripted: Scripted, project: Path, repository: Repository
) -> None:
    scripted.play(claude_says("x"))
    repository.commit(**{"secret/key": "s", ".ssh/id": "s"})
    worktree = Path((await changed(another(repository), repository)).root)
    environ = {**scripted.env, "CLINVK_HOME": str(home(repository))}
    async with serving(environ, blocked_workdir_prefixes=(str(project / "secret"),)) as server:
        for place in (worktree, worktree / "inner"):
            assert (await server.prompt(workdir=str(place))).status_code == 200
        for place in (worktree / "secret", worktree / ".ssh", worktree.parent, worktree.parent.parent):
            answer = await server.prompt(workdir=str(place))
            assert (answer.status_code, answer.json()["code"]) == (403, "directory_not_allowed"), place
    async with serving(environ, allowed_workdir_prefixes=(str(project),)) as server:
        assert (await server.prompt(workdir=str(worktree / "inner"))).status_code == 200


async def test_worktree_contains_no_files_of_blocked_directories(
    scripted: Scripted, project: Path, repository: Repository
) -> None:
    names = ("secret", "in ner/[s]ecret*", "kept", "ignored")
    repository.commit(**{"secret/key": "s", "in ner/[s]ecret*/key": "s", "in ner/secrets/key": "s", "kept/key": "s"})
    (project / "secret" / "uncommitted").touch()
    scripted.play([touch(Path("made.txt")), *claude_says("x")], when="edit")
    blocked = [str(project / name) for name in names if name != "kept"]
    async with serving(scripted.env, blocked_workdir_prefixes=tuple(blocked)) as server:
        answer = (await post(server, "compare", compare(project / "inner", "claude"))).json()
    (result,) = answer["results"]
    worktree = Path(result["worktree"]).parent
    there = {str(path.relative_to(worktree)) for path in worktree.rglob("*") if path.is_file()}
    assert there == {".git", "in ner/secrets/key", "inner/kept.txt", "inner/made.txt", "kept/key"}
    assert result["files"] == [{"path": "inner/made.txt", "change": "added"}]
    assert result["warnings"] == ["not in the worktree, since the server blocks it: in ner/[s]ecret*, secret"]
    assert repository.git("status", "--porcelain") == "?? secret/uncommitted\n"
    assert repository.git("status", "--porcelain", cwd=worktree) == "?? inner/made.txt\n"


@pytest.mark.parametrize("fields", [{"isolation": "worktree"}, {"isolation": "worktree", "dry_run": True}])
@pytest.mark.parametrize("lists", ["allowed", "blocked", "key"])
async def test_repository_larger_than_the_allowed_directories_is_refused(
    scripted: Scripted, project: Path, lists: str, fields: dict[str, object]
) -> None:
    """The whole repository would be beside the agent, not only the directory that is allowed."""
    inner = str(project / "inner")
    key, keys = await key_for(scripted, KeyLimits(workdirs=(inner,) if lists == "key" else ()))
    allowed, blocked = (inner,) if lists == "allowed" else (), (f"{project}/.git",) if lists == "blocked" else ()
    async with serving(
        scripted.env, keys=keys, allowed_workdir_prefixes=allowed, blocked_workdir_prefixes=blocked
    ) as server:
        answer = await post(server, "compare", {**compare(project / "inner", "claude"), **fields}, **{"x-api-key": key})
    assert (answer.status_code, answer.json()["code"]) == (403, "directory_not_allowed"), answer.text
    assert scripted.calls() == []


WAYS = ("gitdir", "link", "objects", "pack", "alternates", "commondir")


def lead_to(repository: Repository, allowed: Repository, how: str, inside: str = ".git") -> None:
    """Make the files of a repository those of another one."""
    repository.git("gc", "--quiet")
    git, theirs = allowed.path / ".git", repository.path / inside
    match how:
        case "gitdir" | "link":
            shutil.rmtree(git)
            git.symlink_to(theirs) if how == "link" else git.write_text(f"gitdir: {theirs}\n")
        case "objects":
            shutil.rmtree(git / "objects")
            (git / "objects").symlink_to(theirs / "objects")
        case "pack":
            (git / "objects" / "pack").rmdir()
            (git / "objects" / "pack").symlink_to(theirs / "objects" / "pack")
        case "alternates":
            (git / "objects" / "info" / "alternates").write_text(f"{theirs}/objects\n")
        case _:
            (git / "commondir").write_text(f"{theirs}\n")
    if how not in ("gitdir", "link"):
        (git / "HEAD").write_text(repository.git("rev-parse", "HEAD"))


@pytest.mark.parametrize("how", WAYS)
async def test_blocked_repository_is_not_readable_through_another_repository(
    scripted: Scripted, project: Path, repository: Repository, tmp_path: Path, how: str
) -> None:
    allowed = Repository(tmp_path / "allowed", tmp_path / "home")
    lead_to(repository, allowed, how)
    async with serving(scripted.env, blocked_workdir_prefixes=(str(project),)) as server:
        answer = await post(server, "compare", compare(allowed.path, "claude"))
    assert (answer.status_code, answer.json()["code"]) == (403, "directory_not_allowed"), answer.text
    assert scripted.calls() == []


@pytest.mark.parametrize("how", WAYS)
async def test_blocked_directory_is_not_readable_through_another_repository(
    scripted: Scripted, project: Path, repository: Repository, tmp_path: Path, how: str
) -> None:
    scripted.play([touch(Path("made.txt")), *claude_says("x")], when="edit")
    repository.commit(**{"secret/key": "s", "secrets": "s"})
    allowed = Repository(tmp_path / "allowed", tmp_path / "home")
    lead_to(repository, allowed, how)
    async with serving(scripted.env, blocked_workdir_prefixes=(str(project / "secret"),)) as server:
        (result,) = (await post(server, "compare", compare(allowed.path, "claude"))).json()["results"]
    there = {
        str(path.relative_to(result["worktree"])) for path in Path(result["worktree"]).rglob("*") if path.is_file()
    }
    assert there == {".git", "inner/kept.txt", "made.txt", "secrets"}
    assert "not in the worktree, since the server blocks it: secret" in result["warnings"]


@pytest.mark.parametrize("blocked", ["module", "module/inner"])
async def test_blocked_submodule_is_not_readable_through_another_repository(
    scripted: Scripted, project: Path, repository: Repository, tmp_path: Path, blocked: str
) -> None:
    scripted.play([touch(Path("made.txt")), *claude_says("x")], when="edit")
    outer, allowed = (Repository(tmp_path / name, tmp_path / "home") for name in ("outer", "allowed"))
    outer.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(project), "module")
    outer.commit()
    lead_to(outer, allowed, "alternates", ".git/modules/module")
    (allowed.path / ".git" / "HEAD").write_text(repository.git("rev-parse", "HEAD"))
    async with serving(scripted.env, blocked_workdir_prefixes=(str(outer.path / blocked),)) as server:
        answer = (await post(server, "compare", compare(allowed.path, "claude"))).json()
    if blocked == "module":
        assert answer["code"] == "directory_not_allowed"
    else:
        assert not (Path(answer["results"][0]["worktree"]) / "inner").exists()


async def test_submodule_is_not_judged_by_the_tree_around_it(scripted: Scripted, project: Path, tmp_path: Path) -> None:
    scripted.play([touch(Path("made.txt")), *claude_says("x")], when="edit")
    outer = Repository(tmp_path / "outer", tmp_path / "home")
    outer.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(project), "deep/module")
    outer.commit(**{"inner/x": "x"})
    async with serving(scripted.env, blocked_workdir_prefixes=(str(outer.path / "inner"),)) as server:
        answer = (await post(server, "compare", compare(outer.path / "deep" / "module", "claude"))).json()
    assert (Path(answer["results"][0]["worktree"]) / "inner" / "kept.txt").exists()


async def test_blocked_directory_is_left_out_of_worktrees_of_a_linked_tree(
    scripted: Scripted, project: Path, repository: Repository, tmp_path: Path
) -> None:
    """The lists name the directory in the main tree; only the repository's folder beside that tree is allowed."""
    scripted.play([touch(Path("made.txt")), *claude_says("x")], when="edit")
    repository.commit(**{"secret/key": "s"})
    linked = tmp_path / "linked"
    repository.git("worktree", "add", "--quiet", str(linked))
    allowed, blocked = (str(linked), f"{project}/.git"), (str(project / "secret"),)
    async with serving(scripted.env, allowed_workdir_prefixes=allowed, blocked_workdir_prefixes=blocked) as server:
        (result,) = (await post(server, "compare", compare(linked, "claude"))).json()["results"]
    assert {path.name for path in Path(result["worktree"]).iterdir()} == {".git", "inner", "made.txt"}


async def test_step_does_not_follow_a_link_that_replaced_its_directory(
    scripted: Scripted, project: Path, tmp_path: Path
) -> None:
    began, goes_on, elsewhere = tmp_path / "began", tmp_path / "goes_on", tmp_path / "elsewhere"
    elsewhere.mkdir()
    scripted.play([touch(began), wait_for(goes_on), *claude_says("x")], when="one")
    scripted.play(claude_says("y"), when="two")
    first = {"backend": "claude", "prompt": "one", "workdir": str(project / "inner"), "isolation": "worktree"}
    body = {"steps": [first, {"backend": "claude", "prompt": "two"}], "pass_working_dir": True}
    async with serving(scripted.env, allowed_workdir_prefixes=(str(project),)) as server:
        running = asyncio.create_task(post(server, "chain", body))
        await until(began.exists)
        inner = Path(scripted.calls()[0].cwd)
        inner.rename(inner.with_name("aside"))
        inner.symlink_to(elsewhere)
        goes_on.touch()
        answer = (await running).json()
    assert [result.get("error_code") for result in answer["results"]] == [None, "directory_not_allowed"]
    assert len(scripted.calls()) == 1


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("kind", ["parallel", "compare"])
async def test_directory_outside_a_repository_is_refused_before_any_agent_starts(
    scripted: Scripted, tmp_path: Path, kind: str, dry_run: bool
) -> None:
    task = {"backend": "claude", "prompt": "edit", "workdir": str(tmp_path), "isolation": "worktree"}
    body = compare(tmp_path, "claude") if kind == "compare" else {"tasks": [{**task, "isolation": "none"}, task]}
    async with serving(scripted.env) as server:
        response = await post(server, kind, {**body, "dry_run": dry_run})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
    assert response.json()["field"] == ("isolation" if kind == "compare" else "tasks[1].isolation")
    assert "worktrees need a git repository" in response.json()["detail"]
    assert scripted.calls() == []


async def test_dry_run_reports_that_the_agent_would_use_a_worktree(scripted: Scripted, project: Path) -> None:
    first = {"backend": "claude", "prompt": "one", "workdir": str(project), "isolation": "worktree"}
    body = {"steps": [first, {"backend": "claude", "prompt": "two"}], "pass_working_dir": True, "dry_run": True}
    async with serving(scripted.env) as server:
        one, two = (await post(server, "chain", body)).json()["results"]
        first["isolation"] = "none"
        (plain,) = (await post(server, "parallel", {"tasks": [first], "dry_run": True})).json()["results"]
    assert f"# for {project}: the same directory in a new git worktree" in one["output"]
    assert f"# for {project}: the worktree of the step before, if it has one" in two["output"]
    assert "worktree" not in plain["output"]


async def test_session_cannot_be_isolated(scripted: Scripted, project: Path) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        session = (await server.prompt(workdir=str(project))).json()["session_id"]
        task = {"session_id": session, "prompt": "more", "isolation": "worktree"}
        response = await post(server, "parallel", {"tasks": [task]})
    assert (response.status_code, response.json()["field"]) == (400, "tasks[0].isolation")


async def test_next_step_continues_with_the_changes_of_the_previous_step(scripted: Scripted, project: Path) -> None:
    scripted.play([touch(Path("made.txt")), *claude_says("x")], when="one")
    scripted.play(claude_says("y"), when="two")
    steps = [
        {"backend": "claude", "prompt": "one", "workdir": str(project), "isolation": "worktree"},
        {"backend": "claude", "prompt": "two"},
    ]
    async with serving(scripted.env) as server:
        answer = (await post(server, "chain", {"steps": steps, "pass_working_dir": True})).json()
    assert scripted.calls()[1].cwd == answer["results"][0]["worktree"]


async def test_chain_does_not_resume_in_a_removed_worktree(
    scripted: Scripted, project: Path, repository: Repository
) -> None:
    scripted.play([touch(Path("made.txt")), *claude_says("x")], when="one")
    scripted.play([exits(9)], when="two")
    first = {"backend": "claude", "prompt": "one", "workdir": str(project), "isolation": "worktree"}
    body = {"steps": [first, {"backend": "claude", "prompt": "two"}], "pass_working_dir": True}
    async with serving(scripted.env) as server:
        failed = (await post(server, "chain", body)).json()
        worktree = failed["results"][0]["worktree"]
        again = (await post(server, "chain", {"resume_from": failed["run_id"]})).json()
        assert [call.cwd for call in scripted.calls()[1:]] == [worktree, worktree]
        repository.git("worktree", "remove", "--force", worktree)
        runs = (await server.client.get("/api/v1/runs")).json()["total"]
        for dry_run in (False, True):
            refused = await post(server, "chain", {"resume_from": again["run_id"], "dry_run": dry_run})
            assert (refused.status_code, refused.json()["field"]) == (400, "resume_from")
            assert (
                f"step 2 cannot run: its worktree is gone, which was applied or discarded: {worktree!r}"
                in (refused.json()["detail"])
            )
        assert (await server.client.get("/api/v1/runs")).json()["total"] == runs
    assert len(scripted.calls()) == 3


@pytest.mark.parametrize("isolation", ["none", "worktree"])
async def test_next_step_is_checked_against_the_directory_of_the_previous_step(
    scripted: Scripted, project: Path, isolation: str
) -> None:
    """The server's own directory is irrelevant: here it is no repository, and not allowed."""
    scripted.play([touch(Path("made.txt")), *claude_says("x")], when="one")
    scripted.play(claude_says("y"), when="two")
    first = {"backend": "claude", "prompt": "one", "workdir": str(project), "isolation": "worktree"}
    second = {"backend": "claude", "prompt": "two", "isolation": isolation}
    third = {"backend": "claude", "prompt": "two"}
    async with serving(scripted.env, allowed_workdir_prefixes=(str(project),)) as server:
        body = {"steps": [first, second, third], "pass_working_dir": True}
        answer = (await post(server, "chain", body)).json()
    assert [result.get("error") for result in answer["results"]] == [None, None, None]
    made, second_in, third_in = (call.cwd for call in scripted.calls())
    assert (second_in == made) == (isolation == "none")
    assert third_in == made


async def test_chain_resumes_in_the_source_directory_of_a_removed_unchanged_worktree(
    scripted: Scripted, project: Path
) -> None:
    scripted.play(claude_says("x"), when="one")
    scripted.play([exits(9)], when="two")
    steps = [
        {"backend": "claude", "prompt": "one", "workdir": str(project), "isolation": "worktree"},
        {"backend": "claude", "prompt": "two"},
    ]
    async with serving(scripted.env) as server:
        failed = (await post(server, "chain", {"steps": steps, "pass_working_dir": True})).json()
        scripted.play(claude_says("y"), when="two")
        answer = (await post(server, "chain", {"resume_from": failed["run_id"]})).json()
    assert [result["output"] for result in answer["results"]] == ["x", "y"]
    assert scripted.calls()[-1].cwd == str(project)


async def test_check_over_http_gets_no_server_credentials(scripted: Scripted, project: Path) -> None:
    scripted.play(claude_says("x"))
    environ = {**scripted.env, "ANTHROPIC_API_KEY": "sk-1", "DATABASE_URL": "postgres://me:sk-2@x", "LC_ALL": "C"}
    async with serving(environ) as server:
        answer = (await post(server, "compare", compare(project, "claude", check="env; exit 0"))).json()
    names = {line.partition("=")[0] for line in answer["results"][0]["check"]["output"].splitlines()}
    assert {"PATH", "HOME", "LC_ALL"} <= names
    assert not names & {"ANTHROPIC_API_KEY", "DATABASE_URL"}
    assert "sk-" not in answer["results"][0]["check"]["output"]


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_check_is_refused_when_directories_are_restricted(
    scripted: Scripted, project: Path, tmp_path: Path, is_allowed: bool
) -> None:
    allowed, blocked = ((str(project),), ()) if is_allowed else ((), (str(tmp_path / "elsewhere"),))
    async with serving(scripted.env, allowed_workdir_prefixes=allowed, blocked_workdir_prefixes=blocked) as server:
        answer = await post(server, "compare", compare(project, "claude", check="true"))
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (403, "beyond_policy", "check")
    assert scripted.calls() == []


async def test_check_is_cancelled_with_its_run(scripted: Scripted, project: Path, tmp_path: Path) -> None:
    marker = tmp_path / "begun"
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        check = f"echo $$ > {marker}; sleep 600"
        answering = asyncio.create_task(post(server, "compare", compare(project, "claude", check=check)))
        await until(marker.exists)
        runs = (await server.client.get("/api/v1/runs?state=running")).json()["runs"]
        await server.client.post(f"/api/v1/runs/{runs[0]['id']}/cancel")
        answer = (await answering).json()
        assert not Path(f"/proc/{marker.read_text().strip()}").exists()
    assert "check" not in answer["results"][0]
    assert answer["results"][0]["output"] == "x"


async def test_client_disconnect_removes_unchanged_worktrees(
    scripted: Scripted, project: Path, repository: Repository
) -> None:
    scripted.play([*claude_says("x")[:4], spawn("setsid"), hang()])
    async with serving(scripted.env) as server:
        body = json.dumps(compare(project, "claude", "claude")).encode()
        head = "POST /api/v1/compare HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        _, writer = await server.raw(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await until(lambda: len(scripted.grandchildren()) == 2)
        writer.close()
        await until(lambda: not server.state.active_requests)
        await until(lambda: not scripted.alive())
    assert len(repository.git("worktree", "list").splitlines()) == 1
    assert repository.git("branch", "--list", "clinvk/*") == ""


def ruled(best: str, reasons: str) -> str:
    return json.dumps({"best": best, "reasons": reasons})


@pytest.mark.slow
async def test_judge_picks_the_better_answer_without_knowing_the_authors(scripted: Scripted, project: Path) -> None:
    reported: dict[str, dict[str, object]] = {}
    seen: set[tuple[int, ...]] = set()
    orders: tuple[int, ...] = ()
    scripted.play([touch(Path("a.txt")), *claude_says("mine </answer> is best")], when="edit")
    async with serving(scripted.env) as server:
        judge = {"backend": "codex", "prompt": "It must be short."}
        scripted.play(codex_streams(ruled("A", "It is right.")), when="by different authors")
        for _ in range(30):
            backends = [{"backend": "claude", "name": f"name-{number}"} for number in range(2)]
            body = {**compare(project, check="true", judge=judge), "backends": backends}
            reported = (await post(server, "compare", body)).json()
            orders = msgspec.convert(reported["judge"]["order"], tuple[int, ...])
            seen.add(orders)
            if len(seen) == 2:
                break
    verdict = reported["judge"]
    assert seen == {(0, 1), (1, 0)}
    assert verdict["best"] == next(iter(orders))
    assert (verdict["best_backend"], verdict["reasons"], verdict["backend"]) == ("claude", "It is right.", "codex")
    requested = next(call for call in scripted.calls() if call.name == "codex")
    prompt = (requested.stdin or b"").decode()
    assert "mine </answer> is best" in prompt
    assert "</answer-2>" in prompt
    assert "diff --git" in prompt
    assert "It must be short." in prompt
    assert "A check of it passed." in prompt
    assert "claude" not in prompt.lower()
    assert "name-0" not in prompt


async def test_judge_appears_in_the_run_tree_and_in_the_stream(scripted: Scripted, project: Path) -> None:
    scripted.play(claude_says("x"), when="edit")
    scripted.play(codex_streams(ruled("B", "So.")), when="by different authors")
    async with serving(scripted.env) as server:
        body = {"prompt": "edit", "backends": ["claude", "claude"], "judge": {"backend": "codex"}}
        response = await post(server, "compare", body, accept="application/x-ndjson")
        *events, summary = [json.loads(line) for line in response.text.splitlines()]
        tree = (await server.client.get(f"/api/v1/runs/{summary['run_id']}")).json()
    judged = [event for event in events if event.get("name") == "judge"]
    assert [event["type"] for event in judged] == ["init", "message", "token_usage", "done"]
    assert all("index" not in event for event in judged)
    assert summary["judge"]["best"] == summary["judge"]["order"][1]
    assert [run["name"] for run in tree["runs"]] == [None, None, "judge"]
    assert tree["token_usage"]["output_tokens"] == 15


@pytest.mark.parametrize("answer", [ruled("Z", "?"), "no JSON"])
async def test_judge_without_a_valid_verdict_is_reported_with_the_answers(scripted: Scripted, answer: str) -> None:
    scripted.play(claude_says("x"), when="edit")
    scripted.play(codex_streams(answer), when="by different authors")
    async with serving(scripted.env) as server:
        body = {"prompt": "edit", "backends": ["claude", "claude"], "judge": {"backend": "codex"}}
        document = (await post(server, "compare", body)).json()
    assert document["judge"]["best"] is None
    assert (document["judge"]["exit_code"], document["judge"]["error_code"]) == (1, "agent_failed")
    assert [result["exit_code"] for result in document["results"]] == [0, 0]


async def test_judge_is_skipped_when_fewer_than_two_agents_answered(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play([exits(9)], when="edit")
    async with serving(scripted.env) as server:
        body = {"prompt": "edit", "backends": ["claude", "claude"], "judge": {"backend": "codex"}}
        answer = (await post(server, "compare", body)).json()
    assert "judge" not in answer
    assert answer["warnings"][-1] == "nothing was judged: 0 of 2 answered, and a judge needs 2 answers"
    assert {call.name for call in scripted.calls()} == {"claude"}
