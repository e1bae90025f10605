"""Detect which processes with runs are still alive.

Each live process holds the lock of a separate file. A process is dead if another process can lock the file, or if the
file is gone. All functions block.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from clinvk import file_locks
from clinvk.file_locks import FileLock
from clinvk.store import ids

FOLDER = "owners"

_SUFFIX = ".lock"
_RETRY_S = 0.001


class OwnerLocks:
    """The processes using a clinvk home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER
        self._id = os.urandom(16).hex()
        self._lock: FileLock | None = None

    def acquire(self) -> str:
        """Lock the file of this process and return the process's owner id. Lock a new file if the file was removed."""
        path = self._path(self._id)
        while self._lock is None or not self._lock.is_at(path):
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            self._lock = file_locks.take(path)
            if self._lock:
                self._set_file_owner(self._lock.file)
            else:
                time.sleep(_RETRY_S)  # another process holds the lock for a brief check
        return self._id

    def is_dead(self, owner: str) -> bool:
        """Return whether a process has died."""
        return owner != self._id and _is_free(self._path(owner))

    def pid_of(self, owner: str) -> int | None:
        """Return the pid of a live process; None if the process has died or the pid is unknown."""
        return file_locks.holder(self._path(owner))

    def remove_stale(self) -> None:
        """Remove the lock files of dead processes only."""
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                owner = entry.name.removesuffix(_SUFFIX)
                if owner != entry.name and ids.is_id(owner) and entry.is_file(follow_symlinks=False):
                    _is_free(Path(entry.path), remove=True)

    def release(self) -> None:
        """Release the lock."""
        if self._lock:
            with suppress(FileNotFoundError):
                os.remove(self._path(self._id))
            self._lock.close()
            self._lock = None

    def _set_file_owner(self, file: int) -> None:
        """Change the owner of root's file to the folder's owner, as SQLite does: the owner must be able to read it."""
        if os.geteuid() == 0:
            folder = os.stat(self._folder)
            with suppress(OSError):  # root in a container may lack the permission or the user
                os.fchown(file, folder.st_uid, folder.st_gid)

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}{_SUFFIX}"


def _is_free(path: Path, remove: bool = False) -> bool:
    """Return whether no process holds a lock. With `remove`, remove the file while no process can take the lock."""
    with suppress(FileNotFoundError):
        lock = file_locks.take(path, fcntl.LOCK_SH, os.O_RDONLY)
        if lock is None:
            return False
        with lock:
            if remove:
                os.remove(path)
    return True
