"""Removing a tree of files, whatever was left in it. This blocks."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from clinvk.errors import ClinvkError

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
