"""The operations on runs, events and sessions, each in a transaction of its own.

An operation locks the session first, then the run, so that operations of several processes wait for each other instead
of failing. Runs wait for their turns as in SQLite: in the order of their rows.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from clinvk.store import protocol, rows
from clinvk.store.postgres.database import Connection, execute, fetch
from clinvk.store.rows import DESCRIPTION, RUN_CHANGES, RUN_TEXTS, SESSION_CHANGES, is_resumable
from clinvk.types.choices import RunState
from clinvk.types.errors import SessionBusy
from clinvk.types.events import Logged, RunFailed
from clinvk.types.record import RunRecord, without_text
from clinvk.types.session import Session
from clinvk.types.text import readable

SESSIONS, RUNS = rows.SESSIONS.with_mark("%s"), rows.RUNS.with_mark("%s")
INTERACTIONS, LIMITS = rows.INTERACTIONS.with_mark("%s"), rows.LIMITS.with_mark("%s")

_INSERT_SESSION = (
    f"WITH made AS ({SESSIONS.insert('resumable')} ON CONFLICT (id) DO NOTHING RETURNING key)"  # noqa: S608 - our own names
    " INSERT INTO session_words SELECT key, %s, %s::text[] FROM made"
)
_LOCK_SESSION = SESSIONS.select("WHERE id = %s FOR NO KEY UPDATE")
_ACTIVATE = "UPDATE sessions SET status = 'active', last_used = greatest(last_used, %s) WHERE id = %s"
_UPDATE_SESSION = SESSIONS.update((*SESSION_CHANGES, "resumable"))
_DESCRIBE = SESSIONS.update(DESCRIPTION)
_UPDATE_WORDS = (
    "UPDATE session_words SET words = %s, tags = %s::text[] WHERE session = (SELECT key FROM sessions WHERE id = %s)"
)
_DELETE = "DELETE FROM sessions WHERE id = %s"
_PAUSE = "UPDATE sessions SET status = 'paused', error_message = %s WHERE id = %s AND status = 'active'"

_HOLDER = "SELECT id, is_alive(owner, %s) FROM runs WHERE session_id = %s AND under_way ORDER BY waits, key LIMIT 1"
_PREDECESSOR = (
    "SELECT other.id, is_alive(other.owner, %s)"
    " FROM runs AS own JOIN runs AS other ON other.session_id = own.session_id"
    " WHERE own.id = %s AND other.under_way AND (other.waits = 0"
    " OR other.waits > own.waits OR (other.waits = own.waits AND other.key < own.key)) LIMIT 1"
)
"""Another run that holds the session of a run, or whose turn comes earlier."""

_INSERT_RUN = RUNS.insert("owner", "waits", "from_terminal")
_END_RUN = f"UPDATE runs SET {RUNS.assignments(RUN_CHANGES)}, stopped = false WHERE id = %s"  # noqa: S608 - our own names
_LOST = (
    "stopped AND waits = 0 AND EXISTS (SELECT 1 FROM runs AS other WHERE other.session_id = runs.session_id"
    " AND other.id <> runs.id AND other.waits = 0 AND (other.under_way OR other.key > runs.key))"
)
"""The run was declared interrupted, and another run has got its session since."""

_END_TURN = f"{_END_RUN} AND NOT ({_LOST})"
_UPDATE_RUN = f"{_END_TURN} AND (under_way OR stopped)"
_RUN_OF_AGENT = ("backend", "request")
_REASSIGN_RUN = RUNS.update(_RUN_OF_AGENT)
_REASSIGN_SESSION = "UPDATE sessions SET backend = %s WHERE id = %s"
_LOST_TEXT = "SELECT lost_text FROM runs WHERE id = %s FOR NO KEY UPDATE"
_TAKE_TURN = "UPDATE runs SET waits = 0 WHERE id = %s AND under_way"
_EXISTS = "SELECT 1 FROM runs WHERE id = %s"

_LOCK_RUNS = "SELECT id, key FROM runs WHERE id = ANY(%s) ORDER BY key FOR NO KEY UPDATE"
_LAST_NUMBERS = "SELECT run, max(last) FROM chunks WHERE run = ANY(%s) GROUP BY run"
_INSERT_CHUNKS = "INSERT INTO chunks SELECT unnest(%s::bigint[]), unnest(%s::bigint[]), unnest(%s::bytea[])"
_CHUNKS = "SELECT data FROM chunks WHERE run = %s ORDER BY last"

_LOCK_SESSION_OF = "SELECT 1 FROM sessions WHERE id = (SELECT session_id FROM runs WHERE id = %s) FOR NO KEY UPDATE"
_UNFINISHED = (
    "SELECT key, CASE waits WHEN 0 THEN session_id END, coalesce(started_at, created_at) FROM runs"
    " WHERE id = %s AND under_way FOR NO KEY UPDATE"
)
_STOP_RUN = (
    "UPDATE runs SET state = %s, ended_at = %s, error_code = %s, error_message = %s, output = %s, stopped = true"
    " WHERE key = %s"
)
_DEAD = (
    "SELECT id FROM runs WHERE under_way AND owner IN (SELECT owner FROM"
    " (SELECT DISTINCT owner FROM runs WHERE under_way) AS owners_of_runs WHERE NOT is_alive(owner, %s))"
)

_ORCHESTRATIONS = "SELECT DISTINCT parent_id FROM runs WHERE session_id = %s AND parent_id IS NOT NULL ORDER BY 1"
_DELETE_ORCHESTRATION = (
    "DELETE FROM runs WHERE id = %s AND NOT under_way"
    " AND NOT EXISTS (SELECT 1 FROM runs AS part WHERE part.parent_id = runs.id)"
)
_REMOVE_TEXT = RUNS.update((*RUN_TEXTS, "lost_text"))
_REMOVE_EVENTS = "DELETE FROM chunks WHERE run = (SELECT key FROM runs WHERE id = %s)"
_LOCK_RUN = RUNS.select("WHERE id = %s FOR NO KEY UPDATE")
_OLD = (
    "FROM sessions WHERE last_used < %s"
    " AND NOT EXISTS (SELECT 1 FROM runs WHERE session_id = sessions.id AND under_way)"
)
_COUNT_OLD = f"SELECT count(*) {_OLD}"
_SOME_OLD = f"SELECT id {_OLD} LIMIT 100 FOR UPDATE SKIP LOCKED"
_DELETE_OLD_RUNS = (
    "DELETE FROM runs WHERE key IN"
    " (SELECT key FROM runs WHERE session_id IS NULL AND created_at < %s AND NOT under_way LIMIT 1000)"
)


async def insert(db: Connection, session: Session) -> bool:
    """Insert a session, and return True; return False if the id exists."""
    values = (*SESSIONS.values(session), is_resumable(session), *_searched(session))
    return await execute(db, _INSERT_SESSION, *values) > 0


async def begin(
    db: Connection, owner: str, run: RunRecord, session: Session | None, must_exist: bool
) -> Session | None:
    """Insert a run before its start. Return the stored session."""
    session = replace(session, status="active") if session else None
    if session and (must_exist or not await insert(db, session)):
        stored = await _locked(db, session.id)
        await _refuse_busy(db, owner, session.id)
        session = await _activate(db, stored, session.last_used)
    await _insert_run(db, owner, run, waits=0)
    return session


async def enqueue(db: Connection, owner: str, run: RunRecord, session: Session, is_next: bool) -> Session:
    """Insert a run that waits for its turn. Return the stored session."""
    stored = await _locked(db, session.id)
    await _insert_run(db, owner, run, waits=2 if is_next else 1)
    return stored


async def claim(db: Connection, owner: str, run_id: str, session_id: str) -> Session | None:
    """Claim the session of a run that waits for its turn. Return None if other runs come first."""
    stored = await _locked(db, session_id)
    if await _live_run(db, owner, _PREDECESSOR, run_id) or not await execute(db, _TAKE_TURN, run_id):
        return None
    return await _activate(db, stored, time.time())


async def update(db: Connection, run: RunRecord, session: Session | None, statement: str = _UPDATE_RUN) -> None:
    """Update a run that is under way, and the session of the run.

    A run that goes on although it was declared interrupted takes its state back.

    Raises:
        SessionBusy: the run was declared interrupted, and another run has got its session.
        RunNotFound: the run was deleted.
    """
    if session:
        await execute(
            db, _UPDATE_SESSION, *SESSIONS.values(session, SESSION_CHANGES), is_resumable(session), session.id
        )
    else:
        await fetch(db, _LOCK_SESSION_OF, run.id)
    if await _has_lost_text(db, run):
        run = without_text(run)
    if not await execute(db, statement, *RUNS.values(run, RUN_CHANGES), run.id):
        if await fetch(db, _EXISTS, run.id):
            raise SessionBusy(f"another run has got the session of run {run.id!r}")
        raise protocol.not_found(run.id, "run")


async def reassign(db: Connection, run: RunRecord, session: Session | None) -> None:
    """Change the agent of a run that another agent takes over, or its request, and the agent of its session."""
    if session:
        await execute(db, _REASSIGN_SESSION, session.backend, session.id)
    if not await execute(db, _REASSIGN_RUN, *RUNS.values(run, _RUN_OF_AGENT), run.id):
        raise protocol.not_found(run.id, "run")


async def end(db: Connection, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
    """Store the end of a run. With a session, raises as `update`."""
    await update(db, run, session, _END_TURN if session else _END_RUN)
    if events and not await _has_lost_text(db, run):
        await append(db, {run.id: events})


async def append(db: Connection, events: Mapping[str, Sequence[Logged]]) -> None:
    """Store the events of runs. Skip stored events, and all events of an unknown run."""
    keys = dict(await fetch(db, _LOCK_RUNS, list(events)))
    last = dict(await fetch(db, _LAST_NUMBERS, list(keys.values())))
    new = [
        (key, chunk.last, chunk.data)
        for run_id, key in keys.items()
        for chunk in rows.pack_events([event for event in events[run_id] if event.number > last.get(key, 0)])
    ]
    if new:
        await execute(db, _INSERT_CHUNKS, *map(list, zip(*new, strict=True)))


async def stop(db: Connection, run_id: str, state: RunState, ending: RunFailed) -> None:
    """End a run in place of its process. The list of events adds the ending if it is missing."""
    await fetch(db, _LOCK_SESSION_OF, run_id)
    for key, session_id, at in await fetch(db, _UNFINISHED, run_id):
        stored = [event for (data,) in await fetch(db, _CHUNKS, key) for event in rows.decode_events(data)]
        outcome = rows.stopped(stored, at, ending)
        await execute(db, _STOP_RUN, state, outcome.at, ending.code, ending.message, outcome.output, key)
        await execute(db, _PAUSE, ending.message, session_id)


async def dead_runs(db: Connection, owner: str) -> list[str]:
    """Return the ids of the runs under way whose processes have died."""
    return [run_id for (run_id,) in await fetch(db, _DEAD, owner)]


async def delete(db: Connection, owner: str, session_id: str) -> None:
    """Delete a session with its runs and events, and the text of orchestrations with one of the runs as a part."""
    await _locked(db, session_id)
    await _refuse_busy(db, owner, session_id)
    await _delete_session(db, session_id)


async def count_old(db: Connection, before: float) -> int:
    """Return the number of idle sessions last used before a time."""
    return (await fetch(db, _COUNT_OLD, before))[0][0]


async def clean(db: Connection, before: float) -> int:
    """Delete some of the sessions that `count_old` counts, as `delete` does. Return the number of deleted sessions."""
    found = await fetch(db, _SOME_OLD, before)
    for (session_id,) in found:
        await _delete_session(db, session_id)
    return len(found)


async def clean_runs(db: Connection, before: float) -> int:
    """Delete some ended runs without a session that began before a time. Return the number of deleted runs."""
    return await execute(db, _DELETE_OLD_RUNS, before)


async def describe(db: Connection, session_id: str, change: Callable[[Session], Session]) -> Session:
    """Change title and tags of a session."""
    session = change(await _locked(db, session_id))
    await execute(db, _DESCRIBE, *SESSIONS.values(session, DESCRIPTION), session.id)
    await execute(db, _UPDATE_WORDS, *_searched(session), session.id)
    return session


async def _locked(db: Connection, session_id: str) -> Session:
    """Return a session, which no other transaction can change until the end of this one."""
    if found := await fetch(db, _LOCK_SESSION, session_id):
        return SESSIONS.read(found[0])
    raise protocol.not_found(session_id, "session")


async def _activate(db: Connection, session: Session, at: float) -> Session:
    await execute(db, _ACTIVATE, at, session.id)
    return replace(session, status="active", last_used=max(session.last_used, at))


async def _insert_run(db: Connection, owner: str, run: RunRecord, waits: int) -> None:
    from_terminal = run.parent_id is None and not run.key_name and "over_http" not in run.request
    await execute(db, _INSERT_RUN, *RUNS.values(run), owner, waits, from_terminal)


async def _refuse_busy(db: Connection, owner: str, session_id: str) -> None:
    if run_id := await _live_run(db, owner, _HOLDER, session_id):
        raise SessionBusy(f"session {session_id!r} is busy: run {run_id!r} is in progress")


async def _live_run(db: Connection, owner: str, query: str, of: str) -> str | None:
    """Return the id of the first run of a query whose process is alive. Interrupt the runs of the dead processes."""
    while found := await fetch(db, query, owner, of):
        run_id, is_alive = found[0]
        if is_alive:
            return run_id
        await stop(db, run_id, "interrupted", rows.INTERRUPTED)
    return None


async def _has_lost_text(db: Connection, run: RunRecord) -> bool:
    """Return whether a run is an orchestration (which has no backend) with a deleted part."""
    return not run.backend and bool(found := await fetch(db, _LOST_TEXT, run.id)) and found[0][0]


async def _delete_session(db: Connection, session_id: str) -> None:
    orchestrations = await fetch(db, _ORCHESTRATIONS, session_id)
    await execute(db, _DELETE, session_id)
    for (run_id,) in orchestrations:
        if await execute(db, _DELETE_ORCHESTRATION, run_id):
            continue
        for row in await fetch(db, _LOCK_RUN, run_id):
            stripped = without_text(RUNS.read(row))
            await execute(db, _REMOVE_TEXT, *RUNS.values(stripped, RUN_TEXTS), True, run_id)
            await execute(db, _REMOVE_EVENTS, run_id)


def _searched(session: Session) -> tuple[str, list[str]]:
    """Return the values of the columns that lists search in."""
    return rows.searched_text(session), [*map(readable, session.tags)]
