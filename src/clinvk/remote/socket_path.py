"""Where a home's private socket is, and who is at its other end.

It is in the home; where that path is longer than a socket's may be, in a folder of the user's in /tmp. Whoever serves
holds a lock beside it, so that a socket without one is what a killed server has left. All of this blocks, for a moment.
"""

import fcntl
import os
import socket
import stat
import struct
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from clinvk import file_locks

_NAME = "serve.sock"
_LONGEST = 100
"""Bytes of a path that every system has room for (sun_path: Linux 108, macOS 104)."""
_SHARED = Path("/tmp")  # noqa: S108 - what is used there is looked at
_BACKLOG = 128
_XUCRED = struct.Struct("IIh")
_LOCAL_PEERCRED = 1


class Peer(NamedTuple):
    """The process at the other end, as the kernel knows it; `pid` is 0 where it does not tell."""

    uid: int
    pid: int


def path_of(home: Path) -> Path:
    """Give the path of a home's socket."""
    path = home / _NAME
    if len(os.fsencode(path)) <= _LONGEST:
        return path
    name = blake2b(os.fsencode(home), digest_size=16).hexdigest()
    return _SHARED / f"clinvk-{os.geteuid()}" / f"{name}.sock"


class Claim:
    """The right to serve a home: no other process has it until this lets go, or is gone."""

    def __init__(self, home: Path) -> None:
        self._path = path_of(home)
        self._lock_file = self._path.with_suffix(".lock")
        self._lock: int | None = None

    def listen(self) -> socket.socket | None:
        """Take the claim and listen there; None: another process has it. What a dead server has left there goes.

        Raises:
            OSError: there can be no socket.
        """
        if not self._taken():
            return None
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(str(self._path))
            self._path.chmod(0o600)  # nobody can connect before it listens
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            self.leave()
            raise
        return listener

    def _taken(self) -> bool:
        folder = self._path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.parent == _SHARED:
            _check_private(folder)
        lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not file_locks.is_of(lock, self._lock_file):
                raise BlockingIOError  # its owner has just taken it away: the next look finds another
        except BlockingIOError:
            os.close(lock)
            return False
        except OSError:
            os.close(lock)
            raise
        self._lock = lock
        return True

    def is_held(self) -> bool:
        """Say whether the claim is held, and the lock is that of the file which others look at."""
        return self._lock is not None and file_locks.is_of(self._lock, self._lock_file)

    def is_found(self) -> bool:
        """Say whether others find the socket, too."""
        return self.is_held() and self._path.exists()

    def leave(self) -> None:
        """Let go of the claim; take the socket away, unless it may be another's since the lock was removed."""
        if self._lock is not None:
            if self.is_held():
                with suppress(OSError):
                    self._path.unlink(missing_ok=True)
                    self._lock_file.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def connected(home: Path) -> socket.socket | None:
    """Connect to the server of a home; None where there is none of this user that takes it at once."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(str(path_of(home)))
        if peer_of(sock).uid == os.geteuid():
            return sock
    except OSError:
        pass
    sock.close()
    return None


def peer_of(sock: socket.socket) -> Peer:
    """Ask the kernel who is at the other end.

    Raises:
        OSError: it does not tell, or only that it is in a container of its own.
    """
    if hasattr(socket, "SO_PEERCRED"):
        told = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3i", told)
        if not pid:
            raise OSError("the other end is in another namespace of processes")
        return Peer(uid, pid)
    _, uid, _ = _XUCRED.unpack_from(sock.getsockopt(0, _LOCAL_PEERCRED, 76))  # xucred of unix(4) on macOS and BSD
    return Peer(uid, 0)


def _check_private(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise OSError(f"{folder} is not this user's alone to write to")
