"""The ids of sessions, runs and interactions, and the look-up by the beginning of an id."""

from collections.abc import Sequence
from typing import Literal

from clinvk.types.errors import AmbiguousId, InteractionNotFound, RunNotFound, SessionNotFound

MIN_PREFIX = 4
"""The minimum length of an id prefix, in hex digits."""

ID_DIGITS = 32
MAX_CANDIDATES = 10

RecordKind = Literal["session", "run", "interaction"]
_NotFound = SessionNotFound | RunNotFound | InteractionNotFound

_DIGITS = frozenset("0123456789abcdef")
_NOT_FOUND: dict[RecordKind, type[_NotFound]] = {
    "session": SessionNotFound,
    "run": RunNotFound,
    "interaction": InteractionNotFound,
}


def check_prefix(reference: str, kind: RecordKind) -> str:
    """Return an id, or the beginning of one, in lower case.

    Raises:
        SessionNotFound, RunNotFound, InteractionNotFound: the reference is neither an id nor a prefix.
    """
    digits = reference.lower()
    if MIN_PREFIX <= len(digits) <= ID_DIGITS and _DIGITS.issuperset(digits):
        return digits
    article = "an" if kind == "interaction" else "a"
    raise _NOT_FOUND[kind](
        f"{reference!r} is not {article} {kind} id: "
        f"an id is {ID_DIGITS} hex digits, or at least the first {MIN_PREFIX} of them"
    )


def is_id(text: str) -> bool:
    """Return whether a text is a complete id."""
    return len(text) == ID_DIGITS and _DIGITS.issuperset(text)


def only_match(found: Sequence[str], reference: str, kind: RecordKind) -> str:
    """Return the only id in `found`, which may hold one id more than `MAX_CANDIDATES`.

    Raises:
        SessionNotFound, RunNotFound, InteractionNotFound: `found` is empty.
        AmbiguousId: `found` has several ids.
    """
    if len(found) == 1:
        return found[0]
    if not found:
        raise not_found(reference, kind)
    candidates = tuple(found[:MAX_CANDIDATES])
    more = " and more" if len(found) > MAX_CANDIDATES else ""
    raise AmbiguousId(
        f"{reference!r} is the beginning of several {kind} ids: {', '.join(candidates)}{more}", candidates=candidates
    )


def not_found(reference: str, kind: RecordKind) -> _NotFound:
    """Return the error for an unknown id."""
    return _NOT_FOUND[kind](f"no {kind} {reference!r}")
