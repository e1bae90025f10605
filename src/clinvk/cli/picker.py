"""Choosing a session from a list with the keyboard: keys in, lines out. Pure; `picker_terminal` has the terminal."""

import codecs
from collections.abc import Sequence
from typing import Literal

from clinvk.cli.sessions_text import choices
from clinvk.cli.table import cut, cut_left, one_line, width
from clinvk.session import Session

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
    """Reads what a terminal sends as keys; a character, or the sequence of a key, may come in pieces.

    A typed character is itself; the other keys have names, and those that do nothing here are empty.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._rest = ""

    @property
    def is_waiting(self) -> bool:
        """Whether more may belong to what came last: Escape alone is the key of this name."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """Give the keys of these bytes."""
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
        """Give what came last, since nothing followed."""
        rest, self._rest = self._rest, ""
        return ["escape"] if rest else []


def _length(text: str) -> int:
    """Give the number of characters of the first key; 0 while it is not complete."""
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
    """The list, what is searched for, and what is marked.

    Attributes:
        text: what is searched for; whoever owns the picker answers a change of it with `show`.
        state: searching until `show`; chosen and left are the end.
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
        """The session that is marked."""
        return self._sessions[self._marked] if self._sessions else None

    def show(self, sessions: Sequence[Session]) -> None:
        """Take what was found."""
        self._sessions = sessions
        self._marked = self._top = 0
        self.state = "open"

    @property
    def is_over(self) -> bool:
        """Whether nothing is asked any more."""
        return self.state in ("chosen", "left")

    def press(self, key: str) -> None:
        """Take a key."""
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
        """Give what stands on a terminal of this size: at most `rows` lines."""
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
            lines.append(_marking(line, columns) if is_marked else cut(f"  {line}", columns))
        place = f"{self._marked + 1} of {len(self._sessions)}   " if shown else ""
        return [*lines[: max(1, rows - 1)], cut(place + _HELP, columns)][:rows]

    def question(self, columns: int) -> str:
        """Give the first line, at whose end is the cursor."""
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


def _marking(line: str, columns: int) -> str:
    text = cut(f"> {line}", columns)
    return f"{_REVERSE}{text}{' ' * (columns - width(text))}{_PLAIN}"
