"""The repository that a worktree is made from: location, content, and changes to the tree."""

import asyncio
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from clinvk.policy.directories import containing
from clinvk.runtime.process.waiting import Lookups, finish_thread
from clinvk.runtime.worktrees.diff import TreeDiff
from clinvk.runtime.worktrees.folders import Worktree, remove_tree
from clinvk.runtime.worktrees.git import ISOLATION, Git, GitFailed, GitTimedOut, on_one_line
from clinvk.runtime.worktrees.private_git import GitDirs, private_git
from clinvk.types.errors import ClinvkError, InvalidRequest

_SUBMODULE = b"160000"
_REFUSED = 1
"""The exit code of `git apply` if it wrote nothing; if writing failed, the code is another."""

_APPLY = ("apply", "--whitespace=nowarn", "--no-ignore-whitespace")
_APPLY_TIMEOUT_S = 600.0
_STATUS_TIMEOUT_S = 30.0
_MAX_NAMES = 3


SourceCheck = Callable[[str], Sequence[str]]
"""Raises if no files of a worktree may come from a directory.

Returns the blocked directories below the directory; for a directory in a `.git`, those in the tree around the `.git`.
"""


class Origin(NamedTuple):
    """What a worktree is made of: its record without id and folder, the paths to leave out, and the repository."""

    worktree: Worktree
    left_out: tuple[str, ...]
    dirs: GitDirs


class Found(NamedTuple):
    """The tree that holds a directory: the top, the sub-directory, and the repository."""

    top: str
    inside: str
    dirs: GitDirs


async def find_repository(git: Git, directory: str) -> Found:
    """Return the tree of a repository that holds a directory, where `git` works.

    Raises:
        InvalidRequest: the directory is in no tree of a repository.
        ClinvkError: git cannot be run in the directory.
    """
    settings = await git.settings()
    wanted = ("--git-common-dir", "--absolute-git-dir", "--show-toplevel")
    completed = await git.run("rev-parse", "--path-format=absolute", *wanted)
    paths = os.fsdecode(completed.stdout).split("\n")
    if completed.exit_code or len(paths) != 4:
        message = on_one_line(completed.stderr) or str(paths)
        if message.startswith("not a git repository (or any"):
            raise InvalidRequest(f"worktrees need a git repository; {directory!r} is not in one", ISOLATION)
        raise InvalidRequest(f"{directory!r} is in no git repository with a tree: {message}", ISOLATION)
    common, own, top, _ = paths
    return Found(top, await asyncio.to_thread(_inside, directory, top), GitDirs(common, own, settings))


async def origin(git: Git, directory: str, place: str, check_source: SourceCheck | None) -> Origin:
    """Return what a worktree for a directory is made of; `place` is a folder for temporary files.

    Raises:
        InvalidRequest: as `find_repository`; or the repository has no commit, a name is not UTF-8, or `check_source`
            refuses the repository.
        ClinvkError: git failed.
    """
    top, inside, dirs = await find_repository(git, directory)
    head = await git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    base = head.stdout.decode().strip()
    async with private_git(git, dirs, place, top, base) as files:
        blocked = await _blocked_paths(files, top, dirs, check_source) if check_source else ()
        if head.exit_code:
            raise InvalidRequest(f"the git repository {top!r} has no commit yet: a worktree begins with one", ISOLATION)
        listed = await files.out("ls-tree", "-r", "-z", "--full-tree", base)
        changes = await _uncommitted(files)
    entries = [(mode, os.fsdecode(name)) for mode, _, name in (entry.partition(b"\t") for entry in listed.split(b"\0"))]
    modules = tuple(name for mode, name in entries if mode.startswith(_SUBMODULE))
    left_out = tuple(path for path in blocked if any(f"{name}/".startswith(f"{path}/") for _, name in entries))
    warnings = [f"the filter {name} of the repository's own settings is not run" for name in dirs.settings.disabled]
    if modules:
        warnings.append(f"submodules are empty in the worktree: {summary(modules)}")
    if left_out:
        warnings.append(f"not in the worktree, since the server blocks it: {summary(left_out)}")
    if changes:
        begins = f"the worktree begins with the commit {base[:12]}"
        warnings.append(f"{begins}: uncommitted changes in {top} are not in it{changes}")
    worktree = Worktree(
        repository=top,
        common=dirs.common,
        name=os.path.basename(top) or "root",
        inside=inside,
        base=base,
        submodules=modules,
        made_at=time.time(),
        warnings=tuple(warnings),
    )
    try:
        msgspec.json.encode(worktree)
    except UnicodeEncodeError as exc:
        raise InvalidRequest(f"the name {exc.object!r} is not UTF-8: no worktree can be made", ISOLATION) from None
    return Origin(worktree, left_out, dirs)


