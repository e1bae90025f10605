"""The difference between a worktree and the base commit, found without changing the worktree or the repository.

An agent may have changed or broken `.git` and the index of the worktree. So the comparison starts from a copy of the
first index, and works in a temporary git directory, which also takes the new objects.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from clinvk.runtime.process.waiting import finish_thread
from clinvk.runtime.worktrees.folders import Worktree, remove_tree
from clinvk.runtime.worktrees.git import Git, GitFailed, on_one_line
from clinvk.runtime.worktrees.private_git import GitDirs, for_files, lay_out, outside_of
from clinvk.types.errors import ClinvkError
from clinvk.types.orchestration import Alteration, ChangedFile

_CHANGES: dict[bytes, Alteration] = {b"A": "added", b"M": "modified", b"D": "deleted", b"T": "type-changed"}
_REPOSITORY = b"160000"
_TEXT_BYTES = 1024 * 1024
DIFF = ("diff-index", "--cached", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none")
_PATCH = (*DIFF, "-p", "--binary", "--full-index", "-M", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")


class FileChange(NamedTuple):
    """A changed file: path, the letter of git such as `A` for added, and lines, or None in binary files."""

    path: str
    letter: str
    added: int | None
    deleted: int | None

    @property
    def change(self) -> Alteration:
        """What happened to the file."""
        return _CHANGES.get(self.letter.encode(), "modified")


class TreeDiff:
    """The changed files of a worktree; `git` works on a private index with all changes.

    Attributes:
        files: the changed files.
        warnings: what git could not read.
        folder: temporary folder.
        patch: the file that `write_patch` writes.
    """

    def __init__(
        self, git: Git, base: str, folder: Path, raw: bytes, warnings: list[str], paths: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.patch = folder / "patch"
        self._git = git
        self._base = base
        self._paths = paths
        fields = raw.split(b"\0")  # of `--raw -z`: the modes, the objects and a letter, NUL, the name, NUL
        changes = [about[1:].split(b" ") for about in fields[:-1:2]]
        self.files = tuple(
            ChangedFile(name.decode(errors="replace"), _CHANGES.get(letter[:1], "modified"))
            for name, (*_, letter) in zip(fields[1::2], changes, strict=True)
        )
        for file, (before, after, *_) in zip(self.files, changes, strict=True):
            if _REPOSITORY in (before, after) and file.change != "deleted":
                warnings.append(f"{file.path} is a repository of its own: its files are not in the diff")
        self.warnings = tuple(dict.fromkeys(warnings))

    @property
    def is_changed(self) -> bool:
        """Whether removing the worktree would lose work."""
        return bool(self.files or self.warnings)

    async def write_patch(self) -> bool:
        """Write the complete patch to `patch`; if git cannot (e.g. for files of several GB), warn and return False."""
        try:
            await self._git.out(*_PATCH, f"--output={self.patch}", self._base, "--", *self._paths)
        except GitFailed as exc:
            self.warnings = (*self.warnings, f"there is no diff: {exc.message}")
            return False
        return True

    async def text(self, max_bytes: int = _TEXT_BYTES) -> tuple[str, bool]:
        """Return the patch, cut after whole lines, and whether the patch is cut."""
        text, size = b"", 0
        if self.files and await self.write_patch():
            text, size = await asyncio.to_thread(_head, self.patch, max_bytes)
        return text.decode(errors="replace"), len(text) < size

    async def counted(self) -> list[FileChange]:
        """Return the changed files with the numbers of lines."""
        flags = ("--raw", "--numstat", "-z", "--no-renames")
        return parse_changes(await self._git.out(*DIFF, *flags, self._base, "--", *self._paths))

    async def tree(self) -> str:
        """Store the files as a tree, and return the hash."""
        return (await self._git.out("write-tree")).decode().strip()

    async def commit(self, parent: str, message: str) -> str:
        """Commit the files after `parent`, and return the commit, or `parent` if that has the same files."""
        tree = await self.tree()
        if tree == (await self._git.out("rev-parse", f"{parent}^{{tree}}")).decode().strip():
            return parent
        return (await self._git.out("commit-tree", tree, "-p", parent, stdin=message.encode())).decode().strip()

    async def restore(self) -> None:
        """Restore the files after a check; allowed only without warnings. Ignored files stay unchanged.

        New repositories in the tree are removed.

        Raises:
            ClinvkError: git failed.
        """
        await self._git.out("checkout-index", "--all", "--force", "--quiet")
        await self._git.out("clean", "-d", "--force", "--force", "--quiet")


@asynccontextmanager
async def difference(
    git: Git, worktree: Worktree, admin: Path, base: str = "", **variables: str
) -> AsyncGenerator[TreeDiff]:
    """Compare a worktree with a tree, by default that of its base commit.

    `admin` is the folder of its records in the repository; `variables` say where git stores and finds objects.

    Raises:
        ClinvkError: git failed.
    """
    folder = Path(worktree.folder, f"look-{os.urandom(4).hex()}")
    try:
        settings = await git.at(worktree.root, {}, GIT_DIR=str(admin), GIT_WORK_TREE=worktree.root).settings()
        dirs = GitDirs(worktree.common, str(admin), settings)
        await finish_thread(asyncio.to_thread(_prepare, folder, dirs, worktree.base), "copying an index")
        files = for_files(git, folder / "git", dirs, worktree.root, **variables)
        warnings = await _add(files, worktree, settings.is_sparse, await _forced(files, worktree, admin))
        base = base or worktree.base
        raw = await files.out(*DIFF, "--raw", "-z", "--no-renames", base, "--")
        yield TreeDiff(files, base, folder, raw, warnings)
    finally:
        await finish_thread(asyncio.to_thread(remove_tree, folder), f"removing {str(folder)!r}")


def _prepare(folder: Path, dirs: GitDirs, base: str) -> None:
    try:
        folder.mkdir(mode=0o700)
        lay_out(folder / "git", dirs, base)
        shutil.copy2(folder.parent / "index", folder / "git" / "index")
    except OSError as exc:
        raise ClinvkError(f"{exc.filename}: {exc.strerror}") from exc


async def _add(git: Git, worktree: Worktree, is_sparse: bool, forced: bytes) -> list[str]:
    """Add all files to the index, and the ignored files in `forced`, each with a NUL; return what git complains of."""
    flags = ("--ignore-errors", *(("--sparse",) if is_sparse else ()))
    adds = [await git.run("add", "--all", *flags, "--", *outside_of(worktree.submodules))]
    if forced:
        names = ("--force", "--pathspec-from-file=-", "--pathspec-file-nul")
        adds.append(await git.run("add", *flags, *names, env={"GIT_LITERAL_PATHSPECS": "1"}, stdin=forced))
    return [on_one_line(done.stderr) for done in adds if done.exit_code]


async def _forced(git: Git, worktree: Worktree, admin: Path) -> bytes:
    """Return the names of files in the agent's index; an agent may have added ignored files on purpose."""
    own = {"GIT_INDEX_FILE": str(admin / "index")}
    try:
        added = await git.out(*DIFF, "--name-only", "-z", "--diff-filter=A", worktree.base, "--", env=own)
    except GitFailed:  # the agent broke its index
        return b""
    return await asyncio.to_thread(_existing, os.fsencode(worktree.root), added)


def _existing(root: bytes, names: bytes) -> bytes:
    """Return the names of existing files and links, except behind links: with one of these, `git add` adds nothing."""
    root, existing = os.path.realpath(root), b""
    for name in names.split(b"\0"):
        path = os.path.join(root, name)
        folder = os.path.dirname(path)
        if name and os.path.realpath(folder) == folder and (os.path.islink(path) or os.path.isfile(path)):
            existing += name + b"\0"
    return existing


def _head(file: Path, limit: int) -> tuple[bytes, int]:
    """Return the beginning of a file, in whole lines, and the size of the file."""
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        read = stream.read(limit)
    return (read if size <= limit else read[: read.rfind(b"\n") + 1]), size


def parse_changes(output: bytes) -> list[FileChange]:
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
            found.append(FileChange(path, letters.get(path, "M"), *lines))
    return found
