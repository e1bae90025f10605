"""The branch of a directory, read from the files of git."""

import os
import subprocess
from pathlib import Path

import pytest

from clinvk.runtime.worktrees.git import branch_of


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(path))
    author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    git(path, *author, "commit", "--quiet", "--allow-empty", "--message=first")
    return path


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=directory, check=True)


def test_branch_is_that_of_the_repository_around_the_directory(repository: Path) -> None:
    (repository / "in" / "side").mkdir(parents=True)
    assert branch_of(str(repository / "in" / "side")) == "main"
    git(repository, "checkout", "--quiet", "-b", "feature/ü")
    assert branch_of(str(repository)) == "feature/ü"


def test_worktree_has_its_own_branch(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "--quiet", "-b", "other", str(tmp_path / "tree"))
    assert branch_of(str(tmp_path / "tree")) == "other"


def test_detached_head_and_other_directories_have_no_branch(repository: Path, tmp_path: Path) -> None:
    git(repository, "checkout", "--quiet", "--detach")
    assert branch_of(str(repository)) is None
    assert branch_of(str(tmp_path)) is None
    assert branch_of(str(tmp_path / "missing")) is None


def test_broken_repository_has_no_branch_and_does_not_block(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git" / "HEAD")
    assert branch_of(str(tmp_path)) is None
    (tmp_path / ".git" / "HEAD").unlink()
    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff\xfe")
    assert branch_of(str(tmp_path)) is None
