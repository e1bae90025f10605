"""The repository that a worktree is made from: what it is, and how changes are brought back into its tree."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from clinvk.errors import InvalidRequest
from clinvk.runtime.worktrees.folders import Place
from clinvk.runtime.worktrees.git import ISOLATION, Git, GitFailed, words

_REPOSITORY = b"160000"
_NAMED = 3


class Source(NamedTuple):
    """What a worktree is made from.

    Attributes:
        top: the top of the tree.
        common: the folder of the repository itself.
        inside: the directory, from the top on; empty for the top.
        base: the commit of HEAD.
        submodules: where in the tree other repositories are.
        warnings: what of the tree is not in the commit.
    """

    top: str
    common: str
    inside: str
    base: str
    submodules: tuple[str, ...]
    warnings: tuple[str, ...]


async def find(git: Git, directory: str) -> tuple[str, str, str]:
    """Give top, repository and sub-directory of a directory; `git` is guarded after that.

    Raises:
        InvalidRequest: it is in no repository with a tree.
        ClinvkError: git cannot be run there.
    """
    await git.guard()
    asked = ("--is-bare-repository", "--is-inside-work-tree", "--path-format=absolute", "--git-common-dir")
    done = await git.run("rev-parse", *asked, "--show-toplevel")
    if done.exit_code and b"not a git repository" in done.stderr:
        raise InvalidRequest(f"{directory!r} is in no git repository: isolation 'worktree' needs one", ISOLATION)
    told = os.fsdecode(done.stdout).splitlines()
    if told[:1] == ["true"]:
        raise InvalidRequest(f"{directory!r} is a bare git repository: there is no tree to work on", ISOLATION)
    if told[1:2] == ["false"]:
        raise InvalidRequest(f"{directory!r} is inside the .git folder of a repository, not in its tree", ISOLATION)
    if done.exit_code or len(told) != _NAMED + 1:
        raise InvalidRequest(f"git cannot work in {directory!r}: {words(done.stderr) or told}", ISOLATION)
    common, top = told[-2:]
    _check_names(common, top, os.fspath(directory))
    inside = await asyncio.to_thread(_inside, directory, top)
    return top, common, inside


async def source(git: Git, directory: str) -> Source:
    """Find what a worktree for a directory would be made from.

    Raises:
        InvalidRequest: as `find`, or there is no commit yet.
        ClinvkError: git failed.
    """
    top, common, inside = await find(git, directory)
    head = await git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if head.exit_code:
        raise InvalidRequest(f"the git repository {top!r} has no commit yet: a worktree begins with one", ISOLATION)
    base = head.stdout.decode().strip()
    listed = await git.out("ls-tree", "-r", "-z", "--full-tree", base)
    modules = tuple(
        os.fsdecode(entry.partition(b"\t")[2]) for entry in listed.split(b"\0") if entry.startswith(_REPOSITORY)
    )
    _check_names(*modules)
    warnings = [f"the filter {name} of the repository's own settings is not run" for name in git.disabled]
    if modules:
        warnings.append(f"submodules are empty in the worktree: {_some(modules)}")
    status = await git.out("status", "--porcelain", "-z", "--no-renames", "--ignore-submodules=all")
    if changed := [os.fsdecode(entry[3:]) for entry in status.split(b"\0") if entry]:
        warnings.append(
            f"the worktree begins with the commit {base[:12]}: uncommitted changes in {top} are not in it:"
            f" {_some(changed)}"
        )
    return Source(top, common, inside, base, modules, tuple(warnings))


async def apply(git: Git, patch: Path, own: str, top: str, dry_run: bool) -> None:
    """Apply a patch to the tree of `top`, where `git` runs.

    Raises:
        InvalidRequest: the tree is gone, or the patch does not fit; nothing was changed.
        ClinvkError: git failed.
    """
    if not await asyncio.to_thread(os.path.isdir, top):
        raise InvalidRequest(f"the tree of worktree {own} is gone: {top!r}")
    found, _, _ = await find(git, top)
    how = ("--whitespace=nowarn", "--no-ignore-whitespace", *(("--check",) if dry_run else ()))
    try:
        await git.out("apply", *how, "--", str(patch))
    except GitFailed as exc:
        raise InvalidRequest(f"worktree {own} does not fit {found}, nothing was changed: {exc.said}") from exc


async def forget(git: Git, place: Place, with_commits: bool) -> None:
    """Take a worktree, whose files are gone, out of its repository; `git` runs in that.

    Its branch goes too, if nothing was committed to it or `with_commits`; one that is checked out elsewhere stays.

    Raises:
        ClinvkError: git cannot.
    """
    if await asyncio.to_thread(registered, place.facts.common, place.root):
        await git.out("worktree", "remove", "--force", "--force", str(place.root))
    if with_commits:
        await git.run("branch", "-D", "--quiet", place.branch)
    else:
        await git.run("update-ref", "-d", f"refs/heads/{place.branch}", place.facts.base)


def registered(common: str, root: Path) -> Path | None:
    """Give the folder that git has for a worktree; None where it knows none there. Blocks."""
    there = os.path.realpath(root)
    for entry in Path(common, "worktrees").glob("*/gitdir"):
        with suppress(OSError):
            told = os.fsdecode(entry.read_bytes()).rstrip("\n")
            if os.path.realpath(entry.parent / os.path.dirname(told)) == there:
                return entry.parent
    return None


def _check_names(*names: str) -> None:
    """Refuse what could not be written down.

    Raises:
        InvalidRequest: a name is no UTF-8.
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"the name {name!r} is no UTF-8: no worktree can be made", ISOLATION) from None


def _inside(directory: str, top: str) -> str:
    """Give a directory from the top on.

    Raises:
        InvalidRequest: it is not in the tree of the nearest repository, which has settings that say so.
    """
    real = Path(os.path.realpath(directory))
    nearest = next((path for path in (real, *real.parents) if os.path.lexists(path / ".git")), None)
    if nearest is None or not os.path.samefile(nearest, top):
        raise InvalidRequest(f"the git repository of {directory!r} has its tree elsewhere: {top!r}", ISOLATION)
    inside = str(real.relative_to(nearest))
    return "" if inside == "." else inside


def _some(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(name.encode(errors="replace").decode() for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
