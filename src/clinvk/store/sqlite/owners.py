"""Detect which processes with runs are still alive.

Each live process holds the lock of a separate file. A process is dead if another process can lock the file, or if the
file is gone. All functions block.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from clinvk import file_locks
from clinvk.store import protocol

FOLDER = "owners"

_SUFFIX = ".lock"


class OwnerLocks:
    """The processes using a clinvk home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER
        self._id = os.urandom(16).hex()
        self._file: int | None = None

    def take(self) -> str:
        """Lock the file of this process and return the process's owner id. Lock a new file if the file was removed."""
        while not self._is_held():
            self._let_go()
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            file = os.open(self._path(self._id), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                self._give_away(file)
                fcntl.flock(file, fcntl.LOCK_EX)  # another process holds the lock only for a brief check
            except OSError:
                os.close(file)
                raise
            self._file = file
        return self._id

    def is_dead(self, owner: str) -> bool:
        """Return whether a process has died."""
        return owner != self._id and _is_free(self._path(owner))

    def remove_stale(self) -> None:
        """Remove the lock files of dead processes only."""
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if _is_lock(entry):
                    _is_free(Path(entry.path), remove=True)

    def leave(self) -> None:
        """Release the lock."""
        if self._file is not None:
            with suppress(FileNotFoundError):
                os.remove(self._path(self._id))
        self._let_go()

    def _is_held(self) -> bool:
        """Return whether this process holds the lock on the file at the path checked by other processes."""
        return self._file is not None and file_locks.is_lock_of(self._file, self._path(self._id))

    def _give_away(self, file: int) -> None:
        """Give a file of root to the owner of the folder, as SQLite does: the owner must be able to read it."""
        if os.geteuid() == 0:
            folder = os.stat(self._folder)
            with suppress(OSError):  # root in a container may lack the permission or the user
                os.fchown(file, folder.st_uid, folder.st_gid)

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}{_SUFFIX}"


def _is_lock(entry: "os.DirEntry[str]") -> bool:
    owner = entry.name.removesuffix(_SUFFIX)
    return owner != entry.name and protocol.is_id(owner) and entry.is_file(follow_symlinks=False)


def _is_free(path: Path, remove: bool = False) -> bool:
    """Return whether no process holds a lock. With `remove`, remove the file while no process can take the lock."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if remove:
            os.remove(path)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    else:
        return True
    finally:
        os.close(file)
