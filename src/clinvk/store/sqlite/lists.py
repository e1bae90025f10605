"""Lists of sessions and runs, newest first, with their totals.

A list is the merge of its groups (see the schema): each is read in order, and no further than the page reaches.
A list by text, by a session or parent of runs, or by tag and directory at once, is read whole by an index.
"""

from collections.abc import Iterator
from contextlib import suppress
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from clinvk.store import search
from clinvk.store.protocol import Page, RunQuery, SessionQuery
from clinvk.store.sqlite.database import damage_as_unreadable
from clinvk.store.sqlite.rows import RUNS, SESSIONS, Table, Unreadable, Value
from clinvk.types.events import Usage
from clinvk.types.record import RunRecord, UsageOfDay
from clinvk.types.session import Session
from clinvk.types.text import readable

if TYPE_CHECKING:
    import sqlite3

_GROUPS = "SELECT backend, state, resumable, total FROM totals WHERE list = ? AND value = ? AND total > 0"
_GROUPS_OF_DIRECTORY = (
    "SELECT backend, status, resumable, count(*) FROM sessions WHERE working_dir = ?"
    " GROUP BY backend, status, resumable"
)
_COUNT = "SELECT coalesce(sum(total), 0) FROM totals WHERE list = 'sessions'"
_IN_ORDER = {
    "sessions": "SELECT last_used, key FROM sessions WHERE ? = '' AND backend = ? AND status = ? AND resumable = ?"
    " ORDER BY last_used DESC, key DESC",
    "directory": "SELECT last_used, key FROM sessions"
    " WHERE working_dir = ? AND backend = ? AND status = ? AND resumable = ? ORDER BY last_used DESC, key DESC",
    "tag": "SELECT last_used, session FROM session_tags"
    " WHERE tag = ? AND backend = ? AND status = ? AND resumable = ? ORDER BY last_used DESC, session DESC",
    "runs": "SELECT created_at, key FROM runs WHERE ? = '' AND backend = ? AND state = ? AND ? = 0"
    " ORDER BY created_at DESC, key DESC",
}
_OF_PARTS = (
    "SELECT count(*) > 0 AND count(*) = count(parent_id) FROM runs"
    " WHERE session_id = (SELECT id FROM sessions WHERE key = ?)"
)
_SESSION = SESSIONS.select("WHERE key = ?")
_RUN = RUNS.select("WHERE key = ?")

_USAGE = (
    "SELECT day, key_name, backend, model, runs, cost_usd,"
    " input_tokens, output_tokens, cached_tokens, reasoning_tokens FROM usage"
    " WHERE day >= ?1 AND (?2 IS NULL OR key_name = ?2) ORDER BY day, key_name, backend, model"
)

_T = TypeVar("_T", Session, RunRecord)


class _Group(NamedTuple):
    backend: str
    state: str
    resumable: int
    total: int


def count(connection: "sqlite3.Connection") -> int:
    """Give the number of sessions."""
    return connection.execute(_COUNT).fetchone()[0]


def sessions(connection: "sqlite3.Connection", query: SessionQuery) -> Page[Session]:
    """List sessions."""
    if query.text or (query.tag is not None and query.working_dir is not None):
        keys, total = _selected_sessions(connection, query)
    else:
        kind, value = _kind(query)
        groups = [
            group
            for group in _groups(connection, kind, value)
            if query.backend in (None, group.backend)
            and query.status in (None, group.state)
            and (group.resumable or not query.resumable)
        ]
        total = sum(group.total for group in groups)
        try:
            with damage_as_unreadable():
                keys = _merged(connection, kind, value, groups, query.limit, query.offset)
        except Unreadable:
            keys, _ = _selected_sessions(connection, query)
    return _page(connection, SESSIONS, _SESSION, keys, total)


def current(connection: "sqlite3.Connection", backend: str, working_dir: str) -> Session | None:
    """Give the newest session of a directory that can be resumed, and whose runs were not all parts of a whole."""
    kind, value = _kind(SessionQuery(working_dir=working_dir))
    groups = [group for group in _groups(connection, kind, value) if group.backend == backend and group.resumable]
    for key in _in_order(connection, kind, value, groups):
        if not connection.execute(_OF_PARTS, (key,)).fetchone()[0]:
            return SESSIONS.read(connection.execute(_SESSION, (key,)).fetchone())
    return None


def runs(connection: "sqlite3.Connection", query: RunQuery) -> Page[RunRecord]:
    """List runs."""
    if query.session_id is not None or query.parent_id is not None:
        keys, total = _selected_runs(connection, query)
    else:
        groups = [
            group
            for group in _groups(connection, "runs", "")
            if query.backend in (None, group.backend) and query.state in (None, group.state)
        ]
        total = sum(group.total for group in groups)
        try:
            with damage_as_unreadable():
                keys = _merged(connection, "runs", "", groups, query.limit, query.offset)
        except Unreadable:
            keys, _ = _selected_runs(connection, query)
    return _page(connection, RUNS, _RUN, keys, total)


