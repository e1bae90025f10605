"""Keys and lines typed on a terminal while other work goes on."""

import asyncio
import os
import termios
import tty
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Self, TypeVar

from clinvk.cli.terminal.output import STDERR, write

_READ_BYTES = 65536
_NAMES = {"\n": "enter", "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down"}

_T = TypeVar("_T")


class Interrupted(Exception):
    """`Keyboard.interrupt` was called, or the terminal is gone."""


class Keyboard:
    """The keys of a terminal, without Enter and echo, inside the context. Keys that were typed before are dropped.

    Signals work as usual. The terminal is restored at the end.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._wake = asyncio.Event()
        self._is_interrupted = False

    def __enter__(self) -> Self:
        try:
            self._saved = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        except termios.error as exc:
            raise Interrupted from exc
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)

    def interrupt(self) -> None:
        """Make the current or the next wait for a key or a line raise `Interrupted`."""
        self._is_interrupted = True
        self._wake.set()

    async def key(self) -> str:
        """Wait for a key, and return its character or one of `_NAMES`; empty for other keys and for pasted text.

        Raises:
            Interrupted: see `Interrupted`.
        """
        data = await self._read()
        if not data:
            raise Interrupted
        text = data.decode(errors="replace")
        return _NAMES.get(text) or (text if len(text := text.strip()) == 1 else "")

    async def line(self, question: str) -> str | None:
        """Ask for a line, and return it without its end; None after Ctrl-D.

        Raises:
            Interrupted: see `Interrupted`.
        """
        with self._line_mode():
            write(STDERR, question)
            data = b""
            try:
                data = await self._read()
            finally:
                if not data.endswith(b"\n"):
                    write(STDERR, "\n")
        return data.decode(errors="replace").rstrip("\r\n") if data else None

    async def lend(self, work: Callable[[int], _T]) -> _T:
        """Return the result of work that uses the terminal, such as an editor. `work` receives the descriptor.

        Raises:
            Interrupted: see `Interrupted`.
        """
        with self._line_mode():
            result = await asyncio.to_thread(work, self._fd)
        if self._is_interrupted:
            raise Interrupted
        return result

    @contextmanager
    def _line_mode(self) -> Generator[None]:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
        try:
            yield
        finally:
            with suppress(termios.error):  # the terminal is gone
                tty.setcbreak(self._fd)

    async def _read(self) -> bytes:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fd, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            loop.remove_reader(self._fd)
        self._wake.clear()
        if self._is_interrupted:
            raise Interrupted
        with suppress(OSError):  # the terminal is gone
            return os.read(self._fd, _READ_BYTES)
        return b""


def keyboard_fd() -> int | None:
    """Return the descriptor from which a question on stderr is answered.

    Return None if stderr is not a terminal, or if this process is in the background of its terminal.
    """
    if not os.isatty(STDERR):
        return None
    fd = 0 if os.isatty(0) else STDERR
    with suppress(OSError):  # not the controlling terminal
        return fd if os.tcgetpgrp(fd) == os.getpgrp() else None
    return fd
