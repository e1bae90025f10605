"""The folders of worktrees in a clinvk home, each with what it was made from, and a lock.

    worktrees/.lock      held by who changes which worktrees there are
    worktrees/.apply-…   held by who applies changes to one tree, and there only so long
    worktrees/claude-3f9c2a1b/
        lock             held by who makes or changes the worktree, and while an agent works in it, however that ends
        worktree.json    what it was made from: never changed
        kept             is there once an agent was done and the worktree stayed, or another clinvk was to change it
        index            git's index as the worktree began
        removing         the same, once the worktree is being removed; `removing-all` where its commits go too
        use-…            held by who has an agent at work in it that it was not made for; what a clinvk that was killed
                         left of these holds nothing, and stays
        NAME/            the worktree, with the name of the repository's folder

Whoever means to remove a worktree says `kept` under its lock, and only then looks for `use-…`; who enters while another
has the lock makes `use-…`, and only then looks for `kept`. So one of them sees the other.

All of this blocks.
"""

import fcntl
import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from clinvk import file_locks
from clinvk.config.load import WORKTREES
from clinvk.runtime.worktrees.tree_files import remove_tree
from clinvk.types.errors import ClinvkError, InvalidRequest

_LABEL_CHARS = 40
_FACTS = "worktree.json"
_KEPT = "kept"
_INDEX = "index"
_REMOVING = {False: "removing", True: "removing-all"}
_USE = "use-"
_LOCK = "lock"
_LOCK_OF_ALL = ".lock"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a worktree was made from.

    Attributes:
        repository: the top of the tree that it was made from.
        common: the folder of the repository itself, which all its worktrees share.
        name: the name of the worktree's own folder.
        inside: the sub-directory to work in, empty for the top.
        base: the commit.
        submodules: the places in the tree where another repository would be.
        made_at: in seconds since 1970.
    """

    repository: str
    common: str
    name: str
    inside: str
    base: str
    submodules: tuple[str, ...]
    made_at: float


class Place(NamedTuple):
    """A worktree and where it is."""

    id: str
    folder: Path
    facts: Facts

    @property
    def root(self) -> Path:
        """The top of its tree."""
        return self.folder / self.facts.name

    @property
    def branch(self) -> str:
        """The branch that was made for it."""
        return f"clinvk/{self.id}"

    @property
    def workdir(self) -> Path:
        """Where its agent works."""
        return self.root / self.facts.inside


class Folders:
    """The folders of all worktrees."""

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self.path = Path(home).absolute() / WORKTREES

    def make(self, label: str, facts: Facts) -> tuple[Place, int]:
        """Make the folder of a worktree, locked from its first moment; give it and the lock.

        Raises:
            ClinvkError: it cannot be made.
        """
        own = f"{_slug(label)}-{os.urandom(4).hex()}"
        hidden = self.path / f".{own}"
        lock = None
        try:
            os.makedirs(hidden, mode=0o700)
            lock = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            (hidden / _FACTS).write_bytes(msgspec.json.encode(facts))
            os.rename(hidden, self.path / own)
        except OSError as exc:
            if lock is not None:
                os.close(lock)
            with suppress(ClinvkError):
                remove_tree(hidden)
            raise ClinvkError(f"cannot make a worktree in {str(self.path)!r}: {exc.strerror}") from exc
        return Place(own, self.path / own, facts), lock

    def ids(self) -> list[str]:
        """Give the ids of all."""
        try:
            return sorted(name for name in os.listdir(self.path) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def find(self, reference: str) -> str:
        """Give the id that a word stands for: the id, its beginning, or the branch.

        Raises:
            InvalidRequest: there is none, or several.
        """
        wanted = reference.removeprefix("clinvk/")
        ids = self.ids()
        found = [own for own in ids if own == wanted] or [own for own in ids if wanted and own.startswith(wanted)]
        if not found:
            raise InvalidRequest(f"no worktree {reference!r}; clinvk worktrees list shows them")
        if len(found) > 1:
            raise InvalidRequest(f"{reference!r} is the beginning of several worktrees: {', '.join(sorted(found))}")
        return found[0]

    def hold(self, own: str) -> int | None:
        """Take the lock of a worktree, to change it; None where another has it, or it is gone."""
        return self._locked(own, fcntl.LOCK_EX)

    def share(self, own: str) -> int | None:
        """Take the lock of a worktree, to look at it; None where it is in use or gone."""
        return self._locked(own, fcntl.LOCK_SH)

    def can_be_shared(self, own: str) -> bool:
        """Say whether a look at a worktree would be let in now: not while its agent works, or another changes it."""
        lock = self.share(own)
        if lock is not None:
            os.close(lock)
        return lock is not None

    def around(self, directory: str) -> str | None:
        """Give the id of the worktree that a directory lies in.

        None where there is none, or where nobody could `enter` it: that is in the sandbox of an agent which works
        there, and whose clinvk holds it.
        """
        place, _ = self._within(os.path.realpath(directory))
        return place.id if place and os.access(place.folder, os.W_OK) else None

    def original(self, real: str) -> str:
        """Return the directory that one in the tree of a worktree is a copy of; `real`, without links, otherwise.

        A worktree may be made from another worktree.
        """
        place, inside = self._within(real)
        if place is None or inside[:1] != (place.facts.name,):
            return real
        return self.original(os.path.join(place.facts.repository, *inside[1:]))

    def _within(self, real: str) -> tuple[Place | None, tuple[str, ...]]:
        """Return the worktree whose folder holds a path, and the parts of the path below that folder."""
        path, top = Path(real), Path(os.path.realpath(self.path))
        own, *inside = path.relative_to(top).parts if top in path.parents else ("",)
        return self.read(own) if own else None, tuple(inside)

    def enter(self, own: str, use: str) -> int | None:
        """Take a lock that says that one more agent works in a worktree; None where another clinvk changes that.

        Who has it ends that with `exit`. While the agent is at work that the worktree was made for, its lock is not
        to be had; nor need it be: who made it sees others at work, and keeps it for them.

        Args:
            own: its id.
            use: any word that nobody else says.

        Raises:
            InvalidRequest: it is being removed.
            ClinvkError: there cannot be a lock.
        """
        removing = InvalidRequest(f"worktree {own} is being removed: no agent can work in it any more", "workdir")
        looked = self.share(own)
        try:
            if not self.is_ready(own):
                raise removing
            if looked is None and self.is_kept(own):
                return None
            lock = self._made(own, use)
        except OSError as exc:
            raise ClinvkError(f"cannot lock worktree {own}: {exc.strerror}") from exc
        finally:
            if looked is not None:
                os.close(looked)
        if not self.is_ready(own):  # whoever had it was about to remove it
            self.exit(own, use, lock)
            raise removing
        if looked is None and self.is_kept(own):  # or has been about to change it since
            self.exit(own, use, lock)
            return None
        return lock

    def exit(self, own: str, use: str, lock: int) -> None:
        """Let go of the lock of `enter`."""
        with suppress(OSError):
            os.unlink(self._use(own, use))
        os.close(lock)

    def is_used(self, own: str) -> bool:
        """Say whether an agent works in a worktree that has entered it; also where that cannot be seen."""
        for path in (self.path / own).glob(f"{_USE}*"):
            try:
                lock = _taken(os.open(path, os.O_RDONLY), fcntl.LOCK_SH)
            except FileNotFoundError:  # it has just ended
                continue
            except OSError:
                return True
            if lock is None:
                return True
            os.close(lock)
        return False

    def hold_all(self) -> int | None:
        """Take the lock for changing which worktrees there are; None where another has it.

        git reads of worktrees that are being made at the same time, and fails on what is half written.

        Raises:
            ClinvkError: there cannot be one.
        """
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            lock = os.open(self.path / _LOCK_OF_ALL, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise ClinvkError(f"cannot lock {str(self.path)!r}: {exc.strerror}") from exc
        return _taken(lock, fcntl.LOCK_EX)

    def hold_target(self, top: str) -> int | None:
        """Take the lock for changing the files of a tree that worktrees were made from; None where another has it.

        Who has it ends that with `free_target`, which leaves nothing behind.

        Raises:
            ClinvkError: there cannot be one.
        """
        try:
            lock = os.open(self._target(top), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise ClinvkError(f"cannot lock {top!r}: {exc.strerror}") from exc
        return _there(_taken(lock, fcntl.LOCK_EX), self._target(top))

    def free_target(self, top: str, lock: int) -> None:
        """Let go of the lock of a tree."""
        with suppress(OSError):
            os.unlink(self._target(top))
        os.close(lock)

    def read(self, own: str) -> Place | None:
        """Give a worktree; None where there is none, or something else."""
        folder = self.path / own
        try:
            return Place(own, folder, msgspec.json.decode((folder / _FACTS).read_bytes(), type=Facts))
        except (OSError, msgspec.DecodeError):
            return None

    def keep(self, own: str) -> None:
        """Say that no agent works in a worktree but those that have entered it; the caller holds it.

        Of one that no agent may enter nothing is said: it was not made to the end, or is being removed.

        Raises:
            ClinvkError: it cannot be said.
        """
        try:
            if self.is_ready(own):
                (self.path / own / _KEPT).touch(mode=0o600)
        except OSError as exc:
            raise ClinvkError(f"cannot mark worktree {own} as kept: {exc.strerror}") from exc

    def is_kept(self, own: str) -> bool:
        """Say whether that was said."""
        return (self.path / own / _KEPT).exists()

    def is_ready(self, own: str) -> bool:
        """Say whether an agent may have worked in it: it was made to the end, and is not being removed."""
        return (self.removal(own) is None and self.is_kept(own)) or (self.path / own / _INDEX).exists()

    def begin_removal(self, own: str, with_commits: bool) -> None:
        """Say that the worktree is being removed: a part of its files is no work of an agent.

        The index is renamed for that, which needs no room on the disk. Without it nobody can look at the worktree.

        Raises:
            ClinvkError: it cannot be renamed.
        """
        if self.removal(own) is not None:
            return
        try:
            with suppress(FileNotFoundError):  # a worktree that was not made to the end has none
                os.rename(self.path / own / _INDEX, self.path / own / _REMOVING[with_commits])
        except OSError as exc:
            raise ClinvkError(f"cannot remove worktree {own}: {exc.strerror}") from exc

    def removal(self, own: str) -> bool | None:
        """Say whether a removal that began was to be one with commits; None where none began."""
        return next((all_ for all_, name in _REMOVING.items() if (self.path / own / name).exists()), None)

    def remove(self, own: str) -> None:
        """Remove a folder and all in it.

        Raises:
            ClinvkError: something in it cannot be removed.
        """
        remove_tree(self.path / own)

    def _target(self, top: str) -> Path:
        return self.path / f".apply-{hashlib.sha256(os.fsencode(os.path.realpath(top))).hexdigest()[:16]}"

    def _use(self, own: str, use: str) -> Path:
        return self.path / own / f"{_USE}{use}"

    def _made(self, own: str, use: str) -> int:
        lock = os.open(self._use(own, use), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            self.exit(own, use, lock)
            raise
        return lock

    def _locked(self, own: str, how: int) -> int | None:
        path = self.path / own / _LOCK
        try:
            lock = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _there(_taken(lock, how), path)


def _taken(lock: int, how: int) -> int | None:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _there(lock: int | None, path: Path) -> int | None:
    """Give a lock that was taken; None where its file was removed meanwhile."""
    if lock is not None and not file_locks.is_of(lock, path):
        os.close(lock)
        return None
    return lock


def _slug(label: str) -> str:
    """Give what of a label may stand in the name of a branch and of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower())[:_LABEL_CHARS].strip("-") or "agent"
