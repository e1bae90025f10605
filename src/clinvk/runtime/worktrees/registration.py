"""What a repository records of a worktree: the branch, and the folder in `worktrees/` of the repository."""

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from clinvk.runtime.process.spawn import held_directory
from clinvk.runtime.process.waiting import finish_thread
from clinvk.runtime.worktrees.folders import Worktree
from clinvk.runtime.worktrees.git import ISOLATION, Git, GitFailed
from clinvk.runtime.worktrees.private_git import GitDirs, private_git, private_refs
from clinvk.runtime.worktrees.repository import Origin, summary
from clinvk.types.errors import ClinvkError, InvalidRequest

_SPARSE = "info/sparse-checkout"
_SPARSE_SETTINGS = (b"core.sparseCheckout", b"core.sparseCheckoutCone", b"index.sparse")
_NEW_INDEX = "index.new"
_RETRY_AFTER_S = 0.05


async def register(git: Git, worktree: Worktree, dirs: GitDirs) -> None:
    """Add the worktree to the repository, without files.

    git may fail if the user or an agent adds or removes a worktree at the same moment.
    """
    flags = ("--no-checkout", "--quiet", "--no-track", "-B", worktree.branch)
    await asyncio.to_thread(os.makedirs, os.path.join(dirs.common, "worktrees"), exist_ok=True)
    async with private_refs(git, dirs, worktree.folder) as refs:
        for is_last in (False, False, True):
            try:
                await refs.out("worktree", "add", *flags, worktree.root, worktree.base)
            except GitFailed:
                if is_last:
                    raise
                await asyncio.sleep(_RETRY_AFTER_S)
            else:
                return


async def check_out(git: Git, worktree: Worktree, origin: Origin) -> None:
    """Check out all files except `left_out`, and store a copy of the index.

    Raises:
        InvalidRequest: the directory to work in is not a directory in the commit.
        ClinvkError: git failed, or a file cannot be written.
    """
    left_out, dirs = origin.left_out, origin.dirs
    admin = await asyncio.to_thread(_connect, worktree, origin)
    sparse = ("-c", "core.sparseCheckout=true", "-c", "core.sparseCheckoutCone=false") if left_out else ()
    async with private_git(git, dirs._replace(own=str(admin)), worktree.folder, worktree.root, worktree.base) as files:
        env = {"GIT_INDEX_FILE": os.path.join(worktree.folder, _NEW_INDEX)}
        await files.out(*sparse, "read-tree", "--reset", "-u", worktree.base, env=env)
    await finish_thread(asyncio.to_thread(_finish_checkout, worktree, admin, left_out), "copying an index")


def _connect(worktree: Worktree, origin: Origin) -> Path:
    """Make the tree point to its records in the repository, and record what is not checked out; return the records.

    Raises:
        ClinvkError: a file cannot be written.
    """
    admin = registered(worktree)
    if admin is None:
        raise ClinvkError(f"{worktree.repository} knows no worktree {worktree.root!r} any more")
    try:
        Path(worktree.root, ".git").write_bytes(b"gitdir: %b\n" % bytes(admin))
        if patterns := _sparse_patterns(Path(origin.dirs.own, _SPARSE), origin.left_out):
            with suppress(FileExistsError):
                (admin / _SPARSE).parent.mkdir()
            _put(admin / _SPARSE, patterns)
        if settings := [key for key in _SPARSE_SETTINGS if _is_true(origin.dirs.settings.kept.get(key.lower()))]:
            _put(
                admin / "config.worktree", b"".join(b"[%b]\n\t%b = true\n" % tuple(key.split(b".")) for key in settings)
            )
    except OSError as exc:
        raise ClinvkError(f"cannot make a worktree: {exc.filename}: {exc.strerror}") from exc
    return admin


def _is_true(value: bytes | None) -> bool:
    return value is not None and value.lower() in (b"true", b"yes", b"on", b"1")


def _sparse_patterns(file: Path, left_out: Sequence[str]) -> bytes:
    patterns = file.read_bytes() if file.is_file() else b"/*\n" if left_out else b""
    names = (re.sub(r"([\\*?\[\]\s])", r"\\\1", name) for name in left_out)
    return patterns + b"".join(b"!/%b\n" % os.fsencode(name) for name in names)


def _put(path: Path, content: bytes) -> None:
    """Write a file where an agent may write as well; a link in the place of the file or on its way is not followed.

    Raises:
        OSError: the file cannot be written.
        InvalidRequest: there is a link on the way.
    """
    folder, new = str(path.parent), f"{path.name}.new"
    with held_directory(folder, folder) as directory:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(new, flags, 0o666, dir_fd=directory), "wb") as file:
            file.write(content)
        os.rename(new, path.name, src_dir_fd=directory, dst_dir_fd=directory)


def _finish_checkout(worktree: Worktree, admin: Path, left_out: Sequence[str]) -> None:
    root, path = Path(worktree.root), Path(worktree.path)
    if any(os.path.lexists(root / name) for name in left_out):
        raise ClinvkError(f"git does not leave {summary(left_out)} out of the worktree")
    try:
        index = Path(worktree.folder, _NEW_INDEX)
        _put(admin / "index", index.read_bytes())
        index.rename(index.with_name("index"))
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


async def unregister(git: Git, worktree: Worktree, with_commits: bool) -> None:
    """Remove a worktree without files from the repository.

    Remove the branch as well if the branch has no commits after the base, or if `with_commits`. A branch that existed
    before goes back to the base instead. git keeps a branch while another worktree has the branch checked out.

    Raises:
        ClinvkError: git failed.
    """
    common, branch = worktree.common, worktree.branch
    await finish_thread(asyncio.to_thread(_remove_records, worktree), "removing the records of a worktree")
    settings = await git.at(common, {}, GIT_DIR=common).settings()
    async with private_refs(git, GitDirs(common, common, settings), worktree.folder) as refs:
        head = await refs.run("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}")
        if not (with_commits or head.stdout.decode().strip() == worktree.base):
            return
        if worktree.keeps_branch:
            await refs.out("update-ref", f"refs/heads/{branch}", worktree.base)
            return
        deleted = await refs.run("branch", "-D", "--quiet", branch)
    if deleted.exit_code == 0:  # the agent may have set an upstream
        await git.run("config", "--file", os.path.join(common, "config"), "--remove-section", f"branch.{branch}")


def _remove_records(worktree: Worktree) -> None:
    admin = registered(worktree)
    if admin is None:
        return
    folder = str(admin.parent)
    try:
        with held_directory(folder, folder) as directory:
            shutil.rmtree(admin.name, dir_fd=directory)
    except (OSError, RecursionError) as exc:
        raise ClinvkError(f"cannot remove {str(admin)!r}: {exc}") from exc
    with suppress(OSError):  # there are other worktrees
        os.rmdir(folder)


def registered(worktree: Worktree) -> Path | None:
    """Return the folder in which the repository keeps a worktree's records, or None. Blocks."""
    target = os.path.realpath(worktree.root)
    for entry in Path(worktree.common, "worktrees").glob("*/gitdir"):
        with suppress(OSError):
            gitdir = os.fsdecode(entry.read_bytes()).rstrip("\n")
            if os.path.realpath(entry.parent / os.path.dirname(gitdir)) == target:
                return entry.parent
    return None
