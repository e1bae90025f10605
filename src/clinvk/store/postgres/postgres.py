"""The store of several machines: one PostgreSQL database for all servers and command lines.

Each operation is a transaction. Updates of runs are stored soon, as in SQLite, because most are soon replaced by the
end. What could not be stored while the database was away, as the end of a run, is stored when the database is back.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self, TypeVar

import psycopg

from clinvk.store import rows
from clinvk.store.postgres import lists
from clinvk.store.postgres.database import INTERVAL_S, TIMEOUT_S, Database, Heartbeat
from clinvk.store.postgres.turns import PostgresTurns
from clinvk.store.protocol import COUNT_TIMEOUT_S, PROBE_BYTES, Operation, Page, RunQuery, SessionQuery, SessionStore
from clinvk.store.rows import INTERRUPTED, LIMITS, NOT_KEPT, WITHDRAWN
from clinvk.store.turns import Connection
from clinvk.types.choices import RunState
from clinvk.types.errors import ClinvkError, RunNotFound, SessionBusy, StoreUnavailable
from clinvk.types.events import Logged, RunFailed
from clinvk.types.record import LimitWindow, RunRecord, Session

logger = logging.getLogger(__name__)
logging.getLogger("psycopg").setLevel(logging.ERROR)  # psycopg warns of each connection that is lost

_DELAY_S = 0.05
_MAX_UNSTORED_BYTES = 256 * 1024 * 1024

_UPDATE_LIMIT = (
    f'{LIMITS.insert()} ON CONFLICT (backend, "window") DO UPDATE SET used_percent = excluded.used_percent,'
    " status = excluded.status, resets_at = excluded.resets_at, updated_at = excluded.updated_at"
)
_PID = (
    "SELECT pid FROM owners JOIN runs ON runs.owner = owners.id"
    " WHERE runs.id = ? AND host = ? AND is_alive(owners.id, ?)"
)
_COUNT = "SELECT count(*) FROM sessions"
_SIZE = (
    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
)

_KEYS = "SELECT content FROM keys"
_HAS_KEYS = "SELECT to_regclass('keys') IS NOT NULL"
_LOCK_KEYS = "LOCK TABLE keys IN SHARE ROW EXCLUSIVE MODE"
_DELETE_KEYS = "DELETE FROM keys"
_INSERT_KEYS = "INSERT INTO keys VALUES (1, ?)"
_UPDATE_KEYS = "UPDATE keys SET version = version + 1, content = ?"

_T = TypeVar("_T")


class _Pending(NamedTuple):
    """A change of a record that is stored later, and the bytes that only it holds in memory."""

    store: Callable[[], Awaitable[object]]
    size: int = 0


class PostgresStore(SessionStore):
    """Sessions and runs in a PostgreSQL database, which is connected with the first operation.

    Any process interrupts the runs of processes that have not reported for a few seconds. If such a process turns out
    to be alive, as after a lost connection, its runs are restored; runs whose session was continued must stop.
    """

    def __init__(self, url: str) -> None:
        """Raises `ConfigError` if the URL is malformed."""
        self.url = url
        self._database = Database(url)
        self._heartbeat = Heartbeat(url, self._requeue_live_runs)
        super().__init__(PostgresTurns(self._heartbeat.owner))
        self._later: dict[str, _Pending] = {}
        self._live: dict[str, _Pending] = {}
        self._changed = asyncio.Event()
        self._storing = asyncio.Lock()
        self._has_failed = False
        self._has_recovered = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._heartbeat.run()), asyncio.create_task(self._maintain())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Store the pending updates, and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        try:
            with suppress(StoreUnavailable):
                await self._store_pending()
            if self._later:
                logger.error("%d records of runs are not kept: the database is away", len(self._later))
        finally:
            await self._heartbeat.close()
            await self._database.close()

    async def update(self, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session soon, and in any case before the next read of this store."""
        self._live[run.id] = self._update(run, session)
        self._store_soon(run.id, self._live[run.id])
        self.on_run(run)

    async def reassign(self, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session before a change of agent or a wait."""
        await self._write(lambda db: self._turns.reassign(db, run, session))
        await self.update(run, session)

    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        """Store the end of a run with its last events, and release its session."""
        self._live.pop(run.id, None)
        self._later.pop(run.id, None)
        end = partial(self._end, run, session, events)
        try:
            await end()
        except (StoreUnavailable, asyncio.CancelledError):
            size = len(run.prompt) + len(run.output) + sum(len(chunk.data) for chunk in rows.pack_events(events))
            self._store_soon(run.id, _Pending(end, size))
            raise
        except ClinvkError:
            self._store_soon(run.id, self._stop(run.id, "failed", NOT_KEPT))
            raise
        self.on_run(run)

    async def _end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        try:
            await self._write(lambda db: self._turns.end(db, run, session, events))
        except SessionBusy:
            await self._write(lambda db: self._turns.end(db, run, None, events))

    async def sessions(self, query: SessionQuery) -> Page[Session]:
        """List sessions."""
        if query.text:
            await self._index_new_runs()
        return await self._read(lambda db: lists.sessions(db, query))

    async def current(self, backend: str, working_dir: str) -> Session | None:
        """Return the newest session that the next prompt may continue."""
        return await self._read(lambda db: lists.current(db, backend, working_dir))

    async def costs(self, session_ids: Sequence[str]) -> dict[str, float]:
        """Return the sum of the known costs of the runs of sessions, by session."""
        return await self._read(lambda db: lists.costs(db, session_ids))

    async def count(self) -> int:
        """Return the number of sessions. Raise also if the database cannot be written."""
        if self._has_failed:
            await self._rehearse()
        async with self._database.connection(COUNT_TIMEOUT_S) as db:
            return (await db.fetch(_COUNT))[0][0]

    async def runs(self, query: RunQuery) -> Page[RunRecord]:
        """List runs."""
        return await self._read(lambda db: lists.runs(db, query))

    async def events(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        """Return the stored events of a run after number `after`, at most `limit`."""
        return await self._read(lambda db: lists.events(db, run_id, after, limit))

    async def size(self) -> int:
        """Return the size of the store on disk, in bytes."""
        return (await self._read(lambda db: db.fetch(_SIZE)))[0][0]

    async def pid_of(self, run_id: str) -> int | None:
        """Return the pid of the live process on this machine that began a run; None if unknown."""
        found = await self._read(lambda db: db.fetch(_PID, run_id, socket.gethostname(), self._heartbeat.owner))
        return found[0][0] if found else None

    async def update_limit(self, window: LimitWindow) -> None:
        """Store the newest state of a limit soon, and in any case before the next read of this store."""
        update = partial(self._write, lambda db: db.execute(_UPDATE_LIMIT, *LIMITS.values(window)))
        self._store_soon(f"limit {window.backend} {window.window}", _Pending(update))

    async def keys(self) -> str | None:
        """Return the text of the API keys, or None. Change nothing, not even an empty database."""
        async with self._database.connection(migrates=False) as db:
            ((has_keys,),) = await db.fetch(_HAS_KEYS)
            stored = await db.fetch(_KEYS) if has_keys else []
        return stored[0][0] if stored else None

    async def change_keys(self, edit: Callable[[str | None], str | None], dry_run: bool) -> None:
        """Replace the text of the API keys by the result of `edit`, None to remove it; `dry_run` only calls `edit`."""
        async with self._database.connection() as db, db.raw.transaction():
            await db.execute(_LOCK_KEYS)
            stored = await db.fetch(_KEYS)
            text = edit(stored[0][0] if stored else None)
            if dry_run:
                return
            if text is None:
                await db.execute(_DELETE_KEYS)
            else:
                await db.execute(_UPDATE_KEYS if stored else _INSERT_KEYS, text)

    async def recover(self) -> int:
        """Mark the runs of dead processes as interrupted. Return the number of runs."""
        async with self._database.connection() as db:
            dead = await self._turns.dead_runs(db)
        for run_id in dead:
            await self._stop(run_id, "interrupted", INTERRUPTED).store()
        return len(dead)

    async def _insert(self, run: RunRecord, operation: Operation[_T]) -> _T:
        """Insert a run by an operation, or withdraw the run if the caller leaves or cannot know the outcome."""
        if (unstored := sum(pending.size for pending in self._later.values())) > _MAX_UNSTORED_BYTES:
            raise StoreUnavailable(f"{self._database.address}: {unstored >> 20} MiB of ended runs are not stored yet")
        await self._heartbeat.start()
        may_be_stored = False

        async def insert(db: Connection) -> _T:
            nonlocal may_be_stored
            may_be_stored = True
            return await operation(db)

        try:
            stored = await self._write(insert)
        except (StoreUnavailable, asyncio.CancelledError):
            if may_be_stored:
                self._store_soon(run.id, self._stop(run.id, "cancelled", WITHDRAWN))
            raise
        self._live[run.id] = self._update(run, None)
        self.on_run(run)
        return stored

    def _update(self, run: RunRecord, session: Session | None) -> _Pending:
        return _Pending(partial(self._write, lambda db: self._turns.update(db, run, session)))

    def _stop(self, run_id: str, state: RunState, ending: RunFailed) -> _Pending:
        return _Pending(partial(self._write, lambda db: self._turns.stop(db, run_id, state, ending)))

    async def _write(self, operation: Operation[_T]) -> _T:
        """Return the value of an operation, which is a transaction."""
        began = time.monotonic()
        try:
            async with self._database.connection() as db, db.raw.transaction():
                value = await operation(db)
        except StoreUnavailable:
            self._has_failed = True
            raise
        self._has_failed = False
        self.on_commit(time.monotonic() - began)
        return value

    async def _read(self, operation: Operation[_T]) -> _T:
        if not self._has_recovered:
            self._has_recovered = True
            await self.recover()
        if not self._has_failed:
            with suppress(StoreUnavailable):
                await self._store_pending()
        async with self._database.connection() as db:
            return await operation(db)

    async def _rehearse(self) -> None:
        """Store a run as large as a prompt, and roll back. Raise the error that a prompt would meet."""
        async with self._database.connection(COUNT_TIMEOUT_S) as db, db.raw.transaction():
            await self._turns.rehearse(db, PROBE_BYTES)
            raise psycopg.Rollback
        self._has_failed = False

    def _store_soon(self, key: str, pending: _Pending) -> None:
        """Store a change soon, or before the next read. A newer change with the same key replaces it."""
        self._later.pop(key, None)
        self._later[key] = pending
        self._changed.set()

    def _requeue_live_runs(self) -> None:
        """Store the runs of this process again: other processes may have interrupted them."""
        for run_id, pending in self._live.items():
            self._later.setdefault(run_id, pending)
        self._changed.set()

    async def _store_pending(self) -> None:
        """Store the changes for `_store_soon`. If the database is away, they stay."""
        if not self._later:
            return
        try:
            async with asyncio.timeout(TIMEOUT_S), self._storing:
                for key, pending in list(self._later.items()):
                    if self._later.get(key) is pending:
                        await self._store(key, pending)
        except TimeoutError as exc:
            raise StoreUnavailable("the updates of runs cannot be stored") from exc

    async def _store(self, key: str, pending: _Pending) -> None:
        try:
            await pending.store()
        except StoreUnavailable:
            if self._later.get(key) is pending:  # let others be tried first
                self._later[key] = self._later.pop(key)
            raise
        except (SessionBusy, RunNotFound) as exc:
            if self._later.get(key) is pending:  # else the run has ended meanwhile
                logger.warning("%s", exc)
                for stop in self.on_lost:
                    stop(key)
        except ClinvkError as exc:
            logger.warning("%s", exc)
        if self._later.get(key) is pending:
            del self._later[key]

    async def _maintain(self) -> None:
        """Store pending updates soon, and look for the runs of dead processes every `INTERVAL_S`."""
        recovered_at = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await self._changed.wait()
            self._changed.clear()
            await asyncio.sleep(_DELAY_S)
            try:
                if time.monotonic() - recovered_at >= INTERVAL_S:
                    recovered_at = time.monotonic()
                    if number := await self.recover():
                        logger.info("%d runs were interrupted: their clinvk died", number)
                await self._store_pending()
            except StoreUnavailable:
                pass  # the operations of the store report the error
            except Exception:
                logger.exception("the store of sessions is not maintained")
