"""The operations of the writer on runs, events and sessions.

A run under way holds its session. Each operation checks before writing.

A run may also be stored while another run holds its session. Such a run waits for its turn: it is listed as queued, but
does not hold the session, so the unique index leaves it out. `claim` gives it the session once no run comes before it.
The order is that of the rows, which all processes share, so no process must know the queues of the others.
"""

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.store import protocol, rows
from clinvk.store.rows import (
    DESCRIPTION,
    INTERRUPTED,
    RUN_CHANGES,
    RUN_TEXTS,
    RUNS,
    SESSION_CHANGES,
    SESSIONS,
    WITHDRAWN,
    Chunk,
    is_resumable,
)
from clinvk.store.sqlite import lists
from clinvk.store.sqlite.owners import OwnerLocks
from clinvk.types.choices import RunState
from clinvk.types.errors import SessionBusy
from clinvk.types.events import Logged, RunFailed
from clinvk.types.record import RunRecord, without_text
from clinvk.types.session import Session

if TYPE_CHECKING:
    import sqlite3

_INSERT_SESSION = f"{SESSIONS.insert('resumable', 'imported_at')} ON CONFLICT (id) DO NOTHING"
_INSERT_WORDS = "INSERT INTO session_words (session, words) SELECT key, ? FROM sessions WHERE id = ?"
_CLAIM = "UPDATE sessions SET status = 'active', last_used = max(last_used, ?) WHERE id = ?"
_UPDATE_SESSION = SESSIONS.update((*SESSION_CHANGES, "resumable"))
_HOLDER = "SELECT id, owner FROM runs WHERE session_id = ? AND state IN ('queued', 'running', 'waiting') ORDER BY waits"
_PREDECESSOR = (
    "SELECT other.id, other.owner FROM runs AS own JOIN runs AS other ON other.session_id = own.session_id"
    " WHERE own.id = ? AND other.state IN ('queued', 'running', 'waiting') AND (other.waits = 0"
    " OR other.waits > own.waits OR (other.waits = own.waits AND other.key < own.key))"
)
"""Another run that holds the session of a run, or whose turn comes earlier."""

_TAKE_TURN = "UPDATE runs SET waits = 0 WHERE id = ?"

_DELETE = "DELETE FROM sessions WHERE id = ?"
_FORGET_GROUPS = "DELETE FROM totals WHERE total = 0"
_CLEAN_STEP = 100
_OLD = (
    "FROM totals CROSS JOIN sessions ON sessions.backend = totals.backend AND sessions.status = totals.state"
    " AND sessions.resumable = totals.resumable"
    " WHERE totals.list = 'sessions' AND sessions.last_used < ?1 AND coalesce(sessions.imported_at, 0) < ?1"
    " AND NOT EXISTS (SELECT 1 FROM runs WHERE session_id = sessions.id"
    " AND runs.state IN ('queued', 'running', 'waiting'))"
)
_COUNT_OLD = f"SELECT count(*) {_OLD}"
_SOME_OLD = f"SELECT sessions.id {_OLD} LIMIT ?2"
_DELETE_OLD_RUNS = (
    "DELETE FROM runs WHERE key IN (SELECT key FROM runs WHERE session_id IS NULL AND created_at < ?"
    " AND state NOT IN ('queued', 'running', 'waiting') LIMIT ?)"
)
_ORCHESTRATIONS = "SELECT DISTINCT parent_id FROM runs WHERE session_id = ? AND parent_id IS NOT NULL"
_DELETE_ORCHESTRATION = (
    "DELETE FROM runs WHERE id = ?1 AND state NOT IN ('queued', 'running', 'waiting')"
    " AND NOT EXISTS (SELECT 1 FROM runs WHERE parent_id = ?1)"
)
_REMOVE_TEXT = RUNS.update((*RUN_TEXTS, "lost_text"))
_REMOVE_EVENTS = "DELETE FROM chunks WHERE run = (SELECT key FROM runs WHERE id = ?)"
_LOST_TEXT = "SELECT 1 FROM runs WHERE id = ? AND lost_text"

_DESCRIBE = SESSIONS.update(DESCRIPTION)
_UPDATE_WORDS = "UPDATE session_words SET words = ? WHERE session = (SELECT key FROM sessions WHERE id = ?)"

