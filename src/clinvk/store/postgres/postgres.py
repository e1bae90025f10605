"""The store of several machines: one PostgreSQL database for all servers and command lines.

Each operation is a transaction. Updates of runs are stored soon, as in SQLite, because most are soon replaced by the
end. What could not be stored while the database was away, as the end of a run, is stored when the database is back.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Self, TypeVar

import psycopg

from clinvk.store import rows
from clinvk.store.postgres import lists, turns
from clinvk.store.postgres.database import TIMEOUT_S, Connection, Database, execute, fetch
from clinvk.store.postgres.heartbeat import INTERVAL_S, Heartbeat
from clinvk.store.postgres.turns import INTERACTIONS, LIMITS, RUNS, SESSIONS
from clinvk.store.protocol import InteractionQuery, Page, RunQuery, SessionQuery, settled_record
from clinvk.store.rows import INTERRUPTED, NOT_KEPT, WITHDRAWN
from clinvk.types.choices import RunState
from clinvk.types.errors import ClinvkError, RunNotFound, SessionBusy, StoreUnavailable
from clinvk.types.events import Logged, RunFailed
from clinvk.types.interaction import Interaction
from clinvk.types.record import LimitWindow, RunRecord, UsageOfDay
from clinvk.types.session import Session

logger = logging.getLogger(__name__)
logging.getLogger("psycopg").setLevel(logging.ERROR)  # psycopg warns of each connection that is lost

_COUNT_TIMEOUT_S = 2.0
_DELAY_S = 0.05
_MAX_UNSTORED_BYTES = 256 * 1024 * 1024
_PROBE_BYTES = 128 * 1024

_OUTCOME = ("status", "resolved_at", "answered_by", "answer")
_RESOLVE = f"{INTERACTIONS.update(_OUTCOME)} AND status = 'pending'"
_UPDATE_LIMIT = (
    f'{LIMITS.insert()} ON CONFLICT (backend, "window") DO UPDATE SET used_percent = excluded.used_percent,'
    " status = excluded.status, resets_at = excluded.resets_at, updated_at = excluded.updated_at"
)
_LIMITS = LIMITS.select('WHERE resets_at > %s ORDER BY backend, resets_at, "window"')
_PID = (
    "SELECT pid FROM owners JOIN runs ON runs.owner = owners.id"
    " WHERE runs.id = %s AND host = %s AND is_alive(owners.id, %s)"
)
_COUNT = "SELECT count(*) FROM sessions"
_LAST_USED = "SELECT max(last_used) FROM sessions"
_SIZE = (
    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
)

_KEYS = "SELECT version, content FROM keys"
_HAS_KEYS = "SELECT to_regclass('keys') IS NOT NULL"
_LOCK_KEYS = "LOCK TABLE keys IN SHARE ROW EXCLUSIVE MODE"
_INSERT_KEYS = "INSERT INTO keys VALUES (1, %s)"
_UPDATE_KEYS = "UPDATE keys SET version = version + 1, content = %s"

_T = TypeVar("_T")
_Operation = Callable[[Connection], Awaitable[_T]]


class _Pending(NamedTuple):
    """A change of a record that is stored later, and the bytes that only it holds in memory."""

    store: Callable[[], Awaitable[object]]
    size: int = 0


class PostgresStore:
    """Sessions and runs in a PostgreSQL database, which is connected with the first operation.

    Any process interrupts the runs of processes that have not reported for a few seconds. If such a process turns out
    to be alive, as after a lost connection, its runs take their state back; runs whose session was continued must stop.

    `on_commit` is called with the duration of each writing transaction, in seconds; `on_run` with each stored record of
    a run.
    """

    damage = ""

    def __init__(
        self,
        url: str,
        on_commit: Callable[[float], None] | None = None,
        on_run: Callable[[RunRecord], None] = lambda _: None,
    ) -> None:
        """Raises `ConfigError` if the URL is malformed."""
        self.url = url
        self._database = Database(url)
        self._heartbeat = Heartbeat(url, self._restore_runs)
        self._on_commit = on_commit
        self._on_run = on_run
        self.on_lost: list[Callable[[str], None]] = []
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

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        """Insert a run before its start, and claim its session."""
        return await self._insert(run, partial(turns.begin, run=run, session=session, must_exist=must_exist))

    async def enqueue(self, run: RunRecord, session: Session, is_next: bool = False) -> Session:
        """Insert a run that waits until its session is free."""
        return await self._insert(run, partial(turns.enqueue, run=run, session=session, is_next=is_next))

    async def claim(self, run_id: str, session_id: str) -> Session | None:
        """Claim the session of a run that waits, if no other run comes first."""
        return await self._write(lambda db: turns.claim(db, self._heartbeat.owner, run_id, session_id))

    async def update(self, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session soon, and in any case before the next read of this store."""
        self._live[run.id] = self._update(run, session)
        self._store_soon(run.id, self._live[run.id])
        self._on_run(run)

    async def reassign(self, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session before a change of agent or a wait."""
        await self._write(lambda db: turns.reassign(db, run, session))
        await self.update(run, session)

    async def append(self, events: Mapping[str, Sequence[Logged]]) -> None:
        """Store events of runs in one transaction."""
        await self._write(lambda db: turns.append(db, events))

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
        self._on_run(run)

    async def _end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        try:
            await self._write(lambda db: turns.end(db, run, session, events))
        except SessionBusy:
            await self._write(lambda db: turns.end(db, run, None, events))

    async def session(self, reference: str) -> Session:
        """Return a session."""
        return await self._read(lambda db: lists.find(db, SESSIONS, reference, "session"))

    async def sessions(self, query: SessionQuery) -> Page[Session]:
        """List sessions."""
        return await self._read(lambda db: lists.sessions(db, query))

    async def current(self, backend: str, working_dir: str) -> Session | None:
        """Return the newest session that the next prompt may continue."""
        return await self._read(lambda db: lists.current(db, backend, working_dir))

    async def costs(self, session_ids: Sequence[str]) -> dict[str, float]:
        """Return the sum of the known costs of the runs of sessions, by session."""
        return await self._read(lambda db: lists.costs(db, session_ids))

    async def create(self, session: Session) -> None:
        """Insert a session without a run."""
        if not await self._write(lambda db: turns.insert(db, settled_record(session))):
            raise ValueError(f"session {session.id!r} is there already")

    async def describe(self, session_id: str, title: str | None, tags: tuple[str, ...] | None) -> Session:
        """Set title and tags; None leaves a value unchanged."""
        return await self._describe(session_id, rows.described(title, tags))

    async def tag(self, session_id: str, add: Sequence[str], remove: Collection[str]) -> Session:
        """Change some tags."""
        return await self._describe(session_id, rows.tagged(add, remove))

    async def _describe(self, session_id: str, change: Callable[[Session], Session]) -> Session:
        await self._store_pending()
        return await self._write(lambda db: turns.describe(db, session_id, change))

    async def delete(self, session_id: str) -> None:
        """Delete a session, its runs, and the events of the runs."""
        await self._write(lambda db: turns.delete(db, self._heartbeat.owner, session_id))

    async def clean(self, before: float, dry_run: bool = False) -> int:
        """Delete the sessions last used before a time. Return the number of deleted sessions."""
        if dry_run:
            return await self._read(lambda db: turns.count_old(db, before))
        number = 0
        while deleted := await self._write(lambda db: turns.clean(db, before)):
            number += deleted
        while await self._write(lambda db: turns.clean_runs(db, before)):
            pass
        return number

    async def count(self) -> int:
        """Return the number of sessions. Raise also if the database cannot be written."""
        if self._has_failed:
            await self._rehearse()
        async with self._database.connection(_COUNT_TIMEOUT_S) as db:
            return (await fetch(db, _COUNT))[0][0]

    async def last_used(self) -> float | None:
        """Return when a session was last used, in seconds since the epoch; None if there is no session."""
        return (await self._read(lambda db: fetch(db, _LAST_USED)))[0][0]

    async def run(self, reference: str) -> RunRecord:
        """Return a run."""
        return await self._read(lambda db: lists.find(db, RUNS, reference, "run"))

    async def runs(self, query: RunQuery) -> Page[RunRecord]:
        """List runs."""
        return await self._read(lambda db: lists.runs(db, query))

    async def events(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        """Return the stored events of a run after number `after`, at most `limit`."""
        return await self._read(lambda db: lists.events(db, run_id, after, limit))

    async def add_interaction(self, interaction: Interaction) -> None:
        """Store a new interaction."""
        await self._write(lambda db: execute(db, INTERACTIONS.insert(), *INTERACTIONS.values(interaction)))

    async def resolve_interaction(self, resolved: Interaction) -> Interaction:
        """Store the outcome of a pending interaction, and return the stored interaction."""

        async def resolve(db: Connection) -> Interaction:
            await execute(db, _RESOLVE, *INTERACTIONS.values(resolved, _OUTCOME), resolved.id)
            return await lists.find(db, INTERACTIONS, resolved.id, "interaction")

        return await self._write(resolve)

    async def interaction(self, reference: str) -> Interaction:
        """Return an interaction."""
        return await self._read(lambda db: lists.find(db, INTERACTIONS, reference, "interaction"))

    async def interactions(self, query: InteractionQuery) -> list[Interaction]:
        """List interactions, newest first."""
        return await self._read(lambda db: lists.interactions(db, query))

    async def size(self) -> int:
        """Return the size of the store on disk, in bytes."""
        return (await self._read(lambda db: fetch(db, _SIZE)))[0][0]

    async def pid_of(self, run_id: str) -> int | None:
        """Return the pid of the live process on this machine that began a run; None if unknown."""
        found = await self._read(lambda db: fetch(db, _PID, run_id, socket.gethostname(), self._heartbeat.owner))
        return found[0][0] if found else None

    async def usage(self, first_day: str, key_name: str | None = None) -> list[UsageOfDay]:
        """Return the usage of ended runs from a day on, in order of days."""
        return await self._read(lambda db: lists.usage(db, first_day, key_name))

    async def update_limit(self, window: LimitWindow) -> None:
        """Store the newest state of a limit soon, and in any case before the next read of this store."""
        update = partial(self._write, lambda db: execute(db, _UPDATE_LIMIT, *LIMITS.values(window)))
        self._store_soon(f"limit {window.backend} {window.window}", _Pending(update))

    async def limits(self) -> list[LimitWindow]:
        """Return the newest states of the limits whose windows have not ended."""
        return [*map(LIMITS.read, await self._read(lambda db: fetch(db, _LIMITS, time.time())))]

    async def keys(self) -> tuple[int, str | None]:
        """Return the version and the text of the API keys. Change nothing, not even an empty database."""
        async with self._database.connection(migrates=False) as db:
            ((has_keys,),) = await fetch(db, _HAS_KEYS)
            return next(iter(await fetch(db, _KEYS)), (0, None)) if has_keys else (0, None)

    async def change_keys(self, edit: Callable[[str | None], str], dry_run: bool) -> None:
        """Replace the text of the API keys by the result of `edit`; with `dry_run`, only call `edit`."""
        async with self._database.connection() as db, db.transaction():
            await execute(db, _LOCK_KEYS)
            stored = await fetch(db, _KEYS)
            text = edit(stored[0][1] if stored else None)
            if not dry_run:
                await execute(db, _UPDATE_KEYS if stored else _INSERT_KEYS, text)

    async def recover(self) -> int:
        """Mark the runs of dead processes as interrupted. Return the number of runs."""
        async with self._database.connection() as db:
            dead = await turns.dead_runs(db, self._heartbeat.owner)
        for run_id in dead:
            await self._stop(run_id, "interrupted", INTERRUPTED).store()
        return len(dead)

    async def _insert(self, run: RunRecord, operation: Callable[..., Awaitable[_T]]) -> _T:
        """Insert a run by an operation, or withdraw the run if the caller leaves or cannot know the outcome."""
        if (unstored := sum(pending.size for pending in self._later.values())) > _MAX_UNSTORED_BYTES:
            raise StoreUnavailable(f"{self._database.address}: {unstored >> 20} MiB of ended runs are not stored yet")
        await self._heartbeat.start()
        may_be_stored = False

        async def insert(db: Connection) -> _T:
            nonlocal may_be_stored
            may_be_stored = True
            return await operation(db, self._heartbeat.owner)

        try:
            stored = await self._write(insert)
        except (StoreUnavailable, asyncio.CancelledError):
            if may_be_stored:
                self._store_soon(run.id, self._stop(run.id, "cancelled", WITHDRAWN))
            raise
        self._live[run.id] = self._update(run, None)
        self._on_run(run)
        return stored

    def _update(self, run: RunRecord, session: Session | None) -> _Pending:
        return _Pending(partial(self._write, lambda db: turns.update(db, run, session)))

    def _stop(self, run_id: str, state: RunState, ending: RunFailed) -> _Pending:
        return _Pending(partial(self._write, lambda db: turns.stop(db, run_id, state, ending)))

    async def _write(self, operation: _Operation[_T]) -> _T:
        """Return the value of an operation, which is a transaction."""
        began = time.monotonic()
        try:
            async with self._database.connection() as db, db.transaction():
                value = await operation(db)
        except StoreUnavailable:
            self._has_failed = True
            raise
        self._has_failed = False
        if self._on_commit:
            self._on_commit(time.monotonic() - began)
        return value

    async def _read(self, operation: _Operation[_T]) -> _T:
        if not self._has_recovered:
            self._has_recovered = True
            await self.recover()
        if not self._has_failed:
            with suppress(StoreUnavailable):
                await self._store_pending()
        async with self._database.connection() as db:
            return await operation(db)

    async def _rehearse(self) -> None:
        """Insert a run as large as a prompt, and roll back. Raise the error that a prompt would meet."""
        run = RunRecord(id="", backend="-", prompt=os.urandom(_PROBE_BYTES // 2).hex(), state="queued", created_at=0)
        async with self._database.connection(_COUNT_TIMEOUT_S) as db, db.transaction():
            await turns.begin(db, self._heartbeat.owner, run, None, must_exist=False)
            raise psycopg.Rollback
        self._has_failed = False

    def _store_soon(self, key: str, pending: _Pending) -> None:
        """Store a change soon, or before the next read. A newer change with the same key replaces it."""
        self._later.pop(key, None)
        self._later[key] = pending
        self._changed.set()

    def _restore_runs(self) -> None:
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
            logger.warning("%s", exc)
            for stop in self.on_lost:
                stop(key)
        except ClinvkError as exc:
            logger.warning("%s", exc)
        if self._later.get(key) is pending:
            del self._later[key]

    async def _maintain(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL_S):
                    await self._changed.wait()
            self._changed.clear()
            await asyncio.sleep(_DELAY_S)
            try:
                if number := await self.recover():
                    logger.info("%d runs were interrupted: their clinvk died", number)
                await self._store_pending()
            except StoreUnavailable:
                pass  # the operations of the store report the error
            except Exception:
                logger.exception("the store of sessions is not maintained")
