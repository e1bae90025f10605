"""What `SessionQuery.text` is looked for in.

The words of a session are a row that is short, so that to look through all of them is bearable. SQLite's index of
trigrams, where it is built in, makes it fast; because it costs more than all else that is written of a session, it
follows behind: it holds the rows up to `search.indexed`, and those after it, which are few, are looked through.
"""

from typing import TYPE_CHECKING

from clinvk.store.protocol import SEARCHED_CHARS
from clinvk.types.session import Session
from clinvk.types.text import readable

if TYPE_CHECKING:
    import sqlite3

INDEX_EVERY = 64
"""New sessions, after which the index should be brought up to date."""

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
_FOUND_BY_LOOKING = "(SELECT session FROM session_words WHERE instr(words, ?))"


def words(session: Session) -> str:
    """Return the searched text of a session, casefolded."""
    return folded(f"{session.title}\n{session.initial_prompt}"[:SEARCHED_CHARS])


def found(connection: "sqlite3.Connection", text: str) -> tuple[str, tuple[str, ...]]:
    """Return the subquery for the keys of sessions that have a text, and its parameters."""
    part = folded(text)
    if len(part) < _TRIGRAM or not _has_index(connection):
        return _FOUND_BY_LOOKING, (part,)
    phrase = '"' + part.replace('"', '""') + '"'
    return _FOUND_BY_INDEX, (phrase, part)


def index(connection: "sqlite3.Connection") -> bool:
    """Index the next sessions if the index is far behind. Return whether it still is."""
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
    made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'session_text'").fetchone()
    return bool(made) and _can_index(connection)


def _can_index(connection: "sqlite3.Connection") -> bool:
    """Return whether this SQLite, which need not be the one that made the index, has trigrams."""
    import sqlite3

    (built_in,) = connection.execute("SELECT sqlite_compileoption_used('ENABLE_FTS5')").fetchone()
    return bool(built_in) and sqlite3.sqlite_version_info >= (3, 34)


def folded(text: str) -> str:
    """Return a text casefolded, for comparison."""
    return readable(text).casefold().replace("\0", " ")
