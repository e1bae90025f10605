"""What every process of a cluster tells all others. Pure."""

from typing import Literal

import msgspec

from clinvk.api.endpoints.inventory import BackendInfo

PROTOCOL = 3
"""The version of the messages. A gateway sends requests only to nodes with the same version.

Every version can read the announcements of the others, which only gain fields.
"""


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """What a process of a cluster announces every second.

    Attributes:
        process: the id of the process, new with each start.
        node: the name of a worker; empty for a gateway that runs no agents.
        started_at: when a worker started, by its clock. Of two with one name the newer stops.
        connections: how often the process has connected to the broker: a change means that messages may be lost.
        store: the store of the process, which all processes of a cluster must share.
        labels: what requests can ask for.
        max_runs: how many runs may be active at once.
        clients: of each client the number of held slots, and for how long a run has waited only because the client is
            at its limit, in seconds; minus infinity without such a run.
        state: `stopping` means that the process takes no new runs, `left` is its last announcement.
    """

    process: str
    protocol: int = PROTOCOL
    node: str = ""
    started_at: float = 0
    version: str = ""
    store: str = ""
    connections: int = 1
    labels: tuple[str, ...] = ()
    backends: tuple[BackendInfo, ...] = ()
    running: int = 0
    queued: int = 0
    max_runs: int = 0
    clients: dict[str, tuple[int, float]] = {}
    state: Literal["up", "stopping", "left"] = "up"


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A change of a run or an interaction of a worker, for the viewers at all gateways.

    `data` is JSON, or empty if it would be too long: then the viewers read the lists again.
    """

    process: str
    kind: str
    data: bytes
