"""Change a file on the disk: whole or not at all, one change after another, whichever process makes it."""

import codecs
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from clinvk.types.errors import ConfigError

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


_LOCKED_WITHIN_S = 10.0
_LOOK_AGAIN_S = 0.01
_NEW_FOLDER = 0o700


def change(file: Path, edit: Callable[[str], str], make_folder: bool) -> bool:
    """Replace the text of a file by what `edit` makes of it; one that is missing begins empty. Say if it changed.

    Where it is a symbolic link, what it leads to is changed. The mode and the owner stay; a new file is for its owner
    alone.

    Args:
        file: where it is, or shall be.
        edit: gives the new text, or raises; line ends are as in the file.
        make_folder: its folder is made where it is missing.

    Raises:
        ConfigError: it cannot be read, locked or written; or what `edit` raised.
    """
    file = Path(os.path.realpath(file))
    try:
        if make_folder:
            file.parent.mkdir(_NEW_FOLDER, parents=True, exist_ok=True)
        with _locked(file.parent):
            text, mark = _read(file)
            edited = edit(text)
            if edited != text:
                replace_file(file, mark + edited.encode())
            return edited != text
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be changed: {exc.strerror}") from exc


def preview(file: Path, edit: Callable[[str], str]) -> bool:
    """Say whether `edit` would change a file. Nothing is written.

    Raises:
        ConfigError: it cannot be read; or what `edit` raised.
    """
    try:
        text, _ = _read(file)
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror}") from exc
    return edit(text) != text


def _read(file: Path) -> tuple[str, bytes]:
    """Give the text as it stands, line ends and all, and the mark that some editors put before it."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # what is renamed over /dev/null is the end of /dev/null
            raise ConfigError(f"{file}: is no regular file")
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
    """Lock a folder. The file itself is no place for a lock: it is replaced."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCKED_WITHIN_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(f"{path}: is being changed by another program; try again") from None
                time.sleep(_LOOK_AGAIN_S)
        yield
    finally:
        os.close(fd)
