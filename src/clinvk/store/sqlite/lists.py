"""Lists of sessions and runs, newest first, with their totals, and the text search of sessions.

A list is the merge of its groups (see the schema): each group is read in order, and no further than the page reaches.
A list by text, by session or parent of runs, or by two of tag, directory and project, is read whole through an index.

A search scans a short row for each session: the beginning of title and first prompt. The index has the words of runs.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from clinvk.store.protocol import Page, RunQuery, SessionQuery
from clinvk.store.rows import LAST_TURN_FIRST, RUNS, SESSIONS, Conditions, Table, case_folded, equal, to_json, where
from clinvk.store.sqlite import search
from clinvk.types.record import RunRecord, Session
from clinvk.types.text import readable

if TYPE_CHECKING:
    import sqlite3

_GROUPS = "SELECT backend, state, resumable, archived, total FROM totals WHERE list = ? AND value = ? AND total > 0"
_GROUPS_OF_DIRECTORY = (
    "SELECT backend, status, resumable, archived, count(*) FROM sessions WHERE {} = ?"
    " GROUP BY backend, status, resumable, archived"
)
_COUNT = "SELECT coalesce(sum(total), 0) FROM totals WHERE list = 'sessions'"
_DIRECTORIES = ("working_dir", "project")
_IN_ORDER = {
    "sessions": "SELECT last_used, key FROM sessions"
    " WHERE ? = '' AND backend = ? AND status = ? AND resumable = ? AND archived = ? ORDER BY last_used DESC, key DESC",
    **{
        column: f"SELECT last_used, key FROM sessions WHERE {column} = ? AND backend = ?"  # noqa: S608 - our own names
        " AND status = ? AND resumable = ? AND archived = ? ORDER BY last_used DESC, key DESC"
        for column in _DIRECTORIES
    },
    "tag": "SELECT last_used, session FROM session_tags"
    " WHERE tag = ? AND backend = ? AND status = ? AND resumable = ? AND archived = ?"
    " ORDER BY last_used DESC, session DESC",
    "runs": "SELECT created_at, key FROM runs WHERE ? = '' AND backend = ? AND state = ? AND ? = 0 AND ? = 0"
    " ORDER BY created_at DESC, key DESC",
}
_MAY_CONTINUE = (
    "SELECT count(*) = 0 OR sum(parent_id IS NULL AND key_name = '' AND json_extract(request, '$.over_http') IS NULL)"
    " FROM runs WHERE session_id = (SELECT id FROM sessions WHERE key = ?)"
)
_COSTS = (
    "SELECT session_id, sum(cost_usd) FROM runs"
    " WHERE session_id IN (SELECT value FROM json_each(?)) AND cost_usd IS NOT NULL GROUP BY session_id"
)

_T = TypeVar("_T", Session, RunRecord)


class _Group(NamedTuple):
    """Sessions or runs with equal values in all columns by which lists select, and their number."""

    backend: str
    state: str
    resumable: int
    archived: int
    total: int


class _Groups(NamedTuple):
    """The groups of one list: all sessions or runs, or the sessions of one tag, directory or project."""

    kind: str
    value: str
    groups: list[_Group]

    @property
    def total(self) -> int:
        """The length of the list."""
        return sum(group.total for group in self.groups)

    def in_order(self, connection: "sqlite3.Connection") -> Generator[int]:
        """Yield keys lazily, newest first. The caller closes the generator before the connection."""
        ordered = [connection.execute(_IN_ORDER[self.kind], (self.value, *group[:4])) for group in self.groups]
        yield from (key for _, key in merge(*ordered, reverse=True))


def count(connection: "sqlite3.Connection") -> int:
    """Return the number of sessions."""
    return connection.execute(_COUNT).fetchone()[0]


def sessions(connection: "sqlite3.Connection", query: SessionQuery) -> Page[Session]:
    """List sessions."""
    if query.text or sum(value is not None for value in (query.tag, query.working_dir, query.project)) > 1:
        keys = _selected(connection, SESSIONS, _session_conditions(connection, query), SESSIONS.newest_first)
        return _page(connection, SESSIONS, query, keys, len(keys))
    return _page_of_groups(connection, SESSIONS, query, _session_groups(connection, query))


def current(connection: "sqlite3.Connection", backend: str, working_dir: str) -> Session | None:
    """Return the newest resumable session in a directory with a prompt of the command line, or without runs."""
    groups = _session_groups(connection, SessionQuery(backend=backend, working_dir=working_dir, resumable=True))
    with closing(groups.in_order(connection)) as keys:
        for key in keys:
            if connection.execute(_MAY_CONTINUE, (key,)).fetchone()[0]:
                return SESSIONS.read(connection.execute(SESSIONS.select("WHERE key = ?"), (key,)).fetchone())
    return None


def runs(connection: "sqlite3.Connection", query: RunQuery) -> Page[RunRecord]:
    """List runs."""
    if query.session_id is not None or query.parent_id is not None:
        conditions = [*equal(query, ("session_id", "parent_id")), *_compared(equal(query, ("backend", "state")))]
        order = RUNS.newest_first if query.session_id is None else LAST_TURN_FIRST
        keys = _selected(connection, RUNS, conditions, order)
        return _page(connection, RUNS, query, keys, len(keys))
    return _page_of_groups(connection, RUNS, query, _groups(connection, "runs", "", query.backend, query.state))


def costs(connection: "sqlite3.Connection", session_ids: Sequence[str]) -> dict[str, float]:
    """Return the sum of the known costs of the runs of sessions, by session."""
    return dict(connection.execute(_COSTS, (to_json(session_ids).decode(),)).fetchall())


def _session_groups(connection: "sqlite3.Connection", query: SessionQuery) -> _Groups:
    members = (("tag", query.tag), *((name, getattr(query, name)) for name in _DIRECTORIES), ("sessions", ""))
    kind, value = next((kind, value) for kind, value in members if value is not None)
    return _groups(connection, kind, readable(value), query.backend, query.status, query.resumable, query.archived)


def _groups(
    connection: "sqlite3.Connection",
    kind: str,
    value: str,
    backend: str | None,
    state: str | None,
    resumable: bool = False,
    archived: bool | None = None,
) -> _Groups:
    """Return the groups of a list; None for a backend, a state or `archived` is any."""
    query, values = (_GROUPS, (kind, value))
    if kind in _DIRECTORIES:
        query, values = _GROUPS_OF_DIRECTORY.format(kind), (value,)
    rows = connection.execute(query, values)
    found = [
        group
        for group in map(_Group._make, rows)
        if backend in (None, group.backend)
        and state in (None, group.state)
        and archived in (None, group.archived)
        and (group.resumable or not resumable)
    ]
    return _Groups(kind, value, found)


def _session_conditions(connection: "sqlite3.Connection", query: SessionQuery) -> Conditions:
    conditions: Conditions = []
    if query.text:
        conditions.append(_matching(connection, query.text))
    if query.tag is not None:
        conditions.append(("key IN (SELECT session FROM session_tags WHERE tag = ?)", (readable(query.tag),)))
    conditions += _compared(equal(query, ("backend", "status", *_DIRECTORIES, "archived")))
    if query.resumable:
        conditions.append(("+resumable = 1", ()))
    return conditions


def _compared(conditions: Conditions) -> Conditions:
    """Add a plus to columns that are only compared: it keeps SQLite from using their indexes."""
    return [(f"+{condition}", values) for condition, values in conditions]


def _page_of_groups(
    connection: "sqlite3.Connection", table: Table[_T], query: SessionQuery | RunQuery, groups: _Groups
) -> Page[_T]:
    with closing(groups.in_order(connection)) as keys:
        return _page(connection, table, query, keys, groups.total)


def _page(
    connection: "sqlite3.Connection", table: Table[_T], query: SessionQuery | RunQuery, keys: Iterable[int], total: int
) -> Page[_T]:
    select = table.select("WHERE key = ?")
    page_keys = islice(keys, query.offset, query.offset + query.limit)
    return Page(tuple(table.read(connection.execute(select, (key,)).fetchone()) for key in page_keys), total)


def _selected(connection: "sqlite3.Connection", table: Table[_T], conditions: Conditions, order: str) -> list[int]:
    """Return the keys of a list."""
    clause, values = where(conditions)
    select = f"SELECT key FROM {table.name} {clause} ORDER BY {order}"  # noqa: S608 - our own names
    return [key for (key,) in connection.execute(select, values)]


_FOUND = "key IN (SELECT session FROM session_words WHERE instr(words, ?))"
_FOUND_RUN = f"id IN (SELECT session_id FROM runs WHERE {search.WITH_WORDS})"  # noqa: S608 - our own names


def _matching(connection: "sqlite3.Connection", text: str) -> tuple[str, tuple[str, ...]]:
    """Return the condition for the sessions with a text, and its values."""
    part, words = case_folded(text), search.words_query(text)
    if not words or not search.has_index(connection):
        return _FOUND, (part,)
    return f"({_FOUND} OR {_FOUND_RUN})", (part, words)
