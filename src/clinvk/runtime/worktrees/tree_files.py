"""Files of a tree: removed whole, or put aside while they are changed and put back on failure. All of this blocks."""

import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from clinvk.types.errors import ClinvkError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it, also what is in folders that must not be written to; what links lead to stays.

    Raises:
        ClinvkError: something in it cannot be removed.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if stat.S_ISDIR(os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode):
                _empty(path.name, parent)
                os.rmdir(path.name, dir_fd=parent)
            else:
                os.unlink(path.name, dir_fd=parent)
        finally:
            os.close(parent)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise ClinvkError(f"cannot remove {exc.filename!r} of {str(path)!r}: {exc.strerror}") from exc


def _empty(name: str, parent: int) -> None:
    """Remove all that is in a folder.

    Folders deeper down are moved up into it before they are emptied: so no tree is too deep for a path, for the stack
    or for the number of files that may be open.
    """
    top = _opened(name, parent)
    try:
        while folders := _folders_left(top):
            for folder in folders:
                inner = _opened(folder, top)
                try:
                    for deeper in _folders_left(inner):
                        _move(deeper, inner, top)
                finally:
                    os.close(inner)
                os.rmdir(folder, dir_fd=top)
    finally:
        os.close(top)


def _folders_left(folder: int) -> list[str]:
    """Remove all from a folder but the folders in it; give those."""
    with os.scandir(folder) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in names:
        if not is_folder:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
    return [name for name, is_folder in names if is_folder]


def _opened(name: str, parent: int) -> int:
    """Open a folder, and let its owner do all in it: those of Go's modules, for one, are read-only."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        os.chmod(name, stat.S_IRWXU, dir_fd=parent)
        folder = os.open(name, _FOLDER, dir_fd=parent)
    try:
        if os.fstat(folder).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.fchmod(folder, stat.S_IRWXU)
    except OSError:
        os.close(folder)
        raise
    return folder


def _move(name: str, source: int, target: int) -> None:
    os.close(_opened(name, source))  # only what may be written to can be moved
    os.rename(name, os.urandom(8).hex(), src_dir_fd=source, dst_dir_fd=target)


_PIECE_BYTES = 1024 * 1024


class Saved:
    """What was at some places of a tree: files and links; where there was nothing, that is known too.

    `tried` is a folder with the same files, for whoever wants to see first what the change makes of them: only what
    is as it is there, or a beginning of that, is put back. Both are in folders that are made in `folder`.
    """

    def __init__(self, top: str, names: Sequence[bytes], folder: Path) -> None:
        self.tried = folder / "tried"
        self._saved = folder / "saved"
        self._top = os.fsencode(top)
        self._names = names
        self._aside: dict[bytes, bytes | None] = {}
        self._folders: set[bytes] = set()

    def put_aside(self) -> None:
        """Put the files aside.

        Raises:
            ClinvkError: one cannot be read, or there is no room.
        """
        around = _folders(self._names)
        self._folders = {name for name in around if os.path.isdir(os.path.join(self._top, name))}
        try:
            self._saved.mkdir()
            self.tried.mkdir()
            for number, name in enumerate(self._names):
                place = os.path.join(self._top, name)
                aside = os.fsencode(self._saved / str(number))
                self._aside[name] = aside if _is_file(place) else None
                if self._aside[name]:
                    _copy(place, aside)
                self._try(place, name)
            for name in [os.path.join(inner, b".gitattributes") for inner in around]:
                if _is_file(os.path.join(self._top, name)) and not os.path.lexists(self._tried(name)):
                    self._try(os.path.join(self._top, name), name)
        except OSError as exc:
            raise ClinvkError(f"cannot put the files aside that would be changed: {exc}") from exc

    def restore(self) -> list[str]:
        """Put back what is missing, and what is as it was tried or a beginning of that.

        Gives the names of the rest, which somebody else wrote to: they stay.

        Raises:
            OSError: that cannot be.
        """
        foreign: list[str] = []
        missing: dict[bytes, bytes] = {}
        for name, aside in self._aside.items():
            place = os.path.join(self._top, name)
            if _is_file(place):
                if aside and _is_same(aside, place):
                    continue
                if not _begins(self._tried(name), place):
                    foreign.append(os.fsdecode(name))
                    continue
                os.unlink(place)
            if aside:
                missing[name] = aside
            else:
                self._remove_empty(os.path.dirname(name))
        for name, aside in missing.items():
            place = os.path.join(self._top, name)
            with suppress(FileExistsError, NotADirectoryError):
                os.makedirs(os.path.dirname(place), exist_ok=True)
            if os.path.lexists(place) or not os.path.isdir(os.path.dirname(place)):
                foreign.append(os.fsdecode(name))
            else:
                _copy(aside, place)
        return foreign

    def _tried(self, name: bytes) -> bytes:
        return os.path.join(os.fsencode(self.tried), name)

    def _try(self, place: bytes, name: bytes) -> None:
        target = self._tried(name)
        if _is_file(place):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            _copy(place, target)
        elif os.path.isdir(place):
            os.makedirs(target, exist_ok=True)

    def _remove_empty(self, folder: bytes) -> None:
        """Remove a folder and those around it, if nothing is in them; such as were there before stay."""
        with suppress(OSError):
            while folder and folder not in self._folders:
                os.rmdir(os.path.join(self._top, folder))
                folder = os.path.dirname(folder)


def _folders(names: Sequence[bytes]) -> set[bytes]:
    """Give the folders around some files, the top as an empty name: attributes, e.g. of line ends, may stand there."""
    folders: set[bytes] = set()
    for name in names:
        while (name := os.path.dirname(name)) not in folders:
            folders.add(name)
    return folders


def _is_same(file: bytes, place: bytes) -> bool:
    one, other = os.lstat(file), os.lstat(place)
    return (one.st_mode, one.st_size) == (other.st_mode, other.st_size) and _begins(file, place)


def _begins(file: bytes, place: bytes) -> bool:
    """Say whether what is at a place is the beginning of a file, or all of it."""
    if not _is_file(file) or os.path.islink(file) != os.path.islink(place):
        return False
    if os.path.islink(file):
        return os.readlink(file) == os.readlink(place)
    with open(file, "rb") as one, open(place, "rb") as other:
        while piece := other.read(_PIECE_BYTES):
            if one.read(len(piece)) != piece:
                return False
        return True


def _copy(source: bytes, target: bytes) -> None:
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
    else:
        shutil.copy2(source, target)


def _is_file(path: bytes) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)
