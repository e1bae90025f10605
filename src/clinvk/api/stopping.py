"""What the signals say to a server: stop, at once when it comes again, or reload."""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress

logger = logging.getLogger(__name__)

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
        """Take a signal that came."""
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
    """Say whether this process belongs to a terminal that is there; one that was hung up never comes back."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
