"""The guardian of this clinvk, and the cleanup after a clinvk that was killed together with its guardian.

Each clinvk holds the lock of `owners/NUMBER.guard` in its home until exit. The file contains the arguments of the
guardian. If the lock is free, the next clinvk of the home does the guardian's work, even if the guardian is still
running. The cleanup blocks.

`GuardianProcess` starts the guardian, restarts the guardian after an exit, and dismisses the guardian when no agent is
left.
"""

import asyncio
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
from clinvk.file_locks import FileLock
from clinvk.runtime.process import guardian
from clinvk.runtime.process.orphans import children
from clinvk.runtime.process.process_scan import GUARDIAN
from clinvk.runtime.process.process_tags import TAG_VARIABLE, ProcessTags, RlimitTags, tag_label
from clinvk.runtime.process.resource_limits import ResourceLimits

logger = logging.getLogger(__name__)

_FOLDER = "owners"
_SUFFIX = ".guard"
_MIN_ARGUMENTS = 4
"""Minimum number of arguments of a guardian."""


_RESTART_AFTER_S = 1.0
"""Minimum age of an exited guardian for an immediate restart."""

_LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Environment variables that Python may need to start."""

_TEMPORARY_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_TEMPORARY = ("/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - they are looked at alone
"""Parent directories in which `tempfile` creates private folders unless a variable names another."""


class GuardianProcess:
    """Keeps a guardian running from `start` until `stop` or `trigger`.

    Call `stop` when no agent is left. `trigger` lets the guardian clean up, as the exit of this process also does. All
    calls run on the event loop and take about a millisecond. With a `home`, the lock file of this clinvk is locked, so
    that the next clinvk of the home does the guardian's work if both are killed.
    """

    def __init__(self, tags: ProcessTags, limits: ResourceLimits, home: Path | None = None) -> None:
        self._tags = tags
        self._limits = limits
        self._path = home and home / _FOLDER / f"{tags.server}{_SUFFIX}"
        self._lock: FileLock | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: socket.socket | None = None
        self._started_at = 0.0
        self._restart: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """The guardian's pid; None while no guardian is running."""
        return self._process.pid if self._process else None

    async def take_over(self) -> None:
        """Clean up after dead clinvk processes of this home, then lock; call before `start`.

        In a read-only home no lock is taken, and only the guardian cleans up after the agents.
        """
        if path := self._path:
            try:
                self._lock = await asyncio.to_thread(lambda: _claim(path, _arguments(self._tags, self._limits.cgroup)))
            except OSError as exc:
                logger.debug("agents are left to the guardian alone: %s", exc)

    def start(self) -> None:
        """Start a guardian, and restart the guardian after every exit.

        The guardian is ready once its program is loaded. The guardian runs in a new session and shares no pipe,
        environment or working directory with clinvk.
        """
        self._restart = None
        self._started_at = time.monotonic()
        libraries = {name: value for name in _LIBRARIES if (value := os.environ.get(name))}
        try:
            ours, theirs = socket.socketpair()
            spawning = children.spawning((self._tags.server, GUARDIAN))
            with ours, theirs, spawning as register, self._tags.tagging(GUARDIAN):
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", guardian.__file__, *_arguments(self._tags, self._limits.cgroup)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={**libraries, TAG_VARIABLE: tag_label(self._tags.server, GUARDIAN)},
                    start_new_session=True,
                )
                register(self._process.pid)
                self._watch = socket.socket(fileno=ours.detach())
        except OSError as exc:
            self._start_later(f"no guardian can be started: {exc}")
            return
        asyncio.get_running_loop().add_reader(self._watch, self._on_exit)

    def stop(self) -> None:
        """Kill the guardian without any cleanup, and release the lock."""
        if self._process:
            self._process.kill()
            _wait(self._process)
        self._close()
        if self._lock and self._path:
            self._path.unlink(missing_ok=True)
            self._lock.close()

    def trigger(self) -> None:
        """Let the guardian end the leftover agent processes."""
        if self._process:
            threading.Thread(target=_wait, args=[self._process], daemon=True).start()
        self._close()

    def _on_exit(self) -> None:
        assert self._process
        code = _wait(self._process)
        self._close()
        self._start_later(f"the guardian has ended ({code}); another is started")

    def _start_later(self, reason: str) -> None:
        logger.warning(reason)
        wait_s = max(0.0, self._started_at + _RESTART_AFTER_S - time.monotonic())
        self._restart = asyncio.get_running_loop().call_later(wait_s, self.start)

    def _close(self) -> None:
        if self._restart:
            self._restart.cancel()
        if self._watch:
            asyncio.get_running_loop().remove_reader(self._watch)
            self._watch.close()
        self._process = self._watch = self._restart = None


def _wait(process: "subprocess.Popen[bytes]") -> int:
    code = process.wait()
    children.forget(process.pid)
    return code


def _claim(path: Path, arguments: Sequence[str]) -> FileLock:
    """Clean up after dead clinvk processes, then lock and write the file of this clinvk.

    Raises:
        OSError: the home is read-only.
    """
    path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    for other in path.parent.glob(f"*{_SUFFIX}"):
        try:
            _end(other)
        except OSError as exc:
            logger.warning("the processes that a dead clinvk left are not ended by %s: %s", other, exc)
    while True:  # another clinvk may lock and remove the file while the file is empty
        if lock := file_locks.take(path):
            os.write(lock.file, "\n".join(arguments).encode())
            return lock


def _end(path: Path) -> None:
    """If the owner of the lock file is dead, end its tagged processes and remove its private files."""
    with suppress(FileNotFoundError, PermissionError, ValueError):  # removed by another clinvk, or not ours
        if lock := file_locks.take(path, flags=os.O_RDWR):  # otherwise the clinvk is alive; dropping it unlocks
            arguments = os.read(lock.file, 1 << 16).decode().split("\n")
            if len(arguments) >= _MIN_ARGUMENTS and arguments[1] == path.stem:
                guardian.prepare_cleanup(
                    arguments[0], int(arguments[1]), arguments[2], arguments[3].split(os.pathsep)
                )()
                path.unlink()
            elif len(arguments) < _MIN_ARGUMENTS:  # the clinvk was killed before writing, so no agent was started
                path.unlink()


def _arguments(tags: ProcessTags, cgroup: str) -> tuple[str, ...]:
    """Return the command-line arguments of a guardian."""
    # `tempfile` would test each parent directory of private folders by writing a file.
    places = (*map(os.environ.get, _TEMPORARY_VARIABLES), *_TEMPORARY)
    temporary = os.pathsep.join(dict.fromkeys(os.path.abspath(place) for place in places if place))
    arguments = (tags.kind, str(tags.server), cgroup, temporary)
    if isinstance(tags, RlimitTags):
        return arguments
    import psutil  # the search of a guardian needs no other third-party module

    return *arguments, os.path.dirname(os.path.dirname(psutil.__file__))
