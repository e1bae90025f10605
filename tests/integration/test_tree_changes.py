"""What changes in a tree of git between two moments."""

import os
from pathlib import Path

import pytest

from clinvk.runtime.process.process_tags import choose_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.git import Git
from clinvk.runtime.worktrees.tree_changes import tree_changes
from clinvk.types.errors import ClinvkError, InvalidRequest
from repositories import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with one commit."""
    repository = Repository(tmp_path / "project", tmp_path / "home")
    repository.commit(**{"a.txt": "one\ntwo\n", "dirty.txt": "x\n", "gone.txt": "x\n", ".gitignore": "*.log\n"})
    return repository


def git_in(repository: Repository) -> Git:
    return Git(Spawner(choose_tags()), repository.env, str(repository.path))


async def test_only_changes_since_the_beginning_are_counted(repository: Repository) -> None:
    repository.write("dirty.txt", "x\nmine\n")
    repository.write("untracked.txt", "mine\n")
    async with tree_changes(git_in(repository), str(repository.path), str(repository.home)) as changes:
        assert await changes() == []
        repository.write("a.txt", "one\n2\n3\n")
        repository.write("dirty.txt", "x\nmine\nagent's\n")
        repository.write("sub/new.txt", "new\n")
        repository.write("ignored.log", "new\n")
        repository.write("binary", b"\0\1")
        (repository.path / "gone.txt").unlink()
        first = {Path(path).name: rest for path, *rest in await changes()}
        repository.git("add", "a.txt")
        repository.git("commit", "--quiet", "--message=by the agent")
        assert {Path(path).name: rest for path, *rest in await changes()} == first
    assert first == {
        "a.txt": ["M", 2, 1],
        "dirty.txt": ["M", 1, 0],
        "new.txt": ["A", 1, 0],
        "binary": ["A", None, None],
        "gone.txt": ["D", 0, 1],
    }
    assert list(repository.home.iterdir()) == []


async def test_repository_is_not_changed_and_runs_no_program(repository: Repository) -> None:
    mark = repository.home.parent / "ran"
    for key in ("core.fsmonitor", "filter.f.clean", "filter.f.smudge", "diff.d.command", "diff.d.textconv"):
        repository.git("config", key, f"touch {mark}; cat")
    repository.write(".gitattributes", "* filter=f diff=d\n")
    objects = sorted((repository.path / ".git").rglob("*"))
    async with tree_changes(git_in(repository), str(repository.path), str(repository.home)) as changes:
        repository.write("a.txt", "three\n")
        assert [(Path(path).name, letter) for path, letter, *_ in await changes()] == [("a.txt", "M")]
    assert not mark.exists()
    assert sorted((repository.path / ".git").rglob("*")) == objects


async def test_repository_without_a_commit_and_with_a_submodule(repository: Repository, tmp_path: Path) -> None:
    other = Repository(tmp_path / "other", tmp_path / "home")
    other.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository.path), "module")
    async with tree_changes(git_in(other), str(other.path), str(other.home)) as changes:
        other.write("module/a.txt", "changed\n")
        other.write("new.txt", "new\n")
        assert [(Path(path).name, letter) for path, letter, *_ in await changes()] == [("new.txt", "A")]


async def test_git_directory_of_a_killed_process_is_removed_after_a_day(repository: Repository) -> None:
    old, recent = repository.home / ".git-old", repository.home / ".git-recent"
    for folder in (old, recent):
        folder.mkdir()
    os.utime(old, (0, 0))
    async with tree_changes(git_in(repository), str(repository.path), str(repository.home)):
        assert (old.exists(), recent.exists()) == (False, True)


async def test_large_files_are_not_copied(repository: Repository) -> None:
    async with tree_changes(git_in(repository), str(repository.path), str(repository.home)) as changes:
        for name in ("ignored.log", "data"):
            os.truncate(repository.write(name, ""), 200_000_000)
        with pytest.raises(ClinvkError, match="too large"):
            await changes()
        (repository.path / "data").unlink()
        assert await changes() == []


async def test_directory_outside_of_a_repository_is_refused(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "plain", tmp_path / "home", make=False)
    with pytest.raises(InvalidRequest, match="is not in one"):
        async with tree_changes(git_in(repository), str(repository.path), str(repository.home)):
            pass
