"""The two ends of the terminal: answers on stdout, notes on stderr."""

import asyncio
import os
import select
import sys
from collections.abc import Mapping
from contextlib import suppress

from clinvk.errors import ClinvkError

_PIECE_BYTES = select.PIPE_BUF
"""A pipe that poll calls writable takes so much without blocking."""

_DIM, _RED, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"


class ReaderGone(Exception):
    """Nobody reads stdout any more."""


class Stdout:
    """Writes to stdout so that a reader who pauses (`| less`) stops the agent's output, but not Ctrl-C."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    async def write(self, data: bytes) -> None:
        """Write all of it, at once: nothing is kept back.

        Raises:
            ReaderGone: the other end of the pipe was closed.
            ClinvkError: it cannot be written, e.g. the disk is full.
        """
        rest = memoryview(data)
        while rest:
            await self._writable()
            try:
                rest = rest[os.write(self._fd, rest[:_PIECE_BYTES]) :]
            except BlockingIOError:
                await asyncio.sleep(0.01)
            except BrokenPipeError:
                raise ReaderGone from None
            except OSError as exc:
                raise ClinvkError(f"cannot write to stdout: {exc.strerror}") from exc

    async def _writable(self) -> None:
        if self._poll.poll(0):
            return
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._fd)


class Notes:
    """Lines for the user on stderr; what programs read is on stdout."""

    def __init__(self, environ: Mapping[str, str], color: bool = True) -> None:
        self.is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._color = color and self.is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

    def error(self, message: str) -> None:
        """Say what went wrong."""
        self._line(message, _RED)

    def say(self, message: str) -> None:
        """Say something that may be ignored."""
        self._line(message, _DIM)

    def _line(self, message: str, color: str) -> None:
        line = " ".join(message.split())
        text = f"{color}clinvk:{_PLAIN} {line}\n" if self._color else f"clinvk: {line}\n"
        if sys.stderr is None:
            return
        with suppress(OSError):  # nobody listens
            sys.stderr.write(text)
            sys.stderr.flush()
