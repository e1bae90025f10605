"""Looking at worktrees in which an agent, or a check, left what git stumbles over."""

import os
import subprocess
from pathlib import Path

import pytest

from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees
from clinvk.types.errors import ClinvkError
from clinvk.types.orchestration import ChangedFile
from integration.worktree_home import left_over, with_git
from repositories import Repository

NESTED = "git init --quiet dep && cd dep && echo x >f && git add f && git -c user.name=a -c user.email=a@b commit -qm x"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with one commit."""
    repository = Repository(tmp_path / "project", tmp_path / "home")
    repository.commit(**{"a.txt": "one\n", "inner/b.txt": "one\n", ".gitignore": "*.env\nbuild\n"})
    return repository


def slow_git(repository: Repository, command: str) -> KeptWorktrees:
    """Return worktrees whose git takes a minute for one command; each call appends a line to `looks`."""
    looks = repository.home.parent / "looks"
    return with_git(repository, f'case " $* " in *"{command}"*) echo >>{looks}; sleep 60;; esac')


async def test_force_added_file_is_found_beside_one_behind_a_link(
    repository: Repository, worktrees: KeptWorktrees
) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        root = Path(worktree.root)
        (root / "prod.env").write_text("valuable\n")
        (root / "build").mkdir()
        (root / "build" / "o").write_text("o\n")
        repository.git("add", "--force", "prod.env", "build/o", cwd=root)
        (root / "build").rename(root / "dist.env")
        (root / "build").symlink_to("dist.env")
        outcome = await worktrees.outcome(worktree)
    assert (outcome.files, outcome.warnings) == ((ChangedFile("prod.env", "added"),), ())
    assert (root / "prod.env").exists()


async def test_unreadable_force_added_file_keeps_the_worktree(repository: Repository, worktrees: KeptWorktrees) -> None:
    repository.git("-c", "advice.addEmbeddedRepo=false", "clone", "--quiet", ".", "module")
    repository.git("-c", "advice.addEmbeddedRepo=false", "add", "module")
    repository.commit()
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        root = Path(worktree.root)
        (root / "module" / "x.env").write_text("valuable\n")
        repository.git("rm", "--quiet", "--cached", "module", cwd=root)
        repository.git("add", "--force", "module/x.env", cwd=root)
        outcome = await worktrees.outcome(worktree)
    assert outcome.warnings == ("Pathspec 'module/x.env' is in submodule 'module'",)
    assert (root / "module" / "x.env").exists()


async def test_check_removes_its_repositories_but_none_of_the_agent(
    repository: Repository, worktrees: KeptWorktrees
) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        assert (await worktrees.check(worktree, f"git init --quiet empty; {NESTED}", 15)).passed
        assert not (await worktrees.outcome(worktree)).kept
    assert left_over(repository) == []
    for made in ("git init --quiet mine", "git init --quiet mine; touch mine/f", NESTED.replace("dep", "mine")):
        async with worktrees.isolated(str(repository.path), "agent") as worktree:
            await worktrees.check(worktree, f"true; {NESTED}", 15)
            repository.git("init", "--quiet", "inner", cwd=Path(worktree.root))
            subprocess.run(["sh", "-c", made], cwd=worktree.root, env=repository.env, check=True)
            await worktrees.check(worktree, NESTED, 15)
            outcome = await worktrees.outcome(worktree)
            assert Path(worktree.root, "mine", ".git").is_dir()
            assert Path(worktree.root, "inner", ".git").is_dir()
            assert Path(worktree.root, "inner", "b.txt").is_file()
        assert outcome.kept
        await worktrees.discard(worktree.id)


async def test_restoring_after_a_check_runs_no_program_of_the_check(
    repository: Repository, worktrees: KeptWorktrees, tmp_path: Path
) -> None:
    command = (
        f"git config filter.own.smudge 'touch {tmp_path}/ran; cat';"
        f"git config filter.own.clean 'touch {tmp_path}/ran; cat';"
        f"git config core.fsmonitor 'touch {tmp_path}/ran'; rm a.txt"
    )
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        Path(worktree.root, ".gitattributes").write_text("* filter=own\n")
        assert (await worktrees.check(worktree, command, 15)).passed
        assert Path(worktree.root, "a.txt").read_text() == "one\n"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [".gitignore", "inner/.gitattributes"])
async def test_pipe_as_gitignore_or_gitattributes_times_out(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        path = Path(worktree.root, name)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
        monkeypatch.setattr("clinvk.runtime.worktrees.git._TIMEOUT_S", 1.0)
        with pytest.raises(ClinvkError, match="git add took over 1 s"):
            await worktrees.outcome(worktree)
    (listed,) = await worktrees.list()
    assert (listed.state, listed.problem) == ("broken", "git add took over 1 s")


async def test_pipe_in_the_tree_of_the_user_does_not_block(
    repository: Repository, worktrees: KeptWorktrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository.path / ".gitignore").unlink()
    os.mkfifo(repository.path / ".gitignore")
    monkeypatch.setattr("clinvk.runtime.worktrees.repository._STATUS_TIMEOUT_S", 0.5)
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        assert worktree.warnings[0].endswith("if there are any: git status took over 0.5 s")
    assert left_over(repository) == []


async def test_slow_git_status_is_a_warning(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    worktrees = slow_git(repository, " status ")
    monkeypatch.setattr("clinvk.runtime.worktrees.repository._STATUS_TIMEOUT_S", 1.0)
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        (warning,) = worktree.warnings
    assert warning.startswith("the worktree begins with the commit ")
    assert warning.endswith("are not in it, if there are any: git status took over 1 s")


async def test_worktree_is_kept_after_a_timeout_and_not_examined_again(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = slow_git(repository, " add --all ")
    async with slow.isolated(str(repository.path), "agent") as worktree:
        monkeypatch.setattr("clinvk.runtime.worktrees.git._TIMEOUT_S", 1.0)
        for look in (slow.check(worktree, "true", 15), slow.outcome(worktree)):
            with pytest.raises(ClinvkError, match="git add took over 1 s"):
                await look
        monkeypatch.undo()
    assert (tmp_path / "looks").read_text() == "\n"
    assert Path(worktree.root, "a.txt").exists()
