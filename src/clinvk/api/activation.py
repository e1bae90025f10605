"""What a service manager hands over and is told: sd_listen_fds(3) and sd_notify(3) of systemd.

Its variables are for clinvk alone: `executables.SECRETS` keeps them from agents.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping

from clinvk.errors import ConfigError

logger = logging.getLogger(__name__)

_FIRST_FD = 3
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def inherited(environ: Mapping[str, str]) -> list[socket.socket]:
    """Give the sockets that the service manager listens on for this process; none where it was started otherwise.

    Raises:
        ConfigError: one is nothing that a server can accept connections from.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    number = environ.get("LISTEN_FDS", "")
    if not (number.isascii() and number.isdecimal()):
        raise ConfigError(f"LISTEN_FDS is {number!r}, not a number of sockets")
    return list(_sockets(int(number)))


def _sockets(number: int) -> Iterator[socket.socket]:
    for fd in range(_FIRST_FD, _FIRST_FD + number):
        try:
            sock = socket.socket(fileno=fd)
        except OSError as exc:
            raise ConfigError(f"file descriptor {fd} of the service manager is no socket: {exc.strerror}") from exc
        sock.set_inheritable(False)
        listens = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.family not in _FAMILIES or not listens:
            raise ConfigError(
                f"file descriptor {fd} of the service manager is no TCP socket that listens; the socket unit needs "
                "ListenStream= with an address and a port, and no Accept=yes"
            )
        yield sock


def notify(environ: Mapping[str, str], *lines: str) -> None:
    """Tell the service manager something, such as `READY=1`; where there is none, nothing happens."""
    if not (name := environ.get("NOTIFY_SOCKET")):
        return
    address = f"\0{name[1:]}" if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto("\n".join(lines).encode(), address)
        except OSError as exc:
            logger.warning("the service manager cannot be told %s: %s", lines[0], exc.strerror)


def reloading() -> tuple[str, str]:
    """Give the lines that begin a reload; `READY=1` ends it."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"
