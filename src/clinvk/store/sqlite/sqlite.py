"""The store of a machine: one SQLite database in the clinvk home, for servers and command lines at once.

Sessions and runs are rows, events are chunks of a run. In a process one thread writes, with group commit, and a few
threads read. The journal is written ahead (WAL), so readers and the writer do not wait for each other. With
`synchronous = NORMAL` a commit survives the death of the process; a loss of power may cost the last moments, but does
not damage the database.
"""

import asyncio
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Self, TypeVar

from clinvk.store.protocol import COUNT_TIMEOUT_S, PROBE_BYTES, Operation, Page, RunQuery, SessionQuery, SessionStore
from clinvk.store.rows import LIMITS, WITHDRAWN, Unreadable, decode_events
from clinvk.store.sqlite import legacy, lists
from clinvk.store.sqlite.database import Database, transaction
from clinvk.store.sqlite.legacy import DamagedFile, ImportReport
from clinvk.store.sqlite.owners import OwnerLocks
from clinvk.store.sqlite.threads import ReaderThreads, WriterThread
from clinvk.store.sqlite.turns import SqliteTurns, blocking
from clinvk.types.errors import StoreUnavailable
from clinvk.types.events import Logged
from clinvk.types.record import LimitWindow, RunRecord, Session

if TYPE_CHECKING:
    import sqlite3

_BEGIN_TIMEOUT_S = 30.0
_HANGS_AFTER_S = 10.0
_IMPORT_STEP = 100

_OWNER = "SELECT owner FROM runs WHERE id = ?"
_EVENTS = "SELECT data FROM chunks WHERE run = (SELECT key FROM runs WHERE id = ?) AND last > ? ORDER BY last"

_PROBE = "UPDATE search SET indexed = ~indexed"
_CLAIM_SPACE = f"INSERT OR REPLACE INTO imports VALUES ('/room', 0, 0, zeroblob({PROBE_BYTES}))"  # noqa: S608 - our own names
"""Writes about as many bytes as a prompt and its answer: room for a single page would prove little."""
_FREE_SPACE = "DELETE FROM imports WHERE name = '/room'"

_T = TypeVar("_T")


