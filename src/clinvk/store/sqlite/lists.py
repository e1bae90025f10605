"""Lists of sessions and runs, newest first, with their totals, and the text search of sessions.

A list is the merge of its groups (see the schema): each group is read in order, and no further than the page reaches.
A list by text, by session or parent of runs, or by tag and directory together, is read whole through an index. Where an
index or the totals are damaged, the whole table is read without them.

`note` receives the damage that a list has met and left out.

The searched text of a session is a short row, so a scan of all rows is acceptable. SQLite's trigram index, if built in,
makes the search fast. An index entry costs more than all other writes of a session, so the index is updated in batches:
the index has the rows up to `search.indexed`, and a search scans the few rows after `search.indexed`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from msgspec import Struct

from clinvk.store.protocol import Page, RunQuery, SessionQuery
from clinvk.store.rows import (
    LAST_TURN_FIRST,
    RUNS,
    SESSIONS,
    Table,
    Value,
    case_folded,
    decode_events,
    searched_text,
    to_json,
)
from clinvk.store.sqlite.database import skipping
from clinvk.types.events import Logged
from clinvk.types.record import RunRecord, Session
from clinvk.types.text import readable

if TYPE_CHECKING:
    import sqlite3

_GROUPS = "SELECT backend, state, resumable, total FROM totals WHERE list = ? AND value = ? AND total > 0"
_GROUPS_OF_DIRECTORY = (
    "SELECT backend, status, resumable, count(*) FROM sessions WHERE working_dir = ?"
    " GROUP BY backend, status, resumable"
)
_COUNT = "SELECT coalesce(sum(total), 0) FROM totals WHERE list = ?"
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
_MAY_CONTINUE = (
    "SELECT count(*) = 0 OR sum(parent_id IS NULL AND key_name = '' AND json_extract(request, '$.over_http') IS NULL)"
    " FROM runs WHERE session_id = (SELECT id FROM sessions WHERE key = ?)"
)
_COSTS = (
    "SELECT session_id, sum(cost_usd) FROM runs"
    " WHERE session_id IN (SELECT value FROM json_each(?)) AND cost_usd IS NOT NULL GROUP BY session_id"
)

_DATA = "SELECT data FROM chunks WHERE key = ?"

_T = TypeVar("_T", Session, RunRecord)
_Row = TypeVar("_Row", bound=Struct)
Note = Callable[[str], None]

_RUN_FILTERS = ("session_id", "parent_id", "backend", "state")

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

    @property
    def total(self) -> int:
        """The length of the list."""
        return sum(group.total for group in self.groups)

    def in_order(self, connection: "sqlite3.Connection") -> Iterator[int]:
        """Yield keys lazily, newest first."""
        ordered = [connection.execute(_IN_ORDER[self.kind], (self.value, *group[:3])) for group in self.groups]
        yield from (key for _, key in merge(*ordered, reverse=True))


def count(connection: "sqlite3.Connection", table: Table[_T], note: Note) -> int:
    """Return the number of sessions or runs."""
    with skipping(note):
        return connection.execute(_COUNT, (table.name,)).fetchone()[0]
    return len(keys_of(connection, table, note))


def sessions(connection: "sqlite3.Connection", query: SessionQuery, note: Note) -> Page[Session]:
    """List sessions."""
    with skipping(note):
        if query.text or (query.tag is not None and query.working_dir is not None):
            keys = _selected(connection, SESSIONS, _session_conditions(connection, query), SESSIONS.newest_first)
            return _page(connection, SESSIONS, query, keys, len(keys), note)
        groups = _session_groups(connection, query)
        return _page(connection, SESSIONS, query, groups.in_order(connection), groups.total, note)
    return _salvaged(connection, SESSIONS, query, lambda session: _matches(session, query), note)


def current(connection: "sqlite3.Connection", backend: str, working_dir: str) -> Session | None:
    """Return the newest resumable session in a directory with a prompt of the command line, or without runs."""
    groups = _session_groups(connection, SessionQuery(backend=backend, working_dir=working_dir, resumable=True))
    for key in groups.in_order(connection):
        if connection.execute(_MAY_CONTINUE, (key,)).fetchone()[0]:
            return SESSIONS.read(connection.execute(SESSIONS.select("WHERE key = ?"), (key,)).fetchone())
    return None


def runs(connection: "sqlite3.Connection", query: RunQuery, note: Note) -> Page[RunRecord]:
    """List runs."""
    filters = {name: value for name in _RUN_FILTERS if (value := getattr(query, name)) is not None}
    with skipping(note):
        if query.session_id is not None or query.parent_id is not None:
            conditions = [
                (f"{'' if name.endswith('_id') else '+'}{name} = ?", (value,)) for name, value in filters.items()
            ]
            order = RUNS.newest_first if query.session_id is None else LAST_TURN_FIRST
            keys = _selected(connection, RUNS, conditions, order)
            return _page(connection, RUNS, query, keys, len(keys), note)
        groups = _groups(connection, "runs", "", query.backend, query.state)
        return _page(connection, RUNS, query, groups.in_order(connection), groups.total, note)
    return _salvaged(
        connection, RUNS, query, lambda run: all(getattr(run, name) == value for name, value in filters.items()), note
    )


def costs(connection: "sqlite3.Connection", session_ids: Sequence[str], note: Note) -> dict[str, float]:
    """Return the sum of the known costs of the runs of sessions, by session; empty if it cannot be read."""
    with skipping(note):
        return dict(connection.execute(_COSTS, (to_json(session_ids).decode(),)).fetchall())
    return {}


def _session_groups(connection: "sqlite3.Connection", query: SessionQuery) -> _Groups:
    backend, status = query.backend, query.status
    if query.tag is not None:
        return _groups(connection, "tag", readable(query.tag), backend, status, query.resumable)
    if query.working_dir is not None:
        return _groups(connection, "directory", readable(query.working_dir), backend, status, query.resumable)
    return _groups(connection, "sessions", "", backend, status, query.resumable)


def _groups(
    connection: "sqlite3.Connection",
    kind: str,
    value: str,
    backend: str | None,
    state: str | None,
    resumable: bool = False,
) -> _Groups:
    """Return the groups of a list; None for a backend or a state is any."""
    rows = (
        connection.execute(_GROUPS_OF_DIRECTORY, (value,))
        if kind == "directory"
        else connection.execute(_GROUPS, (kind, value))
    )
    found = [
        group
        for group in map(_Group._make, rows)
        if backend in (None, group.backend) and state in (None, group.state) and (group.resumable or not resumable)
    ]
    return _Groups(kind, value, found)


def _session_conditions(connection: "sqlite3.Connection", query: SessionQuery) -> _Conditions:
    """Return the conditions. A plus keeps SQLite from using the index of a column that is only compared."""
    conditions: _Conditions = []
    if query.text:
        subquery, parameters = matching(connection, query.text)
        conditions.append((f"key IN {subquery}", parameters))
    if query.tag is not None:
        conditions.append(("key IN (SELECT session FROM session_tags WHERE tag = ?)", (readable(query.tag),)))
    for column, value in (("backend", query.backend), ("status", query.status), ("working_dir", query.working_dir)):
        if value is not None:
            conditions.append((f"+{column} = ?", (readable(value),)))
    if query.resumable:
        conditions.append(("+resumable = 1", ()))
    return conditions


def _matches(session: Session, query: SessionQuery) -> bool:
    return (
        query.backend in (None, session.backend)
        and query.status in (None, session.status)
        and query.working_dir in (None, session.working_dir)
        and (query.tag is None or query.tag in session.tags)
        and (not query.text or case_folded(query.text) in searched_text(session))
        and bool(session.backend_session_id or not query.resumable)
    )


def _page(
    connection: "sqlite3.Connection",
    table: Table[_T],
    query: SessionQuery | RunQuery,
    keys: Iterable[int],
    total: int,
    note: Note,
    unreadable: int = 0,
) -> Page[_T]:
    """Return a page without damaged items."""
    page_keys = list(islice(keys, query.offset, query.offset + query.limit))
    items = tuple(item for _, item in items_by_key(connection, table, page_keys, note))
    return Page(items, total, unreadable + len(page_keys) - len(items))


def _selected(connection: "sqlite3.Connection", table: Table[_T], conditions: _Conditions, order: str) -> list[int]:
    """Return the keys of a list."""
    where = " AND ".join(condition for condition, _ in conditions)
    values = [value for _, parameters in conditions for value in parameters]
    select = f"SELECT key FROM {table.name} WHERE {where} ORDER BY {order}"  # noqa: S608 - our own names
    return [key for (key,) in connection.execute(select, values)]


def _salvaged(
    connection: "sqlite3.Connection",
    table: Table[_T],
    query: SessionQuery | RunQuery,
    matches: Callable[[_T], bool],
    note: Note,
) -> Page[_T]:
    """List without an index: read each row that can be read."""
    keys = keys_of(connection, table, note)
    readable_count, found = 0, list[tuple[float, int]]()
    for key, item in items_by_key(connection, table, keys, note):
        readable_count += 1
        if matches(item):
            found.append((getattr(item, table.at), key))
    found.sort(reverse=True)
    lost = max(count(connection, table, note), len(keys)) - readable_count
    return _page(connection, table, query, [key for _, key in found], len(found) + lost, note, lost)


def items_by_key(
    connection: "sqlite3.Connection", table: Table[_Row], keys: Iterable[int], note: Note
) -> Iterator[tuple[int, _Row]]:
    """Yield the items of rows, with the keys. Skip damaged rows, and pass the damage to `note`."""
    for key in keys:
        with skipping(note):
            yield key, table.read(connection.execute(table.select("WHERE key = ?"), (key,)).fetchone())


def keys_of(connection: "sqlite3.Connection", table: Table[_Row], note: Note) -> list[int]:
    """Return all keys, newest first, read without an index; at damage, read from both ends."""
    keys: set[int] = set()
    for order in ("", "DESC"):
        with skipping(note):
            select = f"SELECT key FROM {table.name} NOT INDEXED ORDER BY key {order}"  # noqa: S608 - our own names
            for (key,) in connection.execute(select):
                keys.add(key)
            break
    return sorted(keys, reverse=True)


def examine(connection: "sqlite3.Connection", table: Table[_Row], note: Note) -> None:
    """Read all rows of a table, and pass damage to `note`."""
    for _ in items_by_key(connection, table, keys_of(connection, table, note), note):
        pass


def stored_events(connection: "sqlite3.Connection", keys: Iterable[tuple[int]], note: Note) -> Iterator[Logged]:
    """Yield the events of chunks by key. Skip damaged chunks, and pass the damage to `note`."""
    for key in keys:
        with skipping(note):
            (data,) = connection.execute(_DATA, key).fetchone() or (b"",)
            yield from decode_events(data)


INDEX_EVERY = 64
"""The number of new sessions between two updates of the index."""

_TRIGRAM = 3
_BEHIND = 512
_STEP = 2 * INDEX_EVERY

_MAKE_INDEX = (
    "CREATE VIRTUAL TABLE session_text USING fts5 (words, content = 'session_words', content_rowid = 'session',"
    " tokenize = 'trigram case_sensitive 1')",
    "CREATE TRIGGER words_deleted AFTER DELETE ON session_words"
    " WHEN old.session <= (SELECT indexed FROM search) BEGIN"
    " INSERT INTO session_text (session_text, rowid, words) VALUES ('delete', old.session, old.words); END",
    "CREATE TRIGGER words_changed AFTER UPDATE OF words ON session_words"
    " WHEN old.session <= (SELECT indexed FROM search) BEGIN"
    " INSERT INTO session_text (session_text, rowid, words) VALUES ('delete', old.session, old.words);"
    " INSERT INTO session_text (rowid, words) VALUES (new.session, new.words); END",
)
_BEHIND_BY = "SELECT coalesce((SELECT max(session) FROM session_words), 0) - indexed, indexed FROM search"
_INDEX = (
    "INSERT INTO session_text (rowid, words)"
    " SELECT session, words FROM session_words WHERE session > ? ORDER BY session LIMIT ?"
)
_LAST_OF_STEP = (
    "SELECT max(session) FROM (SELECT session FROM session_words WHERE session > ? ORDER BY session LIMIT ?)"
)

_FOUND_BY_INDEX = (
    "(SELECT rowid FROM session_text WHERE session_text MATCH ? UNION ALL"
    " SELECT session FROM session_words WHERE session > (SELECT indexed FROM search) AND instr(words, ?))"
)
_FOUND_BY_SCAN = "(SELECT session FROM session_words WHERE instr(words, ?))"


def matching(connection: "sqlite3.Connection", text: str) -> tuple[str, tuple[str, ...]]:
    """Return a subquery for the keys of the sessions that contain a text, and the parameters of the subquery."""
    part = case_folded(text)
    if len(part) < _TRIGRAM or not _has_index(connection):
        return _FOUND_BY_SCAN, (part,)
    phrase = '"' + part.replace('"', '""') + '"'
    return _FOUND_BY_INDEX, (phrase, part)


def index_sessions(connection: "sqlite3.Connection") -> bool:
    """Index the next sessions if the index is far behind. Return whether the index is still far behind."""
    behind, indexed = connection.execute(_BEHIND_BY).fetchone()
    if behind <= _BEHIND or not _can_index(connection):
        return False
    if not _has_index(connection):
        for statement in _MAKE_INDEX:
            connection.execute(statement)
    connection.execute(_INDEX, (indexed, _STEP))
    (last,) = connection.execute(_LAST_OF_STEP, (indexed, _STEP)).fetchone()
    connection.execute("UPDATE search SET indexed = ?", (last,))
    return behind - _STEP > _BEHIND


def _has_index(connection: "sqlite3.Connection") -> bool:
    row = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'session_text'").fetchone()
    return bool(row) and _can_index(connection)


def _can_index(connection: "sqlite3.Connection") -> bool:
    """Return whether this build of SQLite has trigrams; another build may have created the index."""
    import sqlite3

    (built_in,) = connection.execute("SELECT sqlite_compileoption_used('ENABLE_FTS5')").fetchone()
    return bool(built_in) and sqlite3.sqlite_version_info >= (3, 34)
