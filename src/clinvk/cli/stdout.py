"""stdout and stderr, written to without holding up anything else."""

import asyncio
import os
import select

from clinvk.cli.output import harmless, is_writable
from clinvk.errors import ClinvkError

_PIECE_BYTES = select.PIPE_BUF
"""A pipe that poll calls writable takes so much without blocking."""


class ReaderGone(Exception):
    """Nobody reads stdout any more."""


class Stdout:
    """Writes to stdout so that a reader who pauses (`| less`) stops the agent's output, but not Ctrl-C.

    An agent's words cannot steer a terminal; anything else gets them byte for byte.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_terminal = os.isatty(fd)

    async def write(self, data: bytes) -> None:
        """Write all of it, at once: nothing is kept back. It is UTF-8 of whole characters.

        Raises:
            ReaderGone: the other end of the pipe was closed.
            ClinvkError: it cannot be written, e.g. the disk is full.
        """
        rest = memoryview(harmless(data.decode(errors="replace")).encode() if self._is_terminal else data)
        while rest:
            await writable(self._fd)
            try:
                rest = rest[os.write(self._fd, rest[:_PIECE_BYTES]) :]
            except BlockingIOError:
                await asyncio.sleep(0.01)
            except BrokenPipeError:
                raise ReaderGone from None
            except OSError as exc:
                raise ClinvkError(f"cannot write to stdout: {exc.strerror}") from exc


async def writable(fd: int) -> None:
    """Wait until a pipe or a terminal takes something. For each only one may."""
    if is_writable(fd):
        return
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)
