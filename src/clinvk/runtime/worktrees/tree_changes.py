"""What changes in the tree of a repository while an agent works there. Earlier uncommitted changes do not count."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from clinvk.runtime.worktrees.diff import DIFF, FileChange, TreeDiff, parse_changes
from clinvk.runtime.worktrees.git import Git
from clinvk.runtime.worktrees.private_git import NO_COMMIT, outside_of, private_git
from clinvk.runtime.worktrees.repository import SourceCheck, blocked_paths, find_repository
from clinvk.types.errors import ClinvkError

_DIFF = ("diff-tree", "-r", "-z", "--raw", "--numstat", "--no-renames", "--no-ext-diff", "--no-textconv")
_SUBMODULE = b"160000 "
_MAX_BYTES = 100_000_000
"""Maximum size of the changed files, which are copied."""


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
        paths = outside_of(await _submodules(files))
        before = await _tree(files, paths, found.top)

        async def changes() -> list[FileChange]:
            output = await files.out(*_DIFF, before, await _tree(files, paths, found.top))
            return [file._replace(path=os.path.join(found.top, file.path)) for file in parse_changes(output)]

        yield changes


@asynccontextmanager
async def uncommitted(git: Git, directory: str, place: str, check_source: SourceCheck) -> AsyncGenerator[TreeDiff]:
    """Compare the tree around a directory with HEAD, without ignored and blocked files.

    The git directory for this is in the folder `place`; the repository stays unchanged.

    Raises:
        InvalidRequest: the directory is in no tree of a repository, or `check_source` refuses the repository.
        ClinvkError: git failed, or the changed files are too large.
    """
    found = await find_repository(git, directory)
    head = (await git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")).stdout.decode().strip()
    async with private_git(git, found.dirs, place, found.top, head or NO_COMMIT, copies_index=True) as files:
        blocked = await blocked_paths(files, found.top, found.dirs, check_source)
        paths = outside_of([*await _submodules(files), *blocked])
        base = head or (await files.out("mktree")).decode().strip()
        await _tree(files, paths, found.top)
        raw = await files.out(*DIFF, "--raw", "-z", "--no-renames", base, "--", *paths)
        yield TreeDiff(files, base, files.folder, raw, [], paths)


async def _submodules(git: Git) -> list[str]:
    listed = (await git.out("ls-files", "--stage", "-z")).split(b"\0")
    return [os.fsdecode(entry.partition(b"\t")[2]) for entry in listed if entry.startswith(_SUBMODULE)]


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
