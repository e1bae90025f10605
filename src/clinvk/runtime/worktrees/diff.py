"""The difference between a worktree and the base commit, found without changing the worktree or the repository.

An agent may have changed or broken `.git` and the index of the worktree. So the comparison starts from a copy of the
first index, names the repository explicitly, and stores objects in a temporary folder.
"""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path

from clinvk.runtime.process.waiting import whole
from clinvk.runtime.worktrees.git import Git, GitFailed, on_one_line, would_wait
from clinvk.runtime.worktrees.tree_files import remove_tree
from clinvk.runtime.worktrees.worktree_types import Worktree
from clinvk.types.errors import ClinvkError
from clinvk.types.orchestration import Alteration, ChangedFile

_CHANGES: dict[bytes, Alteration] = {b"A": "added", b"M": "modified", b"D": "deleted", b"T": "type-changed"}
_REPOSITORY = b"160000"
_DIFF = ("diff-index", "--cached", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none")
_PATCH = (*_DIFF, "-p", "--binary", "--full-index", "-M", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
_READ = (".gitignore", ".gitattributes")
_FOLDERS_SEARCHED = 50_000  # in a larger tree, git's timeout has to do


class TreeDiff:
    """The changed files of a worktree.

    Attributes:
        files: the changed files; `names` are their names as bytes.
        warnings: what git could not read.
        folder: temporary folder.
        patch: the file that `write_patch` writes.
    """

    def __init__(self, git: Git, worktree: Worktree, folder: Path, env: Mapping[str, str]) -> None:
        self.files: tuple[ChangedFile, ...] = ()
        self.names: tuple[bytes, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.folder = folder
        self.patch = folder / "patch"
        self._git = git
        self._worktree = worktree
        self._env = env

    @property
    def is_changed(self) -> bool:
        """Whether removing the worktree would lose work."""
        return bool(self.files or self.warnings)

    async def find(self, forced: bytes) -> None:
        """Find the changed files; `forced` names ignored files to include, each with a NUL."""
        flags = ("--ignore-errors", *(("--sparse",) if self._git.is_sparse else ()))
        # In submodules git would run what the settings of the submodules name.
        others = (f":(exclude,top,literal){path}" for path in self._worktree.submodules)
        adds = [await self._git.run("add", "--all", *flags, "--", ":(top)", *others, env=self._env)]
        if forced:
            env = {**self._env, "GIT_LITERAL_PATHSPECS": "1"}
            names = ("--force", "--pathspec-from-file=-", "--pathspec-file-nul")
            adds.append(await self._git.run("add", *flags, *names, env=env, stdin=forced))
        raw = await self._git.out(*_DIFF, "--raw", "-z", "--no-renames", self._worktree.base, "--", env=self._env)
        found = [*_parsed(raw)]
        self.names = tuple(name for name, _, _ in found)
        self.files = tuple(ChangedFile(name.decode(errors="replace"), change) for name, change, _ in found)
        inner = (file.path for file, (_, _, is_inner) in zip(self.files, found, strict=True) if is_inner)
        said = [on_one_line(done.stderr) for done in adds if done.exit_code]
        said += [f"{path} is a repository of its own: its files are not in the diff" for path in inner]
        self.warnings = tuple(dict.fromkeys(said))

    async def write_patch(self) -> bool:
        """Write the complete patch to `patch`; if git cannot (e.g. for files of several GB), warn and return False."""
        try:
            await self._git.out(*_PATCH, f"--output={self.patch}", self._worktree.base, "--", env=self._env)
        except GitFailed as exc:
            self.warnings = (*self.warnings, f"there is no diff: {exc.message}")
            return False
        return True

    async def restore(self) -> None:
        """Restore the files after a check; allowed only without warnings. Ignored files stay unchanged.

        New repositories in the tree are removed. The check may have changed the repository's settings as well.

        Raises:
            ClinvkError: git failed, or would wait for ever.
        """
        await self._git.guard()
        await asyncio.to_thread(check_readable, self._worktree.root)
        await self._git.out("checkout-index", "--all", "--force", "--quiet", env=self._env)
        await self._git.out("clean", "-d", "--force", "--force", "--quiet", env=self._env)


@asynccontextmanager
async def difference(git: Git, worktree: Worktree) -> AsyncGenerator[TreeDiff]:
    """Compare a worktree with its base commit; `git` names the repository and the worktree.

    Raises:
        ClinvkError: git failed, or would wait for ever.
    """
    await asyncio.to_thread(check_readable, worktree.root)
    folder = Path(worktree.folder, f"look-{os.urandom(4).hex()}")
    env = {
        "GIT_INDEX_FILE": str(folder / "index"),
        "GIT_OBJECT_DIRECTORY": str(folder / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(os.path.join(worktree.common, "objects")),
    }
    try:
        await whole(asyncio.to_thread(_prepare, folder), "copying an index")
        diff = TreeDiff(git, worktree, folder, env)
        await diff.find(await _forced(git, worktree))
        yield diff
    finally:
        await whole(asyncio.to_thread(remove_tree, folder), f"removing {str(folder)!r}")


def check_readable(root: str) -> None:
    """Check whether git would wait for ever for a `.gitignore` or `.gitattributes`. git follows no links here.

    Raises:
        ClinvkError: such a file is a pipe or a device.
    """
    folders = [root]
    for folder in islice(folders, _FOLDERS_SEARCHED):
        with suppress(OSError), os.scandir(folder) as entries:  # git cannot read such a folder either
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders += [entry.path] if entry.name != ".git" else []
                elif entry.name in _READ and not entry.is_symlink() and would_wait(entry.path):
                    raise ClinvkError(f"git would wait for {os.path.relpath(entry.path, root)!r}, which is no file")


def _prepare(folder: Path) -> None:
    try:
        (folder / "objects").mkdir(mode=0o700, parents=True)
        shutil.copy2(folder.parent / "index", folder / "index")
    except OSError as exc:
        raise ClinvkError(f"{exc.filename}: {exc.strerror}") from exc


async def _forced(git: Git, worktree: Worktree) -> bytes:
    """Return the names of files in the agent's index; an agent may have added ignored files on purpose."""
    try:
        added = await git.out(*_DIFF, "--name-only", "-z", "--diff-filter=A", worktree.base, "--")
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


def _parsed(raw: bytes) -> Iterator[tuple[bytes, Alteration, bool]]:
    """Parse `--raw -z`; yield name, change, and whether a nested repository exists there."""
    fields = raw.split(b"\0")
    for about, name in zip(fields[::2], fields[1::2], strict=False):
        before, after, _, _, letter = about[1:].split(b" ")
        change = _CHANGES.get(letter[:1], "modified")
        yield name, change, _REPOSITORY in (before, after) and change != "deleted"


def _quoted(path: str) -> str:
    """Quote a path for a colon-separated list, in which git reads a quoted path as a C string."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
