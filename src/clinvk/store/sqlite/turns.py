"""The operations on sessions, runs and events in SQLite, run in the writer's thread."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from clinvk.store import ids, rows
from clinvk.store.rows import RUN_CHANGES, RUNS, SESSION_CHANGES, SESSIONS, is_resumable
from clinvk.store.sqlite import search
from clinvk.store.sqlite.owners import OwnerLocks
from clinvk.store.turns import Connection, Turns
from clinvk.types.events import Logged
from clinvk.types.record import RunRecord, Session, without_text

if TYPE_CHECKING:
    import sqlite3

_UNDER_WAY = "state IN ('queued', 'running', 'waiting')"
_OLD = (
    "FROM totals CROSS JOIN sessions ON sessions.backend = totals.backend AND sessions.status = totals.state"  # noqa: S608 - our own names
    " AND sessions.resumable = totals.resumable AND sessions.archived = totals.archived"
    " WHERE totals.list = 'sessions' AND sessions.last_used < ?1 AND coalesce(sessions.imported_at, 0) < ?1"
    f" AND NOT EXISTS (SELECT 1 FROM runs WHERE session_id = sessions.id AND runs.{_UNDER_WAY})"
)
_INSERT_SESSION = f"{SESSIONS.insert('resumable', 'imported_at')} ON CONFLICT (id) DO NOTHING"
_INSERT_WORDS = "INSERT INTO session_words (session, words) SELECT key, ? FROM sessions WHERE id = ?"
_UPDATE_WORDS = "UPDATE session_words SET words = ? WHERE session = (SELECT key FROM sessions WHERE id = ?)"
_INDEXED = "UPDATE runs SET indexed = 1 WHERE id = ?"
_FORGET_GROUPS = "DELETE FROM totals WHERE total = 0"

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
_READ_PAGES_OF_END = "SELECT (SELECT max(key) FROM chunks), (SELECT max(run) FROM chunks), (SELECT max(day) FROM usage)"
"""Reads the pages to which the end of a new run is written."""

_LAST_NUMBER = "SELECT key, coalesce((SELECT max(last) FROM chunks WHERE run = runs.key), 0) FROM runs WHERE id = ?"
_OWNERS = f"SELECT id, owner FROM runs WHERE {_UNDER_WAY}"  # noqa: S608 - our own names

_T = TypeVar("_T")


class SqliteConnection:
    """A connection to SQLite for operations, which never suspend."""

    def __init__(self, raw: "sqlite3.Connection") -> None:
        self.raw = raw

    async def fetch(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.raw.execute(statement, values).fetchall()  # pyright: ignore[reportArgumentType]  # values of columns

    async def execute(self, statement: str, *values: object) -> int:
        """Run a statement, and return the number of rows that it changed."""
        return self.raw.execute(statement, values).rowcount  # pyright: ignore[reportArgumentType]  # values of columns


def blocking(operation: Callable[[Connection], Coroutine[Any, Any, _T]]) -> "Callable[[sqlite3.Connection], _T]":
    """Return an operation as a function for a thread without an event loop."""

    def run(connection: "sqlite3.Connection") -> _T:
        try:
            operation(SqliteConnection(connection)).send(None)
        except StopIteration as exc:
            return exc.value
        raise AssertionError("an operation on SQLite has suspended")

    return run


class SqliteTurns(Turns):
    """The operations on a home's database."""

    def __init__(self, owners: OwnerLocks) -> None:
        super().__init__(_UNDER_WAY, _OLD, "indexed = 0")
        self._owners = owners

    async def insert(self, db: Connection, session: Session, imported_at: float | None = None) -> bool:
        """Insert a session, and return True; return False if the id exists."""
        values = (*SESSIONS.values(session), is_resumable(session), imported_at)
        if not await db.execute(_INSERT_SESSION, *values):
            return False
        await db.execute(_INSERT_WORDS, rows.searched_text(session), session.id)
        return True

    async def insert_run(self, db: Connection, run: RunRecord, waits: int) -> None:
        """Insert a run of this process. Raise now if a page is damaged to which the end of the run is written."""
        await db.execute(_INSERT_RUN, *RUNS.values(run), self._owners.acquire(), waits)
        await db.fetch(_READ_PAGES_OF_END)

    async def update(self, db: Connection, run: RunRecord, session: Session | None, is_end: bool = False) -> None:
        """Update a run and the session of the run."""
        if await self.has_lost_text(db, run):
            run = without_text(run)
        if not await db.execute(_UPDATE_RUN, *RUNS.values(run, RUN_CHANGES), run.id):
            raise ids.not_found(run.id, "run")
        if session:
            await self.update_session(db, session)

    async def reassign(self, db: Connection, run: RunRecord, session: Session | None) -> None:
        """Update a run and its session before a change of agent or a wait."""
        if not await db.execute(_LEAVE_LISTS, run.id):
            raise ids.not_found(run.id, "run")
        await db.execute(_REASSIGN_RUN, *RUNS.values(run, _RUN_OF_AGENT), run.id)
        if session:
            session = replace(session, tags=(await self._locked(db, session.id)).tags)
            await db.execute(_LEAVE_SESSION_LISTS, session.id)
            await db.execute(_REASSIGN_SESSION, *SESSIONS.values(session, _SESSION_OF_AGENT), session.id)

    async def append(self, db: Connection, events: Mapping[str, Sequence[Logged]]) -> None:
        """Store the events of runs. Skip stored events, and all events of an unknown run."""
        for run_id, logged in events.items():
            for key, last in await db.fetch(_LAST_NUMBER, run_id):
                for chunk in rows.pack_events([event for event in logged if event.number > last]):
                    await db.execute(_INSERT_CHUNK, key, chunk.last, chunk.data)

    async def update_words(self, db: Connection, session: Session) -> None:
        """Update the text that lists search in."""
        await db.execute(_UPDATE_WORDS, rows.searched_text(session), session.id)

    async def index_runs(self, db: Connection) -> bool:
        """Index some ended runs of sessions, the newest first. Return whether there may be more."""
        assert isinstance(db, SqliteConnection)
        return search.make_index(db.raw) and await super().index_runs(db)

    async def index(self, db: Connection, run_id: str, words: str) -> None:
        """Add the words of a run to the index."""
        await db.execute(search.INDEX, words, run_id)
        await db.execute(_INDEXED, run_id)

    async def with_words(self, db: Connection, text: str) -> tuple[str, str] | None:
        """Return the condition for runs with the words of a text, and its value; None without an index."""
        assert isinstance(db, SqliteConnection)
        query = search.words_query(text)
        return (search.WITH_WORDS, query) if query and search.has_index(db.raw) else None

    async def forget_groups(self, db: Connection) -> None:
        """Delete the totals of groups without members."""
        await db.execute(_FORGET_GROUPS)

    async def is_dead(self, db: Connection, owner: str) -> bool:
        """Return whether the process that began a run has died."""
        return self._owners.is_dead(owner)

    async def dead_runs(self, db: Connection) -> list[str]:
        """Return the ids of the runs under way whose processes have died."""
        found = await db.fetch(_OWNERS)
        dead = {owner for owner in {owner for _, owner in found} if self._owners.is_dead(owner)}
        return [run_id for run_id, owner in found if owner in dead]

    async def mark_stopped(self, db: Connection, key: int, ending: Logged | None) -> None:
        """Store the ending of a run by key that was ended in place of its process."""
        if ending:
            await db.execute(_INSERT_CHUNK, key, ending.number, rows.encode_events([ending]))
