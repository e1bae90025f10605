"""The full-text index of the words of runs.

The index is a table with the words of each run by key (FTS5, https://sqlite.org/fts5.html). If the build of SQLite has
no FTS5, a search looks in title and first prompt only.
"""

from typing import TYPE_CHECKING

from clinvk.store.words import phrases

if TYPE_CHECKING:
    import sqlite3

WITH_WORDS = "key IN (SELECT rowid FROM run_words WHERE run_words MATCH ?)"
INDEX = "INSERT INTO run_words (rowid, words) SELECT key, ? FROM runs WHERE id = ?"

_MAKE_INDEX = (
    # The index of earlier versions, of session_words.
    "DROP TRIGGER IF EXISTS words_deleted",
    "DROP TRIGGER IF EXISTS words_changed",
    "DROP TABLE IF EXISTS session_text",
    "CREATE VIRTUAL TABLE run_words USING fts5 (words, tokenize = 'unicode61 remove_diacritics 0')",
    "CREATE TRIGGER words_of_run_deleted AFTER DELETE ON runs WHEN old.indexed BEGIN"
    " DELETE FROM run_words WHERE rowid = old.key; END",
    "CREATE TRIGGER words_of_run_outdated AFTER UPDATE OF prompt, steering, output ON runs WHEN old.indexed"
    " AND (old.prompt, old.steering, old.output) <> (new.prompt, new.steering, new.output) BEGIN"
    " DELETE FROM run_words WHERE rowid = old.key; UPDATE runs SET indexed = 0 WHERE key = old.key; END",
)


def words_query(text: str) -> str:
    """Return the query of FTS5 for the words of a text. In quotes nothing is syntax, and the words have no quotes."""
    query = " AND ".join(f'"{" ".join(phrase)}"' for phrase in phrases(text))
    return query and f"{query} *"


def has_index(connection: "sqlite3.Connection") -> bool:
    """Return whether the index exists and can be used: another build of SQLite may have made the index."""
    row = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'run_words'").fetchone()
    return bool(row) and _can_index(connection)


def make_index(connection: "sqlite3.Connection") -> bool:
    """Make the index if it is missing. Return whether there is one."""
    if not _can_index(connection):
        return False
    if not has_index(connection):
        for statement in _MAKE_INDEX:
            connection.execute(statement)
    return True


def _can_index(connection: "sqlite3.Connection") -> bool:
    return bool(connection.execute("SELECT sqlite_compileoption_used('ENABLE_FTS5')").fetchone()[0])
