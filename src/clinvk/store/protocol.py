"""The protocol of stores of sessions and runs, and the ids that name them. Every store passes one contract suite."""

from collections.abc import Collection, Mapping, Sequence
from typing import Generic, Literal, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from clinvk.types.errors import AmbiguousId, RunNotFound, SessionNotFound
from clinvk.types.events import Logged
from clinvk.types.record import RunRecord, RunState, UsageOfDay
from clinvk.types.session import Session, SessionStatus

MIN_PREFIX = 4
"""Hex digits of an id, at least, that may stand for the whole."""

UNDER_WAY: tuple[RunState, RunState] = ("queued", "running")
"""The states of a run that holds its session."""

MADE_WITH = ("backend", "created_at", "working_dir", "initial_prompt", "parent_id", "title", "tags")
"""The fields of a session that its runs leave as they are."""

RUN_MADE_WITH = ("id", "session_id", "parent_id", "backend", "created_at", "workdir", "request", "prompt", "key_name")
"""The fields of a run that stay as it was begun."""

SEARCHED_CHARS = 1000
"""How much of a session's title and first prompt, together, `SessionQuery.text` is looked for in."""

Item = TypeVar("Item")


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """A part of a list, and how long the whole is.

    `unreadable` items are left out of this part, since the database is damaged.
    """

    items: tuple[Item, ...]
    total: int
    unreadable: int = 0


class SessionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions, newest first.

    Attributes:
        text: looked for in title and first prompt, without regard to case.
        resumable: only those whose agent has told its handle; one with a run under way is among them.
    """

    backend: str | None = None
    status: SessionStatus | None = None
    tag: str | None = None
    text: str | None = None
    working_dir: str | None = None
    resumable: bool = False
    limit: int = 100
    offset: int = 0


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs, newest first."""

    session_id: str | None = None
    parent_id: str | None = None
    backend: str | None = None
    state: RunState | None = None
    limit: int = 100
    offset: int = 0


def at_rest(session: Session) -> Session:
    """Give a session as it is kept while no run of it is under way: it is not active."""
    return replace(session, status="paused") if session.status == "active" else session


class SessionStore(Protocol):
    """Sessions and runs.

    A `reference` is an id or a prefix of at least `MIN_PREFIX` digits that only one id has. What a session was
    made with (backend, directory, first prompt, parent) stays; title and tags change by `describe` and `tag` alone,
    so that a run and who describes its session do not undo each other. What a run was begun as stays too. All methods
    raise `StoreUnavailable` when the store cannot be used.

    Attributes:
        damage: what of the store was found to be damaged; empty if nothing was. The rest can be used.
    """

    @property
    def damage(self) -> str:
        """What of the store was found to be damaged."""
        ...

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        """Keep a run that is about to start, and claim its session for it until the run's `end`.

        The session becomes active. A new one is inserted; of one that is kept already nothing else changes. It is
        returned as it is kept, which is what the run has to go on from: between reading and claiming it, another
        run may have ended. With `must_exist` it is gone on with, so that none is inserted: one that was deleted
        meanwhile does not come back.

        Raises:
            SessionBusy: another run of the session is under way.
            SessionNotFound: the session must exist and does not.
        """
        ...

    async def update(self, run: RunRecord, session: Session | None) -> None:
        """Keep what has become known of a run and its session (the agent's handle, its model).

        This may be put off for a moment, so it does not raise: a run that is not kept is passed over.
        """
        ...

    async def append(self, events: Mapping[str, Sequence[Logged]]) -> None:
        """Store events of runs in one transaction, by run id and each run's in the order of their numbers.

        Skip events that are stored already, and those of a run that is not.
        """
        ...

    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        """Keep the end of a run with its last events, and release its session. All or nothing.

        Raises:
            RunNotFound: the run is not kept.
        """
        ...

    async def session(self, reference: str) -> Session:
        """Give a session.

        Raises:
            SessionNotFound: no session has this id, or it is none.
            AmbiguousId: several begin so; names them.
        """
        ...

    async def sessions(self, query: SessionQuery) -> Page[Session]:
        """List sessions."""
        ...

    async def current(self, backend: str, working_dir: str) -> Session | None:
        """Give the newest session that a next prompt may go on with by itself.

        That is one that can be resumed, but not if all its runs were parts of several agents' work.
        """
        ...

    async def create(self, session: Session) -> None:
        """Insert a session without a run (a fork), `at_rest`. An id that is there already is a ValueError."""
        ...

    async def describe(self, session_id: str, title: str | None, tags: tuple[str, ...] | None) -> Session:
        """Change title and tags where they are not None. Raises `SessionNotFound`."""
        ...

    async def tag(self, session_id: str, add: Sequence[str], remove: Collection[str]) -> Session:
        """Change some tags, as `session.retagged` does. What others change at the same time is not undone.

        Raises:
            SessionNotFound: no session has this id.
            InvalidRequest: these are more than a session can have; none was changed.
        """
        ...

    async def delete(self, session_id: str) -> None:
        """Delete a session with its runs and their events. Raises `SessionNotFound`, `SessionBusy`.

        An orchestration that one of them was a part of loses its text and its events, and goes with its last part. One
        that is under way stays, and is kept without any to its end.
        """
        ...

    async def clean(self, before: float, dry_run: bool = False) -> int:
        """Delete what was last used (or imported) before a time, in seconds since the epoch.

        Sessions with a run under way stay. Runs without a session go by their own age.

        Returns:
            The number of sessions.
        """
        ...

    async def count(self) -> int:
        """Give the number of sessions. Raises also when the store can be read but not written: ask it for health."""
        ...

    async def run(self, reference: str) -> RunRecord:
        """Give a run. Raises `RunNotFound`, `AmbiguousId`."""
        ...

    async def runs(self, query: RunQuery) -> Page[RunRecord]:
        """List runs."""
        ...

    async def events(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        """Give the kept events of a run after number `after`, at most `limit`; none where there is no such run."""
        ...

    async def size(self) -> int:
        """Give the bytes that the store takes on disk; 0 where it takes none."""
        ...

    async def usage(self, first_day: str, key_name: str | None = None) -> list[UsageOfDay]:
        """Give what the runs that have ended used, from a day on, in order of days; None is any key.

        What was used stays used when runs are deleted. Runs of several agents together count as their parts.
        """
        ...


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
