"""Change a file atomically, one process at a time."""

import codecs
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from clinvk.types.errors import ConfigError

_NEW_FILE = 0o600


def replace_file(file: Path, data: bytes) -> None:
    """Replace the content of a file atomically. Blocks.

    Mode and owner of an existing file stay; a new file has mode 0600. `file` must not be a symbolic link, since the
    link would be replaced.

    Raises:
        OSError: the file cannot be written, or is read-only.
    """
    before = _stat(file)
    fd, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with open(fd, "wb") as new:
            if before:
                with suppress(PermissionError):  # a writable file of another user: the new file belongs to this user
                    os.fchown(fd, before.st_uid, before.st_gid)
            os.fchmod(fd, stat.S_IMODE(before.st_mode) if before else _NEW_FILE)
            new.write(data)
            new.flush()
            os.fsync(fd)
        os.rename(temporary, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync(file.parent)


def _stat(file: Path) -> os.stat_result | None:
    """Return the status of the file; raise PermissionError if the file is read-only."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    if not os.access(file, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return found


def _sync(folder: Path) -> None:
    with suppress(PermissionError):  # the folder is writable but not readable
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


_LOCKED_TIMEOUT_S = 10.0
_POLL_INTERVAL_S = 0.01
_NEW_FOLDER = 0o700


def change_file(file: Path, edit: Callable[[str], str], make_folder: bool, dry_run: bool = False) -> bool:
    """Replace the text of a file with the result of `edit`; return whether the text changed.

    A missing file counts as empty. The target of a symbolic link is changed. Mode and owner stay; a new file has mode
    0600.

    Args:
        file: the path.
        edit: returns the new text, or raises; line ends are as in the file.
        make_folder: whether to create a missing folder.
        dry_run: whether to write nothing.

    Raises:
        ConfigError: the file cannot be read, locked or written, or `edit` raised.
    """
    file = Path(os.path.realpath(file))
    try:
        if make_folder and not dry_run:
            file.parent.mkdir(_NEW_FOLDER, parents=True, exist_ok=True)
        with nullcontext() if dry_run else _locked(file.parent):
            text, mark = _read(file)
            edited = edit(text)
            if edited != text and not dry_run:
                replace_file(file, mark + edited.encode())
            return edited != text
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be {'read' if dry_run else 'changed'}: {exc.strerror}") from exc


def _read(file: Path) -> tuple[str, bytes]:
    """Return the text with its line ends, and the byte order mark before the text."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # renaming a file over /dev/null would replace the device
            raise ConfigError(f"{file}: is not a regular file")
        data = file.read_bytes()
    except FileNotFoundError:
        return "", b""
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    try:
        return data.removeprefix(mark).decode(), mark
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{file}: is not UTF-8 text: {exc.reason} at byte {exc.start}") from exc


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Lock a folder: a lock on the file would not survive the replacement."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCKED_TIMEOUT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(f"{path}: is being changed by another program; try again") from None
                time.sleep(_POLL_INTERVAL_S)
        yield
    finally:
        os.close(fd)
