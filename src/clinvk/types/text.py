"""Text from outside: replace what is not Unicode, and find the known word that a mistyped one was meant to be."""

from collections.abc import Iterable


def readable(text: str) -> str:
    """Put a question mark in the place of what is no Unicode: bytes of an argument or a path that are not UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


MAX_JSON_VALUES = 200_000
"""Values in one JSON document, about: to decode more of them takes so long that nothing else would be served."""

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
"""To compare a word takes quadratic time."""


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Give the known word that is most like `word`; None where none is, `likeness` being from 0 to 1, equality."""
    from difflib import get_close_matches  # only what is mistyped needs it

    if len(word) > _MAX_CHARS:
        return None
    near = get_close_matches(word, list(known), n=1, cutoff=likeness)
    return near[0] if near else None
