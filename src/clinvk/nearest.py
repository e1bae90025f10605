"""The known word that a mistyped one was probably meant to be."""

from collections.abc import Iterable

_MAX_CHARS = 200
"""To compare a word takes quadratic time."""


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Give the known word that is most like `word`; None where none is, `likeness` being from 0 to 1, equality."""
    from difflib import get_close_matches  # only what is mistyped needs it

    if len(word) > _MAX_CHARS:
        return None
    near = get_close_matches(word, list(known), n=1, cutoff=likeness)
    return near[0] if near else None
