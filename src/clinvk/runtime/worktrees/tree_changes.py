"""What changes in the tree of a repository while an agent works there. Earlier uncommitted changes do not count."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from clinvk.runtime.worktrees.git import Git
from clinvk.runtime.worktrees.private_git import NO_COMMIT, outside_of, private_git
from clinvk.runtime.worktrees.repository import find_repository
from clinvk.types.errors import ClinvkError

_DIFF = ("diff-tree", "-r", "-z", "--raw", "--numstat", "--no-renames", "--no-ext-diff", "--no-textconv")
_SUBMODULE = b"160000 "
_MAX_BYTES = 100_000_000
"""Maximum size of the changed files, which are copied."""


class FileChange(NamedTuple):
    """A changed file: absolute path, the letter of git such as `A` for added, and lines, or None in binary files."""

    path: str
    letter: str
    added: int | None
    deleted: int | None


Changes = Callable[[], Awaitable[list[FileChange]]]


@asynccontextmanager
async def tree_changes(git: Git, directory: str, place: str) -> AsyncGenerator[Changes]:
    """Yield a function that returns what has changed in the tree around a directory since the context was entered.

    The git directory for this is in the folder `place`; the repository stays unchanged.

    Raises:
        InvalidRequest: the directory is in no tree of a repository.
        ClinvkError: git failed, or the changed files are too large.
    """
    found = await find_repository(git, directory)
    async with private_git(git, found.dirs, place, found.top, NO_COMMIT, copies_index=True) as files:
        listed = (await files.out("ls-files", "--stage", "-z")).split(b"\0")
        modules = [os.fsdecode(entry.partition(b"\t")[2]) for entry in listed if entry.startswith(_SUBMODULE)]
        paths = outside_of(modules)
        before = await _tree(files, paths, found.top)

        async def changes() -> list[FileChange]:
            output = await files.out(*_DIFF, before, await _tree(files, paths, found.top))
            return _parsed(output, found.top)

        yield changes


async def _tree(git: Git, paths: list[str], top: str) -> str:
    """Store the files of a tree in these paths except ignored ones, and return the hash.

    Raises:
        ClinvkError: the files to store have over `_MAX_BYTES`, or git failed.
    """
    changed = await git.out("ls-files", "--others", "--modified", "--exclude-standard", "-z", "--", *paths)
    if await asyncio.to_thread(_size, top, changed) > _MAX_BYTES:
        raise ClinvkError(f"the changed files in {top!r} are too large")
    await git.run("-c", "core.looseCompression=0", "add", "--all", "--ignore-errors", "--", *paths)
    return (await git.out("write-tree")).decode().strip()


def _size(top: str, names: bytes) -> int:
    size = 0
    for name in names.split(b"\0"):
        with suppress(OSError):  # deleted
            size += os.lstat(os.path.join(os.fsencode(top), name)).st_size
    return size


def _parsed(output: bytes, top: str) -> list[FileChange]:
    """Parse the output for `--raw --numstat -z`: letter and path of each file, then lines, separated by tabs."""
    letters: dict[str, str] = {}
    found: list[FileChange] = []
    fields = iter(os.fsdecode(output).split("\0"))
    for field in fields:
        if field.startswith(":"):
            letters[next(fields)] = field[-1]
        elif field:
            added, deleted, path = field.split("\t", 2)
            lines = [int(count) if count.isdigit() else None for count in (added, deleted)]
            found.append(FileChange(os.path.join(top, path), letters.get(path, "M"), *lines))
    return found
