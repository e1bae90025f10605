"""Which of the processes that began runs are still there.

Each holds the lock of a file of its own as long as it lives, however it ends: a file that another process can lock,
or that is gone, is of a dead one. All of this blocks.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from clinvk import file_locks
from clinvk.store import protocol

FOLDER = "owners"

_SUFFIX = ".lock"


class Owners:
    """The processes that share a clinvk home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER
        self._id = os.urandom(16).hex()
        self._file: int | None = None

    def take(self) -> str:
        """Give the id of this process, and hold its lock; once more where its file was removed, as with the home."""
        while not self._is_held():
            self._let_go()
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            file = os.open(self._path(self._id), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                self._give_away(file)
                fcntl.flock(file, fcntl.LOCK_EX)  # another process has it for the moment of a look at most
            except OSError:
                os.close(file)
                raise
            self._file = file
        return self._id

    def is_dead(self, owner: str) -> bool:
        """Say whether a process is there no more."""
        return owner != self._id and _is_free(self._path(owner))

    def remove_stale(self) -> None:
        """Remove the files of the dead; what else lies there is somebody's."""
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if _is_lock(entry):
                    _is_free(Path(entry.path), remove=True)

    def leave(self) -> None:
        """Let go of the lock."""
        if self._file is not None:
            with suppress(FileNotFoundError):
                os.remove(self._path(self._id))
        self._let_go()

    def _is_held(self) -> bool:
        """Say whether the lock is that of the file which others look at."""
        return self._file is not None and file_locks.is_of(self._file, self._path(self._id))

    def _give_away(self, file: int) -> None:
        """Make a file of root's that of whose the folder is, who could not look at it else; SQLite does so too."""
        if os.geteuid() == 0:
            folder = os.stat(self._folder)
            with suppress(OSError):  # root in a container may lack the right, or know no such user
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
    """Say whether nobody holds a lock; remove it, while nobody can take it, if asked to."""
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
