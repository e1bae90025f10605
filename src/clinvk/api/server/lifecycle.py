"""The life cycle of a server: sockets from the service manager, stop signals, and reload on SIGHUP.

The protocol of systemd is described in sd_listen_fds(3) and sd_notify(3). `without_secrets` hides the variables of
the protocol from agents.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress

from clinvk.types.errors import ConfigError

logger = logging.getLogger(__name__)

_FIRST_FD = 3
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def inherited_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets from the service manager; empty if started without a service manager.

    Raises:
        ConfigError: LISTEN_FDS is invalid, or a file descriptor is not a listening TCP socket.
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


def notify_service_manager(environ: Mapping[str, str], *lines: str) -> None:
    """Send lines such as `READY=1` to the service manager, if any."""
    if not (name := environ.get("NOTIFY_SOCKET")):
        return
    address = f"\0{name[1:]}" if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto("\n".join(lines).encode(), address)
        except OSError as exc:
            logger.warning("cannot notify the service manager of %s: %s", lines[0], exc.strerror)


def notify_reloading() -> tuple[str, str]:
    """Return the lines for the start of a reload; `READY=1` marks the end."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


_POLL_INTERVAL_S = 0.05
_HUNG_UP_TIMEOUT_S = 0.2
_SILENT_S = 1.0
"""Shorter waits are not logged: a run continues for a moment after its response."""


class Signals:
    """The signals received since `handle_signals`: the first and the second of SIGINT and SIGTERM, and SIGHUP."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._second_stop = asyncio.Event()
        self._hung_up = asyncio.Event()
        self._had_terminal = _has_terminal()

    async def wait_for_stop(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Wait for the first stop signal.

        SIGHUP calls `reload`. If the terminal of the server is gone, SIGHUP stops the server instead, because the user
        has lost the means to stop the server.
        """
        async with asyncio.TaskGroup() as group:
            reloading = group.create_task(self._reload(reload))
            await self._stop.wait()
            reloading.cancel()

    async def drain(self, is_busy: Callable[[], bool], grace_s: float) -> None:
        """Wait until `is_busy` is false, `grace_s` have passed, or a second stop signal arrives. Log the wait."""
        now = asyncio.get_running_loop().time
        until, silent_until = now() + grace_s, now() + _SILENT_S
        while is_busy() and not self._second_stop.is_set() and now() < until:
            if now() >= silent_until:
                silent_until = until
                left_s = round(until - now())
                logger.info("stopping: runs may take %d s more; a second signal (Ctrl-C) ends them at once", left_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._second_stop.wait(), _POLL_INTERVAL_S)
        if grace_s and is_busy() and not self._second_stop.is_set():
            logger.warning("stopping: %g s are over; ending the remaining runs", grace_s)

    def receive(self, number: signal.Signals) -> None:
        """Handle a signal."""
        if number == signal.SIGHUP:
            self._hung_up.set()
        elif self._stop.is_set():
            self._second_stop.set()
        else:
            self._stop.set()

    async def _reload(self, reload: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            if self._had_terminal:
                await asyncio.sleep(_HUNG_UP_TIMEOUT_S)  # the kernel may send SIGHUP before removing the terminal
            if self._had_terminal and not _has_terminal():
                self._stop.set()
            else:
                await reload()


@contextmanager
def handle_signals() -> Generator[Signals]:
    """Record signals inside the context; no signal ends the process.

    A signal ignored at the start of clinvk (nohup, a shell's background job) stays ignored.
    """
    loop = asyncio.get_running_loop()
    signals = Signals()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handled = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    for number in handled:
        loop.add_signal_handler(number, signals.receive, number)
    try:
        yield signals
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def _has_terminal() -> bool:
    """Return whether the process has a terminal that is still connected."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
