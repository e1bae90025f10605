"""What is different in a worktree: a look at all its files that changes nothing in it, nor in its repository.

The agent may have done anything to the worktree's own `.git` and index. So the look begins with the index that the
worktree began with, names the repository itself, and keeps what it reads in a folder that is removed afterwards.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from clinvk.runtime.process.waiting import whole
from clinvk.runtime.worktrees.folders import Place
from clinvk.runtime.worktrees.git import Git, GitFailed, words, would_wait
from clinvk.runtime.worktrees.tree_files import remove_tree
from clinvk.types.errors import ClinvkError
from clinvk.types.orchestration import Alteration, ChangedFile

_CHANGES: dict[bytes, Alteration] = {b"A": "added", b"M": "modified", b"D": "deleted", b"T": "type-changed"}
_REPOSITORY = b"160000"
_DIFF = ("diff-index", "--cached", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none")
_READ = (".gitignore", ".gitattributes")
_FOLDERS_SEARCHED = 50_000  # what comes after so many is left to the time that git has
_PATCH = (*_DIFF, "-p", "--binary", "--full-index", "-M", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")


class Look:
    """What was found: the changed files, their names as they are, and what could not be looked at.

    `folder` is removed in the end, and all in it.
    """

    def __init__(self, git: Git, place: Place, folder: Path, env: Mapping[str, str]) -> None:
        self.files: tuple[ChangedFile, ...] = ()
        self.names: tuple[bytes, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.folder = folder
        self.patch = folder / "patch"
        self._git = git
        self._facts = place.facts
        self._root = str(place.root)
        self._env = env

    @property
    def is_changed(self) -> bool:
        """Whether there is anything that would be lost."""
        return bool(self.files or self.warnings)

    async def take(self, added: bytes) -> None:
        """Look; `added` are names of files to look at though they are ignored."""
        add = ("add", "--sparse") if self._git.is_sparse else ("add",)
        done = await self._git.run(*add, "--all", "--ignore-errors", "--", *self._places(), env=self._env)
        said = [words(done.stderr)] if done.exit_code else []
        if added:
            names = ("--force", "--pathspec-from-file=-", "--pathspec-file-nul")
            literally = {**self._env, "GIT_LITERAL_PATHSPECS": "1"}
            done = await self._git.run(*add, "--ignore-errors", *names, env=literally, stdin=added)
            said += [words(done.stderr)] if done.exit_code else []
        found = [*_read(await self._listed())]
        self.names = tuple(name for name, _, _ in found)
        self.files = tuple(ChangedFile(_shown(name), change) for name, change, _ in found)
        inner = [_shown(name) for name, change, is_repository in found if is_repository and change != "deleted"]
        said += [f"{path} is a repository of its own: its files are not in the diff" for path in inner]
        self.warnings = tuple(dict.fromkeys(said))

    async def write_patch(self) -> None:
        """Write the whole patch to the file `patch`."""
        await self._git.out(*_PATCH, f"--output={self.patch}", self._facts.base, "--", env=self._env)

    async def restore(self) -> None:
        """Make the files as they were at the look, which had no warnings. What is ignored stays as it is.

        Whatever ran since may have changed the repository's settings, and made repositories in the tree, which go:
        those that were there at the look are warnings of it.

        Raises:
            ClinvkError: git cannot, or would wait.
        """
        await self._git.guard()
        await asyncio.to_thread(check_read, self._root)
        await self._git.out("checkout-index", "--all", "--force", "--quiet", env=self._env)
        await self._git.out("clean", "-d", "--force", "--force", "--quiet", env=self._env)

    def _places(self) -> tuple[str, ...]:
        """Say where to look: everywhere but in submodules, where git would run what *their* settings name."""
        return (":(top)", *(f":(exclude,top,literal){path}" for path in self._facts.submodules))

    async def _listed(self) -> bytes:
        return await self._git.out(*_DIFF, "--raw", "-z", "--no-renames", self._facts.base, "--", env=self._env)


@asynccontextmanager
async def looked(git: Git, place: Place) -> AsyncGenerator[Look]:
    """Look at a worktree; what is needed for that lies in its folder until the end. `git` knows repository and tree.

    Raises:
        ClinvkError: git cannot look.
    """
    await asyncio.to_thread(check_read, str(place.root))
    apart = place.folder / f"look-{os.urandom(4).hex()}"
    env = {
        "GIT_INDEX_FILE": str(apart / "index"),
        "GIT_OBJECT_DIRECTORY": str(apart / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(os.path.join(place.facts.common, "objects")),
    }
    try:
        await whole(asyncio.to_thread(_prepare, apart, place.folder / "index"), "copying an index")
        look = Look(git, place, apart, env)
        await look.take(await _added_by_agent(git, place))
        yield look
    finally:
        await whole(asyncio.to_thread(remove_tree, apart), f"removing {str(apart)!r}")


def check_read(root: str) -> None:
    """Refuse what git would read its settings from and wait for. Links it does not follow there.

    Raises:
        ClinvkError: there is such a thing.
    """
    folders = [root]
    for _ in range(_FOLDERS_SEARCHED):
        if not folders:
            return
        for entry in _entries(folders.pop()):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif entry.name in _READ and not entry.is_symlink() and would_wait(entry.path):
                raise ClinvkError(f"git would wait for {os.path.relpath(entry.path, root)!r}, which is no file")


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.name != ".git"]
    except OSError:  # git cannot read there either
        return []


def _prepare(apart: Path, index: Path) -> None:
    try:
        apart.mkdir(mode=0o700)
        (apart / "objects").mkdir()
        shutil.copy2(index, apart / "index")
    except OSError as exc:
        raise ClinvkError(f"{exc.filename}: {exc.strerror}") from exc


async def _added_by_agent(git: Git, place: Place) -> bytes:
    """Give the names of the new files that the agent gave to git: it may have wanted ignored ones."""
    try:
        listed = await git.out(*_DIFF, "--name-only", "-z", "--diff-filter=A", place.facts.base, "--")
    except GitFailed:  # it broke its own index
        return b""
    return await asyncio.to_thread(_files_of, os.fsencode(place.root), listed)


def _files_of(root: bytes, listed: bytes) -> bytes:
    real = os.path.realpath(root)
    names = [name for name in listed.split(b"\0") if name and _is_file(real, name)]
    return b"".join(name + b"\0" for name in names)


def _is_file(root: bytes, name: bytes) -> bool:
    """Say whether a file or a link is there, and not behind a link: git fails on that, and adds none at all."""
    path = os.path.join(root, name)
    folder = os.path.dirname(path)
    return os.path.realpath(folder) == folder and (os.path.islink(path) or os.path.isfile(path))


def _read(raw: bytes) -> Iterator[tuple[bytes, Alteration, bool]]:
    """Read `--raw -z`: name, change, and whether a repository is there and no file."""
    fields = raw.split(b"\0")
    for about, name in zip(fields[::2], fields[1::2], strict=False):
        before, after, _, _, letter = about[1:].split(b" ")
        yield name, _CHANGES.get(letter[:1], "modified"), _REPOSITORY in (before, after)


def _shown(name: bytes) -> str:
    return name.decode(errors="replace")


def _quoted(path: str) -> str:
    """Quote a path for a list with colons between: git reads a quoted one as a string of C."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
