"""Choose a session from a list with the keyboard. `Picker` is pure: keys in, lines out.

The terminal is always restored when the picker ends.
"""

import asyncio
import codecs
import os
import signal
import termios
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Literal

from clinvk.cli.sessions.session_text import choices
from clinvk.cli.terminal.table import cut, cut_left, one_line, width
from clinvk.types.session import Session

State = Literal["open", "searching", "chosen", "left"]

_HELP = "up/down choose   Enter go on   type to search   Esc leave"
_SEARCH = "search: "
_ESCAPE = "\x1b"
_REVERSE, _PLAIN = "\x1b[7m", "\x1b[0m"

_CONTROLS: dict[str, str] = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "erase",
    "\x08": "erase",
    "\x15": "erase_all",
    "\x10": "up",
    "\x0e": "down",
    "\x03": "escape",
    "\x04": "escape",
}
_SEQUENCES: dict[str, str] = {
    "A": "up",
    "B": "down",
    "H": "home",
    "F": "end",
    "5~": "page_up",
    "6~": "page_down",
    "1~": "home",
    "4~": "end",
    "7~": "home",
    "8~": "end",
}


class Keys:
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
        """Return the keys of these bytes."""
        text, self._rest = self._rest + self._decoder.decode(data), ""
        found: list[str] = []
        while text:
            length = _length(text)
            if not length:
                self._rest = text
                break
            found.append(_key(text[:length]))
            text = text[length:]
        return found

    def flush(self) -> list[str]:
        """Return the incomplete key as Escape, after the wait for its rest."""
        rest, self._rest = self._rest, ""
        return ["escape"] if rest else []


def _length(text: str) -> int:
    """Return the number of characters of the first key, or 0 if the key is incomplete."""
    if text[0] != _ESCAPE:
        return 1
    if len(text) == 1:
        return 0
    if text[1] not in "[O":
        return 1
    for at, char in enumerate(text[2:], 3):
        if "@" <= char <= "~":
            return at
    return 0


def _key(text: str) -> str:
    if text[0] == _ESCAPE:
        return "escape" if len(text) == 1 else _SEQUENCES.get(text[2:], "")
    return _CONTROLS.get(text, text if text.isprintable() else "")


class Picker:
    """The list, the search text, and the selection.

    Attributes:
        text: the search text; after a change, the caller passes the result to `show`.
        state: `searching` until `show`; `chosen` and `left` are final.
    """

    def __init__(self, sessions: Sequence[Session], now: float, home: str | None) -> None:
        self.text = ""
        self.state: State = "open"
        self._sessions = sessions
        self._now = now
        self._home = home
        self._marked = 0
        self._top = 0
        self._rows = 1

    @property
    def marked(self) -> Session | None:
        """The selected session."""
        return self._sessions[self._marked] if self._sessions else None

    def show(self, sessions: Sequence[Session]) -> None:
        """Show the result of a search."""
        self._sessions = sessions
        self._marked = self._top = 0
        self.state = "open"

    @property
    def is_over(self) -> bool:
        """Whether the user has chosen or left."""
        return self.state in ("chosen", "left")

    def press(self, key: str) -> None:
        """Handle a key."""
        match key:
            case "up" | "down" | "page_up" | "page_down" | "home" | "end":
                self._move(key)
            case "enter":
                self.state = "chosen" if self.state == "open" and self._sessions else self.state
            case "escape":
                self.state = "left"
            case "erase":
                self._search(self.text[:-1])
            case "erase_all":
                self._search("")
            case _:
                self._search(self.text + key)

    def lines(self, columns: int, rows: int) -> list[str]:
        """Return the screen for a terminal of this size: at most `rows` lines."""
        self._rows = max(1, rows - 3)
        self._top = max(self._marked - self._rows + 1, min(self._top, self._marked))
        shown = self._sessions[self._top : self._top + self._rows]
        if shown:
            head, *table = choices(shown, self._now, self._home, columns - 2)
        else:
            head, table = "", ["nothing found"]
        lines = [self.question(columns), cut(f"  {head}", columns)]
        for at, line in enumerate(table, self._top):
            is_marked = shown and at == self._marked
            lines.append(_selected_line(line, columns) if is_marked else cut(f"  {line}", columns))
        place = f"{self._marked + 1} of {len(self._sessions)}   " if shown else ""
        return [*lines[: max(1, rows - 1)], cut(place + _HELP, columns)][:rows]

    def question(self, columns: int) -> str:
        """Return the first line; the cursor is at its end."""
        return cut(_SEARCH + cut_left(one_line(self.text), columns - width(_SEARCH) - 1), columns)

    def _move(self, key: str) -> None:
        steps = {"up": -1, "down": 1, "page_up": -self._rows, "page_down": self._rows}
        last = len(self._sessions) - 1
        wanted = {"home": 0, "end": last}.get(key, self._marked + steps.get(key, 0))
        self._marked = max(0, min(wanted, last))

    def _search(self, text: str) -> None:
        if text != self.text:
            self.text = text
            self.state = "searching"


