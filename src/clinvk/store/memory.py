"""A store for the lifetime of a process: the SQLite store, with the database in memory."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from clinvk.store.sqlite.database import Database
from clinvk.store.sqlite.owners import OwnerLocks
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.store.sqlite.threads import ReaderThreads, WriterThread

if TYPE_CHECKING:
    import sqlite3

_T = TypeVar("_T")


class MemoryStore(SqliteStore):
    """Sessions, runs and events in memory. The store has no files, so closing the store is optional."""

    def __init__(self) -> None:
        super().__init__("", database=_MemoryDatabase(), owners=_OnlyOwner(Path()))
        self._readers = _WriterReads(self._database, self._writer)


class _MemoryDatabase(Database):
    """A database in memory, with one connection."""

    def __init__(self) -> None:
        super().__init__("memory", lock_timeout_s=0)

    def connect(self) -> "sqlite3.Connection":
        """Create the database and return the only connection."""
        import sqlite3

        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, connection.close)
        self.migrate(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def identity(self) -> tuple[int, int] | None:
        """Return a constant identity."""
        return 0, 0

    def check(self) -> None:
        """Do nothing: memory is always writable."""


class _OnlyOwner(OwnerLocks):
    """The only process that uses the store, which has no file to lock."""

    def acquire(self) -> str:
        """Return the process's owner id."""
        return self._id

    def remove_stale(self) -> None:
        """Do nothing."""


class _WriterReads(ReaderThreads):
    """Runs read operations in the writer's thread, which has the only connection."""

    def __init__(self, database: Database, writer: WriterThread) -> None:
        super().__init__(database)
        self._writer = writer

    async def read(self, operation: "Callable[[sqlite3.Connection], _T]") -> _T:
        """Return the value of an operation."""
        return await self._writer.write(operation)
