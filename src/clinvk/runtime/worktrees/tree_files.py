"""Files of a directory tree: removed completely, or copied and restored around a change. All functions block."""

import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from clinvk.types.errors import ClinvkError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_PIECE_BYTES = 1024 * 1024


def remove_tree(path: Path) -> None:
    """Remove a folder with its content, read-only folders included; the targets of symbolic links stay.

    `shutil.rmtree` would fail on read-only folders (Go's module cache has some) and on trees deeper than Python's
    recursion limit, and `chmod -R` would follow a link that an agent puts in the place of the folder.

    Raises:
        ClinvkError: something cannot be removed.
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
    """Remove the content of a folder.

    Deeper folders are moved up before they are emptied, so the depth of a tree is limited by neither the length of a
    path, nor the stack, nor the number of open files.
    """
    top = _opened(name, parent)
    try:
        while folders := _folders_left(top):
            for folder in folders:
                inner = _opened(folder, top)
                try:
                    for deeper in _folders_left(inner):
                        os.close(_opened(deeper, inner))  # makes the folder writable: others cannot be moved
                        os.rename(deeper, os.urandom(8).hex(), src_dir_fd=inner, dst_dir_fd=top)
                finally:
                    os.close(inner)
                os.rmdir(folder, dir_fd=top)
    finally:
        os.close(top)


def _folders_left(folder: int) -> list[str]:
    """Remove all files in a folder; return the names of the folders in it."""
    with os.scandir(folder) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in names:
        if not is_folder:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
    return [name for name, is_folder in names if is_folder]


def _opened(name: str, parent: int) -> int:
    """Open a folder and make the folder writable."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        os.chmod(name, stat.S_IRWXU, dir_fd=parent)
        folder = os.open(name, _FOLDER, dir_fd=parent)
    try:
        os.fchmod(folder, stat.S_IRWXU)
    except OSError:
        os.close(folder)
        raise
    return folder


class FileBackup:
    """Copies of files and links in a tree, for restoring the files after a change has failed midway.

    The caller makes the same change first in `after`, a second copy. A file in the tree is restored only if the
    content equals the changed copy or the beginning of the changed copy: all else was written by another program.
    `git apply` cannot undo a partial change, and makes no such comparison.
    """

    def __init__(self, top: str, names: Sequence[bytes], folder: Path) -> None:
        self.after = folder / "after"
        self._before = os.fsencode(folder / "before")
        self._top = os.fsencode(top)
        self._names = names

    def copy(self) -> None:
        """Copy the files, the parent folders, and git attributes there, e.g. for line endings.

        Raises:
            ClinvkError: a file cannot be read, or the disk is full.
        """
        folders = {b""}
        for name in self._names:
            while (name := os.path.dirname(name)) not in folders:
                folders.add(name)
        there = [folder for folder in sorted(folders) if _is_folder(os.path.join(self._top, folder))]
        attributes = [os.path.join(folder, b".gitattributes") for folder in there]
        try:
            for copies in (self._before, os.fsencode(self.after)):
                for folder in there:
                    os.makedirs(os.path.join(copies, folder), exist_ok=True)
                for name in dict.fromkeys([*self._names, *attributes]):
                    _copy(os.path.join(self._top, name), os.path.join(copies, name))
        except OSError as exc:
            raise ClinvkError(f"cannot put the files aside that would be changed: {exc}") from exc

    def restore(self) -> list[str]:
        """Restore files after a failed change.

        Files with unexpected content stay unchanged; return the names of these files.

        Raises:
            OSError: a file cannot be restored.
        """
        foreign: list[str] = []
        missing: list[bytes] = []
        for name in self._names:
            place, before = os.path.join(self._top, name), os.path.join(self._before, name)
            if _is_file(place):
                if _is_same(before, place):
                    continue
                if not _begins(os.path.join(os.fsencode(self.after), name), place):
                    foreign.append(os.fsdecode(name))
                    continue
                os.unlink(place)
            if _is_file(before):
                missing.append(name)
            else:
                self._remove_empty(os.path.dirname(name))
        for name in missing:
            place = os.path.join(self._top, name)
            with suppress(FileExistsError, NotADirectoryError):
                os.makedirs(os.path.dirname(place), exist_ok=True)
            if os.path.lexists(place) or not os.path.isdir(os.path.dirname(place)):
                foreign.append(os.fsdecode(name))
            else:
                _copy(os.path.join(self._before, name), place)
        return foreign

    def _remove_empty(self, folder: bytes) -> None:
        """Remove an empty folder and empty parents, unless the folders existed before."""
        with suppress(OSError):
            while not os.path.isdir(os.path.join(self._before, folder)):
                os.rmdir(os.path.join(self._top, folder))
                folder = os.path.dirname(folder)


def _is_same(file: bytes, place: bytes) -> bool:
    if not _is_file(file):
        return False
    one, other = os.lstat(file), os.lstat(place)
    return (one.st_mode, one.st_size) == (other.st_mode, other.st_size) and _begins(file, place)


def _begins(file: bytes, place: bytes) -> bool:
    """Return whether the content of `file` begins with the content of the file at `place`."""
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
    """Copy a file or a link; for a folder, make an empty folder."""
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
    elif os.path.isfile(source):
        shutil.copy2(source, target)
    elif _is_folder(source):
        os.makedirs(target, exist_ok=True)


def _is_file(path: bytes) -> bool:
    """Return whether a path is a regular file or a symbolic link, broken links included."""
    return os.path.islink(path) or os.path.isfile(path)


def _is_folder(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
