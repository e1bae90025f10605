"""The life of a server: sockets from the service manager, signals that stop it, and SIGHUP, which reloads it.

The protocol of systemd is that of sd_listen_fds(3) and sd_notify(3). Its variables are for clinvk alone:
`executables.SECRETS` keeps them from agents. A reload renews everything, or nothing where something is wrong.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from clinvk.config.model import Settings
from clinvk.types.errors import ClinvkError, ConfigError

logger = logging.getLogger(__name__)

_FIRST_FD = 3
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def inherited(environ: Mapping[str, str]) -> list[socket.socket]:
    """Return the sockets that the service manager listens on for this process; none where it was started otherwise.

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
    """Send lines such as `READY=1` to the service manager, if any."""
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
    """Return the lines that begin a reload; `READY=1` ends it."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


Prepare = Callable[[Settings], Awaitable[Callable[[], None]]]
"""Reads and checks what a part of the server needs under other settings; what it gives puts that into force."""


class Reload:
    """Loads the settings anew and hands them to the parts that can change while they serve."""

    def __init__(self, load: Callable[[], Settings], parts: Sequence[Prepare]) -> None:
        self._load = load
        self._parts = parts

    async def __call__(self) -> None:
        """Renew every part, or none and log why."""
        try:
            settings = self._load()
            ready = [await prepare(settings) for prepare in self._parts]
        except ClinvkError as exc:
            logger.warning("not reloaded, all stays as it was: %s", exc.message)
            return
        for put_into_force in ready:
            put_into_force()
        logger.info("reloaded keys, limits and log level; other settings wait for a restart")


_LOOK_EVERY_S = 0.05
_HUNG_UP_WITHIN_S = 0.2
_SILENT_S = 1.0
"""Nothing is said of a wait that is over by then: a run goes on for a moment after its answer."""


class Signals:
    """SIGINT and SIGTERM, the first and the second of them, and SIGHUP, as they came since `heeded`."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()
        self._hung_up = asyncio.Event()
        self._had_terminal = _has_terminal()

    async def stopped(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Wait for the first signal to stop.

        SIGHUP means `reload`, but the end of a server whose terminal is gone: nobody could stop it any more.
        """
        async with asyncio.TaskGroup() as group:
            reloading = group.create_task(self._reload(reload))
            await self._stop.wait()
            reloading.cancel()

    async def drained(self, is_busy: Callable[[], bool], grace_s: float) -> None:
        """Wait until nothing is busy, `grace_s` have passed, or a second signal to stop came; tell whoever waits."""
        now = asyncio.get_running_loop().time
        until, silent_until = now() + grace_s, now() + _SILENT_S
        while is_busy() and not self._at_once.is_set() and now() < until:
            if now() >= silent_until:
                silent_until = until
                left_s = round(until - now())
                logger.info("stopping: what runs may take %d s more; a second signal (Ctrl-C) ends it at once", left_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._at_once.wait(), _LOOK_EVERY_S)
        if grace_s and is_busy() and not self._at_once.is_set():
            logger.warning("stopping: %g s are over; what still runs is ended", grace_s)

    def take(self, number: signal.Signals) -> None:
        """Handle a signal."""
        if number == signal.SIGHUP:
            self._hung_up.set()
        elif self._stop.is_set():
            self._at_once.set()
        else:
            self._stop.set()

    async def _reload(self, reload: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            if self._had_terminal:
                await asyncio.sleep(_HUNG_UP_WITHIN_S)  # the kernel may send SIGHUP before it takes the terminal away
            if self._had_terminal and not _has_terminal():
                self._stop.set()
            else:
                await reload()


@contextmanager
def heeded() -> Generator[Signals]:
    """Let no signal end the process inside this context: they are noted.

    One that clinvk was started to ignore (nohup, a shell's background job) stays ignored.
    """
    loop = asyncio.get_running_loop()
    signals = Signals()
    every = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    taken = [number for number in every if signal.getsignal(number) is not signal.SIG_IGN]
    for number in taken:
        loop.add_signal_handler(number, signals.take, number)
    try:
        yield signals
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def _has_terminal() -> bool:
    """Return whether the process has a terminal that was not hung up."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
