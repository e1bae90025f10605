"""The store of a machine: one SQLite database in the clinvk home, for servers and command lines at once.

Sessions and runs are rows, events are chunks of a run. In a process one thread writes, with group commit, and a few
threads read. The journal is written ahead (WAL), so readers and the writer do not wait for each other. With
`synchronous = NORMAL` a commit survives the death of the process; a loss of power may cost the last moments, but does
not damage the database.
"""

import asyncio
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Self, TypeVar

from clinvk.store import protocol, rows
from clinvk.store.protocol import InteractionQuery, Page, RunQuery, SessionQuery, settled_record
from clinvk.store.rows import INTERACTIONS, LIMITS, RUNS, SESSIONS, Table, Unreadable
from clinvk.store.sqlite import legacy, lists, turns
from clinvk.store.sqlite.database import (
    NO_SPACE,
    Database,
    damage_as_unreadable,
    is_error,
    skipping,
    transaction,
)
from clinvk.store.sqlite.legacy import DamagedFile, ImportReport
from clinvk.store.sqlite.owners import OwnerLocks
from clinvk.store.sqlite.threads import ReaderThreads, WriterThread
from clinvk.types.errors import StoreUnavailable
from clinvk.types.events import Logged
from clinvk.types.interaction import Interaction
from clinvk.types.record import LimitWindow, RunRecord, UsageOfDay
from clinvk.types.session import Session

if TYPE_CHECKING:
    import sqlite3

_COUNT_TIMEOUT_S = 2.0
_BEGIN_TIMEOUT_S = 30.0
_HANGS_AFTER_S = 10.0
_IMPORT_STEP = 100

_OUTCOME = ("status", "resolved_at", "answered_by", "answer")
_IDS: dict[protocol.Kind, str] = {
    "session": "SELECT id FROM sessions WHERE id >= ? AND id < ? || 'g' ORDER BY id LIMIT ?",
    "run": "SELECT id FROM runs WHERE id >= ? AND id < ? || 'g' ORDER BY id LIMIT ?",
    "interaction": "SELECT id FROM interactions WHERE id >= ? AND id < ? || 'g' ORDER BY id LIMIT ?",
}
_ADD_INTERACTION = INTERACTIONS.insert()
_RESOLVE = f"{INTERACTIONS.update(_OUTCOME)} AND status = 'pending'"
_LIMITS = LIMITS.select("WHERE resets_at > ? ORDER BY backend, resets_at, window")
_OWNER = "SELECT owner FROM runs WHERE id = ?"
_EVENTS = "SELECT key FROM chunks WHERE run = (SELECT key FROM runs WHERE id = ?) AND last > ? ORDER BY last"

_PROBE = "UPDATE search SET indexed = ~indexed"
_PROBE_BYTES = 128 * 1024
_CLAIM_SPACE = f"INSERT OR REPLACE INTO imports VALUES ('/room', 0, 0, zeroblob({_PROBE_BYTES}))"  # noqa: S608 - our own names
"""Writes about as many bytes as a prompt and its answer: room for a single page would prove little."""
_FREE_SPACE = "DELETE FROM imports WHERE name = '/room'"

_T = TypeVar("_T")
_Item = TypeVar("_Item", Session, RunRecord, Interaction)


