"""The store of sessions and runs: the interface, with the methods that all databases share.

All stores pass one contract suite.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec
from msgspec.structs import replace

from clinvk.store import ids, rows
from clinvk.store.rows import INTERACTIONS, LIMITS, RUNS, SESSIONS, Table
from clinvk.store.turns import Connection, Turns
from clinvk.store.words import RunMatch
from clinvk.types.choices import RunState, SessionStatus
from clinvk.types.errors import InvalidRequest, SessionBusy, StoreUnavailable
from clinvk.types.events import Logged, RunFailed, Usage
from clinvk.types.interaction import Interaction, InteractionStatus
from clinvk.types.record import LimitWindow, RunRecord, Session, UsageOfDay

LOST = RunFailed(SessionBusy.code, "the session was continued or deleted elsewhere while the database was away")
"""The ending of a run that `SessionStore.on_lost` stops."""

COUNT_TIMEOUT_S = 2.0
"""How long `SessionStore.count` may take."""

_INDEX_S = 1.0

PROBE_BYTES = 128 * 1024
"""The size of what `SessionStore.count` tries to store after a failure, about that of a prompt and its answer."""

Item = TypeVar("Item")


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """A page of a list, and the length of the list."""

    items: tuple[Item, ...]
    total: int


def page_offset(cursor: str | None) -> int:
    """Return where the page of a cursor begins; the first page has none.

    Raises:
        InvalidRequest: no page has this cursor.
    """
    if not re.fullmatch(r"[0-9]{1,9}", cursor or "0"):
        raise InvalidRequest(f"unknown cursor {cursor!r:.100}", "cursor")
    return int(cursor or 0)


class SessionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A query for sessions, newest first.

    Attributes:
        text: words, the last of which may be the beginning of one: all are in the prompts and the answer of one run. Or
            a part of title and first prompt. Case does not matter.
        resumable: only sessions whose agent has reported a handle, with or without a run under way.
        archived: only archived sessions, or only the others; None is all.
    """

    backend: str | None = None
    status: SessionStatus | None = None
    tag: str | None = None
    text: str | None = None
    working_dir: str | None = None
    project: str | None = None
    resumable: bool = False
    archived: bool | None = False
    limit: int = 100
    offset: int = 0


class Project(NamedTuple):
    """The directory of sessions, their number, and when one was last used, in seconds since the epoch."""

    directory: str
    sessions: int
    last_used: float


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A query for runs, newest first; the runs of a session in the order of their turns, the last turn first."""

    session_id: str | None = None
    parent_id: str | None = None
    backend: str | None = None
    state: RunState | None = None
    limit: int = 100
    offset: int = 0


class InteractionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A query for interactions, newest first."""

    status: InteractionStatus | None = None
    run_id: str | None = None
    session_id: str | None = None
    limit: int = 100
    offset: int = 0


def settled_record(session: Session) -> Session:
    """Return a session as stored while no run is under way: paused instead of active."""
    return replace(session, status="paused") if session.status == "active" else session


_REQUEST = ("request",)
_CHANGE_REQUEST = RUNS.update(_REQUEST)
_LAST_USED = "SELECT max(last_used) FROM sessions"
_PROJECTS = (
    "SELECT project, count(*), max(last_used) FROM sessions WHERE NOT archived AND project <> ''"
    " GROUP BY project ORDER BY max(last_used) DESC, project LIMIT 1000"
)
_LIMITS = LIMITS.select('WHERE resets_at > ? ORDER BY backend, resets_at, "window"')
_USAGE = (
    "SELECT day, key_name, backend, model, runs, cost_usd, input_tokens, output_tokens, cached_tokens, reasoning_tokens"
    " FROM usage WHERE day >= ? AND key_name = coalesce(?, key_name) AND runs > 0"
    " ORDER BY day, key_name, backend, model"
)
_INTERACTION_FILTERS = ("status", "run_id", "session_id")

_T = TypeVar("_T")
_Record = TypeVar("_Record", Session, RunRecord, Interaction)
Operation = Callable[[Connection], Coroutine[Any, Any, _T]]


