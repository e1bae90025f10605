"""The end of what a clinvk left that was killed in the same moment as its guardian.

Each clinvk holds the lock of `owners/NUMBER.guard` in its home for as long as it lives. The file says what its guardian
was told: if the lock is free, the next clinvk of the home does what that guardian should have done, even if it is still
at it. All of this blocks.

The guardian of this clinvk: started, watched, and sent away when nothing is left to be ended.
"""

import asyncio
import fcntl
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from clinvk import file_locks
from clinvk.runtime.process import guardian
from clinvk.runtime.process.process_scan import GUARDIAN
from clinvk.runtime.process.process_tags import MARK_VARIABLE, Marks, RlimitMarks, label
from clinvk.runtime.process.resource_limits import Bounds

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
                try:
                    _end(path)
                except OSError as exc:
                    logger.warning("what a dead clinvk left is not ended by %s: %s", path, exc)
            while self._descriptor is None or not file_locks.is_of(self._descriptor, self._path):
                self._close()  # another clinvk removed the file, which was still empty
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            os.write(self._descriptor, "\n".join(told).encode())
        except OSError as exc:
            logger.debug("agents are left to the guardian alone: %s", exc)

    def release(self) -> None:
        """Remove the lock: nothing is left of any agent."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _end(path: Path) -> None:
    """End what carries the mark of a clinvk, and remove its private files, if it is dead."""
    with suppress(FileNotFoundError, PermissionError, ValueError):  # removed by another clinvk, or not ours
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            told = os.read(file, 1 << 16).decode().split("\n")
            if not file_locks.is_of(file, path):
                return
            if len(told) >= _TOLD and told[1] == path.stem:
                guardian.prepared(told[0], int(told[1]), told[2], told[3].split(os.pathsep))()
                path.unlink()
            elif len(told) < _TOLD:  # its clinvk was killed before it had written anything, and had no agent
                path.unlink()
        except BlockingIOError:  # it is alive
            return
        finally:
            os.close(file)


_AGAIN_AFTER_S = 1.0
"""How old a guardian has to be for the next one to be started as soon as it is gone."""

_LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""What Python needs of the environment to start."""

_TEMPORARY_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_TEMPORARY = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - they are looked at alone
"""Where `tempfile` makes private folders: what the variables say, or else here."""


class Guard:
    """Sees to it that there is a guardian from `start` on.

    Then either `dismiss`, when nothing is left of any agent, or `alarm`, which is what the end of this process does by
    itself. All are done on the loop, and take it a millisecond at most.
    """

    def __init__(self, marks: Marks, bounds: Bounds, claim: Claim | None = None) -> None:
        self._marks = marks
        self._bounds = bounds
        self._claim = claim
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: socket.socket | None = None
        self._started_at = 0.0
        self._again: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """The guardian's pid; None while there is none."""
        return self._process.pid if self._process else None

    async def take_over(self) -> None:
        """End what the dead of this home left, before `start`."""
        if claim := self._claim:
            await asyncio.to_thread(lambda: claim.take(_told(self._marks, self._bounds.cgroup)))

    def start(self) -> None:
        """Start a guardian, and another whenever it is gone. It is at work when it has read its program."""
        self._again = None
        self._started_at = time.monotonic()
        try:
            self._process, self._watch = _spawn(self._marks, self._bounds.cgroup)
        except OSError as exc:
            self._lacks(f"no guardian can be started: {exc}")
            return
        asyncio.get_running_loop().add_reader(self._watch, self._gone)

    def dismiss(self) -> None:
        """Send the guardian away; it looks at nothing any more."""
        if self._process:
            self._process.kill()
            self._process.wait()
        self._close()
        if self._claim:
            self._claim.release()

    def alarm(self) -> None:
        """Let the guardian end what is left."""
        if self._process:
            threading.Thread(target=self._process.wait, daemon=True).start()
        self._close()

    def _gone(self) -> None:
        assert self._process
        code = self._process.wait()
        self._close()
        self._lacks(f"the guardian has ended ({code}); another is started")

    def _lacks(self, why: str) -> None:
        logger.warning(why)
        wait_s = max(0.0, self._started_at + _AGAIN_AFTER_S - time.monotonic())
        self._again = asyncio.get_running_loop().call_later(wait_s, self.start)

    def _close(self) -> None:
        if self._again:
            self._again.cancel()
        if self._watch:
            asyncio.get_running_loop().remove_reader(self._watch)
            self._watch.close()
        self._process = self._watch = self._again = None


def _spawn(marks: Marks, cgroup: str) -> "tuple[subprocess.Popen[bytes], socket.socket]":
    """Start a guardian, and give the socket to hold as long as there is nothing for it to do.

    Its session is its own, and none of clinvk's pipes, environment and directories is.
    """
    libraries = {name: value for name in _LIBRARIES if (value := os.environ.get(name))}
    ours, theirs = socket.socketpair()
    try:
        with theirs, marks.marking(GUARDIAN):
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, *_told(marks, cgroup)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**libraries, MARK_VARIABLE: label(marks.server, GUARDIAN)},
                start_new_session=True,
            )
    except OSError:
        ours.close()
        raise
    return process, ours


def _told(marks: Marks, cgroup: str) -> tuple[str, ...]:
    """Return the command line of a guardian."""
    return marks.kind, str(marks.server), cgroup, _temporary(), *_folders(marks)


def _temporary() -> str:
    """Say where private folders may be. `tempfile` itself would look whether it can write there."""
    places = (*map(os.environ.get, _TEMPORARY_VARIABLES), *_TEMPORARY)
    return os.pathsep.join(dict.fromkeys(os.path.abspath(place) for place in places if place))


def _folders(marks: Marks) -> list[str]:
    """Say where the modules are that a search needs besides Python's own."""
    if marks.kind == RlimitMarks.kind:
        return []
    import psutil

    return [os.path.dirname(os.path.dirname(psutil.__file__))]