async def _blocked_paths(git: Git, top: str, dirs: GitDirs, check_source: SourceCheck) -> Sequence[str]:
    """Check all directories that files of a worktree come from; return the blocked paths in the tree.

    A path is blocked if it is blocked in any tree that may own the files.

    Raises:
        InvalidRequest: `check_source` refuses a directory, or git cannot list the directories.
    """
    counted = await git.out("count-objects", "-v")
    alternates = [os.fsdecode(line[11:]) for line in counted.splitlines() if line.startswith(b"alternate: ")]

    def check_all() -> Sequence[str]:
        real = os.path.realpath(top)
        try:
            sources = dict.fromkeys((real, *_stores(dirs.common, alternates)))
        except OSError as exc:
            raise InvalidRequest(f"cannot look where the objects of {top!r} are: {exc}", ISOLATION) from exc
        blocked = {path for source in sources for path in check_source(source)}
        trees = set(map(_tree, sources))
        for tree in trees & blocked:
            check_source(tree)
        return sorted({os.path.relpath(path, tree) for tree in trees for path in blocked if containing(path, (tree,))})

    return await Lookups().run(check_all)


def _tree(source: str) -> str:
    """Return the tree that files from a directory belong to; git names the folder of a submodule after its path."""
    tree, _, inside = f"{source}/".partition("/.git/")
    module = re.match(r"modules/(.+?)(?:/objects)?/(?:pack/)?$", inside)
    return f"{tree}/{module[1].replace('/modules/', '/')}" if module else tree.removesuffix("/")


def _stores(common: str, alternates: Sequence[str]) -> Iterator[str]:
    """Yield the object directories of a repository and of its `alternates`, with symbolic links resolved."""
    yield os.path.realpath(common)
    for objects in (os.path.join(common, "objects"), *alternates):
        yield os.path.realpath(objects)
        yield from (os.path.realpath(entry) for entry in os.scandir(objects) if entry.is_symlink())


async def _uncommitted(git: Git) -> str:
    """Return which changes of a tree are not committed, as the end of a warning; empty if there are none."""
    try:
        flags = ("--porcelain", "-z", "--no-renames", "--ignore-submodules=all")
        status = await git.out("status", *flags, timeout_s=_STATUS_TIMEOUT_S)
    except GitTimedOut as exc:
        return f", if there are any: {exc.message}"
    changed = [os.fsdecode(entry[3:]) for entry in status.split(b"\0") if entry]
    return f": {summary(changed)}" if changed else ""


class FileBackup:
    """Copies of files and links in a tree, for restoring the files after a change has failed midway.

    A file with other content by then is moved to `aside` and not overwritten: another program may have written to it.
    """

    def __init__(self, top: str, names: Sequence[bytes], folder: Path) -> None:
        self.folder = folder
        self.aside = folder / "aside"
        self._top = os.fsencode(top)
        self._before = os.fsencode(folder / "before")
        self._names = names

    def copy(self) -> None:
        """Copy the files.

        Raises:
            ClinvkError: a file cannot be read, or the disk is full.
        """
        try:
            for name in self._names:
                source, target = os.path.join(self._top, name), os.path.join(self._before, name)
                if os.path.islink(source) or os.path.isfile(source):
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    if os.path.islink(source):
                        os.symlink(os.readlink(source), target)
                    else:
                        shutil.copy2(source, target)
        except OSError as exc:
            raise ClinvkError(f"cannot put the files aside that would be changed: {exc}") from exc

    def restore(self) -> None:
        """Restore files after a failed change, and remove folders that are empty afterwards.

        Files are moved, not copied, which needs no room on a full disk.

        Raises:
            OSError: a file cannot be restored; the others are.
        """
        failed: list[OSError] = []
        changed = [name for name in self._names if _content(self._top, name) != _content(self._before, name)]
        for source, target in ((self._top, os.fsencode(self.aside)), (self._before, self._top)):
            for name in changed:
                try:
                    _move(os.path.join(source, name), os.path.join(target, name))
                except OSError as exc:
                    failed.append(exc)
        for name in changed:
            with suppress(OSError):
                os.removedirs(os.path.join(self._top, os.path.dirname(name)))
        if failed:
            raise failed[0]


