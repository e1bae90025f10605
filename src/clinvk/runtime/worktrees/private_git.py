"""A git directory of clinvk's own for the tree of a repository, so that no setting of the repository acts.

The directory has a configuration of its own, no hooks, and the repository's objects as an alternate. It exists for one
operation, in the clinvk home, where no sandbox of an agent can write: in `/tmp`, Codex can.
"""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from clinvk.runtime.process.waiting import finish_thread
from clinvk.runtime.worktrees.git import Git, Settings
from clinvk.types.errors import ClinvkError

NO_COMMIT = "ref: refs/heads/none"
"""The HEAD of a repository without a commit."""

_REFS = ("refs", "packed-refs", "reftable", "logs", "worktrees", "shallow", "rebase-merge", "rebase-apply")
"""What the commands that change branches and worktrees use besides `HEAD`."""

_OF_TREE = (("info/exclude", True), ("info/attributes", True), ("info/sparse-checkout", False))
"""Data that commands for files use, and whether all trees of a repository share the file."""


_OLD_S = 86_400.0
"""After this time the process of a git directory counts as killed: the directory has copies of the user's files."""

_FORMATS = frozenset({"sha1", "sha256", "files", "reftable"})


class GitDirs(NamedTuple):
    """The folder of a repository, the folder of one of its trees (often the same), and the settings for the tree."""

    common: str
    own: str
    settings: Settings


@asynccontextmanager
async def private_git(
    git: Git, dirs: GitDirs, place: str, tree: str, head: str, *, copies_index: bool = False
) -> AsyncGenerator[Git]:
    """Yield git for the files of a tree: HEAD is `head`. The index is the tree's, and only read, or else a copy.

    The git directory is in the folder `place`. New objects do not reach the repository.

    Raises:
        ClinvkError: the git directory cannot be made.
    """
    index = os.path.join(dirs.own, "index")

    def fill(folder: Path) -> None:
        lay_out(folder, dirs, head)
        with suppress(FileNotFoundError):  # nothing was ever added to the repository
            if copies_index:
                shutil.copy2(index, folder / "index")

    async with _made(place, fill) as folder:
        yield for_files(git, folder, dirs, tree, **({} if copies_index else {"GIT_INDEX_FILE": index}))


@asynccontextmanager
async def private_refs(git: Git, dirs: GitDirs, place: str) -> AsyncGenerator[Git]:
    """Yield git for the branches and worktrees of a repository, which git changes.

    The git directory is in the folder `place`.

    Raises:
        ClinvkError: the git directory cannot be made.
    """
    async with _made(place, partial(_lay_out_refs, dirs=dirs)) as folder:
        yield git.at(str(folder), dirs.settings.kept, GIT_DIR=str(folder))


def for_files(git: Git, folder: Path, dirs: GitDirs, tree: str, **variables: str) -> Git:
    """Return git for the files of a tree through a git directory of `lay_out`."""
    kept = dirs.settings.kept
    # Git LFS keeps its objects in the repository.
    storage = os.path.join(os.fsencode(dirs.common), kept.get(b"lfs.storage", b"lfs"))
    return git.at(tree, {**kept, b"lfs.storage": storage}, GIT_DIR=str(folder), GIT_WORK_TREE=tree, **variables)


def outside_of(submodules: Iterable[str]) -> list[str]:
    """Return the pathspec of all files of a tree: in submodules git would run what the settings of these name."""
    return [":(top)", *(f":(exclude,top,literal){path}" for path in submodules)]


def lay_out(folder: Path, dirs: GitDirs, head: str) -> None:
    """Make a git directory for the files of a tree, without an index. Blocks.

    Raises:
        OSError: a file cannot be written.
    """
    _create(folder, dirs, "", os.fsencode(head))
    (folder / "refs").mkdir()
    (folder / "info").mkdir()
    for name, is_shared in _OF_TREE:
        _link(folder, dirs.common if is_shared else dirs.own, name)
    for shared in Path(dirs.own).glob("sharedindex.*"):
        _link(folder, dirs.own, shared.name)


def _lay_out_refs(folder: Path, dirs: GitDirs) -> None:
    _create(folder, dirs, dirs.settings.ref_storage, Path(dirs.common, "HEAD").read_bytes())
    for name in _REFS:
        _link(folder, dirs.common, name)


def _create(folder: Path, dirs: GitDirs, ref_storage: str, head: bytes) -> None:
    extensions = {"objectFormat": dirs.settings.object_format, "refStorage": ref_storage}
    lines = ["[core]", "repositoryFormatVersion = 1", "bare = false", "[extensions]"]
    lines += [f"{name} = {value}" for name, value in extensions.items() if value in _FORMATS]
    os.makedirs(folder, mode=0o700)
    (folder / "objects" / "info").mkdir(parents=True)
    (folder / "objects" / "info" / "alternates").write_bytes(
        os.fsencode(quoted(os.path.join(dirs.common, "objects")) + "\n")
    )
    (folder / "config").write_text("\n".join(lines) + "\n")
    (folder / "HEAD").write_bytes(head)


def _link(folder: Path, target: str, name: str) -> None:
    path = os.path.join(target, name)
    if os.path.lexists(path):
        os.symlink(path, folder / name)


@asynccontextmanager
async def _made(place: str, fill: Callable[[Path], None]) -> AsyncGenerator[Path]:
    folder = Path(place, f".git-{os.urandom(4).hex()}")

    def make() -> None:
        for old in Path(place).glob(".git-*"):
            with suppress(FileNotFoundError):
                if old.stat().st_mtime < time.time() - _OLD_S:
                    shutil.rmtree(old, ignore_errors=True)
        fill(folder)

    try:
        await finish_thread(asyncio.to_thread(make), "making a git directory")
    except OSError as exc:
        raise ClinvkError(f"cannot make a git directory in {place!r}: {exc.strerror}") from exc
    else:
        yield folder
    finally:
        remove = asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        await finish_thread(remove, f"removing {str(folder)!r}")


def quoted(path: str) -> str:
    """Quote a path as a C string, as git reads it in a list of alternates."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
