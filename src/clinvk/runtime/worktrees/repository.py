"""The repository that a worktree is made from: location, content, and changes to the tree."""

import asyncio
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from clinvk.policy.directories import containing
from clinvk.runtime.process.waiting import Lookups, finish_thread
from clinvk.runtime.worktrees.diff import TreeDiff
from clinvk.runtime.worktrees.folders import Worktree
from clinvk.runtime.worktrees.git import ISOLATION, Git, GitFailed, GitTimedOut, on_one_line
from clinvk.runtime.worktrees.private_git import NO_COMMIT, GitDirs, private_git, private_refs
from clinvk.types.errors import ClinvkError, InvalidRequest

_SUBMODULE = b"160000"
_REFUSED = 1
"""The exit code of `git apply` if it wrote nothing; if writing failed, the code is another."""

_APPLY = ("apply", "--whitespace=nowarn", "--no-ignore-whitespace")
_APPLY_TIMEOUT_S = 300.0
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


async def origin(git: Git, directory: str, place: str, check_source: SourceCheck | None, branch: str = "") -> Origin:
    """Return what a worktree for a directory is made of: the commit of `branch` if there is one, else of HEAD.

    `place` is a folder for temporary files.

    Raises:
        InvalidRequest: as `find_repository`; or the repository has no commit, a name is not UTF-8, or `check_source`
            refuses the repository.
        ClinvkError: git failed.
    """
    top, inside, dirs = await find_repository(git, directory)
    head = await git.run("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}")
    if not (keeps_branch := head.exit_code == 0):
        head = await git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    base = head.stdout.decode().strip()
    async with private_git(git, dirs, place, top, base or NO_COMMIT) as files:
        blocked = await blocked_paths(files, top, dirs, check_source) if check_source else ()
        if head.exit_code:
            raise InvalidRequest(f"the git repository {top!r} has no commit yet: a worktree begins with one", ISOLATION)
        listed = await files.out("ls-tree", "-r", "-z", "--full-tree", base)
        changes = "" if keeps_branch else await _uncommitted(files, blocked)
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
        keeps_branch=keeps_branch,
        warnings=tuple(warnings),
    )
    try:
        msgspec.json.encode(worktree)
    except UnicodeEncodeError as exc:
        raise InvalidRequest(f"the name {exc.object!r} is not UTF-8: no worktree can be made", ISOLATION) from None
    return Origin(worktree, left_out, dirs)


async def blocked_paths(git: Git, top: str, dirs: GitDirs, check_source: SourceCheck) -> Sequence[str]:
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
            raise InvalidRequest(f"cannot find the objects of {top!r}: {exc}", ISOLATION) from exc
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


async def commit(git: Git, diff: TreeDiff, worktree: Worktree, message: str) -> str:
    """Commit the changes of a worktree on its branch, after the commits of the agent, and return the commit.

    Raises:
        InvalidRequest: there are no changes, or git cannot make the commit.
        ClinvkError: git failed.
    """
    common, ref = worktree.common, f"refs/heads/{worktree.branch}"
    settings = await git.at(common, {}, GIT_DIR=common).settings()
    async with private_refs(git, GitDirs(common, common, settings), worktree.folder) as refs:
        tip = await refs.run("rev-parse", "--verify", "--quiet", ref)
        parent = tip.stdout.decode().strip() or worktree.base
        try:
            made = await diff.commit(parent, message)
        except GitFailed as exc:  # e.g. git knows no author
            raise InvalidRequest(f"worktree {worktree.id} was not committed: {exc.message}") from exc
        if made == worktree.base:
            raise InvalidRequest(f"worktree {worktree.id} has no changes to commit")
        await refs.out("update-ref", "-m", "clinvk worktrees commit", ref, made)
    return made


async def _uncommitted(git: Git, blocked: Sequence[str]) -> str:
    """Return which changes of a tree are not committed, as the end of a warning; empty if there are none.

    Changes below the `blocked` directories are not named.
    """
    try:
        flags = ("--porcelain", "-z", "--no-renames", "--ignore-submodules=all")
        status = await git.out("status", *flags, timeout_s=_STATUS_TIMEOUT_S)
    except GitTimedOut as exc:
        return f", if there are any: {exc.message}"
    changed = [os.fsdecode(entry[3:]) for entry in status.split(b"\0") if entry]
    changed = [name for name in changed if not any(f"{name}/".startswith(f"{path}/") for path in blocked)]
    return f": {summary(changed)}" if changed else ""


async def apply(git: Git, diff: TreeDiff, worktree: Worktree, dry_run: bool) -> None:
    """Apply the patch of a worktree to the original tree, where `git` works.

    No other clinvk may apply changes to the tree at the same time.

    Raises:
        InvalidRequest: the tree is gone, or the patch does not apply or is applied already; nothing was changed.
        ClinvkError: writing failed; some files may have been written. The message has the command that undoes it.
    """
    top = worktree.repository
    if not await asyncio.to_thread(os.path.isdir, top):
        raise InvalidRequest(f"the tree of worktree {worktree.id} is gone: {top!r}")
    dirs = (await find_repository(git, top)).dirs
    patch = str(diff.patch)
    async with private_git(git, dirs, worktree.folder, top, worktree.base) as files:
        try:
            await _run_apply(files, worktree, "--check", patch)
        except InvalidRequest:
            reversed_check = await files.run(*_APPLY, "--reverse", "--check", patch)
            if reversed_check.exit_code:
                raise
            raise InvalidRequest(
                f"the changes of worktree {worktree.id} are in {top} already, nothing was changed;"
                f" clinvk worktrees discard {worktree.id} removes it"
            ) from None
        if not dry_run:
            await finish_thread(_write_changes(files, worktree, patch), "applying the changes", 2 * _APPLY_TIMEOUT_S)


async def _run_apply(git: Git, worktree: Worktree, *arguments: str) -> None:
    try:
        await git.out(*_APPLY, *arguments, timeout_s=_APPLY_TIMEOUT_S)
    except GitFailed as exc:
        if exc.exit_code != _REFUSED:
            raise
        top = worktree.repository
        raise InvalidRequest(f"worktree {worktree.id} does not fit {top}, nothing was changed: {exc.stderr}") from exc


async def _write_changes(git: Git, worktree: Worktree, patch: str) -> None:
    try:
        await _run_apply(git, worktree, patch)
    except (GitFailed, GitTimedOut) as exc:
        undo = f"git -C {shlex.quote(worktree.repository)} stash --include-untracked"
        raise ClinvkError(
            f"{exc.message}; some files may have been written: "
            f"to undo this, {undo} puts all uncommitted changes aside, your own too"
        ) from exc


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
