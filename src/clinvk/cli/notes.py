"""Lines for the user on stderr. What programs read is on stdout."""

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

from clinvk.cli.output import STDERR, has_colors, is_writable, on_one_line, without_sequences, write

_DIM, _RED, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"


class Notes:
    """Writes lines that begin with `clinvk: `, colored on a terminal if the environment allows it.

    An agent's words among them cannot steer the terminal.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.is_terminal = os.isatty(STDERR)
        self._color = has_colors(STDERR, environ)
        self._waits = True
        self._write: Callable[[str], None] = partial(write, STDERR)

    @contextmanager
    def written_by(self, write: Callable[[str], None]) -> Generator[None]:
        """Have lines, each with its end, written by what draws on the terminal meanwhile, so that both stay whole."""
        before, self._write = self._write, write
        try:
            yield
        finally:
            self._write = before

    def allow_color(self, is_allowed: bool) -> None:
        """Color from now on only if the settings allow it, too."""
        self._color = self._color and is_allowed

    def hurry(self) -> None:
        """Leave out from now on what would wait for whoever reads stderr."""
        self._waits = False

    def error(self, message: str) -> None:
        """Say what went wrong, mostly in the words of a program's stderr."""
        self._line(without_sequences(message), _RED)

    def say(self, message: str) -> None:
        """Say something that may be ignored."""
        self._line(message, _DIM)

    def _line(self, message: str, color: str) -> None:
        line = on_one_line(message)
        text = f"{color}clinvk:{_PLAIN} {line}\n" if self._color else f"clinvk: {line}\n"
        if self._waits or is_writable(STDERR):
            with suppress(OSError):  # nobody listens
                self._write(text)
