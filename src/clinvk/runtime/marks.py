"""Marks that every descendant of an agent carries, whatever it does to hide, and the end of all that carry one.

On Linux the mark is a soft RLIMIT_RTTIME of 18 digits: nine of this clinvk process, nine of the agent
process. Only real-time threads feel that limit. It survives fork, setsid, exec, an emptied environment
and a change of user, and any process of the same user can read it. Elsewhere, and where the limit cannot
be set or read back, the mark is the variable `CLINVK_PROCESS_ID`, together with the process tree; that
does not hold a process that leaves the tree with an emptied environment.
"""

import os
import signal
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

MARK_VARIABLE = "CLINVK_PROCESS_ID"
_RTTIME = 15  # RLIMIT_RTTIME, which the resource module has no name for
_STEP = 10**9
_GONE_WITHIN_S = 5.0


class Marks(Protocol):
    """A way to mark agent processes and to find all that came of them."""

    server: int

    def marking(self, number: int) -> AbstractContextManager[None]:
        """A context: what is spawned inside carries the mark of agent process `number`."""
        ...

    def find(self, roots: Mapping[int, int]) -> set[int]:
        """Give the pids alive of all that came of the agent processes `roots`: number to pid, 0 when it has exited."""
        ...

    def alive(self, pids: set[int]) -> set[int]:
        """Give those of the processes that are still there, zombies apart."""
        ...


def choose() -> Marks:
    """Give the marks that work on this machine, for this clinvk process."""
    server = 10**8 + int.from_bytes(os.urandom(4)) % (9 * 10**8)
    rlimit = RlimitMarks(server)
    return rlimit if sys.platform == "linux" and rlimit.works() else TreeMarks(server)


class RlimitMarks:
    """The mark in a resource limit. All spawning happens on one thread, which has the mark for that moment."""

    def __init__(self, server: int) -> None:
        self.server = server

    def works(self) -> bool:
        """Say whether the limit can be set and read back here."""
        import resource

        try:
            with self.marking(0):
                return resource.prlimit(os.getpid(), _RTTIME)[0] == self._mark(0)
        except (OSError, ValueError):
            return False

    @contextmanager
    def marking(self, number: int) -> Generator[None]:
        """Mark what is spawned inside."""
        import resource

        soft, hard = resource.getrlimit(_RTTIME)
        resource.setrlimit(_RTTIME, (self._mark(number), hard))
        try:
            yield
        finally:
            resource.setrlimit(_RTTIME, (soft, hard))

    def find(self, roots: Mapping[int, int]) -> set[int]:
        """Find all that carry a mark, and the children of those: a clinvk among them marks its own agents anew."""
        import resource

        marks = {self._mark(number) for number in roots}
        found: set[int] = set()
        for pid in _pids():
            with suppress(OSError, ValueError):
                if resource.prlimit(pid, _RTTIME)[0] in marks:
                    found.add(pid)
        found.discard(os.getpid())
        return self.alive(found | _descendants(found)) if found else found

    def alive(self, pids: set[int]) -> set[int]:
        """Look at the state of each."""
        return {pid for pid in pids if (stat := _stat(pid)) and stat[0] not in "ZX"}

    def _mark(self, number: int) -> int:
        return self.server * _STEP + number % _STEP


class TreeMarks:
    """The mark in the environment, and the process tree. Weaker: see the module."""

    def __init__(self, server: int) -> None:
        self.server = server

    @contextmanager
    def marking(self, number: int) -> Generator[None]:
        """The environment carries the mark; nothing to do."""
        yield

    def find(self, roots: Mapping[int, int]) -> set[int]:
        """Find all with the variable, the roots, and their descendants."""
        import psutil

        wanted = {label(self.server, number) for number in roots}
        found: set[int] = set()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid in roots.values() or process.environ().get(MARK_VARIABLE) in wanted:
                    found.update((process.pid, *(child.pid for child in process.children(recursive=True))))
        found.discard(os.getpid())
        return self.alive(found)

    def alive(self, pids: set[int]) -> set[int]:
        """Look at the state of each."""
        return {pid for pid in pids if not _is_zombie(pid)}


def label(server: int, number: int) -> str:
    """Give the value of `CLINVK_PROCESS_ID` of an agent process."""
    return f"{server}-{number}"


def kill(marks: Marks, roots: Mapping[int, int]) -> None:
    """End all that came of the agent processes `roots`. Blocks: run it in a thread.

    Each is stopped before any is killed, since a stopped process cannot fork, and the search is
    repeated until it finds nothing new; then all are killed, and waited for. What became another user's cannot be
    ended, and is left.
    """
    stopped: set[int] = set()
    untouchable: set[int] = set()
    deadline = time.monotonic() + _GONE_WITHIN_S
    while found := (marks.find(roots) | marks.alive(stopped)) - untouchable:
        fresh = found - stopped
        stopped |= fresh
        untouchable |= {pid for pid in fresh if not _send(pid, signal.SIGSTOP)}
        if not fresh:
            for pid in found:
                _send(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)


def _send(pid: int, number: int) -> bool:
    """Send a signal; say whether we may."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        return False
    return True


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> tuple[str, int] | None:
    """Give state and parent of a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[1])


def _descendants(roots: set[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid in _pids():
        if stat := _stat(pid):
            children.setdefault(stat[1], []).append(pid)
    found: set[int] = set()
    pending = list(roots)
    while pending:
        fresh = [child for child in children.get(pending.pop(), []) if child not in found]
        found.update(fresh)
        pending += fresh
    return found


def _is_zombie(pid: int) -> bool:
    """Say whether a process is dead, waited for or not."""
    import psutil

    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True
