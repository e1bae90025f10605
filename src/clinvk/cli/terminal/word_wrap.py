"""Break the lines of a text between words while the text arrives, for a terminal without cursor movement. Pure."""

import re
from collections.abc import Callable

from clinvk.cli.terminal.table import width

_PARTS = re.compile("\n|[ \t]*(?:[^ \t\n\u2e80-\uffff]+|[\u2e80-\uffff])|[ \t]+")
"""Line ends, and words with the blanks before them. Each Chinese or Japanese character is a word."""

_FENCES = ("```", "~~~")
_WHOLE = ("    ", "\t", "|")
"""How lines of code and of tables begin."""


class WordWrap:
    """Breaks lines that are wider than `columns` returns. Lines of code and of tables stay whole."""

    def __init__(self, columns: Callable[[], int]) -> None:
        self._columns = columns
        self._held = ""
        self._at = 0
        self._is_code = self._is_whole = False

    def feed(self, text: str) -> str:
        """Return the text up to the last word, whose end has not come yet."""
        parts: list[str] = _PARTS.findall(self._held + text)
        self._held = parts.pop() if parts and parts[-1] != "\n" else ""
        return "".join(map(self._placed, parts))

    def flush(self) -> str:
        """Return the last word. What follows begins a line."""
        word, self._held = self._held, ""
        placed = self._placed(word)
        self._at = 0
        return placed

    def _placed(self, part: str) -> str:
        """Return a line end, or a word and the blanks before it, which become a line end if the word does not fit."""
        if part == "\n":
            self._at = 0
            return part
        if not self._at:
            is_fence = part.lstrip().startswith(_FENCES)
            self._is_whole = self._is_code or is_fence or part.startswith(_WHOLE)
            self._is_code ^= is_fence
        elif not self._is_whole and self._at + width(part) > self._columns():
            part, self._at = f"\n{part.lstrip()}", 0
        self._at += width(part.removeprefix("\n"))
        return part
