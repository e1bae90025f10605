"""Files put aside while they are changed, and put back where that failed midway. All of this blocks."""

import os
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from clinvk.errors import ClinvkError


class Saved:
    """What was at some places of a tree: files and links; where there was nothing, that is known too."""

    def __init__(self, top: str, names: Sequence[bytes], folder: Path) -> None:
        """Put the files aside, into a folder that is made for them.

        Raises:
            ClinvkError: one cannot be read, or there is no room.
        """
        self._top = os.fsencode(top)
        self._aside: dict[bytes, bytes | None] = {}
        try:
            folder.mkdir()
            for number, name in enumerate(names):
                place = os.path.join(self._top, name)
                aside = os.fsencode(folder / str(number))
                self._aside[name] = aside if _is_file(place) else None
                if self._aside[name]:
                    _copy(place, aside)
        except OSError as exc:
            raise ClinvkError(f"cannot put the files aside that would be changed: {exc}") from exc

    def restore(self) -> None:
        """Put all back.

        Raises:
            OSError: that cannot be.
        """
        for name, aside in self._aside.items():
            place = os.path.join(self._top, name)
            if _is_file(place):
                os.unlink(place)
            if not aside:
                self._remove_empty(os.path.dirname(name))
        for name, aside in self._aside.items():
            if aside:
                place = os.path.join(self._top, name)
                os.makedirs(os.path.dirname(place), exist_ok=True)
                _copy(aside, place)

    def _remove_empty(self, folder: bytes) -> None:
        with suppress(OSError):
            while folder:
                os.rmdir(os.path.join(self._top, folder))
                folder = os.path.dirname(folder)


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
