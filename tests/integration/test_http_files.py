"""Files and directories over HTTP, for forms that complete a path: only what a prompt could use."""

from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from clinvk.api.access.key_file import KeyLimits
from integration.test_http_keys import made as key_for
from repositories import Repository
from scripted import Scripted
from serving import LiveServer, serving

FILES = {"src/parser.py": "", "src/parse/tree.py": "", "docs/parser.md": "", ".gitignore": "*.log\n", "a.log": ""}


@pytest.fixture
def repository(scripted: Scripted, tmp_path: Path) -> Repository:
    """A repository with some files; one is ignored, one is not committed."""
    repository = Repository(tmp_path / "project", Path(scripted.env["HOME"]))
    repository.commit(**FILES)
    repository.write("new.txt", "")
    return repository


async def got(server: LiveServer, path: str, params: Mapping[str, str | int], **headers: str) -> httpx.Response:
    answer = await server.client.get(f"/api/v1/{path}", params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def found(server: LiveServer, directory: Path, search: str = "", limit: int = 50) -> tuple[list[str], bool]:
    answer = await got(server, "files", {"directory": str(directory), "search": search, "limit": limit})
    return answer.json()["files"], answer.json()["is_cut"]


async def test_files_of_a_repository_are_found_as_git_knows_them(scripted: Scripted, repository: Repository) -> None:
    (repository.path / "docs/parser.md").unlink()
    async with serving(scripted.env) as server:
        assert await found(server, repository.path) == (
            ["new.txt", ".gitignore", "src/parser.py", "src/parse/tree.py"],
            False,
        )
        assert await found(server, repository.path / "src") == (["parser.py", "parse/tree.py"], False)


async def test_best_matches_are_first(scripted: Scripted, repository: Repository) -> None:
    async with serving(scripted.env) as server:
        in_name, in_path = ["src/parser.py", "docs/parser.md"], ["src/parse/tree.py"]
        assert await found(server, repository.path, "PARSE") == ([*in_name, *in_path], False)
        assert await found(server, repository.path, "parse", limit=2) == (in_name, True)
        assert await found(server, repository.path, "sptree") == (in_path, False)
        assert await found(server, repository.path, "nothing") == ([], False)


async def test_files_outside_a_repository_are_found_without_hidden_folders(scripted: Scripted, tmp_path: Path) -> None:
    for name in ("plain/a/b.txt", "plain/.cache/c.txt", "plain/.env", "elsewhere/secret.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "plain/link").symlink_to(tmp_path / "elsewhere")
    async with serving(scripted.env) as server:
        assert await found(server, tmp_path / "plain") == ([".env", "a/b.txt"], False)


async def test_repository_runs_no_program_and_reveals_no_names_of_another(
    scripted: Scripted, repository: Repository, tmp_path: Path
) -> None:
    other = Repository(tmp_path / "other", repository.home)
    other.commit(**{"secret.txt": ""})
    repository.git("config", "core.fsmonitor", f"touch {tmp_path}/ran; false")
    (tmp_path / "pointing").mkdir()
    (tmp_path / "pointing/.git").write_text(f"gitdir: {other.path}/.git\n")
    (tmp_path / "pointing/own.txt").touch()
    async with serving(scripted.env) as server:
        assert "new.txt" in (await found(server, repository.path))[0]
        assert await found(server, tmp_path / "pointing") == (["own.txt"], False)
    assert not (tmp_path / "ran").exists()


async def test_directories_are_listed_with_the_branch(scripted: Scripted, repository: Repository) -> None:
    home = Path(scripted.env["HOME"])
    (home / "projects/app").mkdir(parents=True)
    (home / ".ssh").mkdir()
    (home / "file").touch()
    (home / "projects/link").symlink_to(repository.path)
    (home / "projects/secret").symlink_to(home / ".ssh")
    async with serving(scripted.env) as server:
        of_home = (await got(server, "directories", {"path": "~"})).json()
        assert (of_home["path"], of_home["branch"]) == (str(home), None)
        assert "projects" in of_home["directories"]
        assert not {".ssh", "file"} & set(of_home["directories"])
        assert (await got(server, "directories", {"path": "~/projects"})).json() == {
            "path": str(home / "projects"),
            "directories": ["app", "link"],
            "branch": None,
            "is_cut": False,
        }
        of_link = (await got(server, "directories", {"path": "~/projects/link/src"})).json()
        assert (of_link["path"], of_link["branch"]) == (str(repository.path / "src"), "main")
        assert (await got(server, "directories", {})).json()["path"] == str(Path.cwd())


async def test_branch_of_a_worktree_and_of_a_detached_head(
    scripted: Scripted, repository: Repository, tmp_path: Path
) -> None:
    repository.git("worktree", "add", "--quiet", "-b", "feature/x", str(tmp_path / "tree"))
    repository.git("switch", "--quiet", "--detach")
    async with serving(scripted.env) as server:
        assert (await got(server, "directories", {"path": str(tmp_path / "tree")})).json()["branch"] == "feature/x"
        assert (await got(server, "directories", {"path": str(repository.path)})).json()["branch"] is None


async def refusals(server: LiveServer, path: str, **headers: str) -> set[tuple[int, str]]:
    """Return status and code of the refusals of a directory by both endpoints and by a prompt."""
    answers = [
        await server.client.get("/api/v1/files", params={"directory": path}, headers=headers),
        await server.client.get("/api/v1/directories", params={"path": path}, headers=headers),
        await server.client.post(
            "/api/v1/prompt", json={"backend": "claude", "prompt": "x", "workdir": path}, headers=headers
        ),
    ]
    assert [each.json()["field"] for each in answers] == ["directory", "path", "workdir"]
    return {(each.status_code, each.json()["code"]) for each in answers}


async def test_directory_is_refused_like_that_of_a_prompt(scripted: Scripted, repository: Repository) -> None:
    allowed, blocked = str(repository.path), str(repository.path / "docs")
    (repository.path / "out").symlink_to(repository.home)
    async with serving(
        scripted.env, allowed_workdir_prefixes=(allowed,), blocked_workdir_prefixes=(blocked,)
    ) as server:
        for path in ("/etc", str(repository.home), blocked, f"{allowed}/out"):
            assert await refusals(server, path) == {(403, "directory_not_allowed")}, path
        assert (await server.client.get("/api/v1/directories", params={"path": "~"})).status_code == 403
        assert await refusals(server, f"{allowed}/missing") == {(400, "invalid_request")}
        files, _ = await found(server, repository.path)
        assert not [name for name in files if name.startswith("docs/")]
        assert (await got(server, "directories", {"path": allowed})).json()["directories"] == ["src"]
    key, keys = await key_for(scripted, KeyLimits(workdirs=(allowed,)))
    async with serving(scripted.env, keys=keys) as server:
        headers = {"authorization": f"Bearer {key}"}
        assert await refusals(server, str(repository.home), **headers) == {(403, "directory_not_allowed")}
        assert (await got(server, "directories", {"path": allowed}, **headers)).json()["directories"] == ["docs", "src"]
