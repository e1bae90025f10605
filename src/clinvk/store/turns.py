"""The operations on sessions, runs and events that all databases share. Each is one transaction.

A run under way holds its session. A run may also be stored while another run holds its session. Such a run waits for
its turn: it is listed as queued, but does not hold the session, so the unique index leaves it out. `claim` gives it the
session once no run comes before it. The order is that of the rows, which all processes share, so no process must know
the queues of the others.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec.structs import replace

from clinvk.store import ids, rows
from clinvk.store.rows import DESCRIPTION, INTERACTIONS, RUN_TEXTS, RUNS, SESSION_CHANGES, SESSIONS, is_resumable
from clinvk.store.words import INDEXED_CHARS, RunMatch, indexed_words, match_of
from clinvk.types.choices import RunState
from clinvk.types.errors import SessionBusy
from clinvk.types.events import Logged, RunFailed
from clinvk.types.interaction import Interaction
from clinvk.types.record import RunRecord, Session, without_text

_ACTIVATE = "UPDATE sessions SET status = 'active', archived = false, last_used = ? WHERE id = ?"
_PAUSE = "UPDATE sessions SET status = 'paused', error_message = ? WHERE id = ? AND status = 'active'"
_UPDATE_SESSION = SESSIONS.update((*SESSION_CHANGES, "resumable"))
_DESCRIBE = SESSIONS.update(DESCRIPTION)
_DELETE = "DELETE FROM sessions WHERE id = ?"
_ORCHESTRATIONS = "SELECT DISTINCT parent_id FROM runs WHERE session_id = ? AND parent_id IS NOT NULL ORDER BY 1"
_REMOVE_TEXT = RUNS.update((*RUN_TEXTS, "lost_text"))
_REMOVE_EVENTS = "DELETE FROM chunks WHERE run = (SELECT key FROM runs WHERE id = ?)"
_CHUNKS = "SELECT data FROM chunks WHERE run = ? ORDER BY last"
_STOP_RUN = "UPDATE runs SET state = ?, ended_at = ?, error_code = ?, error_message = ?, output = ? WHERE key = ?"
_INDEXED_AT_ONCE = 64
_OUTCOME = ("status", "resolved_at", "answered_by", "answer")
_RESOLVE = f"{INTERACTIONS.update(_OUTCOME)} AND status = 'pending'"


class Connection(Protocol):
    """A connection to a database, inside a transaction. A question mark in a statement stands for a value."""

    async def fetch(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        ...

    async def execute(self, statement: str, *values: object) -> int:
        """Run a statement, and return the number of rows that it changed."""
        ...


class Turns(ABC):
    """The operations. Each checks before it writes."""

    def __init__(self, under_way: str, old: str, unindexed: str, lock: str = "", skip_locked: str = "") -> None:
        """Take the parts of statements in which databases differ.

        Args:
            under_way: the condition that a run has not ended.
            old: `FROM` and the condition of idle sessions last used before a time.
            unindexed: the condition that the words of a run are not in the index.
            lock: locks the selected rows until the end of the transaction.
            skip_locked: the same, but leaves out rows that are locked.
        """
        self._lock = f"SELECT 1 FROM sessions WHERE id = ? {lock}"  # noqa: S608 - our own names
        self._lock_session = SESSIONS.select(f"WHERE id = ? {lock}")
        self._lock_session_of = f"SELECT 1 FROM sessions WHERE id = (SELECT session_id FROM runs WHERE id = ?) {lock}"  # noqa: S608 - our own names
        self._lock_run = RUNS.select(f"WHERE id = ? {lock}")
        self._lost_text = f"SELECT lost_text FROM runs WHERE id = ? {lock}"  # noqa: S608 - our own names
        self._holder = f"SELECT id, owner FROM runs WHERE session_id = ? AND {under_way} ORDER BY waits, key LIMIT 1"  # noqa: S608 - our own names
        self._predecessor = (
            "SELECT other.id, other.owner FROM runs AS own JOIN runs AS other ON other.session_id = own.session_id"  # noqa: S608 - our own names
            f" WHERE own.id = ? AND other.{under_way} AND (other.waits = 0"
            " OR other.waits > own.waits OR (other.waits = own.waits AND other.key < own.key)) LIMIT 1"
        )
        ended = "session_id IS NOT NULL AND ended_at IS NOT NULL"
        self._unindexed = RUNS.select(f"WHERE {unindexed} AND {ended} ORDER BY key DESC LIMIT 1 {skip_locked}")
        self._take_turn = f"UPDATE runs SET waits = 0 WHERE id = ? AND {under_way}"  # noqa: S608 - our own names
        self._unfinished = (
            "SELECT key, CASE waits WHEN 0 THEN session_id END, coalesce(started_at, created_at) FROM runs"  # noqa: S608 - our own names
            f" WHERE id = ? AND {under_way} {lock}"
        )
        self._delete_orchestration = (
            f"DELETE FROM runs WHERE id = ? AND NOT ({under_way})"  # noqa: S608 - our own names
            " AND NOT EXISTS (SELECT 1 FROM runs AS part WHERE part.parent_id = runs.id)"
        )
        self._count_old = f"SELECT count(*) {old}"
        self._some_old = f"SELECT sessions.id {old} LIMIT 100 {skip_locked}"
        self._delete_old_runs = (
            "DELETE FROM runs WHERE key IN (SELECT key FROM runs WHERE session_id IS NULL AND created_at < ?"  # noqa: S608 - our own names
            f" AND NOT ({under_way}) LIMIT 100)"
        )

    @abstractmethod
    async def insert(self, db: Connection, session: Session) -> bool:
        """Insert a session, and return True; return False if the id exists."""

    @abstractmethod
    async def insert_run(self, db: Connection, run: RunRecord, waits: int) -> None:
        """Insert a run. `waits` is 0 for a run with its turn, 1 for a waiting run, 2 for one that goes first."""

    @abstractmethod
    async def update(self, db: Connection, run: RunRecord, session: Session | None, is_end: bool = False) -> None:
        """Update a run, and the session that it holds. Raises `RunNotFound`."""

    @abstractmethod
    async def reassign(self, db: Connection, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session before a change of agent or a wait. Raises `RunNotFound`."""

    @abstractmethod
    async def append(self, db: Connection, events: Mapping[str, Sequence[Logged]]) -> None:
        """Store the events of runs. Skip stored events, and all events of an unknown run."""

    @abstractmethod
    async def update_words(self, db: Connection, session: Session) -> None:
        """Update what lists search in after a change of title and tags."""

    @abstractmethod
    async def index(self, db: Connection, run_id: str, words: str) -> None:
        """Add the words of a run to the index."""

    @abstractmethod
    async def with_words(self, db: Connection, text: str) -> tuple[str, str] | None:
        """Return the condition for runs with the words of a text, and its value; None without words, or an index."""

    @abstractmethod
    async def is_dead(self, db: Connection, owner: str) -> bool:
        """Return whether the process that began a run has died."""

    @abstractmethod
    async def dead_runs(self, db: Connection) -> list[str]:
        """Return the ids of the runs under way whose processes have died."""

    @abstractmethod
    async def mark_stopped(self, db: Connection, key: int, ending: Logged | None) -> None:
        """Mark a run by key as ended in place of its process; `ending` is missing in the stored events."""

    async def begin(
        self, db: Connection, run: RunRecord, session: Session | None, must_exist: bool = False
    ) -> Session | None:
        """Insert a run before its start. Return the stored session."""
        session = replace(session, status="active") if session else None
        if session and (must_exist or not await self.insert(db, session)):
            stored = await self._locked(db, session.id)
            await self._refuse_busy(db, session.id)
            session = await self._activate(db, stored, session.last_used)
        await self.insert_run(db, run, waits=0)
        return session

    async def enqueue(self, db: Connection, run: RunRecord, session: Session, is_next: bool) -> Session:
        """Insert a run that waits for its turn. Return the stored session."""
        stored = await self._locked(db, session.id)
        await self.insert_run(db, run, waits=2 if is_next else 1)
        return stored

    async def claim(self, db: Connection, run_id: str, session_id: str) -> Session | None:
        """Claim the session of a run that waits for its turn. Return None if other runs come first."""
        stored = await self._locked(db, session_id)
        if await self._live_run(db, self._predecessor, run_id) or not await db.execute(self._take_turn, run_id):
            return None
        return await self._activate(db, stored, time.time())

    async def end(self, db: Connection, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        """Store the end of a run. Raises as `update`."""
        await self.update(db, run, session, is_end=True)
        if events and not await self.has_lost_text(db, run):
            await self.append(db, {run.id: events})

    async def rehearse(self, db: Connection, prompt_bytes: int = 0) -> None:
        """Store a run with a session and an ending. Raise the error that a prompt would meet. The caller rolls back."""
        at, prompt = time.time(), os.urandom(prompt_bytes // 2).hex()
        session = Session(id="", backend="", created_at=at, last_used=at, working_dir="", initial_prompt="")
        run = RunRecord(id="", backend="-", prompt=prompt, state="queued", created_at=at, session_id=session.id)
        await self.begin(db, run, session)
        ended = replace(run, state="finished", ended_at=at)
        await self.end(db, ended, replace(session, status="completed"), [Logged(1, at, rows.WITHDRAWN)])

    async def stop(self, db: Connection, run_id: str, state: RunState, ending: RunFailed) -> None:
        """End a run under way in place of its process."""
        await db.fetch(self._lock_session_of, run_id)
        for key, session_id, at in await db.fetch(self._unfinished, run_id):
            stored = [event for (data,) in await db.fetch(_CHUNKS, key) for event in rows.decode_events(data)]
            outcome = rows.stopped(stored, at, ending)
            await db.execute(_STOP_RUN, state, outcome.at, ending.code, ending.message, outcome.output, key)
            await db.execute(_PAUSE, ending.message, session_id)
            await self.mark_stopped(db, key, outcome.added)

    async def recover(self, db: Connection) -> int:
        """Mark the runs of dead processes as interrupted. Return the number of runs."""
        dead = await self.dead_runs(db)
        for run_id in dead:
            await self.stop(db, run_id, "interrupted", rows.INTERRUPTED)
        return len(dead)

    async def describe(self, db: Connection, session_id: str, change: Callable[[Session], Session]) -> Session:
        """Change the `DESCRIPTION` of a session."""
        session = change(await self._locked(db, session_id))
        await db.execute(_DESCRIBE, *SESSIONS.values(session, DESCRIPTION), session.id)
        await self.update_words(db, session)
        return session

    async def delete(self, db: Connection, session_id: str) -> None:
        """Delete a session with its runs and events, and the text of orchestrations with one of the runs as a part."""
        if not await db.fetch(self._lock, session_id):
            raise ids.not_found(session_id, "session")
        await self._refuse_busy(db, session_id)
        await self._delete_session(db, session_id)
        await self.forget_groups(db)

    async def forget_groups(self, db: Connection) -> None:  # noqa: B027 - one database has no groups
        """Delete what lists keep of groups without members, if anything."""

    async def count_old(self, db: Connection, before: float) -> int:
        """Return the number of idle sessions last used or imported before a time."""
        return (await db.fetch(self._count_old, before))[0][0]

    async def clean(self, db: Connection, before: float) -> int:
        """Delete some of the sessions that `count_old` counts, as `delete` does. Return their number."""
        found = await db.fetch(self._some_old, before)
        for (session_id,) in found:
            await self._delete_session(db, session_id)
        return len(found)

    async def clean_runs(self, db: Connection, before: float) -> int:
        """Delete some ended runs without a session that began before a time. Return the number of deleted runs."""
        deleted = await db.execute(self._delete_old_runs, before)
        await self.forget_groups(db)
        return deleted

    async def index_runs(self, db: Connection) -> bool:
        """Index some ended runs of sessions, the newest first. Return whether there may be more."""
        size = 0
        for _ in range(_INDEXED_AT_ONCE):
            if not (found := await db.fetch(self._unindexed)):
                return False
            run = RUNS.read(found[0])
            words = indexed_words(run)
            await self.index(db, run.id, words)
            if (size := size + len(words)) > INDEXED_CHARS:
                break
        return True

    async def matches(self, db: Connection, text: str, session_ids: Sequence[str]) -> dict[str, RunMatch]:
        """Return the newest run with the words of a text, by session."""
        if not session_ids or not (found := await self.with_words(db, text)):
            return {}
        condition, value = found
        marks = ", ".join("?" * len(session_ids))
        newest = f"SELECT max(key) FROM runs WHERE {condition} AND session_id IN ({marks}) GROUP BY session_id"  # noqa: S608 - our own names
        runs = map(RUNS.read, await db.fetch(RUNS.select(f"WHERE key IN ({newest})"), value, *session_ids))
        return {run.session_id: match_of(run, text) for run in runs if run.session_id}

    async def resolve(self, db: Connection, resolved: Interaction) -> Interaction:
        """Store the outcome of a pending interaction, and return the stored interaction."""
        await db.execute(_RESOLVE, *INTERACTIONS.values(resolved, _OUTCOME), resolved.id)
        if found := await db.fetch(INTERACTIONS.by_id, resolved.id):
            return INTERACTIONS.read(found[0])
        raise ids.not_found(resolved.id, "interaction")

    async def has_lost_text(self, db: Connection, run: RunRecord) -> bool:
        """Return whether a run is an orchestration (which has no backend) with a deleted part."""
        return not run.backend and bool(found := await db.fetch(self._lost_text, run.id)) and bool(found[0][0])

    async def update_session(self, db: Connection, session: Session) -> None:
        """Update the fields of a session that its runs change."""
        values = (*SESSIONS.values(session, SESSION_CHANGES), is_resumable(session), session.id)
        await db.execute(_UPDATE_SESSION, *values)

    async def _locked(self, db: Connection, session_id: str) -> Session:
        """Return a session, which no other transaction can change until the end of this one."""
        if found := await db.fetch(self._lock_session, session_id):
            return SESSIONS.read(found[0])
        raise ids.not_found(session_id, "session")

    async def _activate(self, db: Connection, session: Session, at: float) -> Session:
        session = replace(session, status="active", archived=False, last_used=max(session.last_used, at))
        await db.execute(_ACTIVATE, session.last_used, session.id)
        return session

    async def _refuse_busy(self, db: Connection, session_id: str) -> None:
        if run_id := await self._live_run(db, self._holder, session_id):
            raise SessionBusy(f"session {session_id!r} is busy: run {run_id!r} is in progress")

    async def _live_run(self, db: Connection, query: str, of: str) -> str | None:
        """Return the id of the first run of a query whose process is alive. Interrupt runs of dead processes."""
        while found := await db.fetch(query, of):
            run_id, owner = found[0]
            if not await self.is_dead(db, owner):
                return run_id
            await self.stop(db, run_id, "interrupted", rows.INTERRUPTED)
        return None

    async def _delete_session(self, db: Connection, session_id: str) -> None:
        orchestrations = await db.fetch(_ORCHESTRATIONS, session_id)
        await db.execute(_DELETE, session_id)
        for (run_id,) in orchestrations:
            if await db.execute(self._delete_orchestration, run_id):
                continue
            for row in await db.fetch(self._lock_run, run_id):
                stripped = without_text(RUNS.read(row))
                await db.execute(_REMOVE_TEXT, *RUNS.values(stripped, RUN_TEXTS), True, run_id)
                await db.execute(_REMOVE_EVENTS, run_id)
