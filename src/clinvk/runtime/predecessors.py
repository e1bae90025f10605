"""The end of what a clinvk left that was killed in the same moment as its guardian.

Each clinvk holds the lock of `owners/NUMBER.guard` in its home for as long as it lives. The file says what its guardian
was told: if the lock is free, the next clinvk of the home does what that guardian should have done, even if it is still
at it. All of this blocks.
"""

import fcntl
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from clinvk import locks
from clinvk.runtime import guardian

logger = logging.getLogger(__name__)

_FOLDER = "owners"
_SUFFIX = ".guard"
_TOLD = 4
"""How many words each guardian is told at least."""


class Claim:
    """The lock of one clinvk, by the number of its marks."""

    def __init__(self, home: Path, server: int) -> None:
        self._descriptor: int | None = None
        self._path = home / _FOLDER / f"{server}{_SUFFIX}"

    def take(self, told: Sequence[str]) -> None:
        """End what the dead of this home left, then take the lock; `told` is the guardian's command line.

        A home that cannot be written has no locks: its agents are left to the guardian alone.
        """
        try:
            self._path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            for path in self._path.parent.glob(f"*{_SUFFIX}"):
                _end(path)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            os.write(self._descriptor, "\n".join(told).encode())
        except OSError as exc:
            logger.debug("agents are left to the guardian alone: %s", exc)

    def release(self) -> None:
        """Remove the lock: nothing is left of any agent."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def _end(path: Path) -> None:
    """End what carries the mark of a clinvk, and remove its private files, if it is dead."""
    with suppress(FileNotFoundError, PermissionError, ValueError):  # removed by another clinvk, or not ours
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            told = os.read(file, 1 << 16).decode().split("\n")
            if locks.is_of(file, path) and len(told) >= _TOLD and told[1] == path.stem:
                guardian.prepared(told[0], int(told[1]), told[2], told[3].split(os.pathsep))()
                path.unlink()
        except BlockingIOError:  # it is alive
            return
        finally:
            os.close(file)
