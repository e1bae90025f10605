"""The path of a home's private socket, the claim to listen there, and the process at the other end.

The socket is in the home, or in a folder of the user in /tmp if that path is too long for a socket. The server that
listens holds a lock beside the socket: a socket without a lock is left of a killed server. All calls block briefly.
"""

import os
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path

from clinvk import file_locks
from clinvk.file_locks import FileLock

_NAME = "serve.sock"
_MAX_LENGTH = 100
"""The maximum length of a socket path on every system, in bytes (sun_path: Linux 108, macOS 104)."""
_SHARED = Path("/tmp")  # noqa: S108 - the folder in it is checked
_BACKLOG = 128
_XUCRED = struct.Struct("IIh")
_LOCAL_PEERCRED = 1


def path_of(home: Path) -> Path:
    """Return the path of a home's socket."""
    path = home / _NAME
    if len(os.fsencode(path)) <= _MAX_LENGTH:
        return path
    from hashlib import blake2b  # an import that few homes need

    name = blake2b(os.fsencode(home), digest_size=16).hexdigest()
    return _SHARED / f"clinvk-{os.geteuid()}" / f"{name}.sock"


class SocketClaim:
    """The exclusive right to listen for a home, until `leave` or the end of the process."""

    def __init__(self, home: Path) -> None:
        self._path = path_of(home)
        self._lock_file = self._path.with_suffix(".lock")
        self._lock: FileLock | None = None

    def listen(self) -> socket.socket | None:
        """Take the claim and listen; return None if another process has the claim. Remove a dead server's socket.

        Raises:
            OSError: the socket cannot be created.
        """
        if not self._take():
            return None
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(str(self._path))
            self._path.chmod(0o600)  # no client can connect before `listen`
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            self.leave()
            raise
        return listener

    def _take(self) -> bool:
        folder = self._path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.parent == _SHARED:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise OSError(f"{folder} is not this user's alone to write to")
        self._lock = file_locks.take(self._lock_file)
        return self._lock is not None

    def is_held(self) -> bool:
        """Return whether this process holds the lock file at the path."""
        return self._lock is not None and self._lock.is_at(self._lock_file)

    def is_found(self) -> bool:
        """Return whether this process holds the claim and commands can find the socket."""
        return self.is_held() and self._path.exists()

    def leave(self) -> None:
        """Release the claim and remove the socket.

        Keep the socket if the lock file was removed or replaced: another process may have the claim.
        """
        if self.is_held():
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
                self._lock_file.unlink(missing_ok=True)
        if self._lock:
            self._lock.close()


def connected(home: Path) -> socket.socket | None:
    """Connect to the server of a home; return None if no server of this user accepts at once."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    with suppress(OSError):
        sock.connect(str(path_of(home)))
        if peer_pid(sock) is not None:
            return sock
    sock.close()
    return None


def peer_pid(sock: socket.socket) -> int | None:
    """Return the process at the other end of a socket, 0 if the system does not report it.

    Return None if the process belongs to another user or is in another container, or if the kernel does not tell.
    """
    pid: int | None = 0
    try:
        if hasattr(socket, "SO_PEERCRED"):
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, uid, _ = struct.unpack("3i", credentials)
            pid = pid or None
        else:  # xucred of unix(4) on macOS and BSD
            _, uid, _ = _XUCRED.unpack_from(sock.getsockopt(0, _LOCAL_PEERCRED, 76))
    except OSError:
        return None
    return pid if uid == os.geteuid() else None
