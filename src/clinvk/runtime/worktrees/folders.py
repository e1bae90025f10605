"""Worktrees, their folders in a clinvk home, and their locks.

    worktrees/.lock      locked while a clinvk adds worktrees to a repository or removes them
    worktrees/.apply     locked while a clinvk applies changes
    worktrees/claude-3f9c2a1b/
        lock             exclusive: the clinvk that made the worktree, until its agent has ended, or one that changes
                         the worktree; shared: one that examines the worktree
        work             shared: an agent at work that the worktree was not made for; exclusive: removal and `apply`
        worktree.json    the fields of `Worktree`, never changed
        kept             exists once the worktree was kept after its agent had ended
        turns/, objects/ the trees at the beginning of the turns of a session, by run
        index            git's index as the worktree started; exists once the worktree is complete
        removing         the same file during removal; `removing-all` if the commits are removed as well
        NAME/            the worktree, named like the repository's folder

A changer needs both `lock` and `work`, so that no agent is at work in a worktree that is applied or removed. Locks are
released when their process exits, however it exits. All functions block.
"""

import fcntl
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec.structs import replace

from clinvk import file_locks
from clinvk.config.load import WORKTREES
from clinvk.file_locks import FileLock
from clinvk.runtime.process.orphans import children
from clinvk.types.errors import ClinvkError, InvalidRequest, WorktreeNotFound

_LABEL_CHARS = 40
_RECORD = "worktree.json"
_KEPT = "kept"
_INDEX = "index"
_REMOVING = {False: "removing", True: "removing-all"}
_TURNS = "turns"
_OBJECTS = "objects"
_LOCK = "lock"
_WORK = "work"


