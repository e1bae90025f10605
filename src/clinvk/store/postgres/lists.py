"""The queries of lists, totals and events."""

from collections.abc import Sequence
from itertools import islice
from typing import TypeVar

from clinvk.store import rows
from clinvk.store.postgres.turns import WITH_WORDS, words_query
from clinvk.store.protocol import Page, RunQuery, SessionQuery
from clinvk.store.rows import RUNS, SESSIONS, Conditions, Table
from clinvk.store.turns import Connection
from clinvk.types.events import Logged, RunFailed
from clinvk.types.record import RunRecord, Session
from clinvk.types.text import readable

_T = TypeVar("_T", Session, RunRecord)

_RUN_FILTERS = ("session_id", "parent_id", "backend", "state")
_TAGGED = "key IN (SELECT session FROM session_words WHERE tags @> ARRAY[?::text])"
_WITH_TEXT = "key IN (SELECT session FROM session_words WHERE words LIKE ?)"
_WITH_RUN = f"id IN (SELECT session_id FROM runs WHERE {WITH_WORDS})"  # noqa: S608 - our own names
_CURRENT = SESSIONS.select(
    "WHERE working_dir = ? AND backend = ? AND resumable AND NOT archived AND"
    " coalesce((SELECT bool_or(from_terminal) FROM runs WHERE session_id = sessions.id), true)"
    " ORDER BY last_used DESC, key DESC LIMIT 1"
)
_COSTS = (
    "SELECT session_id, sum(cost_usd) FROM runs WHERE session_id = ANY(?) AND cost_usd IS NOT NULL GROUP BY session_id"
)
_EVENTS = "SELECT data FROM chunks WHERE run = ? AND last > ? ORDER BY last LIMIT ?"
_STATE = (
    "SELECT key, stopped, ended_at, error_code, error_message,"
    " (SELECT data FROM chunks WHERE run = key ORDER BY last DESC LIMIT 1) FROM runs WHERE id = ?"
)


async def sessions(db: Connection, query: SessionQuery) -> Page[Session]:
    """List sessions."""
    conditions = rows.equal(query, ("backend", "status", "working_dir", "project", "archived"))
    if query.resumable:
        conditions.append(("resumable", ()))
    if query.tag is not None:
        conditions.append((_TAGGED, (readable(query.tag),)))
    if query.text:
        pattern, words = f"%{_escaped(rows.case_folded(query.text))}%", words_query(query.text)
        either = (f"({_WITH_TEXT} OR {_WITH_RUN})", (pattern, words)) if words else (_WITH_TEXT, (pattern,))
        conditions.append(either)
    return await _page(db, SESSIONS, conditions, query, SESSIONS.newest_first)


async def runs(db: Connection, query: RunQuery) -> Page[RunRecord]:
    """List runs."""
    order = RUNS.newest_first if query.session_id is None else rows.LAST_TURN_FIRST
    return await _page(db, RUNS, rows.equal(query, _RUN_FILTERS), query, order)


async def current(db: Connection, backend: str, working_dir: str) -> Session | None:
    """Return the newest resumable session in a directory with a prompt of the command line, or without runs."""
    found = await db.fetch(_CURRENT, readable(working_dir), backend)
    return SESSIONS.read(found[0]) if found else None


async def costs(db: Connection, session_ids: Sequence[str]) -> dict[str, float]:
    """Return the sum of the known costs of the runs of sessions, by session."""
    return dict(await db.fetch(_COSTS, list(session_ids)))


async def events(db: Connection, run_id: str, after: int, limit: int | None) -> list[Logged]:
    """Return the events of a run after a number. A run that was ended in place of its process has an ending here."""
    for key, was_stopped, at, code, message, last_chunk in await db.fetch(_STATE, run_id):
        stored = [event for (data,) in await db.fetch(_EVENTS, key, after, limit) for event in rows.decode_events(data)]
        if was_stopped:
            last = rows.decode_events(last_chunk)[-1:] if last_chunk else []
            if added := rows.stopped(last, at, RunFailed(code, message)).added:
                stored.append(added)
        return list(islice((event for event in stored if event.number > after), limit))
    return []


async def _page(
    db: Connection, table: Table[_T], conditions: Conditions, query: SessionQuery | RunQuery, order: str
) -> Page[_T]:
    where, values = rows.where(conditions)
    ((total,),) = await db.fetch(f"SELECT count(*) FROM {table.name} {where}", *values)  # noqa: S608 - our own names
    select = table.select(f"{where} ORDER BY {order} LIMIT ? OFFSET ?")
    found = await db.fetch(select, *values, query.limit, query.offset)
    return Page(tuple(map(table.read, found)), total)


def _escaped(text: str) -> str:
    """Return a text as a pattern of LIKE that matches only the text."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