_INSERT_RUN = RUNS.insert("owner", "waits")
_UPDATE_RUN = RUNS.update(RUN_CHANGES)
_LEAVE_LISTS = "UPDATE runs SET state = 'waiting' WHERE id = ?"
_LEAVE_SESSION_LISTS = "UPDATE sessions SET status = 'paused', tags = '[]' WHERE id = ?"
"""The triggers that count the members of lists by backend watch state and tags only."""

_RUN_OF_AGENT = ("backend", "request", *RUN_CHANGES)
_REASSIGN_RUN = RUNS.update(_RUN_OF_AGENT)
_SESSION_OF_AGENT = ("backend", "tags", *SESSION_CHANGES)
_REASSIGN_SESSION = SESSIONS.update(_SESSION_OF_AGENT)
_INSERT_CHUNK = "INSERT INTO chunks (run, last, data) VALUES (?, ?, ?)"
_CHUNKS = "SELECT key FROM chunks WHERE run = ? ORDER BY last"
_READ_PAGES_OF_END = "SELECT (SELECT max(key) FROM chunks), (SELECT max(run) FROM chunks), (SELECT max(day) FROM usage)"
"""Reads the pages to which the end of a new run is written."""

_LAST_NUMBER = "SELECT key, coalesce((SELECT max(last) FROM chunks WHERE run = runs.key), 0) FROM runs WHERE id = ?"

_OWNERS = "SELECT DISTINCT owner FROM runs WHERE state IN ('queued', 'running', 'waiting')"
_UNDER_WAY = (
    "SELECT key, CASE waits WHEN 0 THEN session_id END, coalesce(started_at, created_at) FROM runs"
    " WHERE state IN ('queued', 'running', 'waiting')"
)
_UNFINISHED = f"{_UNDER_WAY} AND owner = ?"
_UNFINISHED_RUN = f"{_UNDER_WAY} AND id = ?"
_STOP_RUN = "UPDATE runs SET state = ?, ended_at = ?, error_code = ?, error_message = ?, output = ? WHERE key = ?"
_PAUSE_SESSION = "UPDATE sessions SET status = 'paused', error_message = ? WHERE id = ? AND status = 'active'"


def insert(connection: "sqlite3.Connection", session: Session, imported_at: float | None = None) -> bool:
    """Insert a session, and return True; return False if the id exists."""
    if not connection.execute(
        _INSERT_SESSION, (*SESSIONS.values(session), is_resumable(session), imported_at)
    ).rowcount:
        return False
    connection.execute(_INSERT_WORDS, (rows.searched_text(session), session.id))
    return True


def begin(
    connection: "sqlite3.Connection", owners: OwnerLocks, run: RunRecord, session: Session | None, must_exist: bool
) -> Session | None:
    """Insert a run before its start. Return the stored session."""
    owner = owners.acquire()
    session = replace(session, status="active") if session else None
    if session and (must_exist or not insert(connection, session)):
        refuse_busy(connection, owners, session.id)
        connection.execute(_CLAIM, (session.last_used, session.id))
        session = _stored_session(connection, session.id)
    connection.execute(_INSERT_RUN, (*RUNS.values(run), owner, 0))
    connection.execute(_READ_PAGES_OF_END).fetchone()  # raises before an agent starts if a page is damaged
    return session


def enqueue(
    connection: "sqlite3.Connection", owners: OwnerLocks, run: RunRecord, session: Session, is_next: bool
) -> Session:
    """Insert a run that waits for its turn. Return the stored session."""
    stored = _stored_session(connection, session.id)
    connection.execute(_INSERT_RUN, (*RUNS.values(run), owners.acquire(), 2 if is_next else 1))
    return stored


def claim(connection: "sqlite3.Connection", owners: OwnerLocks, run_id: str, session_id: str) -> Session | None:
    """Claim the session of a run that waits for its turn. Return None if other runs come first."""
    if _live_run(connection, owners, _PREDECESSOR, run_id):
        return None
    connection.execute(_TAKE_TURN, (run_id,))
    connection.execute(_CLAIM, (time.time(), session_id))
    return _stored_session(connection, session_id)


