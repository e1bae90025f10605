"""The operations on sessions, runs and events in PostgreSQL.

An operation locks the session first, then the run, so that operations of several processes wait for each other instead
of failing.
"""

from collections.abc import Mapping, Sequence

from clinvk.store import ids, rows
from clinvk.store.rows import RUN_CHANGES, RUNS, SESSIONS, is_resumable
from clinvk.store.turns import Connection, Turns
from clinvk.store.words import phrases
from clinvk.types.errors import SessionBusy
from clinvk.types.events import Logged
from clinvk.types.record import RunRecord, Session, without_text
from clinvk.types.text import readable

_OLD = (
    "FROM sessions WHERE last_used < ? AND NOT EXISTS (SELECT 1 FROM runs WHERE session_id = sessions.id AND under_way)"
)
_INSERT_SESSION = (
    f"WITH made AS ({SESSIONS.insert('resumable')} ON CONFLICT (id) DO NOTHING RETURNING key)"  # noqa: S608 - our own names
    " INSERT INTO session_words SELECT key, ?, ?::text[] FROM made"
)
_UPDATE_WORDS = (
    "UPDATE session_words SET words = ?, tags = ?::text[] WHERE session = (SELECT key FROM sessions WHERE id = ?)"
)
_INSERT_RUN = RUNS.insert("owner", "waits", "from_terminal")
_END_RUN = f"UPDATE runs SET {RUNS.assignments(RUN_CHANGES)}, stopped = false WHERE id = ?"  # noqa: S608 - our own names
_LOST = (
    "stopped AND waits = 0 AND EXISTS (SELECT 1 FROM runs AS other WHERE other.session_id = runs.session_id"
    " AND other.id <> runs.id AND other.waits = 0 AND (other.under_way OR other.key > runs.key))"
)
"""The run was declared interrupted, and another run has got its session since."""

_END_TURN = f"{_END_RUN} AND NOT ({_LOST})"
_UPDATE_RUN = f"{_END_TURN} AND (under_way OR stopped)"
_EXISTS = "SELECT 1 FROM runs WHERE id = ?"
_RUN_OF_AGENT = ("backend", "request")
_REASSIGN_RUN = RUNS.update(_RUN_OF_AGENT)
_REASSIGN_SESSION = "UPDATE sessions SET backend = ? WHERE id = ?"
_MARK_STOPPED = "UPDATE runs SET stopped = true WHERE key = ?"

_LOCK_RUNS = "SELECT id, key FROM runs WHERE id = ANY(?) ORDER BY key FOR NO KEY UPDATE"
_LAST_NUMBERS = "SELECT run, max(last) FROM chunks WHERE run = ANY(?) GROUP BY run"
_INSERT_CHUNKS = "INSERT INTO chunks SELECT unnest(?::bigint[]), unnest(?::bigint[]), unnest(?::bytea[])"
_INDEX = "UPDATE runs SET words = to_tsvector('simple', ?) WHERE id = ?"
WITH_WORDS = "words @@ to_tsquery('simple', ?)"
_IS_DEAD = "SELECT NOT is_alive(?, ?)"
_DEAD = (
    "SELECT id FROM runs WHERE under_way AND owner IN (SELECT owner FROM"
    " (SELECT DISTINCT owner FROM runs WHERE under_way) AS owners_of_runs WHERE NOT is_alive(owner, ?))"
)