def _content(folder: bytes, name: bytes) -> tuple[int, bytes] | None:
    """Return the mode and the content of a file or a link; None for anything else."""
    path = os.path.join(folder, name)
    mode = os.lstat(path).st_mode if os.path.lexists(path) else 0
    if stat.S_ISLNK(mode):
        return mode, os.readlink(path)
    return (mode, Path(os.fsdecode(path)).read_bytes()) if stat.S_ISREG(mode) else None


def _move(source: bytes, target: bytes) -> None:
    """Move a file, a link or a folder, if there is one."""
    if os.path.lexists(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.lexists(target):
            raise FileExistsError(f"{os.fsdecode(target)} is in the way")
        shutil.move(os.fsdecode(source), os.fsdecode(target))


async def apply(git: Git, diff: TreeDiff, worktree: Worktree, dry_run: bool) -> None:
    """Apply the patch of a worktree to the original tree, where `git` works.

    No other clinvk may apply changes to the tree at the same time.

    Raises:
        InvalidRequest: the tree is gone, or the patch does not apply or is applied already; nothing was changed.
        ClinvkError: writing failed; the files are restored, and what was written is kept in a folder.
    """
    top = worktree.repository
    if not await asyncio.to_thread(os.path.isdir, top):
        raise InvalidRequest(f"the tree of worktree {worktree.id} is gone: {top!r}")
    dirs = (await find_repository(git, top)).dirs
    async with private_git(git, dirs, worktree.folder, top, worktree.base) as files:
        await _apply(files, diff, worktree, dry_run)


async def _apply(git: Git, diff: TreeDiff, worktree: Worktree, dry_run: bool) -> None:
    top, patch = worktree.repository, str(diff.patch)
    try:
        await _run_apply(git, worktree, "--check", patch)
    except InvalidRequest:
        reversed_check = await git.run(*_APPLY, "--reverse", "--check", patch)
        if reversed_check.exit_code:
            raise
        raise InvalidRequest(
            f"the changes of worktree {worktree.id} are in {top} already, nothing was changed;"
            f" clinvk worktrees discard {worktree.id} removes it"
        ) from None
    if not dry_run:
        backup = FileBackup(top, diff.names, Path(worktree.folder, f"backup-{os.urandom(4).hex()}"))
        await finish_thread(asyncio.to_thread(backup.copy), "putting files aside", _APPLY_TIMEOUT_S)
        await finish_thread(_write_changes(git, worktree, patch, backup), "applying the changes", _APPLY_TIMEOUT_S)


async def _run_apply(git: Git, worktree: Worktree, *arguments: str) -> None:
    try:
        await git.out(*_APPLY, *arguments)
    except GitFailed as exc:
        if exc.exit_code != _REFUSED:
            raise
        top = worktree.repository
        raise InvalidRequest(f"worktree {worktree.id} does not fit {top}, nothing was changed: {exc.stderr}") from exc


async def _write_changes(git: Git, worktree: Worktree, patch: str, backup: FileBackup) -> None:
    try:
        await _run_apply(git, worktree, patch)
    except InvalidRequest:
        await asyncio.to_thread(remove_tree, backup.folder)
        raise
    except (ClinvkError, asyncio.CancelledError) as exc:  # cancelled: it took too long, or the loop is closed
        reason = exc.message if isinstance(exc, ClinvkError) else "the changes were not applied in time"
        try:
            await asyncio.to_thread(backup.restore)
        except OSError as failed:
            raise ClinvkError(f"{reason}; the files cannot all be put back ({failed}): see {backup.folder}") from exc
        raise ClinvkError(f"{reason}; the files are as before, and what was written is in {backup.aside}") from exc
    await asyncio.to_thread(remove_tree, backup.folder)


def _inside(directory: str, top: str) -> str:
    """Return a directory relative to the top of the tree.

    Raises:
        InvalidRequest: the settings of the nearest repository say that its tree is elsewhere.
    """
    real = Path(os.path.realpath(directory))
    nearest = next((path for path in (real, *real.parents) if os.path.lexists(path / ".git")), None)
    if nearest is None or not os.path.samefile(nearest, top):
        raise InvalidRequest(f"the git repository of {directory!r} has its tree elsewhere: {top!r}", ISOLATION)
    inside = str(real.relative_to(nearest))
    return "" if inside == "." else inside


def summary(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = ", ".join(name.encode(errors="replace").decode() for name in names[:_MAX_NAMES])
    return shown if len(names) <= _MAX_NAMES else f"{shown} and {len(names) - _MAX_NAMES} more"
