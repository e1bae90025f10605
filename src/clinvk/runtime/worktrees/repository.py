"""The repository of a worktree: location, content, and changes to the tree."""

import asyncio
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from clinvk.runtime.process.waiting import Lookups, finish_thread
from clinvk.runtime.worktrees.diff import TreeDiff
from clinvk.runtime.worktrees.folders import Worktree, remove_tree
from clinvk.runtime.worktrees.git import ISOLATION, Git, GitFailed, GitTimedOut, on_one_line
from clinvk.types.errors import ClinvkError, InvalidRequest

_SUBMODULE = b"160000"
_REFUSED = 1
"""The exit code of `git apply` if it wrote nothing; if writing failed, the code is another."""

_APPLY = ("apply", "--whitespace=nowarn", "--no-ignore-whitespace")
_APPLY_TIMEOUT_S = 600.0
_STATUS_TIMEOUT_S = 30.0
_RETRY_AFTER_S = 0.05
_MAX_NAMES = 3


SourceCheck = Callable[[str], Sequence[str]]
"""Raises if no files of a worktree may come from a directory; returns the blocked directories below the directory."""


async def find_repository(git: Git, directory: str) -> tuple[str, str, str]:
    """Return the top of the tree that holds a directory, the repository's own folder, and the sub-directory.

    `git` is guarded afterwards.

    Raises:
        InvalidRequest: the directory is in no tree of a repository.
        ClinvkError: git cannot be run in the directory.
    """
    await git.guard()
    completed = await git.run("rev-parse", "--path-format=absolute", "--git-common-dir", "--show-toplevel")
    paths = os.fsdecode(completed.stdout).split("\n")
    if completed.exit_code or len(paths) != 3:
        message = on_one_line(completed.stderr) or str(paths)
        if message.startswith("not a git repository (or any"):
            raise InvalidRequest(f"worktrees need a git repository; {directory!r} is not in one", ISOLATION)
        raise InvalidRequest(f"{directory!r} is in no git repository with a tree: {message}", ISOLATION)
    common, top, _ = paths
    return top, common, await asyncio.to_thread(_inside, directory, top)


