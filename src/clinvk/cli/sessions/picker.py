"""Choose a session from a list with the keyboard. `Picker` is pure: keys in, lines out.

The terminal is always restored when the picker ends.
"""

import asyncio
import codecs
import os
import re
import signal
import termios
import tty
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Literal

from clinvk.cli.sessions.session_text import TextView, choices
from clinvk.cli.terminal.output import STDERR, write
from clinvk.cli.terminal.streams import on_signals
from clinvk.cli.terminal.table import cut, one_line, width
from clinvk.types.session import Session

_HELP = "up/down choose   Enter go on   type to search   Esc leave"
_SEARCH = "search: "
_REVERSE, _PLAIN = "\x1b[7m", "\x1b[0m"

_KEY = re.compile(r"\x1b[\[O][^@-~]*[@-~]|\x1b(?![\[O]|\Z)|[^\x1b]", re.DOTALL)
_NAMES: dict[str, str] = {  # a sequence without its [ or O
    **dict.fromkeys(("\r", "\n"), "enter"),
    **dict.fromkeys(("\x1b", "\x03", "\x04"), "escape"),
    **dict.fromkeys(("\x7f", "\x08"), "erase"),
    "\x15": "erase_all",
    **dict.fromkeys(("\x1bA", "\x10"), "up"),
    **dict.fromkeys(("\x1bB", "\x0e"), "down"),
    **dict.fromkeys(("\x1bH", "\x1b1~", "\x1b7~"), "home"),
    **dict.fromkeys(("\x1bF", "\x1b4~", "\x1b8~"), "end"),
    "\x1b5~": "page_up",
    "\x1b6~": "page_down",
}


class KeyDecoder:
    """Decodes the keys of a terminal. A character, or the sequence of a key, may arrive in pieces.

    A typed character stands for itself. Other keys have names; unused keys are empty.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._rest = ""

    @property
    def is_waiting(self) -> bool:
        """Whether the last key may be incomplete: Escape alone is a key, too."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """Decode bytes into keys."""
        text, end = self._rest + self._decoder.decode(data), 0
        found: list[str] = []
        while match := _KEY.match(text, end):
            key, end = match[0], match.end()
            found.append(_NAMES.get(key[:1] + key[2:], key if key.isprintable() else ""))
        self._rest = text[end:]
        return found

    def flush(self) -> list[str]:
        """Return the incomplete key as Escape, after the wait for its rest."""
        rest, self._rest = self._rest, ""
        return ["escape"] if rest else []


class Picker:
    """The list, the search text, and the selection.

    Attributes:
        text: the search text; after a change, the caller passes the result to `show`.
        state: `searching` until `show`; `chosen` and `left` are final.
    """

    def __init__(self, sessions: Sequence[Session], view: TextView) -> None:
        self.text = ""
        self.state: Literal["open", "searching", "chosen", "left"] = "open"
        self._sessions = sessions
        self._view = view
        self._selected = 0
        self._top = 0
        self._rows = 1

    @property
    def selected(self) -> Session | None:
        """The selected session."""
        return self._sessions[self._selected] if self._sessions else None

    def show(self, sessions: Sequence[Session]) -> None:
        """Show the result of a search."""
        self._sessions = sessions
        self._selected = self._top = 0
        self.state = "open"

    @property
    def is_over(self) -> bool:
        """Whether the user has chosen or left."""
        return self.state in ("chosen", "left")

    def press(self, key: str) -> None:
        """Handle a key."""
        match key:
            case "up" | "down" | "page_up" | "page_down" | "home" | "end":
                steps = {"up": -1, "down": 1, "page_up": -self._rows, "page_down": self._rows}
                last = len(self._sessions) - 1
                wanted = {"home": 0, "end": last}.get(key, self._selected + steps.get(key, 0))
                self._selected = max(0, min(wanted, last))
            case "enter":
                self.state = "chosen" if self._sessions else self.state
            case "escape":
                self.state = "left"
            case "erase":
                self._search(self.text[:-1])
            case "erase_all":
                self._search("")
            case _:
                self._search(self.text + key)

    def _search(self, text: str) -> None:
        if text != self.text:
            self.text = text
            self.state = "searching"

    def lines(self, columns: int, rows: int) -> list[str]:
        """Return the screen for a terminal of this size: at most `rows` lines."""
        self._rows = max(1, rows - 3)
        self._top = max(self._selected - self._rows + 1, min(self._top, self._selected))
        shown = self._sessions[self._top : self._top + self._rows]
        head, *table = choices(shown, self._view._replace(most=columns - 2)) if shown else ("", "nothing found")
        lines = [self.question(columns), cut(f"  {head}", columns)]
        for at, line in enumerate(table, self._top):
            if shown and at == self._selected:
                text = cut(f"> {line}", columns)
                lines.append(f"{_REVERSE}{text}{' ' * (columns - width(text))}{_PLAIN}")
            else:
                lines.append(cut(f"  {line}", columns))
        place = f"{self._selected + 1} of {len(self._sessions)}   " if shown else ""
        return [*lines[: max(1, rows - 1)], cut(place + _HELP, columns)][:rows]

    def question(self, columns: int) -> str:
        """Return the first line; the cursor is at its end."""
        return cut(_SEARCH + cut(one_line(self.text), columns - width(_SEARCH) - 1, from_left=True), columns)


_READ_BYTES = 4096
_ESCAPE_S = 0.05
"""The wait for the rest of a key's sequence after its Escape."""

