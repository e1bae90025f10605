"""The members of a cluster, as known from their announcements."""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

from clinvk.cluster.announcements import PROTOCOL, Announcement
from clinvk.runtime.occupancy import ClientRuns
from clinvk.types.errors import (
    SENT_AGAIN,
    DirectoryNotAllowed,
    InvalidRequest,
    NodeUnavailable,
)
from clinvk.types.request import Placement

logger = logging.getLogger(__name__)

ANNOUNCE_INTERVAL_S = 1.0
LOST_AFTER_S = 4.0
CHECK_INTERVAL_S = 0.5
_MAX_DELAY_S = 1.0
"""A later check counts no process as silent, because this process itself was stopped or busy."""

MAX_OUTAGE_S = 30.0
"""How long streams wait for a broker that is away."""

_RETRYABLE_CODES = {error.code for error in (*SENT_AGAIN, DirectoryNotAllowed)}
"""The codes of refusals that another node may not share; so does an invalid `workdir`."""


class Undelivered(NodeUnavailable):
    """No node has received the request, or the request changes nothing: it may be answered elsewhere."""


class Target(NamedTuple):
    """Where a request may run: on the node with a name, or on any with the agents and labels."""

    node: str = ""
    backends: Collection[str] = ()
    labels: Collection[str] = ()

    def placed(self, placement: Placement) -> "Target":
        """Add the node and the labels that a request asks for. Raise `InvalidRequest` for another node."""
        if placement.node and self.node and placement.node != self.node:
            raise InvalidRequest(
                f"node is {placement.node!r}, but the request also needs {self.node!r}",
                "node",
            )
        return self._replace(node=self.node or placement.node, labels={*self.labels, *placement.labels})


def is_retryable(error_code: str, error_field: str) -> bool:
    """Return whether another node may accept a request that a node has refused."""
    is_workdir = error_code == InvalidRequest.code and error_field.endswith("workdir")
    return error_code in _RETRYABLE_CODES or is_workdir


class Member:
    """A process of the cluster. `assigned` counts the runs that this process sent since the last announcement."""

    def __init__(self, announcement: Announcement, at: float) -> None:
        self.announcement = announcement
        self.seen_at = at
        self.assigned = 0
        self.clients = {name: ClientRuns(held, at - wait_s) for name, (held, wait_s) in announcement.clients.items()}

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

    def __contains__(self, process: str) -> bool:
        return process in self._members

    def note(self, announcement: Announcement) -> bool:
        """Record an announcement, and return whether the process is new."""
        known = self._members.get(announcement.process)
        if announcement.state == "left":
            self._leave(announcement.process)
            return False
        self._members[announcement.process] = Member(announcement, self._now())
        if known is None:
            self._warn_about(announcement)
            return True
        if known.announcement.connections != announcement.connections:
            _call(self.on_interrupted, announcement.process)
        return False

    def _leave(self, process: str) -> None:
        if self._members.pop(process, None):
            _call(self.on_lost, process)

    def check(self, is_connected: bool = True) -> None:
        """Remove silent members. Call this every `CHECK_INTERVAL_S`.

        Silence does not count while this process was busy, or has no connection to the broker.
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
        """Yield all workers, including stopping and incompatible ones."""
        return (member for member in self._members.values() if member.announcement.node)

    def clients_elsewhere(self, process: str) -> dict[str, ClientRuns]:
        """Return the runs of clients on all nodes but that of a process."""
        found: dict[str, ClientRuns] = {}
        for member in self.all_nodes():
            if member.announcement.process != process and self.state_of(member) != "incompatible":
                for client, (held, since) in member.clients.items():
                    known = found.get(client, ClientRuns())
                    found[client] = ClientRuns(known.held + held, min(known.waits_since, since))
        return found

    def node(self, name: str) -> Member | None:
        """Return the worker of a name that takes requests, or None."""
        return next((each for each in self.nodes() if each.announcement.node == name), None)

    def candidates(self, target: Target) -> Sequence[Member]:
        """Return the nodes that may run a request, the best first.

        Raises:
            NodeUnavailable: there is none.
        """
        nodes = self.nodes()
        if target.node:
            nodes = [each for each in nodes if target.node in (each.announcement.node, each.announcement.process)]
            if not nodes:
                raise NodeUnavailable(self._why_not(target.node))
        labelled = [each for each in nodes if set(target.labels).issubset(each.announcement.labels)]
        if not labelled:
            named = f"node {target.node!r} does not have" if target.node else "no node has"
            available = ", ".join(sorted({label for each in nodes for label in each.announcement.labels})) or "none"
            lacking = f"{named} all labels of {', '.join(sorted(target.labels))} (available: {available})"
            raise NodeUnavailable(lacking if nodes else "no node is up")
        # without an able node, any node can say why
        able = [each for each in labelled if _has_backends(each, target.backends)] or labelled
        return sorted(able, key=partial(_was_refused, target.backends))

    def _why_not(self, name: str) -> str:
        """Return why the node of a name takes no requests."""
        for member in self.all_nodes():
            if member.announcement.node == name:
                return f"node {name!r} is {self.state_of(member)}"
        available = ", ".join(sorted(each.announcement.node for each in self.nodes())) or "none"
        return f"node {name!r} is away or unknown (available: {available})"

    def state_of(self, member: Member) -> Literal["up", "stopping", "incompatible"]:
        """Return whether a node takes requests."""
        announcement = member.announcement
        if announcement.protocol != PROTOCOL or self._has_other_store(announcement):
            return "incompatible"
        return "up" if announcement.state == "up" else "stopping"

    def _warn_about(self, announcement: Announcement) -> None:
        if announcement.protocol != PROTOCOL:
            logger.warning(
                "%s has clinvk %s, which cannot work with this version",
                *(announcement.node or "a gateway", announcement.version),
            )
        elif self._has_other_store(announcement):
            logger.warning(
                "%s keeps its sessions in another database (%s, here %s) and gets no requests:"
                " set store.url of all machines to one database",
                *(announcement.node or "a gateway", announcement.store or "unknown", self.store),
            )

    def _has_other_store(self, announcement: Announcement) -> bool:
        return bool(self.store) and announcement.store != self.store


def _has_backends(member: Member, names: Collection[str]) -> bool:
    available = {info.name for info in member.announcement.backends if info.available}
    return available.issuperset(names)


def _was_refused(names: Collection[str], member: Member) -> bool:
    """Return whether the account of an agent refused its last run on a node."""
    return any(info.error_code and info.name in names for info in member.announcement.backends)


def _call(callbacks: list[Callable[[str], None]], process: str) -> None:
    for callback in callbacks:
        callback(process)
