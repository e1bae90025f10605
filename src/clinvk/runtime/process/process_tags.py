"""Marks that every descendant of an agent carries, whatever it does to hide, and the end of all that carry one.

On Linux the mark is a soft RLIMIT_RTTIME of 18 digits: nine of this clinvk process, nine of the agent
process. Only real-time threads feel that limit. It survives fork, setsid, exec, an emptied environment
and a change of user, and any process of the same user can read it. Elsewhere, and where the limit cannot
be set or read back, the mark is the variable `CLINVK_PROCESS_ID`, together with the process tree; that
does not hold a process that leaves the tree with an emptied environment.
"""

import os
import sys
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

from clinvk.runtime.process import process_scan

MARK_VARIABLE = "CLINVK_PROCESS_ID"
Roots = Mapping[int, int]
"""Agent processes: number to pid, 0 when it has exited."""


class Marks(Protocol):
    """A way to mark agent processes and to find all that came of them. `kind` tells the guardian which."""

    kind: str
    server: int

    def marking(self, number: int) -> AbstractContextManager[None]:
        """A context: what is spawned inside carries the mark of agent process `number`."""
        ...

    def find(self, roots: Roots | None) -> set[int]:
        """Give the pids alive of all that came of the agent processes `roots`; None is all of this clinvk.

        They are to be ended: some kinds stop each as soon as it is found.
        """
        ...

    def look(self) -> Mapping[int, Collection[int]]:
        """Give the pids of all that came of each agent process of this clinvk, by its number. They go on."""
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

    kind = "rlimit"

    def __init__(self, server: int) -> None:
        self.server = server

    def works(self) -> bool:
        """Say whether the limit can be set and read back here."""
        import resource

        try:
            with self.marking(0):
                return resource.prlimit(os.getpid(), process_scan.RTTIME)[0] == process_scan.mark(self.server, 0)
        except (OSError, ValueError):
            return False

    @contextmanager
    def marking(self, number: int) -> Generator[None]:
        """Mark what is spawned inside."""
        import resource

        soft, hard = resource.getrlimit(process_scan.RTTIME)
        resource.setrlimit(process_scan.RTTIME, (process_scan.mark(self.server, number), hard))
        try:
            yield
        finally:
            resource.setrlimit(process_scan.RTTIME, (soft, hard))

    def find(self, roots: Roots | None) -> set[int]:
        """Find all that carry a mark, and the children of those."""
        return process_scan.marked(self.server, roots)

    def look(self) -> Mapping[int, Collection[int]]:
        """Find all that carry a mark."""
        return process_scan.bearers(self.server)

    def alive(self, pids: set[int]) -> set[int]:
        """Look at the state of each."""
        return process_scan.alive(pids)


class TreeMarks:
    """The mark in the environment, and the process tree. Weaker: see the module."""

    kind = "tree"

    def __init__(self, server: int) -> None:
        self.server = server

    @contextmanager
    def marking(self, number: int) -> Generator[None]:
        """The environment carries the mark; nothing to do."""
        yield

    def find(self, roots: Roots | None) -> set[int]:
        """Find all with the variable, the roots, and their descendants; a guardian is left."""
        bearers, guardians = self._bearers()
        found = {*roots.values()} - {0} if roots else set[int]()  # 0 has exited; on macOS all others came of it
        for number, pids in bearers.items():
            found |= pids if roots is None or number in roots else set()
        return self.alive((found | _descendants(found)) - guardians - {os.getpid()})

    def look(self) -> Mapping[int, Collection[int]]:
        """Find all with the variable, and their descendants."""
        bearers, guardians = self._bearers()
        return {number: (pids | _descendants(pids)) - guardians for number, pids in bearers.items()}

    def _bearers(self) -> tuple[dict[int, set[int]], set[int]]:
        """Give all with the variable by their number, and the guardians, of whichever clinvk."""
        import psutil

        found: dict[int, set[int]] = {}
        guardians: set[int] = set()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                server, _, number = process.environ().get(MARK_VARIABLE, "").partition("-")
                if number == str(process_scan.GUARDIAN):
                    guardians.add(process.pid)
                elif server == str(self.server) and number.isdecimal():
                    found.setdefault(int(number), set()).add(process.pid)
        return found, guardians

    def alive(self, pids: set[int]) -> set[int]:
        """Look at the state of each."""
        return {pid for pid in pids if not _is_zombie(pid)}


def label(server: int, number: int) -> str:
    """Give the value of `CLINVK_PROCESS_ID` of an agent process."""
    return f"{server}-{number}"


def kill(marks: Marks, roots: Roots | None) -> None:
    """End all that came of the agent processes `roots`; None is all of this clinvk. Blocks: run it in a thread."""
    process_scan.end(lambda: marks.find(roots), marks.alive)


def kill_tools(
    marks: Marks, number: int, pid: int, variable: tuple[str, str] | None, found: Callable[[], None] | None = None
) -> None:
    """End the tools that came of an agent process, and their children; the process goes on. Blocks.

    Tools are those with a variable in their environment; where there is none to tell them by, those outside the
    session of the process `pid`: CLIs put their tools into sessions of their own, and nothing else. If there are any,
    `found` is called before they end.
    """
    wanted = "=".join(variable or ()).encode()

    def is_tool(other: int) -> bool:
        return wanted in _environment(other).split(b"\0") if wanted else _session(other) not in (0, pid)

    tools = {other for other in marks.look().get(number, ()) if is_tool(other)}
    if tools:
        if found:
            found()
        process_scan.end(lambda: marks.alive(tools | _descendants(tools)), marks.alive)


def resident(marks: Marks, numbers: Collection[int]) -> dict[int, int]:
    """Give the resident bytes of agent processes and of all that came of them, by number. Blocks."""
    found = marks.look()
    return {number: sum(map(_resident, found.get(number, ()))) for number in numbers}


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:  # gone, another user's, or a system without /proc
        return b""


def _session(pid: int) -> int:
    """Give the session of a process; 0 where it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _resident(pid: int) -> int:
    import psutil

    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def _descendants(roots: set[int]) -> set[int]:
    import psutil

    found: set[int] = set()
    for pid in roots:
        with suppress(psutil.Error):
            found.update(child.pid for child in psutil.Process(pid).children(recursive=True))
    return found


def _is_zombie(pid: int) -> bool:
    """Say whether a process is dead, with all its threads, waited for or not."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() < 2
    except psutil.Error:
        return True
