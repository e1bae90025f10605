"""The repository that a worktree is made from: what it is, and how changes are brought back into its tree."""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from clinvk.runtime.process.waiting import whole
from clinvk.runtime.worktrees.diff import Look, check_read
from clinvk.runtime.worktrees.folders import Place
from clinvk.runtime.worktrees.git import ISOLATION, Git, GitFailed, GitTooSlow, words
from clinvk.runtime.worktrees.tree_files import Saved
from clinvk.runtime.worktrees.worktree_types import Judge
from clinvk.types.errors import ClinvkError, InvalidRequest

_REPOSITORY = b"160000"
_REFUSED = 1
"""How `git apply` ends where it wrote nothing; where it could not write, it ends otherwise."""

_APPLY = ("apply", "--whitespace=nowarn", "--no-ignore-whitespace")
_APPLIED_WITHIN_S = 600.0
_STATUS_WITHIN_S = 30.0
_ATTEMPTS = 3
_TRY_AGAIN_S = 0.05
_NAMED = 3


class Source(NamedTuple):
    """What a worktree is made from.

    Attributes:
        top: the top of the tree.
        common: the folder of the repository itself.
        inside: the directory, from the top on; empty for the top.
        base: the commit of HEAD.
        submodules: where in the tree other repositories are.
        left_out: what of the commit is blocked, and left out of the worktree.
        warnings: what of the tree is not in the commit.
    """

    top: str
    common: str
    inside: str
    base: str
    submodules: tuple[str, ...]
    left_out: tuple[str, ...]
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
        raise InvalidRequest(f"{directory!r} is in no git repository: worktrees need one", ISOLATION)
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
    _check_names(inside)
    return top, common, inside


async def source(git: Git, directory: str, judge: Judge | None) -> Source:
    """Find what a worktree for a directory would be made from.

    Raises:
        InvalidRequest: as `find`, there is no commit yet, or the judge refuses it.
        ClinvkError: git failed.
    """
    top, common, inside = await find(git, directory)
    blocked = await _blocked(git, top, common, judge) if judge else ()
    head = await git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if head.exit_code:
        raise InvalidRequest(f"the git repository {top!r} has no commit yet: a worktree begins with one", ISOLATION)
    base = head.stdout.decode().strip()
    listed = await git.out("ls-tree", "-r", "-z", "--full-tree", base)
    entries = [(mode, os.fsdecode(name)) for mode, _, name in (entry.partition(b"\t") for entry in listed.split(b"\0"))]
    modules = tuple(name for mode, name in entries if mode.startswith(_REPOSITORY))
    left_out = tuple(path for path in blocked if any(f"{name}/".startswith(f"{path}/") for _, name in entries))
    _check_names(*modules)
    warnings = [f"the filter {name} of the repository's own settings is not run" for name in git.disabled]
    if modules:
        warnings.append(f"submodules are empty in the worktree: {_some(modules)}")
    if left_out:
        warnings.append(f"not in the worktree, since the server blocks it: {_some(left_out)}")
    if uncommitted := await _uncommitted(git, top):
        warnings.append(
            f"the worktree begins with the commit {base[:12]}: uncommitted changes in {top} are not in it{uncommitted}"
        )
    return Source(top, common, inside, base, modules, left_out, tuple(warnings))


async def _blocked(git: Git, top: str, common: str, judge: Judge) -> Sequence[str]:
    """Judge all directories that files of a worktree come from; return what of the tree is blocked, from the top on.

    Raises:
        InvalidRequest: the judge refuses one, or git cannot say where all are.
    """
    counted = await git.out("count-objects", "-v")
    others = [os.fsdecode(line[11:]) for line in counted.splitlines() if line.startswith(b"alternate: ")]

    def judged() -> Sequence[str]:
        real = os.path.realpath(top)
        blocked = judge(real)
        try:
            stores = dict.fromkeys(_stores(common, others))
        except OSError as exc:
            raise InvalidRequest(f"cannot look where the objects of {top!r} are: {exc}", ISOLATION) from exc
        for path in stores:
            judge(path)
        return sorted({os.path.relpath(path, real) for path in blocked})

    return await asyncio.to_thread(judged)


def _stores(common: str, others: Sequence[str]) -> Iterator[str]:
    """Yield where the objects of a repository are, also behind links; `others` are those that it borrows from."""
    yield os.path.realpath(common)
    for objects in (os.path.join(common, "objects"), *others):
        yield os.path.realpath(objects)
        yield from (os.path.realpath(entry) for entry in os.scandir(objects) if entry.is_symlink())


async def check_out(git: Git, place: Place, left_out: Sequence[str]) -> None:
    """Put the files into a worktree, except what is left out.

    Raises:
        ClinvkError: git failed.
    """
    sparse = ("-c", "core.sparseCheckout=true", "-c", "core.sparseCheckoutCone=false")
    if left_out:
        await asyncio.to_thread(_leave_out, place, left_out)
    await git.out(*(sparse if left_out else ()), "reset", "--hard", "--quiet", cwd=str(place.root))
    if await asyncio.to_thread(lambda: any(os.path.lexists(place.root / name) for name in left_out)):
        raise ClinvkError(f"git does not leave {_some(left_out)} out of the worktree")


def _leave_out(place: Place, names: Sequence[str]) -> None:
    patterns = "".join("!/" + re.sub(r"([\\*?\[\]\s])", r"\\\1", name) + "\n" for name in names)
    file = (registered(place.facts.common, place.root) or place.root) / "info" / "sparse-checkout"
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as opened:
        opened.write(patterns if opened.tell() else f"/*\n{patterns}")