class SqliteStore(SessionStore):
    """Sessions and runs in `clinvk.db` of a clinvk home.

    The file is opened for the first operation, and opened again after a failure, so the store recovers from failures.
    The first process to open the file marks the runs of dead processes as interrupted. `lock_timeout_s` is how long the
    store waits for another program to release the database. `on_commit` is called in the writer's thread.
    """

    def __init__(
        self,
        home: str | os.PathLike[str],
        lock_timeout_s: float = 10,
        database: Database | None = None,
        owners: OwnerLocks | None = None,
    ) -> None:
        """`database` and `owners` replace the database and the owners of the home."""
        self._database = database or Database(home, lock_timeout_s)
        self._owners = owners or OwnerLocks(self._database.home)
        turns = SqliteTurns(self._owners)
        super().__init__(turns)
        self._import_sessions = partial(legacy.import_sessions, turns=turns)
        self._writer = WriterThread(
            self._database, self._recover_at_open, on_commit=lambda seconds: self.on_commit(seconds)
        )
        self._readers = ReaderThreads(self._database)
        self._opened: tuple[int, int] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish the pending writes, and close the files."""
        try:
            await self._writer.close()
        finally:
            await self._readers.call(self._owners.release)
            await self._readers.close()

    async def _write(self, operation: Operation[_T], retry: bool = False) -> _T:
        with self._noting_damage():
            return await self._writer.write(blocking(operation), retry)

    async def _insert(self, run: RunRecord, operation: Operation[_T]) -> _T:
        """Insert a run by an operation, or withdraw the run if the caller leaves."""
        try:
            async with asyncio.timeout(_BEGIN_TIMEOUT_S):
                stored = await self._write(operation)
        except (asyncio.CancelledError, TimeoutError) as exc:
            self._writer.submit(blocking(lambda db: self._turns.stop(db, run.id, "cancelled", WITHDRAWN)))
            if isinstance(exc, TimeoutError):
                raise self._unresponsive(_BEGIN_TIMEOUT_S) from exc
            raise
        self.on_run(run)
        return stored

    async def update(self, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session soon, and in any case before the next read of this store."""
        self._writer.schedule(run.id, blocking(lambda db: self._turns.update(db, run, session)))
        self.on_run(run)

    async def reassign(self, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session before a change of agent or a wait."""
        self._writer.forget(run.id)
        await self._write(lambda db: self._turns.reassign(db, run, session))
        self.on_run(run)

    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        """Store the end of a run with its last events, and release its session."""
        self._writer.forget(run.id)
        await self._write(lambda db: self._turns.end(db, run, session, events), retry=True)
        self.on_run(run)

    async def sessions(self, query: SessionQuery) -> Page[Session]:
        """List sessions."""
        if query.text:
            await self._index_new_runs()
        return await self._query(lambda db: lists.sessions(db, query))

    async def current(self, backend: str, working_dir: str) -> Session | None:
        """Return the newest session that the next prompt may continue."""
        return await self._query(lambda db: lists.current(db, backend, working_dir))

    async def clean(self, before: float, dry_run: bool = False) -> int:
        """Delete the sessions last used or imported before a time. Return the number of deleted sessions."""
        await self.recover()
        return await super().clean(before, dry_run)

    async def count(self) -> int:
        """Return the number of sessions. Raise also if the database cannot be written or is locked."""
        try:
            async with asyncio.timeout(COUNT_TIMEOUT_S):
                return await self._count()
        except TimeoutError as exc:
            raise self._unresponsive(COUNT_TIMEOUT_S) from exc

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
            await self._writer.write(self._rehearse)

        def count(db: "sqlite3.Connection") -> int:
            self._database.check()
            return lists.count(db)

        return await self._query(count)

    async def runs(self, query: RunQuery) -> Page[RunRecord]:
        """List runs."""
        return await self._query(lambda db: lists.runs(db, query))

    async def events(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        """Return the stored events of a run after number `after`, at most `limit`."""
        return await self._query(lambda db: _events(db, run_id, after, limit))

    async def costs(self, session_ids: Sequence[str]) -> dict[str, float]:
        """Return the sum of the known costs of the runs of sessions, by session."""
        return await self._query(lambda db: lists.costs(db, session_ids))

    async def pid_of(self, run_id: str) -> int | None:
        """Return the pid of the live process that began a run; None if unknown."""
        row = await self._query(lambda db: db.execute(_OWNER, (run_id,)).fetchone())
        return await self._readers.call(lambda: self._owners.pid_of(row[0])) if row else None

    async def update_limit(self, window: LimitWindow) -> None:
        """Store the newest state of a limit soon, and in any case before the next read of this store."""
        key = f"limit {window.backend} {window.window}"
        self._writer.schedule(key, lambda db: db.execute(LIMITS.insert(), LIMITS.values(window)))

    async def size(self) -> int:
        """Return the size of the store on disk, in bytes."""
        return await self._readers.call(self._database.size)

    async def recover(self) -> int:
        """Mark the runs of dead processes as interrupted. Return the number of runs."""
        return await self._write(self._turns.recover)

    async def import_earlier(self) -> ImportReport:
        """Import the sessions of an earlier clinvk in the same home, except already imported sessions."""
        folder = self._database.home / legacy.FOLDER
        found = await self._query(lambda db: legacy.find_sessions(db, folder))
        if isinstance(found, str):
            return ImportReport(0, (DamagedFile(folder, found),))
        damaged: list[DamagedFile] = []
        at, count = time.time(), 0
        for start in range(0, len(found), _IMPORT_STEP):
            batch = found[start : start + _IMPORT_STEP]
            files = await self._readers.call(lambda batch=batch: [legacy.read(file) for file in batch])
            count += await self._write(partial(self._import_sessions, files=files, at=at))
            damaged += [DamagedFile(file.path, damage) for file, damage in files if isinstance(damage, str)]
        return ImportReport(count, tuple(damaged))

    async def _read(self, operation: Operation[_T]) -> _T:
        return await self._query(blocking(operation))

    async def _query(self, operation: "Callable[[sqlite3.Connection], _T]") -> _T:
        with self._noting_damage():
            if not self._writer.is_open:
                await self._writer.catch_up()
            await self._store_pending()
            try:
                return await self._readers.read(operation)
            except Unreadable:
                raise
            except StoreUnavailable:
                # The file may have been removed or replaced: a write opens the new file, or raises the cause.
                await self._writer.write(_probe)
                return await self._readers.read(operation)

    @contextmanager
    def _noting_damage(self) -> Generator[None]:
        """Note the damage that an operation meets, until another file replaces the database."""
        try:
            yield
        except Unreadable as exc:
            self.damage = exc.message
            raise

    async def _store_pending(self) -> None:
        if self._writer.is_behind:
            await self._writer.catch_up()

    def _recover_at_open(self, db: "sqlite3.Connection") -> None:
        """Mark the runs of dead processes as interrupted. Damage keeps no other operation from the database."""
        if self._opened != (identity := self._database.identity()):
            self._opened, self.damage = identity, ""
        with suppress(Unreadable), self._noting_damage(), self._database.translated():
            if blocking(self._turns.dead_runs)(db):
                with transaction(db):
                    blocking(self._turns.recover)(db)
            self._owners.remove_stale()

    def _rehearse(self, db: "sqlite3.Connection") -> None:
        db.execute("SAVEPOINT rehearsal")
        try:
            blocking(self._turns.rehearse)(db)
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK TO rehearsal")
                db.execute("RELEASE rehearsal")


def _probe(db: "sqlite3.Connection") -> None:
    """Change a value twice, back to the old value: SQLite does not write an unchanged row."""
    db.execute(_PROBE)
    db.execute(_PROBE)


def _events(db: "sqlite3.Connection", run_id: str, after: int, limit: int | None) -> list[Logged]:
    stored = (event for (data,) in db.execute(_EVENTS, (run_id, after)) for event in decode_events(data))
    return list(islice((event for event in stored if event.number > after), limit))
