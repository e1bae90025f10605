"""The signals that end a command: Ctrl-C, SIGTERM, SIGHUP."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")


def run(work: Coroutine[None, None, _T]) -> _T:
    """Run work in a loop of its own, to its end or until one of them: that cancels it.

    Unlike with `asyncio.run` another one does not cut its clean-up short.

    Raises:
        KeyboardInterrupt: it was cancelled.
    """

    async def cancelled_by_signals() -> _T:
        task = asyncio.current_task()
        assert task is not None
        with on_signals(task.cancel):
            return await work

    try:
        return asyncio.run(cancelled_by_signals())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextmanager
def on_signals(stop: Callable[[], object]) -> Generator[None]:
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
