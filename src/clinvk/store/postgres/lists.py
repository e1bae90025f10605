"""The queries of lists and single records."""

from collections.abc import Sequence
from itertools import islice
from typing import TypeVar

from clinvk.store import protocol, rows
from clinvk.store.postgres.database import Connection, fetch
from clinvk.store.postgres.turns import INTERACTIONS, RUNS, SESSIONS
from clinvk.store.protocol import InteractionQuery, Page, RunQuery, SessionQuery
from clinvk.store.rows import Table
from clinvk.types.events import Logged, RunFailed, Usage
from clinvk.types.interaction import Interaction
from clinvk.types.record import RunRecord, UsageOfDay
from clinvk.types.session import Session
from clinvk.types.text import readable

_T = TypeVar("_T", Session, RunRecord, Interaction)

_Conditions = list[tuple[str, object]]
"""SQL conditions, each with the value of its parameter."""

_RUN_FILTERS = ("session_id", "parent_id", "backend", "state")
_INTERACTION_FILTERS = ("status", "run_id", "session_id")
_TAGGED = "key IN (SELECT session FROM session_words WHERE tags @> ARRAY[%s::text])"
_WITH_TEXT = "key IN (SELECT session FROM session_words WHERE words LIKE %s)"
_CURRENT = SESSIONS.select(
    "WHERE working_dir = %s AND backend = %s AND resumable AND"
    " coalesce((SELECT bool_or(from_terminal) FROM runs WHERE session_id = sessions.id), true)"
    " ORDER BY last_used DESC, key DESC LIMIT 1"
)
_COSTS = (
    "SELECT session_id, sum(cost_usd) FROM runs WHERE session_id = ANY(%s) AND cost_usd IS NOT NULL GROUP BY session_id"
)
_USAGE = (
    "SELECT day, key_name, backend, model, runs, cost_usd, input_tokens, output_tokens, cached_tokens, reasoning_tokens"
    " FROM usage WHERE day >= %s AND key_name = coalesce(%s, key_name) AND runs > 0"
    " ORDER BY day, key_name, backend, model"
)
_EVENTS = "SELECT data FROM chunks WHERE run = %s AND last > %s ORDER BY last LIMIT %s"
_STATE = (
    "SELECT key, stopped, ended_at, error_code, error_message,"
    " (SELECT data FROM chunks WHERE run = key ORDER BY last DESC LIMIT 1) FROM runs WHERE id = %s"
)


async def find(db: Connection, table: Table[_T], reference: str, kind: protocol.Kind) -> _T:
    """Return the record of an id or a prefix."""
    prefix = protocol.check_prefix(reference, kind)
    select = table.select("WHERE id >= %s AND id < %s ORDER BY id LIMIT %s")
    found = [table.read(row) for row in await fetch(db, select, prefix, f"{prefix}g", protocol.MAX_CANDIDATES + 1)]
    only = protocol.only_match([record.id for record in found], reference, kind)
    return next(record for record in found if record.id == only)


async def sessions(db: Connection, query: SessionQuery) -> Page[Session]:
    """List sessions."""
    conditions = _equal(query, ("backend", "status", "working_dir"))
    if query.resumable:
        conditions.append(("resumable = %s", True))
    if query.tag is not None:
        conditions.append((_TAGGED, readable(query.tag)))
    if query.text:
        conditions.append((_WITH_TEXT, f"%{_escaped(rows.case_folded(query.text))}%"))
    return await _page(db, SESSIONS, conditions, query.limit, query.offset)


async def runs(db: Connection, query: RunQuery) -> Page[RunRecord]:
    """List runs."""
    return await _page(db, RUNS, _equal(query, _RUN_FILTERS), query.limit, query.offset)


async def interactions(db: Connection, query: InteractionQuery) -> list[Interaction]:
    """List interactions."""
    return await _items(db, INTERACTIONS, _equal(query, _INTERACTION_FILTERS), query.limit, 0)


async def current(db: Connection, backend: str, working_dir: str) -> Session | None:
    """Return the newest resumable session in a directory with a prompt of the command line, or without runs."""
    found = await fetch(db, _CURRENT, readable(working_dir), backend)
    return SESSIONS.read(found[0]) if found else None


async def costs(db: Connection, session_ids: Sequence[str]) -> dict[str, float]:
    """Return the sum of the known costs of the runs of sessions, by session."""
    return dict(await fetch(db, _COSTS, list(session_ids)))


async def usage(db: Connection, first_day: str, key_name: str | None) -> list[UsageOfDay]:
    """Return the usage of runs by day, key, backend and model."""
    return [
        UsageOfDay(
            day=day, key_name=key, backend=backend, model=model, runs=runs, cost_usd=cost_usd, usage=Usage(*tokens)
        )
        for day, key, backend, model, runs, cost_usd, *tokens in await fetch(db, _USAGE, first_day, key_name)
    ]


async def events(db: Connection, run_id: str, after: int, limit: int | None) -> list[Logged]:
    """Return the events of a run after a number. A run that was ended in place of its process has an ending here."""
    for key, was_stopped, at, code, message, last_chunk in await fetch(db, _STATE, run_id):
        stored = [
            event for (data,) in await fetch(db, _EVENTS, key, after, limit) for event in rows.decode_events(data)
        ]
        if was_stopped:
            last = rows.decode_events(last_chunk)[-1:] if last_chunk else []
            if added := rows.stopped(last, at, RunFailed(code, message)).added:
                stored.append(added)
        return list(islice((event for event in stored if event.number > after), limit))
    return []


async def _page(db: Connection, table: Table[_T], conditions: _Conditions, limit: int, offset: int) -> Page[_T]:
    where, values = _where(conditions)
    ((total,),) = await fetch(db, f"SELECT count(*) FROM {table.name} {where}", *values)  # noqa: S608 - our own names
    return Page(tuple(await _items(db, table, conditions, limit, offset)), total)


async def _items(db: Connection, table: Table[_T], conditions: _Conditions, limit: int, offset: int) -> list[_T]:
    where, values = _where(conditions)
    select = table.select(f"{where} ORDER BY {table.at} DESC, key DESC LIMIT %s OFFSET %s")
    return [table.read(row) for row in await fetch(db, select, *values, limit, offset)]


def _where(conditions: _Conditions) -> tuple[str, list[object]]:
    where = f"WHERE {' AND '.join(condition for condition, _ in conditions)}" if conditions else ""
    return where, [value for _, value in conditions]


def _equal(query: SessionQuery | RunQuery | InteractionQuery, names: Sequence[str]) -> _Conditions:
    return [(f"{name} = %s", readable(value)) for name in names if (value := getattr(query, name)) is not None]


def _escaped(text: str) -> str:
    """Return a text as a pattern of LIKE that matches only the text."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