async def origin(git: Git, directory: str, check_source: SourceCheck | None) -> tuple[Worktree, tuple[str, ...]]:
    """Return a worktree for a directory, without id and folder, and the blocked paths to leave out.

    Raises:
        InvalidRequest: as `find_repository`; or the repository has no commit, a name is not UTF-8, or `check_source`
            refuses the repository.
        ClinvkError: git failed.
    """
    top, common, inside = await find_repository(git, directory)
    blocked = await _blocked_paths(git, top, common, check_source) if check_source else ()
    head = await git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if head.exit_code:
        raise InvalidRequest(f"the git repository {top!r} has no commit yet: a worktree begins with one", ISOLATION)
    base = head.stdout.decode().strip()
    listed = await git.out("ls-tree", "-r", "-z", "--full-tree", base)
    entries = [(mode, os.fsdecode(name)) for mode, _, name in (entry.partition(b"\t") for entry in listed.split(b"\0"))]
    modules = tuple(name for mode, name in entries if mode.startswith(_SUBMODULE))
    left_out = tuple(path for path in blocked if any(f"{name}/".startswith(f"{path}/") for _, name in entries))
    warnings = [f"the filter {name} of the repository's own settings is not run" for name in git.disabled]
    if modules:
        warnings.append(f"submodules are empty in the worktree: {_summary(modules)}")
    if left_out:
        warnings.append(f"not in the worktree, since the server blocks it: {_summary(left_out)}")
    if changes := await _uncommitted(git):
        begins = f"the worktree begins with the commit {base[:12]}"
        warnings.append(f"{begins}: uncommitted changes in {top} are not in it{changes}")
    worktree = Worktree(
        repository=top,
        common=common,
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
    return worktree, left_out


async def _blocked_paths(git: Git, top: str, common: str, check_source: SourceCheck) -> Sequence[str]:
    """Check all directories that files of a worktree come from; return the blocked paths in the tree.

    Raises:
        InvalidRequest: `check_source` refuses a directory, or git cannot list the directories.
    """
    counted = await git.out("count-objects", "-v")
    alternates = [os.fsdecode(line[11:]) for line in counted.splitlines() if line.startswith(b"alternate: ")]

    def check_all() -> Sequence[str]:
        real = os.path.realpath(top)
        blocked = check_source(real)
        try:
            stores = dict.fromkeys(_stores(common, alternates))
        except OSError as exc:
            raise InvalidRequest(f"cannot look where the objects of {top!r} are: {exc}", ISOLATION) from exc
        for path in stores:
            check_source(path)
        return sorted({os.path.relpath(path, real) for path in blocked})

    return await Lookups().run(check_all)


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
    return f": {_summary(changed)}" if changed else ""


async def register(git: Git, worktree: Worktree) -> None:
    """Add the worktree to the repository, without files.

    git may fail if the user or an agent adds or removes a worktree at the same moment.
    """
    flags = ("--no-checkout", "--quiet", "--no-track", "-B", worktree.branch)
    for is_last in (False, False, True):
        try:
            await git.out("worktree", "add", *flags, worktree.root, worktree.base)
        except GitFailed:
            if is_last:
                raise
            await asyncio.sleep(_RETRY_AFTER_S)
        else:
            return


async def check_out(git: Git, worktree: Worktree, left_out: Sequence[str]) -> None:
    """Check out all files except `left_out`, and store a copy of the index.

    Raises:
        InvalidRequest: the directory to work in is not a directory in the commit.
        ClinvkError: git failed, or a file cannot be written.
    """
    admin = await asyncio.to_thread(registered, worktree) or Path(worktree.root)
    sparse = ("-c", "core.sparseCheckout=true", "-c", "core.sparseCheckoutCone=false") if left_out else ()
    if left_out:
        await asyncio.to_thread(_exclude, admin / "info" / "sparse-checkout", left_out)
    await git.out(*sparse, "reset", "--hard", "--quiet", directory=worktree.root)
    await finish_thread(asyncio.to_thread(_finish_checkout, worktree, admin, left_out), "copying an index")


def _exclude(file: Path, names: Sequence[str]) -> None:
    patterns = "".join("!/" + re.sub(r"([\\*?\[\]\s])", r"\\\1", name) + "\n" for name in names)
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as opened:
        opened.write(patterns if opened.tell() else f"/*\n{patterns}")


def _finish_checkout(worktree: Worktree, admin: Path, left_out: Sequence[str]) -> None:
    root, path = Path(worktree.root), Path(worktree.path)
    if any(os.path.lexists(root / name) for name in left_out):
        raise ClinvkError(f"git does not leave {_summary(left_out)} out of the worktree")
    try:
        shutil.copy2(admin / "index", Path(worktree.folder, "index"))
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            path.mkdir(parents=True, exist_ok=True)
            return
    except (FileExistsError, NotADirectoryError):
        pass
    except OSError as exc:
        raise ClinvkError(f"cannot make a worktree: {exc.filename}: {exc.strerror}") from exc
    raise InvalidRequest(
        f"{worktree.inside!r} is not a directory in the commit {worktree.base[:12]} of {worktree.repository}", ISOLATION
    )


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
    top, patch = worktree.repository, str(diff.patch)
    if not await asyncio.to_thread(os.path.isdir, top):
        raise InvalidRequest(f"the tree of worktree {worktree.id} is gone: {top!r}")
    await find_repository(git, top)
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


async def unregister(git: Git, worktree: Worktree, with_commits: bool) -> None:
    """Remove a worktree without files from the repository, where `git` works.

    Remove the branch as well if the branch has no commits after the base, or if `with_commits`. git keeps a branch
    while another worktree has the branch checked out.

    Raises:
        ClinvkError: git failed.
    """
    if await asyncio.to_thread(registered, worktree):
        await git.out("worktree", "remove", "--force", "--force", worktree.root)
    head = await git.run("rev-parse", "--verify", "--quiet", f"refs/heads/{worktree.branch}")
    if with_commits or head.stdout.decode().strip() == worktree.base:
        await git.run("branch", "-D", "--quiet", worktree.branch)


def registered(worktree: Worktree) -> Path | None:
    """Return the folder in which the repository keeps a worktree's records, or None. Blocks."""
    target = os.path.realpath(worktree.root)
    for entry in Path(worktree.common, "worktrees").glob("*/gitdir"):
        with suppress(OSError):
            gitdir = os.fsdecode(entry.read_bytes()).rstrip("\n")
            if os.path.realpath(entry.parent / os.path.dirname(gitdir)) == target:
                return entry.parent
    return None


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


def _summary(names: Sequence[str]) -> str:
    shown = ", ".join(name.encode(errors="replace").decode() for name in names[:_MAX_NAMES])
    return shown if len(names) <= _MAX_NAMES else f"{shown} and {len(names) - _MAX_NAMES} more"
