"""Break the lines of a text between words while the text arrives, for a terminal without cursor movement. Pure."""

import re
from collections.abc import Callable

from clinvk.cli.terminal.table import width

_PARTS = re.compile(r"\n|[ \t]*[^ \t\n]+|[ \t]+")
_LAST_WORD = re.compile(r"[ \t]*[^ \t\n]*\Z")
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
        text = self._held + text
        at = len(text) if (last := _LAST_WORD.search(text)) is None else last.start()
        self._held = text[at:]
        return "".join(map(self._placed, _PARTS.findall(text[:at])))

    def flush(self) -> str:
        """Return the last word. What follows begins a line."""
        text, self._held = self._held, ""
        placed = "".join(map(self._placed, _PARTS.findall(text)))
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
