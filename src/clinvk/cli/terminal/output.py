"""Output to the terminal: results on stdout as text or JSON in UTF-8, notes for the user on stderr."""

import os
import re
import select
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

import msgspec

from clinvk.types.errors import ClinvkError

STDERR = 2

WOULD_EXECUTE = "# Would execute:"
"""The first line of a dry run. Scripts look for it; as a comment it leaves the rest a command for a shell."""

_STEERING = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    r"\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Controls but tab and line ends, what turns the order of letters around, what is not seen, and halves of characters.

U+200C and U+200D stay, though they are not seen: Persian is not written without the one, nor many emoji without the
other.
"""

_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
"""CSI (colors are of these), OSC and other strings to their ends, and all shorter ones: ECMA-48."""


def harmless(text: str) -> str:
    """Give a text without what would steer the terminal; lines and tabs stay.

    Each character is judged alone, so the pieces of a text may be given one by one.
    """
    # A carriage return is left out: it is half of a line end, or would have the line written over.
    return _STEERING.sub("?", text).replace("\r", "")


def on_one_line(text: str) -> str:
    """Give a text on one line and harmless."""
    return harmless(" ".join(text.split()))


def without_sequences(text: str) -> str:
    """Give what a program said on its stderr without its sequences for a terminal, such as colors.

    Not for names: it would hide a part of them.
    """
    return _SEQUENCE.sub("", text)


def shown(text: str) -> str:
    """Give what an agent said as stdout may have it: harmless on a terminal, as it is elsewhere."""
    return harmless(text) if os.isatty(1) else text


def columns() -> int | None:
    """Give the width of the terminal; None where stdout is none."""
    if not os.isatty(1):
        return None
    import shutil  # it brings all that packs files, which no prompt waits for

    return shutil.get_terminal_size().columns


def has_colors(fd: int, environ: Mapping[str, str]) -> bool:
    """Say whether stdout or stderr may be colored, but for the settings."""
    return os.isatty(fd) and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def is_writable(fd: int) -> bool:
    """Say whether a pipe or a terminal takes something at the moment; a file always does."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


def tell(text: str) -> None:
    """Print lines. Nothing is kept back.

    Raises:
        BrokenPipeError: nobody reads stdout any more.
        ClinvkError: it cannot be written, e.g. the disk is full.
    """
    tell_bytes(f"{text}\n".encode(errors="replace"))


def tell_bytes(data: bytes) -> None:
    """Print what may be no text, as it is; otherwise as `tell`."""
    try:
        _write(1, data)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise ClinvkError(f"cannot write to stdout: {exc.strerror}") from exc


def write(fd: int, text: str) -> None:
    """Write all of it; what could not be written is not tried again when Python exits, which would be its exit code.

    Raises:
        OSError: it cannot be written.
    """
    _write(fd, text.encode(errors="replace"))


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # whoever shares the pipe made it non-blocking
            select.select([], [fd], [])


def tell_json(value: object) -> None:
    """Print JSON; indented for people. Raises as `tell`."""
    data = msgspec.json.encode(value)
    tell(shown((msgspec.json.format(data, indent=2) if os.isatty(1) else data).decode()))


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