def update(connection: "sqlite3.Connection", run: RunRecord, session: Session | None) -> None:
    """Update a run and the session of the run."""
    if _has_lost_text(connection, run):
        run = without_text(run)
    if not connection.execute(_UPDATE_RUN, (*RUNS.values(run, RUN_CHANGES), run.id)).rowcount:
        raise protocol.not_found(run.id, "run")
    if session:
        values = (*SESSIONS.values(session, SESSION_CHANGES), is_resumable(session), session.id)
        connection.execute(_UPDATE_SESSION, values)


def reassign(connection: "sqlite3.Connection", run: RunRecord, session: Session | None) -> None:
    """Update a run and its session before a change of agent or a wait."""
    if not connection.execute(_LEAVE_LISTS, (run.id,)).rowcount:
        raise protocol.not_found(run.id, "run")
    connection.execute(_REASSIGN_RUN, (*RUNS.values(run, _RUN_OF_AGENT), run.id))
    if session:
        session = replace(session, tags=_stored_session(connection, session.id).tags)
        connection.execute(_LEAVE_SESSION_LISTS, (session.id,))
        connection.execute(_REASSIGN_SESSION, (*SESSIONS.values(session, _SESSION_OF_AGENT), session.id))


def _has_lost_text(connection: "sqlite3.Connection", run: RunRecord) -> bool:
    """Return whether a run is an orchestration (which has no backend) with a deleted part."""
    return not run.backend and connection.execute(_LOST_TEXT, (run.id,)).fetchone() is not None


def append(connection: "sqlite3.Connection", run_id: str, packed: Sequence[Chunk]) -> None:
    """Store the events of a run. Skip stored events, and all events of an unknown run."""
    key, last = connection.execute(_LAST_NUMBER, (run_id,)).fetchone() or (0, inf)
    for chunk in packed:
        if chunk.first > last:
            connection.execute(_INSERT_CHUNK, (key, chunk.last, chunk.data))
        elif chunk.last > last:
            rest = [event for event in rows.decode_events(chunk.data) if event.number > last]
            connection.execute(_INSERT_CHUNK, (key, chunk.last, rows.encode_events(rest)))


def end(connection: "sqlite3.Connection", run: RunRecord, session: Session | None, packed: Sequence[Chunk]) -> None:
    """Store the end of a run."""
    update(connection, run, session)
    if packed and not _has_lost_text(connection, run):
        append(connection, run.id, packed)


def rehearse(connection: "sqlite3.Connection") -> None:
    """Store a run with a session and an answer, and roll back. Raise the error that a prompt would meet."""
    at = time.time()
    session = Session(id="", backend="", created_at=at, last_used=at, working_dir="", initial_prompt="")
    run = RunRecord(id="", backend="-", prompt="", state="queued", created_at=at, session_id=session.id)
    connection.execute("SAVEPOINT rehearsal")
    try:
        insert(connection, session)
        connection.execute(_INSERT_RUN, (*RUNS.values(run), "", 0))
        ended = replace(run, state="finished", ended_at=at)
        end(connection, ended, replace(session, status="completed"), rows.pack_events([Logged(1, at, WITHDRAWN)]))
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK TO rehearsal")
            connection.execute("RELEASE rehearsal")


def delete(connection: "sqlite3.Connection", owners: OwnerLocks, session_id: str) -> None:
    """Delete a session with its runs and events, and the text of orchestrations with one of the runs as a part."""
    refuse_busy(connection, owners, session_id)
    if not _delete_session(connection, session_id):
        raise protocol.not_found(session_id, "session")
    forget_groups(connection)


def count_old(connection: "sqlite3.Connection", before: float) -> int:
    """Return the number of idle sessions last used or imported before a time."""
    return connection.execute(_COUNT_OLD, (before,)).fetchone()[0]


def clean(connection: "sqlite3.Connection", before: float) -> int:
    """Delete some of the sessions that `count_old` counts, as `delete` does. Return the number of deleted sessions."""
    session_ids = [found for (found,) in connection.execute(_SOME_OLD, (before, _CLEAN_STEP))]
    return sum(_delete_session(connection, session_id) for session_id in session_ids)


def clean_runs(connection: "sqlite3.Connection", before: float) -> int:
    """Delete some ended runs without a session that began before a time. Return the number of deleted runs."""
    return connection.execute(_DELETE_OLD_RUNS, (before, _CLEAN_STEP)).rowcount


