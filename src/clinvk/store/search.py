"""The text search of `SessionQuery.text`.

The searched text of a session is a short row, so a scan of all rows is acceptable. SQLite's trigram index, if built in,
makes the search fast. An index entry costs more than all other writes of a session, so the index is updated in batches:
the index has the rows up to `search.indexed`, and a search scans the few rows after `search.indexed`.
"""

from typing import TYPE_CHECKING

from clinvk.store.protocol import SEARCHED_CHARS
from clinvk.types.session import Session
from clinvk.types.text import readable

if TYPE_CHECKING:
    import sqlite3

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


def searched_text(session: Session) -> str:
    """Return the searched text of a session, casefolded."""
    return case_folded(f"{session.title}\n{session.initial_prompt}"[:SEARCHED_CHARS])


def matching(connection: "sqlite3.Connection", text: str) -> tuple[str, tuple[str, ...]]:
    """Return a subquery for the keys of the sessions that contain a text, and the parameters of the subquery."""
    part = case_folded(text)
    if len(part) < _TRIGRAM or not _has_index(connection):
        return _FOUND_BY_SCAN, (part,)
    phrase = '"' + part.replace('"', '""') + '"'
    return _FOUND_BY_INDEX, (phrase, part)


def index(connection: "sqlite3.Connection") -> bool:
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


def case_folded(text: str) -> str:
    """Return a text casefolded, for comparison."""
    return readable(text).casefold().replace("\0", " ")