def _selected_line(line: str, columns: int) -> str:
    text = cut(f"> {line}", columns)
    return f"{_REVERSE}{text}{' ' * (columns - width(text))}{_PLAIN}"


_IN, _OUT = 0, 2
_READ_BYTES = 4096
_SIZE = (80, 24)
_ESCAPE_S = 0.05
"""The wait for the rest of a key's sequence after its Escape."""

_OTHER_SCREEN, _FIRST_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
_TOP, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"

Search = Callable[[str], Awaitable[Sequence[Session]]]
Events = asyncio.Queue[bytes | None]
"""Typed bytes; empty to redraw the screen, None at the end of the input."""


async def pick(search: Search, now: float, home: str | None) -> Session | None:
    """Let the user choose a session; return None if the user leaves.

    `search` returns the sessions for a text, the newest first.
    """
    picker = Picker(await search(""), now, home)
    keys = Keys()
    with _terminal() as events:
        while not picker.is_over:
            _draw(picker)
            for key in await _read_keys(keys, events):
                if picker.state == "searching" and len(key) > 1:
                    picker.show(await search(picker.text))
                picker.press(key)
                if picker.is_over:
                    break
            if picker.state == "searching":
                picker.show(await search(picker.text))
    return picker.marked if picker.state == "chosen" else None


async def _read_keys(keys: Keys, events: Events) -> list[str]:
    """Wait for keys; return none if only the size of the terminal has changed."""
    try:
        async with asyncio.timeout(_ESCAPE_S if keys.is_waiting else None):
            data = await events.get()
    except TimeoutError:
        return keys.flush()
    return ["escape"] if data is None else keys.feed(data)


def _draw(picker: Picker) -> None:
    columns, rows = _size()
    lines = [f"{line}{_CLEAR_LINE}" for line in picker.lines(columns, rows)]
    cursor = f"\x1b[1;{min(columns, width(picker.question(columns)) + 1)}H"
    _write(_TOP + "\r\n".join(lines) + _CLEAR_BELOW + cursor)


def _size() -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(_OUT)
    except OSError:
        return _SIZE
    return columns or _SIZE[0], rows or _SIZE[1]


@contextmanager
def _terminal() -> Generator[Events]:
    """Set up the terminal: keys arrive one by one, and signals arrive as the key that leaves."""
    loop = asyncio.get_running_loop()
    events: Events = asyncio.Queue()
    saved = termios.tcgetattr(_IN)
    leaving = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    try:
        for number in leaving:
            loop.add_signal_handler(number, events.put_nowait, None)
        loop.add_signal_handler(signal.SIGWINCH, events.put_nowait, b"")
        termios.tcsetattr(_IN, termios.TCSANOW, _key_by_key(saved))
        _write(_OTHER_SCREEN)
        loop.add_reader(_IN, lambda: events.put_nowait(_read()))
        yield events
    finally:
        loop.remove_reader(_IN)
        for number in (*leaving, signal.SIGWINCH):
            loop.remove_signal_handler(number)
        _write(_FIRST_SCREEN)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(_IN, termios.TCSANOW, saved)


def _key_by_key(attributes: "list[int | list[bytes | int]]") -> "list[int | list[bytes | int]]":
    """Return the mode in which every key, including Ctrl-C and Ctrl-Z, is read at once and not echoed."""
    changed = [*attributes]
    input_flags, local_flags = changed[0], changed[3]
    assert isinstance(input_flags, int)
    assert isinstance(local_flags, int)
    changed[0] = input_flags & ~termios.IXON
    changed[3] = local_flags & ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
    return changed


def _read() -> bytes | None:
    try:
        return os.read(_IN, _READ_BYTES) or None
    except OSError:  # the terminal is gone
        return None


def _write(text: str) -> None:
    try:
        os.write(_OUT, text.encode(errors="replace"))
    except OSError:  # the terminal is gone
        return
