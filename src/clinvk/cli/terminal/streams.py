"""Write stdout and stderr without blocking, and handle the signals that end a command: Ctrl-C, SIGTERM, SIGHUP."""

import asyncio
import os
import select
import signal
import stat
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from clinvk.cli.terminal.output import is_writable
from clinvk.types.errors import ClinvkError
from clinvk.types.text import escape_controls

_PIECE_BYTES = select.PIPE_BUF
"""A pipe that poll reports as writable accepts this many bytes without blocking."""


_MAX_LINE_BYTES = 64 * 2**20


class BrokenStdout(Exception):
    """The reader of stdout is gone."""


class Stdout:
    """Writes to stdout so that a paused reader (`| less`) stops the agent's output, but not Ctrl-C.

    An agent's text cannot control a terminal; a pipe or a file gets the bytes unchanged.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_terminal = os.isatty(fd)

    async def write(self, data: bytes, is_safe: bool = False) -> None:
        """Write UTF-8 of whole characters, unbuffered. Data that `is_safe` may have escape sequences.

        Raises:
            BrokenStdout: the other end of the pipe was closed.
            ClinvkError: stdout cannot be written, e.g. the disk is full.
        """
        is_escaped = self._is_terminal and not is_safe
        rest = memoryview(escape_controls(data.decode(errors="replace")).encode() if is_escaped else data)
        while rest:
            await writable(self._fd)
            try:
                rest = rest[os.write(self._fd, rest[:_PIECE_BYTES]) :]
            except BlockingIOError:
                await asyncio.sleep(0.01)
            except BrokenPipeError:
                raise BrokenStdout from None
            except OSError as exc:
                raise ClinvkError(f"cannot write to stdout: {exc.strerror}") from exc


def is_pipe(fd: int) -> bool:
    """Return whether a descriptor is a pipe or a socket."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


@asynccontextmanager
async def stdin() -> AsyncGenerator[asyncio.StreamReader]:
    """Read stdin, which is a pipe or a socket, inside the context. `readline` raises ValueError for a longer line."""
    reader = asyncio.StreamReader(_MAX_LINE_BYTES)
    pipe = os.fdopen(0, "rb", 0, closefd=False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        yield reader
    finally:
        transport.close()


async def writable(fd: int) -> None:
    """Wait until a pipe or a terminal accepts data. Only one task may wait for a descriptor."""
    if is_writable(fd):
        return
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)


_T = TypeVar("_T")


def run(work: Coroutine[None, None, _T]) -> _T:
    """Run a coroutine in a new event loop; a signal cancels the coroutine.

    Unlike with `asyncio.run`, a second signal does not cut the clean-up short.

    Raises:
        KeyboardInterrupt: the coroutine was cancelled.
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
    """Call `stop` at every signal that ends a command.

    A signal that clinvk inherited as ignored (nohup, a shell's background job) stays ignored.
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
