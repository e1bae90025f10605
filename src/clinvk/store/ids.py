"""Ids of sessions and runs, and the prefixes that may stand for them."""

from collections.abc import Sequence
from typing import Literal

from clinvk.errors import AmbiguousId, RunNotFound, SessionNotFound
from clinvk.store import MIN_PREFIX

ID_DIGITS = 32
MAX_CANDIDATES = 10

Kind = Literal["session", "run"]

_DIGITS = frozenset("0123456789abcdef")
_NOT_FOUND: dict[Kind, type[SessionNotFound | RunNotFound]] = {"session": SessionNotFound, "run": RunNotFound}


def prefix(reference: str, kind: Kind) -> str:
    """Read an id or the beginning of one.

    Raises:
        SessionNotFound, RunNotFound: it is neither, so that nothing has it.
    """
    digits = reference.lower()
    if MIN_PREFIX <= len(digits) <= ID_DIGITS and _DIGITS.issuperset(digits):
        return digits
    raise _NOT_FOUND[kind](
        f"{reference!r} is no {kind} id; have {ID_DIGITS} hex digits, or the first {MIN_PREFIX} or more of them"
    )


def is_id(text: str) -> bool:
    """Say whether a text is a whole id."""
    return len(text) == ID_DIGITS and _DIGITS.issuperset(text)


def only(found: Sequence[str], reference: str, kind: Kind) -> str:
    """Give the one id that was found for a reference. `found` may hold one more than `MAX_CANDIDATES`.

    Raises:
        SessionNotFound, RunNotFound: there is none.
        AmbiguousId: there are several.
    """
    if len(found) == 1:
        return found[0]
    if not found:
        raise missing(reference, kind)
    candidates = tuple(found[:MAX_CANDIDATES])
    more = " and more" if len(found) > MAX_CANDIDATES else ""
    raise AmbiguousId(
        f"{reference!r} is the beginning of several {kind} ids: {', '.join(candidates)}{more}", candidates
    )


def missing(reference: str, kind: Kind) -> SessionNotFound | RunNotFound:
    """Make the error for an id that nothing has."""
    return _NOT_FOUND[kind](f"no {kind} {reference!r}")
