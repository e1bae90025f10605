"""The methods of `SessionStore` that all databases share."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Generic, TypeVar

from clinvk.store import protocol, rows
from clinvk.store.protocol import InteractionQuery, settled_record
from clinvk.store.rows import INTERACTIONS, LIMITS, RUNS, SESSIONS, Table
from clinvk.store.turns import Connection, Turns
from clinvk.types.events import Logged, Usage
from clinvk.types.interaction import Interaction
from clinvk.types.record import LimitWindow, RunRecord, Session, UsageOfDay

_LAST_USED = "SELECT max(last_used) FROM sessions"
_LIMITS = LIMITS.select('WHERE resets_at > ? ORDER BY backend, resets_at, "window"')
_USAGE = (
    "SELECT day, key_name, backend, model, runs, cost_usd, input_tokens, output_tokens, cached_tokens, reasoning_tokens"
    " FROM usage WHERE day >= ? AND key_name = coalesce(?, key_name) AND runs > 0"
    " ORDER BY day, key_name, backend, model"
)
_INTERACTION_FILTERS = ("status", "run_id", "session_id")

_T = TypeVar("_T")
_Turns = TypeVar("_Turns", bound=Turns)
_Record = TypeVar("_Record", Session, RunRecord, Interaction)
Operation = Callable[[Connection], Coroutine[Any, Any, _T]]


class RecordStore(ABC, Generic[_Turns]):
    """Sessions and runs in a database.

    `turns` are the operations on the database. `on_run` is called with each stored record of a run.
    """

    damage = ""

    def __init__(self, turns: _Turns, on_run: Callable[[RunRecord], None]) -> None:
        self.on_lost: list[Callable[[str], None]] = []
        self._turns = turns
        self._on_run = on_run

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

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        """Insert a run before its start, and claim its session."""
        return await self._insert(run, lambda db: self._turns.begin(db, run, session, must_exist))

    async def enqueue(self, run: RunRecord, session: Session, is_next: bool = False) -> Session:
        """Insert a run that waits until its session is free."""
        return await self._insert(run, lambda db: self._turns.enqueue(db, run, session, is_next))

    async def claim(self, run_id: str, session_id: str) -> Session | None:
        """Claim the session of a run that waits, if no other run comes first."""
        return await self._write(lambda db: self._turns.claim(db, run_id, session_id))

    async def append(self, events: Mapping[str, Sequence[Logged]]) -> None:
        """Store events of runs in one transaction."""
        await self._write(lambda db: self._turns.append(db, events))

    async def create(self, session: Session) -> None:
        """Insert a session without a run."""
        if not await self._write(lambda db: self._turns.insert(db, settled_record(session))):
            raise ValueError(f"session {session.id!r} is there already")

    async def describe(self, session_id: str, title: str | None, tags: tuple[str, ...] | None) -> Session:
        """Set title and tags; None leaves a value unchanged."""
        await self._store_pending()
        return await self._write(lambda db: self._turns.describe(db, session_id, rows.described(title, tags)))

    async def tag(self, session_id: str, add: Sequence[str], remove: Collection[str]) -> Session:
        """Change some tags."""
        await self._store_pending()
        return await self._write(lambda db: self._turns.describe(db, session_id, rows.tagged(add, remove)))

    async def delete(self, session_id: str) -> None:
        """Delete a session, its runs, and the events of the runs."""
        await self._write(lambda db: self._turns.delete(db, session_id))

    async def clean(self, before: float, dry_run: bool = False) -> int:
        """Delete the sessions last used or imported before a time. Return the number of deleted sessions."""
        if dry_run:
            return await self._read(lambda db: self._turns.count_old(db, before))
        number = 0
        while deleted := await self._write(lambda db: self._turns.clean(db, before)):
            number += deleted
        while await self._write(lambda db: self._turns.clean_runs(db, before)):
            pass
        return number

    async def session(self, reference: str) -> Session:
        """Return a session."""
        return await self._find(SESSIONS, reference, "session")

    async def run(self, reference: str) -> RunRecord:
        """Return a run."""
        return await self._find(RUNS, reference, "run")

    async def interaction(self, reference: str) -> Interaction:
        """Return an interaction."""
        return await self._find(INTERACTIONS, reference, "interaction")

    async def _find(self, table: Table[_Record], reference: str, kind: protocol.Kind) -> _Record:
        prefix = protocol.check_prefix(reference, kind)
        select = table.select("WHERE id >= ? AND id < ? ORDER BY id LIMIT ?")

        async def find(db: Connection) -> _Record:
            found = await db.fetch(select, prefix, f"{prefix}g", protocol.MAX_CANDIDATES + 1)
            records = [table.read(row) for row in found]
            only = protocol.only_match([record.id for record in records], reference, kind)
            return next(record for record in records if record.id == only)

        return await self._read(find)

    async def last_used(self) -> float | None:
        """Return when a session was last used, in seconds since the epoch; None if there is no session."""
        return (await self._read(lambda db: db.fetch(_LAST_USED)))[0][0]

    async def add_interaction(self, interaction: Interaction) -> None:
        """Store a new interaction."""
        await self._write(lambda db: db.execute(INTERACTIONS.insert(), *INTERACTIONS.values(interaction)))

    async def resolve_interaction(self, resolved: Interaction) -> Interaction:
        """Store the outcome of a pending interaction, and return the stored interaction."""
        return await self._write(lambda db: self._turns.resolve(db, resolved))

    async def interactions(self, query: InteractionQuery) -> list[Interaction]:
        """List interactions, newest first."""
        where, values = rows.where(rows.equal(query, _INTERACTION_FILTERS))
        select = INTERACTIONS.select(f"{where} ORDER BY {INTERACTIONS.newest_first} LIMIT ? OFFSET ?")
        found = await self._read(lambda db: db.fetch(select, *values, query.limit, query.offset))
        return [*map(INTERACTIONS.read, found)]

    async def usage(self, first_day: str, key_name: str | None = None) -> list[UsageOfDay]:
        """Return the usage of ended runs from a day on, in order of days."""
        return [
            UsageOfDay(
                day=day, key_name=key, backend=backend, model=model, runs=runs, cost_usd=cost_usd, usage=Usage(*tokens)
            )
            for day, key, backend, model, runs, cost_usd, *tokens in await self._read(
                lambda db: db.fetch(_USAGE, first_day, key_name)
            )
        ]

    async def limits(self) -> list[LimitWindow]:
        """Return the newest states of the limits whose windows have not ended."""
        return [*map(LIMITS.read, await self._read(lambda db: db.fetch(_LIMITS, time.time())))]
