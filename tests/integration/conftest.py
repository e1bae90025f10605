"""Fixtures of several tests of worktrees."""

from pathlib import Path

import pytest

from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees
from integration.worktree_home import another
from repositories import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with one commit."""
    repository = Repository(tmp_path / "project", tmp_path / "home")
    repository.commit(**{"a.txt": "one\n", "inner/b.txt": "one\n"})
    return repository


@pytest.fixture
def worktrees(repository: Repository) -> KeptWorktrees:
    """The worktrees of a clinvk home."""
    return another(repository)