class Worktree(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A git worktree for one agent, with separate files and a separate branch.

    The fields up to `keeps_branch` are stored in `worktree.json`.

    Attributes:
        repository: top of the tree that the worktree was made from.
        common: the repository's own folder (`.git`), shared by all of its worktrees.
        name: name of the worktree's top folder.
        inside: sub-directory that the agent works in, empty for the top.
        base: commit that the worktree starts from.
        submodules: paths of submodules, which are empty in the worktree.
        made_at: Unix time.
        keeps_branch: the branch existed before, with the commits up to `base`, which removing the worktree keeps.
        id: identifier, part of the branch and of the path.
        folder: folder in the clinvk home that holds the worktree and its records.
        warnings: what is in the repository's tree and not in the worktree.
    """

    repository: str
    common: str
    name: str
    inside: str
    base: str
    submodules: tuple[str, ...]
    made_at: float
    keeps_branch: bool = False
    id: str = ""
    folder: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """The top folder of the worktree."""
        return str(Path(self.folder, self.name))

    @property
    def path(self) -> str:
        """The directory for the agent to work in."""
        return str(Path(self.folder, self.name, self.inside))

    @property
    def branch(self) -> str:
        """The branch of the worktree."""
        return f"clinvk/{self.id}"


_decoder = msgspec.json.Decoder(Worktree)
"""Made here, because threads decode: msgspec crashes if two of them prepare one type."""


class WorktreeFolders:
    """The folders of all worktrees of a clinvk home."""

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self.path = Path(home).absolute() / WORKTREES

    def make(self, id_: str, worktree: Worktree) -> tuple[Worktree, FileLock]:
        """Make and lock the folder of a worktree.

        Raises:
            ClinvkError: the folder cannot be made.
        """
        hidden = self.path / f".{id_}"
        try:
            os.makedirs(hidden, mode=0o700)
            lock = file_locks.take(hidden / _LOCK)
            assert lock, "no other process knows the folder"
            (hidden / _RECORD).write_bytes(msgspec.json.encode(replace(worktree, warnings=())))
            os.rename(hidden, self.path / id_)
        except OSError as exc:
            with suppress(ClinvkError):
                remove_tree(hidden)
            raise ClinvkError(f"cannot make a worktree in {str(self.path)!r}: {exc.strerror}") from exc
        return replace(worktree, id=id_, folder=str(self.path / id_)), lock

    def ids(self) -> list[str]:
        """Return the ids of all worktrees."""
        try:
            return sorted(name for name in os.listdir(self.path) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def read(self, id_: str) -> Worktree | None:
        """Return a worktree, or None if the folder is gone or holds no worktree."""
        folder = self.path / id_
        try:
            worktree = _decoder.decode((folder / _RECORD).read_bytes())
        except (OSError, msgspec.DecodeError):
            return None
        return replace(worktree, id=id_, folder=str(folder))

    def hold(self, id_: str) -> FileLock | None:
        """Lock a worktree to change it, or return None if the worktree is locked.

        Raises:
            WorktreeNotFound: the worktree is gone.
        """
        if self.read(id_) is None:
            raise no_worktree(id_)
        return _take_lock(self.path / id_ / _LOCK, flags=os.O_RDONLY)

    def share(self, id_: str) -> FileLock | None:
        """Lock a worktree to examine it, or return None if the worktree is held or gone."""
        return _take_lock(self.path / id_ / _LOCK, fcntl.LOCK_SH, os.O_RDONLY)

    def exclude(self, id_: str) -> FileLock | None:
        """Keep agents out of a worktree, or return None if an agent may be at work there."""
        try:
            return _take_lock(self.path / id_ / _WORK)
        except ClinvkError:  # e.g. the lock of another user
            return None

    def enter(self, id_: str) -> FileLock | None:
        """Lock a worktree for one more agent, or return None while a clinvk keeps agents out.

        Raises:
            InvalidRequest: the worktree is being removed.
            ClinvkError: the lock cannot be taken.
        """
        lock = _take_lock(self.path / id_ / _WORK, fcntl.LOCK_SH) if self.is_ready(id_) else None
        if not self.is_ready(id_):
            raise InvalidRequest(f"worktree {id_} is being removed: no agent can work in it any more", "workdir")
        return lock

    def objects(self, id_: str) -> str:
        """Return the folder with the objects of the trees of turns."""
        return str(self.path / id_ / _OBJECTS)

    def add_turn(self, id_: str, run_id: str, tree: str) -> None:
        """Record the tree at the beginning of the turn of a run. Raises `OSError`."""
        (self.path / id_ / _TURNS).mkdir(mode=0o700, exist_ok=True)
        (self.path / id_ / _TURNS / run_id).write_text(tree)

    def tree_of_turn(self, id_: str, run_id: str) -> str:
        """Return the tree at the beginning of the turn of a run.

        Raises:
            InvalidRequest: the worktree has no such turn.
        """
        try:
            return (self.path / id_ / _TURNS / run_id).read_text()
        except OSError as exc:
            raise InvalidRequest(f"no turn of run {run_id!r} has begun in worktree {id_}", "since") from exc

    def lock_home(self, name: str) -> FileLock | None:
        """Take `.lock` or `.apply`, or return None if another clinvk has the lock.

        Raises:
            ClinvkError: the lock cannot be taken.
        """
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
        except OSError as exc:
            raise ClinvkError(f"cannot lock {str(self.path)!r}: {exc.strerror}") from exc
        return _take_lock(self.path / name)

    def worktree_at(self, directory: str) -> str | None:
        """Return the id of the worktree that holds a directory, or None.

        Return None as well if the folder is read-only: in the sandbox of an agent at work, whose clinvk has the lock.
        """
        worktree, _ = self._within(os.path.realpath(directory))
        return worktree.id if worktree and os.access(worktree.folder, os.W_OK) else None

    def original(self, real: str) -> str:
        """Return the original of a directory in a worktree, or `real` itself outside of worktrees.

        A worktree may be made from another worktree.
        """
        worktree, inside = self._within(real)
        if worktree is None or inside[:1] != (worktree.name,):
            return real
        return self.original(os.path.join(worktree.repository, *inside[1:]))

    def _within(self, real: str) -> tuple[Worktree | None, tuple[str, ...]]:
        """Return the worktree around a path, and the parts of the path below the folder of the worktree."""
        path, top = Path(real), Path(os.path.realpath(self.path))
        id_, *inside = path.relative_to(top).parts if top in path.parents else ("",)
        return self.read(id_) if id_ else None, tuple(inside)

    def keep(self, id_: str) -> None:
        """Mark a complete worktree as kept; the caller holds the worktree.

        Raises:
            ClinvkError: the mark cannot be written.
        """
        try:
            if self.is_ready(id_):
                (self.path / id_ / _KEPT).touch(mode=0o600)
        except OSError as exc:
            raise ClinvkError(f"cannot mark worktree {id_} as kept: {exc.strerror}") from exc

    def is_kept(self, id_: str) -> bool:
        """Return whether a worktree is marked as kept."""
        return (self.path / id_ / _KEPT).exists()

    def is_ready(self, id_: str) -> bool:
        """Return whether a worktree is complete and not being removed."""
        return (self.path / id_ / _INDEX).exists() or (self.is_kept(id_) and self.removal(id_) is None)

    def begin_removal(self, id_: str, with_commits: bool) -> None:
        """Mark a worktree as being removed: the files that remain are no longer an agent's work.

        The mark is the renamed index, which needs no disk space. Without its index a worktree cannot be examined.

        Raises:
            ClinvkError: the index cannot be renamed.
        """
        try:
            with suppress(FileNotFoundError):  # the removal has begun, or the worktree was never complete
                os.rename(self.path / id_ / _INDEX, self.path / id_ / _REMOVING[with_commits])
        except OSError as exc:
            raise ClinvkError(f"cannot remove worktree {id_}: {exc.strerror}") from exc

    def removal(self, id_: str) -> bool | None:
        """Return whether the removal under way includes commits, or None if no removal has begun."""
        return next((commits for commits, name in _REMOVING.items() if (self.path / id_ / name).exists()), None)


def _take_lock(path: Path, how: int = fcntl.LOCK_EX, flags: int = os.O_RDWR | os.O_CREAT) -> FileLock | None:
    """Lock a file, or return None if the file is locked, is gone, or was removed meanwhile.

    Raises:
        ClinvkError: the file cannot be locked.
    """
    try:
        return file_locks.take(path, how, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ClinvkError(f"cannot lock {str(path)!r}: {exc.strerror}") from exc


def no_worktree(reference: str) -> WorktreeNotFound:
    """Return the error for an unknown worktree."""
    return WorktreeNotFound(f"no worktree {reference!r}; clinvk worktrees list shows them")


def match(ids: Iterable[str], reference: str) -> str | None:
    """Return the id for an id, the beginning of an id, or a branch; None if there is none.

    Raises:
        InvalidRequest: several ids match.
    """
    prefix = reference.removeprefix("clinvk/")
    found = sorted(id_ for id_ in ids if prefix and id_.startswith(prefix))
    if prefix in found:
        return prefix
    if len(found) > 1:
        raise InvalidRequest(f"{reference!r} is the beginning of several worktrees: {', '.join(found)}")
    return found[0] if found else None


def new_id(label: str) -> str:
    """Return an id for a new worktree: what is valid of a label in a branch and in a folder name, and 8 hex digits."""
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower())[:_LABEL_CHARS].strip("-") or "agent"
    return f"{slug}-{os.urandom(4).hex()}"


def remove_tree(path: Path) -> None:
    """Remove a folder with its content, read-only folders included; the targets of symbolic links stay.

    `rm` takes folders of any depth, for which `shutil.rmtree` and a recursive walk are too deep.

    Raises:
        ClinvkError: something cannot be removed.
    """
    remove = ("rm", "-rf", "--", str(path))
    if _failure(remove) and not path.is_symlink():
        _failure(("chmod", "-R", "u+rwx", "--", str(path)))
        if failure := _failure(remove):
            raise ClinvkError(f"cannot remove {str(path)!r}: {failure}")


def _failure(argv: Sequence[str]) -> str:
    """Run a program and return what it writes to stderr if it fails, or an empty text."""
    try:
        with children.untagged():
            process = subprocess.Popen(
                argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={"PATH": os.defpath}
            )
    except OSError as exc:
        return f"{argv[0]}: {exc.strerror}"
    lines = process.communicate()[1].decode(errors="replace").splitlines()
    return lines[0] if process.returncode and lines else "failed" if process.returncode else ""