async def _uncommitted(git: Git, top: str) -> str:
    """Say which changes of a tree are not committed; empty where there are none.

    Raises:
        ClinvkError: git failed, or would wait for ever.
    """
    asked = ("--porcelain", "-z", "--no-renames", "--ignore-submodules=all")
    try:
        status = await git.out("status", *asked, within_s=_STATUS_WITHIN_S)
    except GitTooSlow as exc:
        await asyncio.to_thread(check_read, top)
        return f", if there are any: {exc.message}"
    changed = [os.fsdecode(entry[3:]) for entry in status.split(b"\0") if entry]
    return f": {_some(changed)}" if changed else ""


async def register(git: Git, place: Place) -> None:
    """Make the worktree, yet without files.

    git may fail where the user or an agent makes or removes one at the same moment.
    """
    made = ("--no-checkout", "--quiet", "--no-track", "-B", place.branch, str(place.root), place.facts.base)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await git.out("worktree", "add", *made)
        except GitFailed:
            if attempt == _ATTEMPTS:
                raise
            await asyncio.sleep(_TRY_AGAIN_S)
        else:
            return


def settle(place: Place) -> None:
    """Keep the index that the worktree begins with, and see to the directory to work in.

    Raises:
        InvalidRequest: in the commit it is no directory.
        ClinvkError: something cannot be written.
    """
    try:
        admin = registered(place.facts.common, place.root)
        shutil.copy2((admin or place.root) / "index", place.folder / "index")
        if Path(os.path.realpath(place.workdir)).is_relative_to(os.path.realpath(place.root)):
            place.workdir.mkdir(parents=True, exist_ok=True)
            return
    except (FileExistsError, NotADirectoryError):
        pass
    except OSError as exc:
        raise ClinvkError(f"cannot make a worktree: {exc.filename}: {exc.strerror}") from exc
    raise InvalidRequest(
        f"{place.facts.inside!r} is no directory in the commit {place.facts.base[:12]} of {place.facts.repository}",
        ISOLATION,
    )


async def apply(git: Git, look: Look, place: Place, dry_run: bool) -> None:
    """Apply the patch of a look to the tree that the worktree was made from, where `git` runs.

    No other clinvk may do so at the same time.

    Raises:
        InvalidRequest: the tree is gone, or the patch does not fit or is there already; nothing was changed.
        ClinvkError: it could not be written; what was changed is as before, but what somebody else wrote meanwhile.
    """
    top = place.facts.repository
    if not await asyncio.to_thread(os.path.isdir, top):
        raise InvalidRequest(f"the tree of worktree {place.id} is gone: {top!r}")
    await find(git, top)
    await _check(git, look.patch, place)
    if not dry_run:
        saved = Saved(top, look.names, look.folder)
        await whole(asyncio.to_thread(saved.put_aside), "putting files aside", _APPLIED_WITHIN_S)
        admin = os.fsdecode(await git.out("rev-parse", "--absolute-git-dir")).rstrip("\n")
        tried = {"GIT_DIR": admin, "GIT_WORK_TREE": str(saved.tried)}
        await _fitting(git, place, str(look.patch), cwd=str(saved.tried), env=tried)
        await whole(_written(git, look.patch, place, saved), "applying the changes", _APPLIED_WITHIN_S)


async def _check(git: Git, patch: Path, place: Place) -> None:
    try:
        await _fitting(git, place, "--check", str(patch))
    except InvalidRequest:
        undone = await git.run(*_APPLY, "--reverse", "--check", str(patch))
        if undone.exit_code:
            raise
        raise InvalidRequest(
            f"the changes of worktree {place.id} are in {place.facts.repository} already, nothing was changed;"
            f" clinvk worktrees discard {place.id} removes it"
        ) from None


async def _fitting(
    git: Git, place: Place, *arguments: str, cwd: str | None = None, env: Mapping[str, str] | None = None
) -> None:
    try:
        await git.out(*_APPLY, *arguments, cwd=cwd, env=env)
    except GitFailed as exc:
        if exc.exit_code != _REFUSED:
            raise
        top = place.facts.repository
        raise InvalidRequest(f"worktree {place.id} does not fit {top}, nothing was changed: {exc.said}") from exc


async def _written(git: Git, patch: Path, place: Place, saved: Saved) -> None:
    try:
        await _fitting(git, place, str(patch))
    except InvalidRequest:
        raise
    except (ClinvkError, asyncio.CancelledError) as exc:  # it is given up, or the loop is closed
        try:
            foreign = await asyncio.to_thread(saved.restore)
        except OSError as failed:
            raise ClinvkError(f"files were changed in part, and cannot be put back: {failed}") from failed
        if foreign:
            why = exc.message if isinstance(exc, ClinvkError) else "the changes were not applied in time"
            raise ClinvkError(f"{why}; not put back, as somebody else wrote to it: {_some(foreign)}") from exc
        raise


async def forget(git: Git, place: Place, with_commits: bool) -> None:
    """Take a worktree, whose files are gone, out of its repository; `git` runs in that.

    Its branch goes too, if nothing was committed to it or `with_commits`; one that is checked out elsewhere stays.

    Raises:
        ClinvkError: git cannot.
    """
    if await asyncio.to_thread(registered, place.facts.common, place.root):
        await git.out("worktree", "remove", "--force", "--force", str(place.root))
    at = await git.run("rev-parse", "--verify", "--quiet", f"refs/heads/{place.branch}")
    if with_commits or at.stdout.decode().strip() == place.facts.base:
        await git.run("branch", "-D", "--quiet", place.branch)


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


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name.encode(errors="replace").decode() for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
