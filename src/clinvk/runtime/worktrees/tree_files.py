"""Files of a directory tree: removed completely, or copied and restored around a change. All functions block."""

import os
import shutil
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from clinvk.types.errors import ClinvkError


def remove_tree(path: Path) -> None:
    """Remove a folder with its content, read-only folders included; the targets of symbolic links stay.

    `rm` takes folders of any depth, for which `shutil.rmtree` and a recursive walk are too deep.

    Raises:
        ClinvkError: something cannot be removed.
    """
    remove = ("rm", "-rf", "--", str(path))
    if _failure(remove) and not path.is_symlink():
        _failure(("chmod", "-R", "u+rwx", "--", str(path)))
        if failure := _failure(remove):
            raise ClinvkError(f"cannot remove {str(path)!r}: {failure}")


def _failure(argv: Sequence[str]) -> str:
    """Run a program and return what it writes to stderr if it fails, or an empty text."""
    try:
        done = subprocess.run(argv, capture_output=True, env={"PATH": os.defpath}, check=False)
    except OSError as exc:
        return f"{argv[0]}: {exc.strerror}"
    lines = done.stderr.decode(errors="replace").splitlines()
    return lines[0] if done.returncode and lines else "failed" if done.returncode else ""


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
            while name := os.path.dirname(name):
                folders.add(name)
        names = dict.fromkeys([*self._names, *(os.path.join(folder, b".gitattributes") for folder in folders)])
        try:
            for copies in (self._before, os.fsencode(self.after)):
                for folder in folders:
                    if os.path.isdir(os.path.join(self._top, folder)):
                        os.makedirs(os.path.join(copies, folder), exist_ok=True)
                for name in names:
                    _copy(os.path.join(self._top, name), os.path.join(copies, name))
        except OSError as exc:
            raise ClinvkError(f"cannot put the files aside that would be changed: {exc}") from exc

    def restore(self) -> list[str]:
        """Restore files after a failed change.

        Files with unexpected content stay unchanged; return the names of these files.

        Raises:
            OSError: a file cannot be restored.
        """
        foreign: list[bytes] = []
        missing: list[bytes] = []
        for name in self._names:
            place, before = os.path.join(self._top, name), os.path.join(self._before, name)
            if found := _content(place):
                if found == _content(before):
                    continue
                after = _content(os.path.join(os.fsencode(self.after), name))
                if after is None or after[0] != found[0] or not after[2].startswith(found[2]):
                    foreign.append(name)
                    continue
                os.unlink(place)
            if _content(before):
                missing.append(name)
            else:
                self._remove_empty(os.path.dirname(name))
        for name in missing:
            place = os.path.join(self._top, name)
            with suppress(FileExistsError, NotADirectoryError):
                os.makedirs(os.path.dirname(place), exist_ok=True)
            if os.path.lexists(place) or not os.path.isdir(os.path.dirname(place)):
                foreign.append(name)
            else:
                _copy(os.path.join(self._before, name), place)
        return [*map(os.fsdecode, foreign)]

    def _remove_empty(self, folder: bytes) -> None:
        """Remove an empty folder and empty parents, unless the folders existed before."""
        with suppress(OSError):
            while not os.path.isdir(os.path.join(self._before, folder)):
                os.rmdir(os.path.join(self._top, folder))
                folder = os.path.dirname(folder)


def _content(path: bytes) -> tuple[int, int, bytes] | None:
    """Return the type, the mode and the content of a file or a link; None for anything else."""
    mode = os.lstat(path).st_mode if os.path.lexists(path) else 0
    if stat.S_ISLNK(mode):
        return stat.S_IFMT(mode), mode, os.readlink(path)
    return (stat.S_IFMT(mode), mode, Path(os.fsdecode(path)).read_bytes()) if stat.S_ISREG(mode) else None


def _copy(source: bytes, target: bytes) -> None:
    """Copy a file or a link; for a folder, make an empty folder."""
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
    elif os.path.isfile(source):
        shutil.copy2(source, target)
    elif os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