_OTHER_SCREEN, _FIRST_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
_TOP, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"

Events = asyncio.Queue[bytes | None]
"""Typed bytes; empty to redraw the screen, None at the end of the input."""


async def pick(search: Callable[[str], Awaitable[Sequence[Session]]], view: TextView) -> Session | None:
    """Let the user choose a session; return None if the user leaves.

    `search` returns the sessions for a text, the newest first.
    """
    picker = Picker(await search(""), view)
    keys = KeyDecoder()
    with _terminal() as events:
        while not picker.is_over:
            _draw(picker)
            for key in await _read_keys(keys, events):
                picker.press(key)
                if picker.state == "searching":
                    picker.show(await search(picker.text))
                if picker.is_over:
                    break
    return picker.selected if picker.state == "chosen" else None


async def _read_keys(keys: KeyDecoder, events: Events) -> list[str]:
    """Wait for keys; return none if only the size of the terminal has changed."""
    try:
        async with asyncio.timeout(_ESCAPE_S if keys.is_waiting else None):
            data = await events.get()
    except TimeoutError:
        return keys.flush()
    return ["escape"] if data is None else keys.feed(data)


def _draw(picker: Picker) -> None:
    columns = rows = 0
    with suppress(OSError):
        columns, rows = os.get_terminal_size(STDERR)
    columns = columns or 80
    lines = [f"{line}{_CLEAR_LINE}" for line in picker.lines(columns, rows or 24)]
    cursor = f"\x1b[1;{min(columns, width(picker.question(columns)) + 1)}H"
    with suppress(OSError):  # the terminal is gone
        write(STDERR, _TOP + "\r\n".join(lines) + _CLEAR_BELOW + cursor)


@contextmanager
def _terminal() -> Generator[Events]:
    """Set up the terminal: keys arrive one by one, and signals arrive as the key that leaves."""
    loop = asyncio.get_running_loop()
    events: Events = asyncio.Queue()
    saved = termios.tcgetattr(0)

    def read() -> None:
        data = b""
        with suppress(OSError):  # the terminal is gone
            data = os.read(0, _READ_BYTES)
        events.put_nowait(data or None)

    with on_signals(lambda: events.put_nowait(None)):
        try:
            loop.add_signal_handler(signal.SIGWINCH, events.put_nowait, b"")
            tty.setraw(0, termios.TCSANOW)
            write(STDERR, _OTHER_SCREEN)
            loop.add_reader(0, read)
            yield events
        finally:
            loop.remove_reader(0)
            loop.remove_signal_handler(signal.SIGWINCH)
            with suppress(OSError, termios.error):  # the terminal is gone
                write(STDERR, _FIRST_SCREEN)
            with suppress(termios.error):
                termios.tcsetattr(0, termios.TCSANOW, saved)