class SessionStore(ABC):
    """Sessions and runs.

    A `reference` is an id or a unique prefix of an id with at least `ids.MIN_PREFIX` digits. The fields of a session
    in `FIXED_SESSION_FIELDS` never change with its runs; only `describe` and `tag` change title, tags and `archived`,
    so a run cannot undo such a change. But a claim of the session ends `archived`. The fields of a run in
    `FIXED_RUN_FIELDS` never change, except that `reassign` changes the agent, and `change_request` the request.
    All methods raise `StoreUnavailable` if the store cannot be used.

    Attributes:
        damage: the damage that an operation has met; empty if none. Operations on undamaged parts still work.
        on_lost: called with the id of a run of this process that must stop: other processes took this one for dead,
            and its session was continued or deleted.
        on_run: called in the event loop with each stored record of a run.
        on_commit: called with the duration of each writing transaction, in seconds, maybe in a thread.
    """

    damage = ""

    def __init__(self, turns: Turns) -> None:
        """Take the operations on the database."""
        self.on_lost: list[Callable[[str], None]] = []
        self.on_run: Callable[[RunRecord], None] = lambda _: None
        self.on_commit: Callable[[float], None] = lambda _: None
        self._turns = turns

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        """Insert a run before its start, and claim its session until `end`.

        The session becomes active. A new session is inserted; a stored session does not change otherwise. The run
        must continue from the returned session: another run may have ended between reading and claiming. With
        `must_exist` no session is inserted, so a session deleted in the meantime does not reappear.

        Raises:
            SessionBusy: another run of the session is under way.
            SessionNotFound: the session must exist, but does not.
        """
        return await self._insert(run, lambda db: self._turns.begin(db, run, session, must_exist))

    async def enqueue(self, run: RunRecord, session: Session, is_next: bool = False) -> Session:
        """Insert a run that waits until its session is free. Return the stored session, which does not change.

        Waiting runs take their turns in the order of this call, those with `is_next` before the others. Until `claim`,
        the run does not hold the session, but `begin` and `delete` refuse the session as busy.

        Raises:
            SessionNotFound: the session does not exist.
        """
        return await self._insert(run, lambda db: self._turns.enqueue(db, run, session, is_next))

    async def claim(self, run_id: str, session_id: str) -> Session | None:
        """Claim the session of a run that waits, until `end`. Return the session, or None if other runs come first."""
        return await self._write(lambda db: self._turns.claim(db, run_id, session_id))

    @abstractmethod
    async def update(self, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session (the agent's handle, its model).

        The update may be delayed for a moment, so an unknown run is ignored.
        """

    @abstractmethod
    async def reassign(self, run: RunRecord, session: Session | None) -> None:
        """Update a run before a change of agent or a wait, including `backend` and `request`, and update the session.

        Raises:
            RunNotFound: the run is not stored.
        """

    async def append(self, events: Mapping[str, Sequence[Logged]]) -> None:
        """Store events of runs, by run id, in one transaction. The events of a run must be in order of number.

        Skip stored events, and all events of an unknown run.
        """
        await self._write(lambda db: self._turns.append(db, events))

    @abstractmethod
    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        """Store the end of a run with its last events, and release its session, in one transaction.

        Raises:
            RunNotFound: the run is not stored.
        """

    async def change_request(self, run: RunRecord) -> None:
        """Store a changed `request` of an ended run. Ignore an unknown run."""
        await self._write(lambda db: db.execute(_CHANGE_REQUEST, *RUNS.values(run, _REQUEST), run.id))

    async def session(self, reference: str) -> Session:
        """Return a session.

        Raises:
            SessionNotFound: no session has this id.
            AmbiguousId: several ids begin with the reference; the error names them.
        """
        return await self._find(SESSIONS, reference, "session")

    @abstractmethod
    async def sessions(self, query: SessionQuery) -> Page[Session]:
        """List sessions."""

    async def matches(self, text: str, session_ids: Sequence[str]) -> dict[str, RunMatch]:
        """Return where found sessions have the words of a text, by session; not those found by title alone."""
        return await self._read(lambda db: self._turns.matches(db, text, session_ids))

    async def index_runs(self) -> bool:
        """Index some ended runs for searches. Return whether there may be more. Runs without a session stay out."""
        return await self._write(self._turns.index_runs)

    async def _index_new_runs(self) -> None:
        """Index the runs that have ended since the last search, or what a moment allows."""
        until = time.monotonic() + _INDEX_S
        with suppress(StoreUnavailable):
            while await self.index_runs() and time.monotonic() < until:
                pass

    @abstractmethod
    async def current(self, backend: str, working_dir: str) -> Session | None:
        """Return the newest session that a prompt without a session id may continue, or None.

        The session is resumable, and has a run of the command line that was not part of an orchestration, or no run
        (a fork).
        """

    @abstractmethod
    async def costs(self, session_ids: Sequence[str]) -> dict[str, float]:
        """Return the sum of the known costs of the runs of sessions, by session; without sessions of unknown cost."""

    async def create(self, session: Session) -> None:
        """Insert a session without a run (a fork), `settled_record`. Raises ValueError if the id exists."""
        if not await self._write(lambda db: self._turns.insert(db, settled_record(session))):
            raise ValueError(f"session {session.id!r} exists already")

    async def describe(
        self, session_id: str, title: str | None, tags: tuple[str, ...] | None, archived: bool | None = None
    ) -> Session:
        """Change title, tags and `archived`; None leaves a value unchanged. Raises `SessionNotFound`."""
        await self._store_pending()
        change = rows.described(title=title, tags=tags, archived=archived)
        return await self._write(lambda db: self._turns.describe(db, session_id, change))

    async def tag(self, session_id: str, add: Sequence[str], remove: Collection[str]) -> Session:
        """Add and remove tags, as `session.with_tags` does. Keep concurrent changes of other tags.

        Raises:
            SessionNotFound: no session has this id.
            InvalidRequest: the session would have too many tags; no tag was changed.
        """
        await self._store_pending()
        return await self._write(lambda db: self._turns.describe(db, session_id, rows.tagged(add, remove)))

    async def delete(self, session_id: str) -> None:
        """Delete a session, its runs, and the events of the runs. Raises `SessionNotFound`, `SessionBusy`.

        If a deleted run was part of an orchestration, the orchestration loses text and events, and is deleted with the
        last part. An orchestration under way stays, and is stored without text until the end.
        """
        await self._write(lambda db: self._turns.delete(db, session_id))

    async def clean(self, before: float, dry_run: bool = False) -> int:
        """Delete sessions last used (or imported) before a time, in seconds since the epoch.

        Sessions with a run under way stay. Runs without a session are deleted by age.

        Returns:
            The number of sessions.
        """
        if dry_run:
            return await self._read(lambda db: self._turns.count_old(db, before))
        number = 0
        while deleted := await self._write(lambda db: self._turns.clean(db, before)):
            number += deleted
        while await self._write(lambda db: self._turns.clean_runs(db, before)):
            pass
        return number

    @abstractmethod
    async def count(self) -> int:
        """Return the number of sessions. Raise also if the store can be read but not written, for health checks."""

    async def run(self, reference: str) -> RunRecord:
        """Return a run. Raises `RunNotFound`, `AmbiguousId`."""
        return await self._find(RUNS, reference, "run")

    @abstractmethod
    async def runs(self, query: RunQuery) -> Page[RunRecord]:
        """List runs."""

    @abstractmethod
    async def events(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        """Return up to `limit` stored events of a run after number `after`; empty for an unknown run."""

    async def add_interaction(self, interaction: Interaction) -> None:
        """Store a new interaction. The interaction is deleted with its run, and withdrawn at the end of the run."""
        await self._write(lambda db: db.execute(INTERACTIONS.insert(), *INTERACTIONS.values(interaction)))

    async def resolve_interaction(self, resolved: Interaction) -> Interaction:
        """Store the outcome of an interaction, unless the interaction is no longer pending. Return what is stored.

        Raises:
            InteractionNotFound: the interaction was deleted, as at the end of an ephemeral run.
        """
        return await self._write(lambda db: self._turns.resolve(db, resolved))

    async def interaction(self, reference: str) -> Interaction:
        """Return an interaction. Raises `InteractionNotFound`, `AmbiguousId`."""
        return await self._find(INTERACTIONS, reference, "interaction")

    async def interactions(self, query: InteractionQuery) -> list[Interaction]:
        """List interactions."""
        where, values = rows.where(rows.equal(query, _INTERACTION_FILTERS))
        select = INTERACTIONS.select(f"{where} ORDER BY {INTERACTIONS.newest_first} LIMIT ? OFFSET ?")
        found = await self._read(lambda db: db.fetch(select, *values, query.limit, query.offset))
        return [*map(INTERACTIONS.read, found)]

    async def _find(self, table: Table[_Record], reference: str, kind: ids.RecordKind) -> _Record:
        prefix = ids.check_prefix(reference, kind)
        select = table.select("WHERE id >= ? AND id < ? ORDER BY id LIMIT ?")

        async def find(db: Connection) -> _Record:
            found = await db.fetch(select, prefix, f"{prefix}g", ids.MAX_CANDIDATES + 1)
            records = [table.read(row) for row in found]
            only = ids.only_match([record.id for record in records], reference, kind)
            return next(record for record in records if record.id == only)

        return await self._read(find)

    async def projects(self) -> list[Project]:
        """Return up to 1,000 projects of the sessions that are not archived, the last used first."""
        return [Project(*row) for row in await self._read(lambda db: db.fetch(_PROJECTS))]

    async def last_used(self) -> float | None:
        """Return when a session was last used, in seconds since the epoch; None if there is no session."""
        return (await self._read(lambda db: db.fetch(_LAST_USED)))[0][0]

    @abstractmethod
    async def recover(self) -> int:
        """Mark the runs of dead processes as interrupted. Return the number of runs."""

    @abstractmethod
    async def size(self) -> int:
        """Return the size of the store on disk, in bytes."""

    @abstractmethod
    async def pid_of(self, run_id: str) -> int | None:
        """Return the pid of the live process that began a run; None if unknown, e.g. on another machine."""

    async def usage(self, first_day: str, key_name: str | None = None) -> list[UsageOfDay]:
        """Return the usage of ended runs since a day, in order of days; with `key_name` None, of all keys.

        Usage stays when runs are deleted. An orchestration counts as the sum of the parts.
        """
        return [
            UsageOfDay(
                day=day, key_name=key, backend=backend, model=model, runs=runs, cost_usd=cost_usd, usage=Usage(*tokens)
            )
            for day, key, backend, model, runs, cost_usd, *tokens in await self._read(
                lambda db: db.fetch(_USAGE, first_day, key_name)
            )
        ]

    @abstractmethod
    async def update_limit(self, window: LimitWindow) -> None:
        """Store the newest state of a limit. The update may be delayed for a moment."""

    async def limits(self) -> list[LimitWindow]:
        """Return the newest states of the limits whose windows have not ended, by backend and window."""
        return [*map(LIMITS.read, await self._read(lambda db: db.fetch(_LIMITS, time.time())))]

    @abstractmethod
    async def _write(self, operation: Operation[_T]) -> _T:
        """Return the value of an operation, which is a transaction."""

    @abstractmethod
    async def _read(self, operation: Operation[_T]) -> _T:
        """Return the value of an operation that reads, after the pending updates."""

    @abstractmethod
    async def _insert(self, run: RunRecord, operation: Operation[_T]) -> _T:
        """Insert a run by an operation, or withdraw the run if the caller leaves."""

    @abstractmethod
    async def _store_pending(self) -> None:
        """Store the pending updates."""


@runtime_checkable
class KeyStore(Protocol):
    """A store that also has the API keys of several machines: the text of the key file of one machine."""

    async def keys(self) -> str | None:
        """Return the text, or None before the first change. Change nothing."""
        ...

    async def change_keys(self, edit: Callable[[str | None], str | None], dry_run: bool) -> None:
        """Replace the text by the result of `edit`, None to remove it; with `dry_run`, only call `edit`."""
        ...
