"""Lines for the user on stderr. What programs read is on stdout."""

import sys
from collections.abc import Mapping
from contextlib import suppress

from clinvk.cli.output import on_one_line, without_sequences, write

_DIM, _RED, _PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[0m"


class Notes:
    """Writes lines that begin with `clinvk: `, colored on a terminal if `color` and the environment allow it.

    An agent's words among them cannot steer the terminal.
    """

    def __init__(self, environ: Mapping[str, str], color: bool = True) -> None:
        self.is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._color = color and self.is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

    def error(self, message: str) -> None:
        """Say what went wrong, mostly in the words of a program's stderr."""
        self._line(without_sequences(message), _RED)

    def say(self, message: str) -> None:
        """Say something that may be ignored."""
        self._line(message, _DIM)

    def _line(self, message: str, color: str) -> None:
        line = on_one_line(message)
        text = f"{color}clinvk:{_PLAIN} {line}\n" if self._color else f"clinvk: {line}\n"
        if sys.stderr is None:
            return
        with suppress(OSError):  # nobody listens
            write(2, text)