def usage(connection: "sqlite3.Connection", first_day: str, key_name: str | None) -> list[UsageOfDay]:
    """Give what runs used, by day, key, backend and model."""
    return [
        UsageOfDay(
            day=day, key_name=key, backend=backend, model=model, runs=runs, cost_usd=cost_usd, usage=Usage(*tokens)
        )
        for day, key, backend, model, runs, cost_usd, *tokens in connection.execute(_USAGE, (first_day, key_name))
    ]


def _kind(query: SessionQuery) -> tuple[str, str]:
    if query.tag is not None:
        return "tag", readable(query.tag)
    if query.working_dir is not None:
        return "directory", readable(query.working_dir)
    return "sessions", ""


def _groups(connection: "sqlite3.Connection", kind: str, value: str) -> Iterator[_Group]:
    if kind == "directory":
        return map(_Group._make, connection.execute(_GROUPS_OF_DIRECTORY, (value,)))
    return map(_Group._make, connection.execute(_GROUPS, (kind, value)))


def _merged(
    connection: "sqlite3.Connection", kind: str, value: str, groups: list[_Group], limit: int, offset: int
) -> list[int]:
    """Give the keys of a page, read as far as it reaches."""
    return list(islice(_in_order(connection, kind, value, groups), offset, offset + limit))


def _in_order(connection: "sqlite3.Connection", kind: str, value: str, groups: list[_Group]) -> Iterator[int]:
    """Give keys, the newest first; they are read as they are asked for."""
    ordered = [connection.execute(_IN_ORDER[kind], (value, *group[:3])) for group in groups]
    return (key for _, key in merge(*ordered, reverse=True))


def _selected_sessions(connection: "sqlite3.Connection", query: SessionQuery) -> tuple[list[int], int]:
    """Give the keys of a page of what is found by text, or by tag and directory.

    A plus keeps SQLite from using the index of a column that is only compared.
    """
    conditions: list[str] = []
    values: list[Value] = []
    if query.text:
        subquery, parameters = search.found(connection, query.text)
        conditions.append(f"key IN {subquery}")
        values.extend(parameters)
    if query.tag is not None:
        conditions.append("key IN (SELECT session FROM session_tags WHERE tag = ?)")
        values.append(readable(query.tag))
    for column, value in (("backend", query.backend), ("status", query.status), ("working_dir", query.working_dir)):
        if value is not None:
            conditions.append(f"+{column} = ?")
            values.append(readable(value))
    if query.resumable:
        conditions.append("+resumable = 1")
    return _selected(connection, "sessions", "last_used", conditions, values, query.limit, query.offset)


def _selected_runs(connection: "sqlite3.Connection", query: RunQuery) -> tuple[list[int], int]:
    """Give the keys of a page of the runs of a session or parent."""
    wanted: dict[str, str | None] = {
        "session_id": query.session_id,
        "parent_id": query.parent_id,
        "+backend": query.backend,
        "+state": query.state,
    }
    conditions = [f"{column} = ?" for column, value in wanted.items() if value is not None]
    values: list[Value] = [value for value in wanted.values() if value is not None]
    return _selected(connection, "runs", "created_at", conditions, values, query.limit, query.offset)


def _selected(
    connection: "sqlite3.Connection",
    table: str,
    at: str,
    conditions: list[str],
    values: list[Value],
    limit: int,
    offset: int,
) -> tuple[list[int], int]:
    """Give the keys of a page, and the length of the list; where an index is damaged, without it."""
    rest = f"WHERE {' AND '.join(conditions) or 'TRUE'} ORDER BY"
    try:
        with damage_as_unreadable():
            rows = connection.execute(f"SELECT {at}, key FROM {table} {rest} {at} DESC, key DESC", values).fetchall()  # noqa: S608
    except Unreadable:
        rows = _salvaged(connection, f"SELECT {at}, key FROM {table} NOT INDEXED {rest} key", values)  # noqa: S608
    return [key for _, key in rows[offset : offset + limit]], len(rows)


def _salvaged(connection: "sqlite3.Connection", statement: str, values: list[Value]) -> list[tuple[float, int]]:
    """Read rows from both ends of a table, each up to a damaged page; the newest first."""
    rows: set[tuple[float, int]] = set()
    for order in ("", " DESC"):
        with suppress(Unreadable), damage_as_unreadable():
            for row in connection.execute(statement + order, values):
                rows.add(row)
    return sorted(rows, reverse=True)


def _page(connection: "sqlite3.Connection", table: Table[_T], statement: str, keys: list[int], total: int) -> Page[_T]:
    """Read the items of a page, except those that are damaged."""
    items: list[_T] = []
    for key in keys:
        with suppress(Unreadable), damage_as_unreadable():
            items.append(table.read(connection.execute(statement, (key,)).fetchone()))
    return Page(tuple(items), total, len(keys) - len(items))
