"""Locks on files, found by other processes through the path, and released when the process exits, however it exits."""

import fcntl
import os
from typing import Self


class FileLock:
    """A locked file. `close`, or dropping the last reference, releases the lock.

    A thread that takes a lock for a cancelled caller drops the lock, so no lock is left behind.
    """

    def __init__(self, file: int) -> None:
        self.file = file

    def close(self) -> None:
        """Release the lock."""
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)

    def is_at(self, path: str | os.PathLike[str]) -> bool:
        """Return whether the locked file is still the file at a path: neither released, nor removed, nor replaced."""
        return is_lock_of(self.file, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    __del__ = close


def take(
    path: str | os.PathLike[str], how: int = fcntl.LOCK_EX, flags: int = os.O_RDWR | os.O_CREAT
) -> FileLock | None:
    """Lock a file without waiting; return None if the file is locked, or was removed or replaced meanwhile.

    Raises:
        OSError: the file cannot be opened or locked.
    """
    lock = FileLock(os.open(path, flags | os.O_NOFOLLOW, 0o600))
    try:
        fcntl.flock(lock.file, how | fcntl.LOCK_NB)
    except OSError as exc:
        lock.close()
        if isinstance(exc, BlockingIOError):
            return None
        raise
    return lock if lock.is_at(path) else None


def holder(path: str | os.PathLike[str]) -> int | None:
    """Return the pid of the process that holds the exclusive lock of a file; None if unknown or not on Linux.

    The kernel lists no process of another container.
    """
    try:
        found = os.stat(path)
        with open("/proc/locks") as file:
            locks = [line.split() for line in file]
    except OSError:
        return None
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    pids = (int(fields[4]) for fields in locks if [fields[1], *fields[3:6:2]] == ["FLOCK", "WRITE", place])
    return next((pid for pid in pids if pid > 0), None)


def is_lock_of(lock: int, path: str | os.PathLike[str]) -> bool:
    """Return whether a locked descriptor refers to the file at a path; False if the file was removed or replaced."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except OSError:
        return False
