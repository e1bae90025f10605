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

    A file with other content by then is moved to `aside` and not overwritten: another program may have written to it.
    """

    def __init__(self, top: str, names: Sequence[bytes], folder: Path) -> None:
        self.folder = folder
        self.aside = folder / "aside"
        self._top = os.fsencode(top)
        self._before = os.fsencode(folder / "before")
        self._names = names

    def copy(self) -> None:
        """Copy the files.

        Raises:
            ClinvkError: a file cannot be read, or the disk is full.
        """
        try:
            for name in self._names:
                source, target = os.path.join(self._top, name), os.path.join(self._before, name)
                if os.path.islink(source) or os.path.isfile(source):
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    if os.path.islink(source):
                        os.symlink(os.readlink(source), target)
                    else:
                        shutil.copy2(source, target)
        except OSError as exc:
            raise ClinvkError(f"cannot put the files aside that would be changed: {exc}") from exc

    def restore(self) -> None:
        """Restore files after a failed change, and remove folders that are empty afterwards.

        Files are moved, not copied, which needs no room on a full disk.

        Raises:
            OSError: a file cannot be restored; the others are.
        """
        failed: list[OSError] = []
        changed = [name for name in self._names if _content(self._top, name) != _content(self._before, name)]
        for source, target in ((self._top, os.fsencode(self.aside)), (self._before, self._top)):
            for name in changed:
                try:
                    _move(os.path.join(source, name), os.path.join(target, name))
                except OSError as exc:
                    failed.append(exc)
        for name in changed:
            with suppress(OSError):
                os.removedirs(os.path.join(self._top, os.path.dirname(name)))
        if failed:
            raise failed[0]


def _content(folder: bytes, name: bytes) -> tuple[int, bytes] | None:
    """Return the mode and the content of a file or a link; None for anything else."""
    path = os.path.join(folder, name)
    mode = os.lstat(path).st_mode if os.path.lexists(path) else 0
    if stat.S_ISLNK(mode):
        return mode, os.readlink(path)
    return (mode, Path(os.fsdecode(path)).read_bytes()) if stat.S_ISREG(mode) else None


def _move(source: bytes, target: bytes) -> None:
    """Move a file, a link or a folder, if there is one."""
    if os.path.lexists(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.lexists(target):
            raise FileExistsError(f"{os.fsdecode(target)} is in the way")
        shutil.move(os.fsdecode(source), os.fsdecode(target))
