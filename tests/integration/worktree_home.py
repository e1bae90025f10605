"""Worktrees of a clinvk home beside a repository, for tests."""

import os
import shutil
from pathlib import Path

from clinvk.runtime.process.process_tags import RlimitTags
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.worktrees.folders import Worktree
from clinvk.runtime.worktrees.kept_worktrees import KeptWorktrees
from repositories import Repository


def another(repository: Repository, **env: str) -> KeptWorktrees:
    """Return the worktrees as another process sees them."""
    marks = RlimitTags(10**8 + int.from_bytes(os.urandom(4)) % 10**8)
    return KeptWorktrees(Spawner(marks), home(repository), {**repository.env, **env})


def with_git(repository: Repository, before: str) -> KeptWorktrees:
    """Return worktrees whose git runs a shell script first; in the script, `git` is the real one."""
    path = repository.home.parent / "bin" / "git"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\ngit() {{ {shutil.which("git")} "$@"; }}\n{before}\ngit "$@"\n')
    path.chmod(0o755)
    return another(repository, PATH=f"{path.parent}:{os.environ['PATH']}")


def home(repository: Repository) -> Path:
    """Return the clinvk home of the user of a repository."""
    return repository.home / ".clinvk"


def left_over(repository: Repository) -> list[str]:
    """Return all leftovers of worktrees: folders, entries of git, branches."""
    folder = home(repository) / "worktrees"
    folders = [path.name for path in folder.glob("*") if path.name not in (".lock", ".apply")]
    return [*folders, *repository.worktrees(), *(name for name in repository.branches() if name != "main")]


async def changed(worktrees: KeptWorktrees, repository: Repository, **files: str | bytes) -> Worktree:
    """Make a worktree that an agent has changed and left."""
    async with worktrees.isolated(str(repository.path), "agent") as worktree:
        for name, content in (files or {"a.txt": "two\n"}).items():
            file = Path(worktree.root, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return worktree
