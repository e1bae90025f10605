"""Output to the terminal: results on stdout as text or JSON in UTF-8, notes for the user on stderr, and times."""

import os
import re
import select
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from clinvk.types.errors import ClinvkError
from clinvk.types.text import escape_controls, on_one_line, without_sequences

if TYPE_CHECKING:
    from clinvk.config.model import OutputSettings

STDOUT, STDERR = 1, 2

WOULD_EXECUTE = "# Would execute:"
"""The first line of a dry run. Scripts look for this comment; the rest is a command for a shell."""

_ID = re.compile(r"\b((?:session|run|interaction) '?[0-9a-f]{8})[0-9a-f]{24}\b")
"""An ID in a message of clinvk, and the beginning that people read."""


def printable(text: str) -> str:
    """Return an agent's text for stdout: without control characters on a terminal, unchanged elsewhere."""
    return escape_controls(text) if os.isatty(1) else text


DAY_S = 86_400
_STEPS = ((60, 1, "s"), (3600, 60, "min"), (DAY_S, 3600, "h"), (60 * DAY_S, DAY_S, "d"))
"""The limit in seconds, the seconds of the unit, and the name of the unit."""


def time_ago(at: float, now: float) -> str:
    """Return how long ago a time was, or its date if that says more. Both are seconds since the epoch."""
    seconds = now - at
    if seconds < 1:
        return "just now"
    for limit, unit, name in _STEPS:
        if seconds < limit:
            return f"{int(seconds // unit)} {name} ago"
    return time.strftime("%Y-%m-%d", time.localtime(at))


def date_and_time(at: float) -> str:
    """Return the local date and time of seconds since the epoch."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def duration(seconds: float) -> str:
    """Return a duration as text."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def columns() -> int | None:
    """Return the width of the terminal, or None if stdout is not a terminal."""
    if not os.isatty(1):
        return None
    import shutil  # an import of all archive formats, which a prompt does not need

    return shutil.get_terminal_size().columns


def terminal_size(fd: int) -> os.terminal_size:
    """Return the size of a terminal; 80 x 24 if it is unknown, or the terminal is gone."""
    columns = rows = 0
    with suppress(OSError):
        columns, rows = os.get_terminal_size(fd)
    return os.terminal_size((columns or 80, rows or 24))


def wrap(text: str, fd: int, indent: int) -> str:
    """Return a text with lines that end between words on a terminal; elsewhere the text is unchanged.

    A continuation line begins with `indent` spaces. A longer word stays whole, so that an address can be copied.
    """
    try:
        most = os.get_terminal_size(fd).columns
    except OSError:  # not a terminal
        return text
    lines = text.split("\n")
    if not most or all(len(line) <= most for line in lines):
        return text
    import textwrap  # an import that most commands do not need

    wrapper = textwrap.TextWrapper(most, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if len(line) <= most else wrapper.fill(line) for line in lines)


def has_colors(fd: int, environ: Mapping[str, str]) -> bool:
    """Return whether stdout or stderr may be colored, apart from the settings."""
    return os.isatty(fd) and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def renders_markdown(output: "OutputSettings", environ: Mapping[str, str]) -> bool:
    """Return whether text answers on stdout are rendered."""
    return output.markdown and output.color and has_colors(1, environ)


def is_writable(fd: int) -> bool:
    """Return whether a pipe or a terminal accepts data now; a file always does."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


def print_text(text: str) -> None:
    """Print lines, unbuffered.

    Raises:
        BrokenPipeError: the reader of stdout is gone.
        ClinvkError: stdout cannot be written, e.g. the disk is full.
    """
    print_bytes(f"{text}\n".encode(errors="replace"))


def print_bytes(data: bytes) -> None:
    """Print bytes unchanged; otherwise like `print_text`."""
    try:
        _write(1, data)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise ClinvkError(f"cannot write to stdout: {exc.strerror}") from exc


def write(fd: int, text: str) -> None:
    """Write a text. Python would retry a failed write at exit, and fail with an exit code of its own.

    Raises:
        OSError: the text cannot be written.
    """
    _write(fd, text.encode(errors="replace"))


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # another process that shares the pipe made it non-blocking
            select.select([], [fd], [])


def print_json(value: object) -> None:
    """Print JSON, indented on a terminal. Raises like `print_text`."""
    import msgspec  # an import that help does not need

    data = msgspec.json.encode(value)
    print_text(printable((msgspec.json.format(data, indent=2) if os.isatty(1) else data).decode()))


BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"
RED, GREEN, YELLOW, CYAN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"


def paint(text: str, color: str | None) -> str:
    """Return a text in a color; unchanged without a color."""
    return f"{color}{text}{PLAIN}" if color else text


_PREFIX = "clinvk: "


class Notes:
    """Writes lines that begin with `clinvk: `, colored on a terminal if the environment allows colors.

    `can_draw` says whether stderr is a terminal that understands control sequences, `has_color` whether
    notes have colors. `is_asking` is set while a question is on the terminal: nothing else is drawn then.

    An agent's text in a line cannot control the terminal.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.is_terminal = os.isatty(STDERR)
        self.can_draw = self.is_terminal and environ.get("TERM") != "dumb"
        self.has_color = has_colors(STDERR, environ)
        self.is_asking = False
        self._waits = True
        self._write: Callable[[str], None] = partial(write, STDERR)

    @contextmanager
    def redirected_to(self, write: Callable[[str], None]) -> Generator[None]:
        """Send lines, with their line ends, to the code that draws on the terminal, so that neither output is torn."""
        before, self._write = self._write, write
        try:
            yield
        finally:
            self._write = before

    def allow_color(self, is_allowed: bool) -> None:
        """Turn colors off if the settings do not allow colors."""
        self.has_color = self.has_color and is_allowed

    def hurry(self) -> None:
        """Drop lines from now on if stderr would block."""
        self._waits = False

    def error(self, message: str) -> None:
        """Print an error, often the stderr of a program."""
        self._line(without_sequences(message), RED)

    def info(self, message: str) -> None:
        """Print a note."""
        self._line(message, DIM)

    def footer(self, *messages: str) -> None:
        """Print an empty line, and dim lines without `clinvk: `; nothing without lines."""
        if not messages:
            return
        lines = "\n".join(wrap(on_one_line(message), STDERR, 2) for message in messages)
        with suppress(OSError):  # the reader is gone
            self._write(f"\n{paint(lines, DIM if self.has_color else '')}\n")

    def block(self, lines: Iterable[str]) -> None:
        """Print lines that are safe for a terminal, without `clinvk: `."""
        with suppress(OSError):  # the reader is gone
            self._write("".join(f"{line}\n" for line in lines))

    def _line(self, message: str, color: str) -> None:
        message = _ID.sub(r"\1", on_one_line(message))
        text = wrap(f"{_PREFIX}{message}\n", STDERR, len(_PREFIX))
        if self.has_color:
            text = text.replace("clinvk:", paint("clinvk:", color), 1)
        if self._waits or is_writable(STDERR):
            with suppress(OSError):  # the reader is gone
                self._write(text)
