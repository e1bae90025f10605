"""The processes of a cluster as another process knows them by their announcements."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Literal

from clinvk.cluster.messages import PROTOCOL, Announcement

logger = logging.getLogger(__name__)

ANNOUNCE_INTERVAL_S = 1.0
LOST_AFTER_S = 4.0
CHECK_INTERVAL_S = 0.5
_MAX_DELAY_S = 1.0
"""A later check counts no process as silent, because this process itself was stopped or busy."""

MAX_OUTAGE_S = 30.0
"""How long streams wait for a broker that is away."""


class Member:
    """A process of the cluster. `assigned` counts the runs that this process sent since the last announcement."""

    def __init__(self, announcement: Announcement, at: float) -> None:
        self.announcement = announcement
        self.seen_at = at
        self.assigned = 0

    @property
    def load(self) -> float:
        """The share of the slots that are in use, above 1 if runs wait."""
        announcement = self.announcement
        return (announcement.running + announcement.queued + self.assigned) / max(1, announcement.max_runs)


class Members:
    """The processes that announce themselves, by id. A node with another `store` gets no requests.

    An empty `store` is unknown: then the stores of nodes are not compared.

    `on_lost` is called with the id of a process that has not announced itself for `LOST_AFTER_S`, or has left;
    `on_interrupted` with the id of a process that has lost its connection to the broker and is back.
    """

    def __init__(self, store: str = "", now: Callable[[], float] = time.monotonic) -> None:
        self.store = store
        self.on_lost: list[Callable[[str], None]] = []
        self.on_interrupted: list[Callable[[str], None]] = []
        self._now = now
        self._members: dict[str, Member] = {}
        self._checked_at = self._connected_at = now()

    def note(self, announcement: Announcement) -> bool:
        """Record an announcement, and return whether the process is new."""
        known = self._members.get(announcement.process)
        if announcement.state == "left":
            self._leave(announcement.process)
            return False
        if known is None:
            self._members[announcement.process] = Member(announcement, self._now())
            self._warn_about(announcement)
            return True
        is_interrupted = known.announcement.connections != announcement.connections
        known.announcement, known.seen_at, known.assigned = announcement, self._now(), 0
        if is_interrupted:
            _call(self.on_interrupted, announcement.process)
        return False

    def _leave(self, process: str) -> None:
        if self._members.pop(process, None):
            _call(self.on_lost, process)

    def check(self, is_connected: bool = True) -> None:
        """Remove the processes that are silent. Call this every `CHECK_INTERVAL_S`.

        A process that was busy, or has no connection to the broker itself, cannot hear the others.
        """
        now = self._now()
        self._connected_at = now if is_connected else self._connected_at
        is_late = now - self._checked_at > CHECK_INTERVAL_S + _MAX_DELAY_S
        if is_late or (not is_connected and now - self._connected_at < MAX_OUTAGE_S):
            for member in self._members.values():
                member.seen_at = now
        self._checked_at = now
        for process in [each for each, member in self._members.items() if now - member.seen_at > LOST_AFTER_S]:
            logger.warning("%s is silent", self._members[process].announcement.node or f"gateway {process}")
            self._leave(process)

    def nodes(self) -> list[Member]:
        """Return the workers that take requests, the least loaded first."""
        usable = (member for member in self.all_nodes() if self.state_of(member) == "up")
        return sorted(usable, key=lambda member: member.load)

    def all_nodes(self) -> Iterator[Member]:
        """Yield all workers, also those that are leaving or have another version of the messages."""
        return (member for member in self._members.values() if member.announcement.node)

    def node(self, name: str) -> Member | None:
        """Return the worker of a name that takes requests, or None."""
        return next((each for each in self.nodes() if each.announcement.node == name), None)

    def why_not(self, name: str) -> str:
        """Return why the node of a name takes no requests."""
        for member in self.all_nodes():
            if member.announcement.node == name:
                return f"node {name!r} is {self.state_of(member)}"
        available = ", ".join(sorted(each.announcement.node for each in self.nodes())) or "none"
        return f"node {name!r} is away or unknown (available: {available})"

    def state_of(self, member: Member) -> Literal["up", "stopping", "incompatible"]:
        """Return whether a node takes requests."""
        announcement = member.announcement
        if announcement.protocol != PROTOCOL or self._is_elsewhere(announcement):
            return "incompatible"
        return "up" if announcement.state == "up" else "stopping"

    def _warn_about(self, announcement: Announcement) -> None:
        if announcement.protocol != PROTOCOL:
            logger.warning(
                "%s has clinvk %s, which cannot work with this version",
                *(announcement.node or "a gateway", announcement.version),
            )
        elif self._is_elsewhere(announcement):
            logger.warning(
                "%s keeps its sessions in another database (%s, here %s) and gets no requests:"
                " set store.url of all machines to one database",
                *(announcement.node or "a gateway", announcement.store or "unknown", self.store),
            )

    def _is_elsewhere(self, announcement: Announcement) -> bool:
        return bool(self.store) and announcement.store != self.store


def _call(callbacks: list[Callable[[str], None]], process: str) -> None:
    for callback in callbacks:
        callback(process)