def forget_groups(connection: "sqlite3.Connection") -> None:
    """Delete the totals of groups without members."""
    connection.execute(_FORGET_GROUPS)


def _delete_session(connection: "sqlite3.Connection", session_id: str) -> bool:
    orchestrations = connection.execute(_ORCHESTRATIONS, (session_id,)).fetchall()
    exists = connection.execute(_DELETE, (session_id,)).rowcount > 0
    for orchestration in orchestrations:
        if connection.execute(_DELETE_ORCHESTRATION, orchestration).rowcount:
            continue
        if row := connection.execute(RUNS.by_id, orchestration).fetchone():
            stripped = without_text(RUNS.read(row))
            connection.execute(_REMOVE_TEXT, (*RUNS.values(stripped, RUN_TEXTS), True, stripped.id))
            connection.execute(_REMOVE_EVENTS, orchestration)
    return exists


def describe(connection: "sqlite3.Connection", session_id: str, change: Callable[[Session], Session]) -> Session:
    """Change title and tags of a session."""
    session = change(_stored_session(connection, session_id))
    connection.execute(_DESCRIBE, (*SESSIONS.values(session, DESCRIPTION), session.id))
    connection.execute(_UPDATE_WORDS, (rows.searched_text(session), session.id))
    return session


def _stored_session(connection: "sqlite3.Connection", session_id: str) -> Session:
    row = connection.execute(SESSIONS.by_id, (session_id,)).fetchone()
    if row is None:
        raise protocol.not_found(session_id, "session")
    return SESSIONS.read(row)


def refuse_busy(connection: "sqlite3.Connection", owners: OwnerLocks, session_id: str) -> None:
    """Release a session if the processes of the session's runs are dead.

    Raises:
        SessionBusy: a run is under way.
    """
    if run_id := _live_run(connection, owners, _HOLDER, session_id):
        raise SessionBusy(f"session {session_id!r} is busy: run {run_id!r} is in progress")


def _live_run(connection: "sqlite3.Connection", owners: OwnerLocks, query: str, of: str) -> str | None:
    """Return the id of the first run of a query whose process is alive. Interrupt the runs of the dead processes."""
    while found := connection.execute(query, (of,)).fetchone():
        run_id, owner = found
        if not owners.is_dead(owner):
            return run_id
        _interrupt(connection, owner)
    return None


def dead_owners(connection: "sqlite3.Connection", owners: OwnerLocks) -> list[str]:
    """Return the ids of processes that died with runs under way."""
    return [owner for (owner,) in connection.execute(_OWNERS).fetchall() if owners.is_dead(owner)]


def recover(connection: "sqlite3.Connection", owners: OwnerLocks) -> int:
    """Mark the runs of dead processes as interrupted. Return the number of runs."""
    return sum(_interrupt(connection, owner) for owner in dead_owners(connection, owners))


def withdraw(connection: "sqlite3.Connection", run_id: str) -> None:
    """Cancel a run whose caller left before `begin` returned."""
    for key, session_id, at in connection.execute(_UNFINISHED_RUN, (run_id,)).fetchall():
        _stop(connection, key, session_id, at, "cancelled", WITHDRAWN)


def _interrupt(connection: "sqlite3.Connection", owner: str) -> int:
    unfinished = connection.execute(_UNFINISHED, (owner,)).fetchall()
    for key, session_id, at in unfinished:
        _stop(connection, key, session_id, at, "interrupted", INTERRUPTED)
    return len(unfinished)


def _stop(
    connection: "sqlite3.Connection", key: int, session_id: str | None, at: float, state: RunState, ending: RunFailed
) -> None:
    """End a run in place of its process."""
    chunks = connection.execute(_CHUNKS, (key,)).fetchall()
    stopped = rows.stopped(lists.stored_events(connection, chunks, lambda _: None), at, ending)
    connection.execute(_STOP_RUN, (state, stopped.at, ending.code, ending.message, stopped.output, key))
    connection.execute(_PAUSE_SESSION, (ending.message, session_id))
    if added := stopped.added:
        connection.execute(_INSERT_CHUNK, (key, added.number, rows.encode_events([added])))
