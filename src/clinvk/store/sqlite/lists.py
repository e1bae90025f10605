"""Lists of sessions and runs, newest first, with their totals.

A list is the merge of its groups (see the schema): each group is read in order, and no further than the page reaches.
A list by text, by session or parent of runs, or by tag and directory together, is read whole through an index.
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
_USAGE = (
    "SELECT day, key_name, backend, model, runs, cost_usd,"
    " input_tokens, output_tokens, cached_tokens, reasoning_tokens FROM usage"
    " WHERE day >= ?1 AND (?2 IS NULL OR key_name = ?2) ORDER BY day, key_name, backend, model"
)

_T = TypeVar("_T", Session, RunRecord)
_Conditions = list[tuple[str, tuple[Value, ...]]]
"""SQL conditions, each with the values of the parameters."""


class _Group(NamedTuple):
    """Sessions or runs with equal values in all columns by which lists select, and their number."""

    backend: str
    state: str
    resumable: int
    total: int


class _Groups(NamedTuple):
    """The groups of one list: all sessions or runs, or the sessions of one tag or directory."""

    kind: str
    value: str
    groups: list[_Group]

    def in_order(self, connection: "sqlite3.Connection") -> Iterator[int]:
        """Yield keys lazily, newest first."""
        ordered = [connection.execute(_IN_ORDER[self.kind], (self.value, *group[:3])) for group in self.groups]
        yield from (key for _, key in merge(*ordered, reverse=True))


def count(connection: "sqlite3.Connection") -> int:
    """Return the number of sessions."""
    return connection.execute(_COUNT).fetchone()[0]


def sessions(connection: "sqlite3.Connection", query: SessionQuery) -> Page[Session]:
    """List sessions."""
    is_grouped = not query.text and (query.tag is None or query.working_dir is None)
    groups = _session_groups(connection, query) if is_grouped else None
    return _page(connection, SESSIONS, "last_used", groups, _session_conditions(connection, query), query)


def current(connection: "sqlite3.Connection", backend: str, working_dir: str) -> Session | None:
    """Return the newest resumable session of a directory with a run outside an orchestration, or None."""
    groups = _session_groups(connection, SessionQuery(backend=backend, working_dir=working_dir, resumable=True))
    for key in groups.in_order(connection):
        if not connection.execute(_OF_PARTS, (key,)).fetchone()[0]:
            return SESSIONS.read(connection.execute(SESSIONS.select("WHERE key = ?"), (key,)).fetchone())
    return None


def runs(connection: "sqlite3.Connection", query: RunQuery) -> Page[RunRecord]:
    """List runs."""
    groups = None
    if query.session_id is None and query.parent_id is None:
        found = [
            group
            for group in map(_Group._make, connection.execute(_GROUPS, ("runs", "")))
            if query.backend in (None, group.backend) and query.state in (None, group.state)
        ]
        groups = _Groups("runs", "", found)
    wanted: dict[str, str | None] = {
        "session_id = ?": query.session_id,
        "parent_id = ?": query.parent_id,
        "+backend = ?": query.backend,
        "+state = ?": query.state,
    }
    conditions: _Conditions = [(each, (value,)) for each, value in wanted.items() if value is not None]
    return _page(connection, RUNS, "created_at", groups, conditions, query)


def usage(connection: "sqlite3.Connection", first_day: str, key_name: str | None) -> list[UsageOfDay]:
    """Return the usage of runs by day, key, backend and model."""
    return [
        UsageOfDay(
            day=day, key_name=key, backend=backend, model=model, runs=runs, cost_usd=cost_usd, usage=Usage(*tokens)
        )
        for day, key, backend, model, runs, cost_usd, *tokens in connection.execute(_USAGE, (first_day, key_name))
    ]


def _session_groups(connection: "sqlite3.Connection", query: SessionQuery) -> _Groups:
    if query.working_dir is not None and query.tag is None:
        kind, value = "directory", readable(query.working_dir)
        rows = connection.execute(_GROUPS_OF_DIRECTORY, (value,))
    else:
        kind, value = ("sessions", "") if query.tag is None else ("tag", readable(query.tag))
        rows = connection.execute(_GROUPS, (kind, value))
    found = [
        group
        for group in map(_Group._make, rows)
        if query.backend in (None, group.backend)
        and query.status in (None, group.state)
        and (group.resumable or not query.resumable)
    ]
    return _Groups(kind, value, found)


def _session_conditions(connection: "sqlite3.Connection", query: SessionQuery) -> _Conditions:
    """Return the conditions. A plus keeps SQLite from using the index of a column that is only compared."""
    conditions: _Conditions = []
    if query.text:
        subquery, parameters = search.found(connection, query.text)
        conditions.append((f"key IN {subquery}", parameters))
    if query.tag is not None:
        conditions.append(("key IN (SELECT session FROM session_tags WHERE tag = ?)", (readable(query.tag),)))
    for column, value in (("backend", query.backend), ("status", query.status), ("working_dir", query.working_dir)):
        if value is not None:
            conditions.append((f"+{column} = ?", (readable(value),)))
    if query.resumable:
        conditions.append(("+resumable = 1", ()))
    return conditions


def _page(
    connection: "sqlite3.Connection",
    table: Table[_T],
    at: str,
    groups: _Groups | None,
    conditions: _Conditions,
    query: SessionQuery | RunQuery,
) -> Page[_T]:
    """Return a page without damaged items.

    The keys come from the groups; if there are none, or if their index is damaged, from the whole table.
    """
    keys: list[int] | None = None
    total, page = 0, slice(query.offset, query.offset + query.limit)
    if groups:
        total = sum(group.total for group in groups.groups)
        with suppress(Unreadable), damage_as_unreadable():
            keys = list(islice(groups.in_order(connection), page.start, page.stop))
    if keys is None:
        found = _selected(connection, table.name, at, conditions)
        keys, total = found[page], total if groups else len(found)
    items: list[_T] = []
    for key in keys:
        with suppress(Unreadable), damage_as_unreadable():
            items.append(table.read(connection.execute(table.select("WHERE key = ?"), (key,)).fetchone()))
    return Page(tuple(items), total, len(keys) - len(items))


def _selected(connection: "sqlite3.Connection", table: str, at: str, conditions: _Conditions) -> list[int]:
    """Return keys, the newest first. If an index is damaged, read the table from both ends, up to a damaged page."""
    where = " AND ".join(condition for condition, _ in conditions) or "TRUE"
    values = [value for _, parameters in conditions for value in parameters]
    select = f"SELECT {at}, key FROM {table} {{}} WHERE {where} ORDER BY {{}}"  # noqa: S608 - our own names
    with suppress(Unreadable), damage_as_unreadable():
        return [key for _, key in connection.execute(select.format("", f"{at} DESC, key DESC"), values).fetchall()]
    rows: set[tuple[float, int]] = set()
    for order in ("key", "key DESC"):
        with suppress(Unreadable), damage_as_unreadable():
            for row in connection.execute(select.format("NOT INDEXED", order), values):
                rows.add(row)
    return [key for _, key in sorted(rows, reverse=True)]
