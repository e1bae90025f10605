"""Text from outside: replace characters that are not Unicode, suggest known words, and limit the size of JSON."""

import re
from collections.abc import Collection, Iterable
from datetime import datetime, tzinfo

BACKEND_NAME = re.compile("[a-z][a-z0-9-]{0,31}")
BACKEND_NAME_RULE = "a lower-case letter, then up to 31 lower-case letters, digits and dashes"


def readable(text: str) -> str:
    """Replace each character that is not valid Unicode (a byte of an argument or path that is not UTF-8) by `?`."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


_STEERING = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    r"\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Control characters except tab and line ends, bidirectional controls, invisible characters, and surrogates.

U+200C and U+200D stay: Persian needs the former, many emoji need the latter.
"""


def escape_controls(text: str) -> str:
    """Return a text without characters that control the terminal. Line ends and tabs stay.

    Each character is judged alone, so a text may be passed in pieces.
    """
    # A carriage return is removed: it is half of a line end, or would overwrite the line.
    return _STEERING.sub("?", text).replace("\r", "")


_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
"""Escape sequences (ECMA-48): CSI, which includes colors, OSC and other strings to their ends, and short ones."""


def without_sequences(text: str) -> str:
    """Return the stderr of a program without escape sequences, such as colors.

    Do not use it for names: part of a name would be hidden.
    """
    return _SEQUENCE.sub("", text)


def on_one_line(text: str) -> str:
    """Return a text on one line, without characters that control the terminal."""
    return escape_controls(" ".join(text.split()))


def visible(text: str) -> str:
    """Return a line with all control characters, bidirectional controls and invisible characters as escapes."""
    shown = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if text.isprintable() else "".join(shown)


def last_line(text: str) -> str:
    """Return the last non-blank line, stripped; empty if all lines are blank."""
    return text.rstrip().rpartition("\n")[2].strip()


MAX_JSON_VALUES = 200_000
"""Approximate maximum number of values in a JSON document: decoding more values blocks the event loop for too long."""

_SLICE_BYTES = 64 * 1024
_NO_STRUCTURE = bytes(set(range(256)) - set(b'"[{,'))


def has_too_many_values(document: bytes) -> bool:
    """Return whether a JSON document has over `MAX_JSON_VALUES` values: brackets, braces and commas outside strings."""
    if len(document) <= MAX_JSON_VALUES:
        return False
    if sum(map(document.count, (b",", b"[", b"{"))) <= MAX_JSON_VALUES:
        return False
    bare = document.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_STRUCTURE).replace(b'""', b"")
    count, in_string = 0, 0
    for at in range(0, len(bare), _SLICE_BYTES):
        parts = bare[at : at + _SLICE_BYTES].split(b'"')
        count += sum(map(len, parts[in_string::2]))
        in_string ^= (len(parts) - 1) & 1
    return count > MAX_JSON_VALUES


_MAX_CHARS = 200
"""Maximum length of a word to compare, since the comparison takes quadratic time."""


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the known word most similar to `word`, or None; `likeness` is the threshold, from 0 to 1 (equal)."""
    from difflib import get_close_matches  # slow import, needed for mistyped words only

    if len(word) > _MAX_CHARS:
        return None
    near = get_close_matches(word, list(known), n=1, cutoff=likeness)
    return near[0] if near else None


def unknown_name(kind: str, name: str, known: Collection[str], nearest_to: str | None = None) -> str:
    """Return the message for an unknown name, with the known names, and the most similar one if any is similar.

    `nearest_to` is the text to compare if that is not the whole name.
    """
    near = nearest(name if nearest_to is None else nearest_to, known)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"unknown {kind} {name!r:.100} (available: {', '.join(known) or 'none'}){hint}"


class Clock:
    """Formats times in seconds since the epoch, and caches the text of the latest second. By default in local time."""

    def __init__(self, form: str, zone: tzinfo | None = None) -> None:
        self._form = form
        self._zone = zone
        self._second = -1
        self._shown = ""

    def show(self, at: float) -> str:
        """Return the text of the second of a time."""
        second = int(at)
        if second != self._second:
            self._second, self._shown = second, datetime.fromtimestamp(second, self._zone).strftime(self._form)
        return self._shown
