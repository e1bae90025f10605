"""Threads that read beside the writer, each with a connection of its own."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from clinvk.errors import StoreUnavailable
from clinvk.store.database import Database, snapshot

if TYPE_CHECKING:
    import sqlite3

THREADS = 4

_T = TypeVar("_T")


class _Own(threading.local):
    """The connection of a thread, and which database file it is to."""

    kept: "tuple[sqlite3.Connection, tuple[int, int] | None] | None" = None


class Readers:
    """Carries out operations that read, a few at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="clinvk-reader")
        self._own = _Own()
        self._connections: set[sqlite3.Connection] = set()

    async def read(self, operation: "Callable[[sqlite3.Connection], _T]") -> _T:
        """Give the value of an operation, all of which sees the database at one moment."""
        return await self.call(lambda: self._carry_out(operation))

    async def call(self, work: Callable[[], _T]) -> _T:
        """Do other work that takes too long for the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def close(self) -> None:
        """Wait for the threads, and close the connections."""
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._close))

    def _close(self) -> None:
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()

    def _carry_out(self, operation: "Callable[[sqlite3.Connection], _T]") -> _T:
        import sqlite3

        connection = self._connected()
        try:
            with self._database.translated(), snapshot(connection):
                return operation(connection)
        except (StoreUnavailable, sqlite3.Error):
            self._disconnect()
            raise

    def _connected(self) -> "sqlite3.Connection":
        identity = self._database.identity()
        if self._own.kept and self._own.kept[1] == identity:
            return self._own.kept[0]
        self._disconnect()
        connection = self._database.connect_to_read()
        self._connections.add(connection)
        self._own.kept = connection, identity
        return connection

    def _disconnect(self) -> None:
        if self._own.kept:
            connection, _ = self._own.kept
            self._own.kept = None
            self._connections.discard(connection)
            connection.close()
