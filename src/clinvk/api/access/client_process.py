"""The process at the client's end of a connection, if the client is on this machine.

An agent that could answer what it asks would need no approval. The agent's tools run on this machine, so the process of
the client, which carries the tag of its agent, tells an agent from a person.
"""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from starlette.types import Scope

from clinvk.runtime.process.process_tags import descends_from_agent, nesting_of, refuse_agent
from clinvk.types.errors import AgentCannotAnswer

if TYPE_CHECKING:
    from psutil._ntuples import pconn, sconn  # pyright: ignore[reportMissingModuleSource]

_Address = tuple[str, int]


class _Client(NamedTuple):
    """The client's end of a connection; `pid` is None if the process belongs to another user or container."""

    pid: int | None
    is_closed: bool


def refuse_agent_client(scope: Scope, is_open: bool, in_cluster: bool = False) -> None:
    """Refuse a request that an agent, or a program that an agent has started, may have sent. Blocks.

    A client that has closed the connection is refused, since its process is no longer known. A client whose process is
    hidden, as of another user, passes if it has a key. If the server `is_open` to clients without a key, the client
    passes unless a process with hidden files is of an agent; `in_cluster`, where other machines run agents too, only
    from this machine.

    Raises:
        AgentCannotAnswer: an agent may have sent the request.
    """
    if not scope["client"]:  # this process, or the private socket, which refuses agents
        refuse_agent(os.getpid())
        return
    if is_open and in_cluster and not _is_own(_plain(*scope["client"])[0]):
        raise AgentCannotAnswer(
            "an agent on another machine may have sent this answer: a gateway without API keys accepts answers from "
            "its own machine only"
        )
    client = _client_of(scope)
    if client is None:
        return
    if client.is_closed:
        raise AgentCannotAnswer("the client has closed its connection, so an agent may have sent this answer")
    if client.pid is not None:
        refuse_agent(client.pid)
    elif is_open and any(map(_may_be_agent, _hidden_pids())):
        raise AgentCannotAnswer("an agent may have sent this answer: its process is unknown. Answer with an API key")


def nesting_of_client(scope: Scope) -> int:
    """Return the number of nested agents around the client; 0 if its process is unknown. Blocks."""
    client = _client_of(scope)
    return nesting_of(client.pid) if client and client.pid is not None else 0


def _client_of(scope: Scope) -> _Client | None:
    return _find(scope["state"].get("peer") or scope["client"], scope["server"])


def _find(address: _Address, server: _Address) -> _Client | None:
    """Return the client of a connection; None if the client is on another machine, or the system does not tell."""
    import psutil

    (host, port), (server_host, server_port) = _plain(*address), _plain(*server)
    for pid, connection in _connections():
        ends = [_plain(*end) for end in (connection.laddr, connection.raddr) if end]
        if ends == [(host, port), (server_host, server_port)]:
            return _Client(pid, is_closed=pid is None and connection.status != psutil.CONN_ESTABLISHED)
    return _Client(None, is_closed=True) if sys.platform == "linux" and _is_own(host) else None


def _is_own(host: str) -> bool:
    """Return whether an address is of this machine."""
    import psutil

    own = {one.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for one in addresses}
    return ip_address(host).is_loopback or host in own


def _connections() -> "Iterable[tuple[int | None, sconn | pconn]]":
    """Yield the TCP connections with their processes, None if hidden. macOS shows this user's processes only."""
    import psutil

    if sys.platform == "linux":
        yield from ((connection.pid, connection) for connection in psutil.net_connections("tcp"))
        return
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            yield from ((process.pid, connection) for connection in process.net_connections("tcp"))


def _plain(host: str, port: int) -> _Address:
    """Return an address without the prefix of IPv4 in IPv6."""
    return host.removeprefix("::ffff:"), port


def _hidden_pids() -> Iterable[int]:
    """Return the processes whose open files this user may not list."""
    import psutil

    return (pid for pid in psutil.pids() if not os.access(f"/proc/{pid}/fd", os.R_OK))


def _may_be_agent(pid: int) -> bool:
    import psutil

    return descends_from_agent(pid) and psutil.pid_exists(pid)
