"""Orphans of agents, which this process adopts: they stay its descendants, are found by parentage, and are reaped.

Linux makes each orphan below a "child subreaper" a child of the latter, however the orphan hides
(https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html).
"""

import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from math import inf

from clinvk.runtime.process import process_scan
from clinvk.runtime.process.process_scan import GUARDIAN, OWNER, RTTIME, Tag

_SET_CHILD_SUBREAPER = 36
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Children:
    """The children of this process: tagged agents, orphans, and other children."""

    def __init__(self) -> None:
        self._spawned: dict[int, Tag] = {}
        self._spawning = threading.Lock()
        self._agents: dict[Tag, float] = {}
        self._adopters = 0
        self._own_tag: Tag | None = None
        self._limits = (0, 0)
        self._may_end_untagged = False

    @property
    def has_agents(self) -> bool:
        """Whether agents are running or are being ended."""
        return bool(self._agents)

    @contextmanager
    def spawning(self, tag: Tag) -> Generator[Callable[[int], None]]:
        """Yield a function that registers a child spawned inside the context; only its spawner waits for the child.

        Until `ended`, orphans that the child may have left are not taken for those of other agents.
        """
        with self._spawning:
            if tag[1] != GUARDIAN:
                self._agents[tag] = time.clock_gettime(_CLOCK)
            try:
                yield lambda pid: self._spawned.update({pid: tag})
            except BaseException:
                self.ended([tag])
                raise

    @contextmanager
    def untagged(self) -> Generator[None]:
        """Let another thread than the spawner's start a process inside the context, which is no process of an agent.

        During a spawn all of this process carries the tag of an agent, which a process that starts then would keep.
        """
        with self._spawning:
            yield

    def forget(self, pid: int) -> None:
        """Forget a registered child that has been waited for."""
        self._spawned.pop(pid, None)

    def ended(self, tags: Iterable[Tag]) -> None:
        """Record the end of agents and all their descendants."""
        for tag in tags:
            self._agents.pop(tag, None)

    @contextmanager
    def adopting(self, server: int) -> Generator[None]:
        """Adopt orphans inside the context, with a tag by which every clinvk recognises descendants of this process.

        A clinvk that an agent has started keeps the tag of that agent.
        """
        if not self._adopters:
            self._begin(server)
        self._adopters += 1
        try:
            yield
        finally:
            self._adopters -= 1
            if not self._adopters:
                _be_subreaper(False)
                resource.setrlimit(RTTIME, self._limits)

    def _begin(self, server: int) -> None:
        others = process_scan.child_pids() - self._spawned.keys()
        # Init, and a process with children of its own, also adopts orphans that no agent has left.
        self._may_end_untagged = os.getpid() != 1 and not others
        self._spawned.update(dict.fromkeys(others, (server, OWNER)))
        self._limits = resource.getrlimit(RTTIME)
        if process_scan.tag_of(os.getpid()) is None:
            resource.setrlimit(RTTIME, (process_scan.tag_value(server, OWNER), self._limits[1]))
        self._own_tag = process_scan.tag_of(os.getpid())
        _be_subreaper(True)

    def stop(self, tags: set[Tag]) -> set[int]:
        """Stop the children that belong to the agents with `tags`: agents and orphans. Return their pids.

        An orphan without the tag of an agent belongs to the agents if it is older than all others. The search repeats
        until it finds no orphan that is new or has exited: an orphan that forks and exits leaves a child to be found.
        """
        stopped: set[int] = set()
        is_done = not self._adopters
        while not is_done:
            is_done = True
            for pid, tag, is_spawned in self._listed():
                is_ours = tag in tags or (not is_spawned and self._is_left(pid, tag, tags))
                if is_ours and process_scan.send(pid, signal.SIGSTOP):
                    is_done &= pid in stopped
                    stopped.add(pid)
                if not is_spawned and _reap(pid) and pid in stopped:
                    is_done = False
                    stopped.remove(pid)
        return stopped

    def reap(self) -> None:
        """Reap the orphans that have exited."""
        with suppress(OSError):  # no file descriptor is left
            for pid, _, is_spawned in self._listed():
                if not is_spawned:
                    _reap(pid)

    def _listed(self) -> Iterator[tuple[int, Tag | None, bool]]:
        """Yield pid and tag of spawned children and orphans, newest first, and whether this process has spawned it."""
        with self._spawning:
            spawned = self._spawned.copy()
            pids = process_scan.child_pids()
        for pid in sorted(pids, reverse=True):
            with suppress(ProcessLookupError):  # a spawned child that has been waited for meanwhile
                tag = spawned.get(pid) or process_scan.tag_of(pid)
                if tag != self._own_tag:  # other children inherit the tag of this process
                    yield pid, tag, pid in spawned

    def _is_left(self, pid: int, tag: Tag | None, tags: set[Tag]) -> bool:
        """Return whether only agents with `tags`, or agents that have ended, can have left an orphan."""
        if tag in self._agents or (tag[1] == GUARDIAN if tag else not self._may_end_untagged):
            return False
        oldest = min((at for other, at in [*self._agents.items()] if other not in tags), default=inf)
        return _started_at(pid) + _TICK_S < oldest


children = Children()
"""The kernel has one list of children for this process, and so has clinvk."""


def _be_subreaper(value: bool) -> None:
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, int(value), 0, 0, 0)


def _reap(pid: int) -> bool:
    """Return whether an orphan had exited, and is gone now."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # reaped by another thread
        return True


def _started_at(pid: int) -> float:
    """Return when a process was started, in seconds since boot, rounded down to a tick; infinity if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b") ")[2].split()[19]) * _TICK_S
    except (FileNotFoundError, ProcessLookupError):
        return inf
