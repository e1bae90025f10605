"""Tags that every descendant of an agent carries however a process tries to hide, and the end of tagged processes.

On Linux the tag is a soft RLIMIT_RTTIME of 18 digits: nine for the clinvk process, nine for the agent process. The
limit affects only real-time threads. The tag survives fork, setsid, exec, an emptied environment and a change of user,
and every process of the same user can read the tag. A process that removes the tag is found by its parents
(`orphans.py`). On other systems, and if the limit cannot be set or read back, the tag is the variable
`CLINVK_PROCESS_ID` together with the process tree. A process that leaves the tree with an emptied environment escapes
the weaker tag.
"""

import os
import resource
import sys
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from clinvk.policy.rules import nesting_depth
from clinvk.runtime.process import process_scan
from clinvk.runtime.process.orphans import children
from clinvk.types.errors import AgentCannotAnswer

if TYPE_CHECKING:
    import psutil

TAG_VARIABLE = "CLINVK_PROCESS_ID"
RootPids = Mapping[int, int]
"""Agent processes: number to pid, 0 after the exit."""


def choose_tags() -> "ProcessTags":
    """Return the strongest tags available on the machine, for the current clinvk process."""
    server = 10**8 + int.from_bytes(os.urandom(4)) % (9 * 10**8)
    rlimit = RlimitTags(server)
    return rlimit if sys.platform == "linux" and rlimit.works() else TreeTags(server)


class RlimitTags(NamedTuple):
    """Tags in a resource limit. All spawning happens on one thread, which carries the tag during the spawn.

    `kind` names the kind of tags for the guardian.
    """

    server: int
    kind: Literal["rlimit"] = "rlimit"

    def works(self) -> bool:
        """Return whether the limit can be set and read back on this machine."""
        try:
            with self.tagging(0):
                return resource.prlimit(os.getpid(), process_scan.RTTIME)[0] == process_scan.tag_value(self.server, 0)
        except (OSError, ValueError):
            return False

    @contextmanager
    def tagging(self, number: int) -> Generator[None]:
        """Tag processes spawned inside the context."""
        soft, hard = resource.getrlimit(process_scan.RTTIME)
        resource.setrlimit(process_scan.RTTIME, (process_scan.tag_value(self.server, number), hard))
        try:
            yield
        finally:
            resource.setrlimit(process_scan.RTTIME, (soft, hard))

    def adopting(self) -> AbstractContextManager[None]:
        """Adopt the orphans of agents inside the context."""
        return children.adopting(self.server)

    def find(self, roots: RootPids | None) -> set[int]:
        """Return the live pids of the agent processes `roots` and their descendants; None: every agent.

        The caller must end the processes: the search stops each process as soon as its tag is read.
        """
        tags = {(self.server, number) for number in roots or ()}
        return process_scan.stop_tagged(self.server, roots, lambda: children.stop(tags))

    def pids_by_number(self) -> Mapping[int, Collection[int]]:
        """Return the pids of each agent process and its descendants, by process number, without stopping any."""
        return process_scan.tag_bearers(self.server)


class TreeTags(NamedTuple):
    """Tags in the environment and the process tree; weaker, as the module docstring explains."""

    server: int
    kind: Literal["tree"] = "tree"

    @contextmanager
    def tagging(self, number: int) -> Generator[None]:
        """Do nothing: the environment carries the tag."""
        yield

    def adopting(self) -> AbstractContextManager[None]:
        """Adopt nothing: without tags in limits, this process could not be recognised as the parent of orphans."""
        return nullcontext()

    def find(self, roots: RootPids | None) -> set[int]:
        """Return the live pids of `roots`, of all processes with their variable, and of the descendants of both.

        Guardians are spared. With None, find every agent.
        """
        bearers, guardians = self._bearers()
        found = {*roots.values()} - {0} if roots else set[int]()  # 0 has exited; on macOS all descend from 0
        for number, pids in bearers.items():
            found |= pids if roots is None or number in roots else set()
        return process_scan.alive((found | process_scan.descendants(found)) - guardians - {os.getpid()})

    def pids_by_number(self) -> Mapping[int, Collection[int]]:
        """Find all processes with the variable, and their descendants."""
        bearers, guardians = self._bearers()
        return {number: (pids | process_scan.descendants(pids)) - guardians for number, pids in bearers.items()}

    def _bearers(self) -> tuple[dict[int, set[int]], set[int]]:
        """Return the pids with the variable by process number, and the guardians of every clinvk."""
        import psutil

        found: dict[int, set[int]] = {}
        guardians: set[int] = set()
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                server, _, number = process.environ().get(TAG_VARIABLE, "").partition("-")
                if number == str(process_scan.GUARDIAN):
                    guardians.add(process.pid)
                elif server == str(self.server) and number.isdecimal():
                    found.setdefault(int(number), set()).add(process.pid)
        return found, guardians


ProcessTags = RlimitTags | TreeTags


def tag_label(server: int, number: int) -> str:
    """Return the value of `CLINVK_PROCESS_ID` for an agent process."""
    return f"{server}-{number}"


def refuse_agent(pid: int) -> None:
    """Refuse the process `pid` as the sender of an answer if it may descend from an agent, or has exited. Blocks.

    Raises:
        AgentCannotAnswer: the answer may come from an agent, or from a program that an agent has started.
    """
    if descends_from_agent(pid):
        raise AgentCannotAnswer("an agent has sent this answer; only a person may answer what an agent asks")


def descends_from_agent(pid: int) -> bool:
    """Return whether a process may descend from an agent of any clinvk, by either tag; True if it has exited."""
    import psutil

    if process_scan.is_tagged(pid):
        return True
    try:
        process = psutil.Process(pid)
        return any(map(_has_tag_variable, (process, *process.parents())))
    except psutil.Error:
        return True


def nesting_of(pid: int) -> int:
    """Return the number of nested agents around a process: that of the process or of its next parent which has one."""
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.parents()):
            with suppress(psutil.AccessDenied):  # another user's
                if depth := nesting_depth(each.environ()):
                    return depth
    return int(process_scan.is_tagged(pid))


def _has_tag_variable(process: "psutil.Process") -> bool:
    import psutil

    try:
        return TAG_VARIABLE in process.environ()
    except psutil.AccessDenied:  # another user's
        return False


def kill_tools(
    tags: ProcessTags,
    number: int,
    pid: int,
    variable: tuple[str, str] | None,
    on_found: Callable[[], None] | None = None,
) -> None:
    """End the tools of an agent process and their descendants; the process keeps running. Blocks.

    Tools are the processes with the variable in their environment. Without a variable, tools are the processes outside
    the session of the process `pid`: CLIs start tools, and only tools, in separate sessions. If tools exist, `on_found`
    is called before the tools end.
    """
    variable_bytes = "=".join(variable or ()).encode()

    def is_tool(other: int) -> bool:
        return variable_bytes in _environment(other).split(b"\0") if variable_bytes else _session(other) not in (0, pid)

    tools = {other for other in tags.pids_by_number().get(number, ()) if is_tool(other)}
    if tools:
        if on_found:
            on_found()
        process_scan.kill_tagged(lambda: process_scan.alive(tools | process_scan.descendants(tools)))


def resident_bytes(tags: ProcessTags, numbers: Collection[int]) -> dict[int, int]:
    """Return the resident bytes of each agent process including all descendants, by number. Blocks."""
    found = tags.pids_by_number()
    return {number: sum(map(_resident, found.get(number, ()))) for number in numbers}


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:  # exited, another user's, or a system without /proc
        return b""


def _session(pid: int) -> int:
    """Return the session of a process; 0 if the process has exited."""
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