class PostgresTurns(Turns):
    """The operations of the process with the id `owner`."""

    def __init__(self, owner: str) -> None:
        super().__init__("under_way", _OLD, "words IS NULL", "FOR NO KEY UPDATE", "FOR UPDATE SKIP LOCKED")
        self._owner = owner

    async def insert(self, db: Connection, session: Session) -> bool:
        """Insert a session, and return True; return False if the id exists."""
        values = (*SESSIONS.values(session), is_resumable(session), *_searched(session))
        return await db.execute(_INSERT_SESSION, *values) > 0

    async def insert_run(self, db: Connection, run: RunRecord, waits: int) -> None:
        """Insert a run of this process."""
        from_terminal = run.parent_id is None and not run.key_name and "over_http" not in run.request
        await db.execute(_INSERT_RUN, *RUNS.values(run), self._owner, waits, from_terminal)

    async def update(self, db: Connection, run: RunRecord, session: Session | None, is_end: bool = False) -> None:
        """Update a run that is under way, and the session of the run.

        A run that continues although it was declared interrupted is restored.

        Raises:
            SessionBusy: the run was declared interrupted, and another run has got its session. The end of a run without
                `session` is stored even then.
            RunNotFound: the run was deleted.
        """
        if session:
            await self.update_session(db, session)
        else:
            await db.fetch(self._lock_session_of, run.id)
        if await self.has_lost_text(db, run):
            run = without_text(run)
        end = _END_TURN if session else _END_RUN
        if not await db.execute(end if is_end else _UPDATE_RUN, *RUNS.values(run, RUN_CHANGES), run.id):
            if await db.fetch(_EXISTS, run.id):
                raise SessionBusy(f"another run has got the session of run {run.id!r}")
            raise ids.not_found(run.id, "run")

    async def reassign(self, db: Connection, run: RunRecord, session: Session | None) -> None:
        """Store the new agent or request of a run, and the new agent of its session."""
        if session:
            await db.execute(_REASSIGN_SESSION, session.backend, session.id)
        if not await db.execute(_REASSIGN_RUN, *RUNS.values(run, _RUN_OF_AGENT), run.id):
            raise ids.not_found(run.id, "run")

    async def append(self, db: Connection, events: Mapping[str, Sequence[Logged]]) -> None:
        """Store the events of runs. Skip stored events, and all events of an unknown run."""
        keys = dict(await db.fetch(_LOCK_RUNS, list(events)))
        last = dict(await db.fetch(_LAST_NUMBERS, list(keys.values())))
        new = [
            (key, chunk.last, chunk.data)
            for run_id, key in keys.items()
            for chunk in rows.pack_events([event for event in events[run_id] if event.number > last.get(key, 0)])
        ]
        if new:
            await db.execute(_INSERT_CHUNKS, *map(list, zip(*new, strict=True)))

    async def update_words(self, db: Connection, session: Session) -> None:
        """Update the text and tags that lists search in."""
        await db.execute(_UPDATE_WORDS, *_searched(session), session.id)

    async def index(self, db: Connection, run_id: str, words: str) -> None:
        """Store the words of a run."""
        await db.execute(_INDEX, words, run_id)

    async def with_words(self, db: Connection, text: str) -> tuple[str, str] | None:
        """Return the condition for runs with the words of a text, and its value."""
        return (WITH_WORDS, query) if (query := words_query(text)) else None

    async def is_dead(self, db: Connection, owner: str) -> bool:
        """Return whether the process that began a run has died."""
        return (await db.fetch(_IS_DEAD, owner, self._owner))[0][0]

    async def dead_runs(self, db: Connection) -> list[str]:
        """Return the ids of the runs under way whose processes have died."""
        return [run_id for (run_id,) in await db.fetch(_DEAD, self._owner)]

    async def mark_stopped(self, db: Connection, key: int, ending: Logged | None) -> None:
        """Mark a run by key as ended in place of its process. The list of events adds a missing ending."""
        await db.execute(_MARK_STOPPED, key)


def words_query(text: str) -> str:
    """Return the query of PostgreSQL for the words of a text. The words have no signs, so quotes need no escape."""
    parts = (" <-> ".join(f"'{word}'" for word in phrase) for phrase in phrases(text))
    query = " & ".join(f"({part})" for part in parts)
    return query and f"{query.removesuffix(')')}:*)"


def _searched(session: Session) -> tuple[str, list[str]]:
    """Return the values of the columns that lists search in."""
    return rows.searched_text(session), [*map(readable, session.tags)]
