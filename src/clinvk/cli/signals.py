"""The signals that end a command: Ctrl-C, SIGTERM, SIGHUP."""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def on_signals(stop: Callable[[], None]) -> Generator[None]:
    """Call `stop` at each of them.

    A signal that clinvk was started to ignore (nohup, a shell's background job) stays ignored.
    """
    loop = asyncio.get_running_loop()
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