class SqliteStore:
    """Sessions and runs in `clinvk.db` of a clinvk home.

    The file is opened for the first operation, and opened again after a failure, so the store recovers from failures.
    The first process to open the file marks the runs of dead processes as interrupted. `lock_timeout_s` is how long the
    store waits for another program to release the database. `on_commit` is called in the writer's thread with the
    duration of each writing transaction, in seconds; `on_run` in the event loop, with each stored record of a run.
    """

    def __init__(
        self,
        home: str | os.PathLike[str],
        lock_timeout_s: float = 10,
        on_commit: Callable[[float], None] | None = None,
        on_run: Callable[[RunRecord], None] = lambda _: None,
        database: Database | None = None,
        owners: OwnerLocks | None = None,
    ) -> None:
        """`database` and `owners` replace the database and the owners of the home."""
        self._database = database or Database(home, lock_timeout_s)
        self._owners = owners or OwnerLocks(self._database.home)
        self._writer = WriterThread(
            self._database, self._recover_at_open, on_commit=on_commit, note=self._record_damage
        )
        self._readers = ReaderThreads(self._database)
        self._on_run = on_run
        self._new_sessions = 0
        self.on_lost: list[Callable[[str], None]] = []
        self.damage = ""
        self._damaged: tuple[int, int] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish the pending writes, and close the files."""
        try:
            await self._writer.close()
        finally:
            await self._readers.call(self._owners.release)
            await self._readers.close()

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        """Insert a run before its start, and claim its session."""

        def begin(db: "sqlite3.Connection") -> Session | None:
            if self.damage:
                turns.rehearse(db)
            return turns.begin(db, self._owners, run, session, must_exist)

        stored = await self._insert(run, begin)
        self._index_at_intervals()
        return stored

    async def enqueue(self, run: RunRecord, session: Session, is_next: bool = False) -> Session:
        """Insert a run that waits until its session is free."""
        return await self._insert(run, lambda db: turns.enqueue(db, self._owners, run, session, is_next))

    async def claim(self, run_id: str, session_id: str) -> Session | None:
        """Claim the session of a run that waits, if no other run comes first."""
        return await self._writer.write(lambda db: turns.claim(db, self._owners, run_id, session_id))

    async def _insert(self, run: RunRecord, operation: "Callable[[sqlite3.Connection], _T]") -> _T:
        """Insert a run by an operation, or withdraw the run if the caller leaves."""
        try:
            async with asyncio.timeout(_BEGIN_TIMEOUT_S):
                stored = await self._writer.write(operation)
        except (asyncio.CancelledError, TimeoutError) as exc:
            self._writer.submit(lambda db: turns.withdraw(db, run.id))
            if isinstance(exc, TimeoutError):
                raise self._unresponsive(_BEGIN_TIMEOUT_S) from exc
            raise
        self._on_run(run)
        return stored

    async def update(self, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session soon, and in any case before the next read of this store."""
        self._writer.schedule(run.id, lambda db: turns.update(db, run, session))
        self._on_run(run)

    async def reassign(self, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session before a change of agent or a wait."""
        self._writer.forget(run.id)
        await self._writer.write(lambda db: turns.reassign(db, run, session))
        self._on_run(run)

    async def append(self, events: Mapping[str, Sequence[Logged]]) -> None:
        """Store events of runs in one transaction."""

        def append(db: "sqlite3.Connection") -> None:
            for run_id, new in events.items():
                turns.append(db, run_id, rows.pack_events(new))

        await self._writer.write(append)

    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        """Store the end of a run with its last events, and release its session."""
        self._writer.forget(run.id)
        await self._writer.write(lambda db: turns.end(db, run, session, rows.pack_events(events)), retry=True)
        self._on_run(run)

    async def session(self, reference: str) -> Session:
        """Return a session."""
        return await self._find(SESSIONS, reference, "session")

    async def sessions(self, query: SessionQuery) -> Page[Session]:
        """List sessions."""
        return await self._read(lambda db: lists.sessions(db, query, self._record_damage))

    async def current(self, backend: str, working_dir: str) -> Session | None:
        """Return the newest session that the next prompt may continue."""
        return await self._read(lambda db: lists.current(db, backend, working_dir))

    async def create(self, session: Session) -> None:
        """Insert a session without a run."""
        if not await self._writer.write(lambda db: turns.insert(db, settled_record(session))):
            raise ValueError(f"session {session.id!r} is there already")
        self._index_at_intervals()

    async def describe(self, session_id: str, title: str | None, tags: tuple[str, ...] | None) -> Session:
        """Set title and tags; None leaves a value unchanged."""
        return await self._describe(session_id, rows.described(title, tags))

    async def tag(self, session_id: str, add: Sequence[str], remove: Collection[str]) -> Session:
        """Change some tags."""
        return await self._describe(session_id, rows.tagged(add, remove))

    async def delete(self, session_id: str) -> None:
        """Delete a session, its runs, and the events of the runs."""
        await self._delete(lambda db: turns.delete(db, self._owners, session_id))

    async def clean(self, before: float, dry_run: bool = False) -> int:
        """Delete the sessions last used or imported before a time. Return the number of deleted sessions."""
        await self.recover()
        if dry_run:
            return await self._read(lambda db: turns.count_old(db, before))
        number = 0
        while deleted := await self._delete(lambda db: turns.clean(db, before)):
            number += deleted
        while await self._writer.write(lambda db: turns.clean_runs(db, before)):
            pass
        await self._writer.write(turns.forget_groups)
        return number

    async def count(self) -> int:
        """Return the number of sessions. Raise also if the database cannot be written or is locked."""
        try:
            async with asyncio.timeout(_COUNT_TIMEOUT_S):
                return await self._count()
        except TimeoutError as exc:
            raise self._unresponsive(_COUNT_TIMEOUT_S) from exc

    async def last_used(self) -> float | None:
        """Return when a session was last used, in seconds since the epoch; None if there is no session."""
        return await self._read(lambda db: db.execute("SELECT max(last_used) FROM sessions").fetchone()[0])

    def _unresponsive(self, timeout_s: float) -> StoreUnavailable:
        error = f"does not answer within {timeout_s:g} s; another program may hold its lock, or its disk hangs"
        return StoreUnavailable(f"{self._database.path}: {error}")

    async def _count(self) -> int:
        if self._writer.busy_s > _HANGS_AFTER_S:
            raise self._unresponsive(_HANGS_AFTER_S)
        if self._writer.last_error:
            await self._writer.write(lambda db: db.execute(_CLAIM_SPACE).rowcount)
            await self._writer.write(lambda db: db.execute(_FREE_SPACE).rowcount)
        if self.damage:
            await self._writer.write(turns.rehearse)

        def count(db: "sqlite3.Connection") -> int:
            self._database.check()
            return lists.count(db, SESSIONS, self._record_damage)

        return await self._read(count)

    async def run(self, reference: str) -> RunRecord:
        """Return a run."""
        return await self._find(RUNS, reference, "run")

    async def runs(self, query: RunQuery) -> Page[RunRecord]:
        """List runs."""
        return await self._read(lambda db: lists.runs(db, query, self._record_damage))

    async def events(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        """Return the stored events of a run after number `after`, at most `limit`."""
        return await self._read(lambda db: _events(db, run_id, after, limit, self._record_damage))

    async def costs(self, session_ids: Sequence[str]) -> dict[str, float]:
        """Return the sum of the known costs of the runs of sessions, by session."""
        return await self._read(lambda db: lists.costs(db, session_ids, self._record_damage))

    async def pid_of(self, run_id: str) -> int | None:
        """Return the pid of the live process that began a run; None if unknown."""
        row = await self._read(lambda db: db.execute(_OWNER, (run_id,)).fetchone())
        return await self._readers.call(lambda: self._owners.pid_of(row[0])) if row else None

    async def usage(self, first_day: str, key_name: str | None = None) -> list[UsageOfDay]:
        """Return the usage of ended runs from a day on, in order of days."""
        return await self._read(lambda db: lists.usage(db, first_day, key_name))

    async def add_interaction(self, interaction: Interaction) -> None:
        """Store a new interaction."""
        await self._writer.write(lambda db: db.execute(_ADD_INTERACTION, INTERACTIONS.values(interaction)).rowcount)

    async def resolve_interaction(self, resolved: Interaction) -> Interaction:
        """Store the outcome of a pending interaction, and return the stored interaction."""

        def resolve(db: "sqlite3.Connection") -> Interaction:
            id_ = (_unique_id(db, resolved.id, resolved.id, "interaction"),)
            db.execute(_RESOLVE, (*INTERACTIONS.values(resolved, _OUTCOME), *id_))
            return INTERACTIONS.read(db.execute(INTERACTIONS.by_id, id_).fetchone())

        return await self._writer.write(resolve)

    async def interaction(self, reference: str) -> Interaction:
        """Return an interaction."""
        return await self._find(INTERACTIONS, reference, "interaction")

    async def interactions(self, query: InteractionQuery) -> list[Interaction]:
        """List interactions, newest first."""
        return await self._read(lambda db: lists.interactions(db, query))

    async def update_limit(self, window: LimitWindow) -> None:
        """Store the newest state of a limit soon, and in any case before the next read of this store."""
        key = f"limit {window.backend} {window.window}"
        self._writer.schedule(key, lambda db: db.execute(LIMITS.insert(), LIMITS.values(window)))

    async def limits(self) -> list[LimitWindow]:
        """Return the newest states of the limits whose windows have not ended."""
        return await self._read(lambda db: [*map(LIMITS.read, db.execute(_LIMITS, (time.time(),)))])

    async def size(self) -> int:
        """Return the size of the store on disk, in bytes."""
        return await self._readers.call(self._database.size)

    async def recover(self) -> int:
        """Mark the runs of dead processes as interrupted. Return the number of runs."""
        return await self._writer.write(lambda db: turns.recover(db, self._owners))

    async def import_earlier(self) -> ImportReport:
        """Import the sessions of an earlier clinvk in the same home, except already imported sessions."""
        folder = self._database.home / legacy.FOLDER
        found = await self._read(lambda db: legacy.find_sessions(db, folder))
        if isinstance(found, str):
            return ImportReport(0, (DamagedFile(folder, found),))
        damaged: list[DamagedFile] = []
        at, count = time.time(), 0
        for start in range(0, len(found), _IMPORT_STEP):
            batch = found[start : start + _IMPORT_STEP]
            files = await self._readers.call(lambda batch=batch: [legacy.read(file) for file in batch])
            count += await self._writer.write(lambda db, files=files: legacy.import_sessions(db, files, at))
            damaged += [DamagedFile(file.path, damage) for file, damage in files if isinstance(damage, str)]
            while await self._writer.write(lists.index_sessions):
                pass
        return ImportReport(count, tuple(damaged))

    async def _find(self, table: Table[_Item], reference: str, kind: protocol.Kind) -> _Item:
        """Return the item of a reference."""
        prefix = protocol.check_prefix(reference, kind)

        def find(db: "sqlite3.Connection") -> _Item:
            return table.read(db.execute(table.by_id, (_unique_id(db, prefix, reference, kind),)).fetchone())

        return await self._read(find)

    async def _read(self, operation: "Callable[[sqlite3.Connection], _T]") -> _T:
        def read(db: "sqlite3.Connection") -> _T:
            try:
                with damage_as_unreadable():
                    return operation(db)
            except Unreadable as exc:
                self._record_damage(exc.message)
                raise

        if self._writer.is_behind or not self._writer.is_open:
            await self._writer.catch_up()
        try:
            return await self._readers.read(read)
        except Unreadable:
            raise
        except StoreUnavailable:
            # The file may have been removed or replaced: a write opens the new file, or raises the cause.
            await self._writer.write(_probe)
            return await self._readers.read(read)

    def _record_damage(self, damage: str) -> None:
        """Store the damage until another file replaces the database file. Blocks."""
        if not self.damage:
            self.damage, self._damaged = damage, self._database.identity()

    async def _delete(self, operation: "Callable[[sqlite3.Connection], _T]") -> _T:
        """Run a deletion. On a full disk, free the reserve and retry."""
        try:
            return await self._writer.write(operation)
        except StoreUnavailable as exc:
            if not is_error(exc.__cause__, NO_SPACE) or not await self._readers.call(self._database.free_reserve):
                raise
        return await self._writer.write(operation)

    async def _describe(self, session_id: str, change: Callable[[Session], Session]) -> Session:
        if self._writer.is_behind:
            await self._writer.catch_up()
        return await self._writer.write(lambda db: turns.describe(db, session_id, change))

    def _recover_at_open(self, db: "sqlite3.Connection") -> None:
        if self._damaged != self._database.identity():
            self.damage = ""
        with skipping(self._record_damage):
            if turns.dead_owners(db, self._owners):
                with transaction(db):
                    turns.recover(db, self._owners)
            self._owners.remove_stale()

    def _index_at_intervals(self) -> None:
        """Update the search index at intervals, even in a process that stores only one session."""
        self._new_sessions += 1
        if self._new_sessions % lists.INDEX_EVERY == 1:
            self._writer.submit(lists.index_sessions)


def _probe(db: "sqlite3.Connection") -> None:
    """Change a value twice, back to the old value: SQLite does not write an unchanged row."""
    db.execute(_PROBE)
    db.execute(_PROBE)


def _unique_id(db: "sqlite3.Connection", prefix: str, reference: str, kind: protocol.Kind) -> str:
    found = db.execute(_IDS[kind], (prefix, prefix, protocol.MAX_CANDIDATES + 1)).fetchall()
    return protocol.only_match([key for (key,) in found], reference, kind)


def _events(
    db: "sqlite3.Connection", run_id: str, after: int, limit: int | None, note: Callable[[str], None]
) -> list[Logged]:
    stored = lists.stored_events(db, db.execute(_EVENTS, (run_id, after)), note)
    return list(islice((event for event in stored if event.number > after), limit))
