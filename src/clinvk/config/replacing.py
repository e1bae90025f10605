"""Replacing a file on the disk: what was there is whole until the new text is."""

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_NEW_FILE = 0o600


def replace_file(file: Path, data: bytes) -> None:
    """Put bytes in the place of a file, all of them or none. Blocks.

    The mode and the owner of one that is there stay; a new file is for its owner alone. `file` is no symbolic link:
    the link would be replaced.

    Raises:
        OSError: it cannot be written, or is protected against writing.
    """
    before = _stat(file)
    fd, beside = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with open(fd, "wb") as new:
            if before:
                with suppress(PermissionError):  # another's file that one may write; it becomes one's own
                    os.fchown(fd, before.st_uid, before.st_gid)
            os.fchmod(fd, stat.S_IMODE(before.st_mode) if before else _NEW_FILE)
            new.write(data)
            new.flush()
            os.fsync(fd)
        os.rename(beside, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
    _sync(file.parent)


def _stat(file: Path) -> os.stat_result | None:
    """Look at the file that is to be replaced, and refuse one that is protected against writing."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    if not os.access(file, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return found


def _sync(folder: Path) -> None:
    with suppress(PermissionError):  # a folder that one may write in and not read
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
