"""The threads of the database: one writer and several readers, each with a separate connection.

Operations that arrive while the writer is busy share the next transaction (group commit).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from clinvk.store.sqlite.database import LOCKED, Database, is_error, snapshot, transaction
from clinvk.types.errors import ClinvkError, StoreUnavailable

if TYPE_CHECKING:
    import sqlite3

logger = logging.getLogger(__name__)

_SCHEDULE_DELAY_S = 0.05

_T = TypeVar("_T")


class _Job:
    """An operation with a future and an error. With `retry`, a failure of the database causes a retry."""

    def __init__(self, operation: "Callable[[sqlite3.Connection], object]", retry: bool) -> None:
        self.operation = operation
        self.retry = retry
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.error: Exception | None = None

    def run(self, connection: "sqlite3.Connection") -> None:
        """Run the operation, and store its `ClinvkError`: such an operation has written nothing."""
        self.error = None
        try:
            self.operation(connection)
        except ClinvkError as exc:
            self.error = exc

    def resolve(self) -> None:
        """Resolve the future."""
        if self.done.done():
            return
        if self.error:
            self.done.set_exception(self.error)
        else:
            self.done.set_result(None)


class WriterThread:
    """Runs write operations, in order.

    An operation receives the connection inside a transaction, and checks before writing. An operation that raises a
    `ClinvkError` has written nothing, so the other operations in the transaction are committed. After any other error
    the writer runs each operation again, in a separate transaction.

    Attributes:
        is_open: the database was opened, and is up to date.
        last_error: the error of the last failed transaction; None after a successful write.
    """

    def __init__(
        self,
        database: Database,
        on_open: "Callable[[sqlite3.Connection], None]",
        on_commit: Callable[[float], None] | None = None,
    ) -> None:
        """`on_open` is called with a new connection before any transaction.

        `on_commit` is called in the writer's thread with the duration of each writing transaction, in seconds.
        """
        self.last_error: StoreUnavailable | None = None
        self._database = database
        self._on_open = on_open
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clinvk-writer")
        self._waiting: list[_Job] = []
        self._scheduled: dict[str, _Job] = {}
        self._runs_scheduled = False
        self._on_commit = on_commit
        self._unstored: list[_Job] = []
        self._batch: asyncio.Future[None] | None = None
        self._batch_began = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_due = False
        self._is_closed = False
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the database was opened, and is up to date."""
        return self._connection is not None

    @property
    def busy_s(self) -> float:
        """How long the current transaction has taken, in seconds."""
        return time.monotonic() - self._batch_began if self._batch else 0.0

    async def write(self, operation: "Callable[[sqlite3.Connection], _T]", retry: bool = False) -> _T:
        """Run an operation, and return its value after the commit.

        A caller that is cancelled while the operation waits cancels the operation too, except with `retry`: then the
        operation runs, and a failure is logged. With `retry`, an operation that found a full disk or no database runs
        again with every later transaction.
        """
        values: list[_T] = []

        def run(connection: "sqlite3.Connection") -> None:
            values[:] = [operation(connection)]

        job = self._enqueue(run, retry)
        try:
            await (asyncio.shield(job.done) if retry else job.done)
        except asyncio.CancelledError:
            job.done.add_done_callback(_log_failure)
            raise
        return values[0]

    def submit(self, operation: "Callable[[sqlite3.Connection], object]") -> None:
        """Queue an operation without waiting. A failure is logged."""
        self._enqueue(operation, retry=False).done.add_done_callback(_log_failure)

    def schedule(self, key: str, operation: "Callable[[sqlite3.Connection], object]") -> None:
        """Queue an operation to run soon, or with the next `catch_up`. A failure is logged.

        A newer operation with the same key replaces the operation. `forget` drops the operation, so most short runs
        need no update.
        """
        self.forget(key)
        job = self._scheduled[key] = _Job(operation, retry=False)
        job.done.add_done_callback(_log_failure)
        if not self._timer:
            self._timer = asyncio.get_running_loop().call_later(_SCHEDULE_DELAY_S, self._on_timer)

    def forget(self, key: str) -> None:
        """Drop the queued operation of a key, because a newer operation replaces the old one."""
        if job := self._scheduled.pop(key, None):
            job.done.cancel()

    @property
    def is_behind(self) -> bool:
        """Whether operations queued with `schedule` have not been committed."""
        return bool(self._scheduled) or self._runs_scheduled

    async def catch_up(self) -> None:
        """Open the database, and run the operations queued with `schedule`."""
        self._is_due = True
        await self.write(lambda _: None)

    async def close(self) -> None:
        """Run everything queued, retry unstored operations once, and close the connection. Refuse later operations."""
        while self._batch or self._waiting or self._scheduled:
            self._is_due = True
            if self._batch:
                await asyncio.wait([self._batch])
            else:
                self._start()
        self._is_closed = True
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._finish))
        self._thread.shutdown(wait=False)

    def _enqueue(self, operation: "Callable[[sqlite3.Connection], object]", retry: bool) -> _Job:
        job = _Job(operation, retry)
        self._waiting.append(job)
        if len(self._waiting) == 1:  # else already planned
            self._plan()
        return job

    def _plan(self) -> None:
        """Start the waiting operations together, in the next turn of the loop or after the running transaction."""
        if not self._batch and (self._waiting or self._is_due):
            asyncio.get_running_loop().call_soon(self._start)

    def _on_timer(self) -> None:
        self._timer = None
        self._is_due = bool(self._scheduled)
        self._plan()

    def _start(self) -> None:
        """Pass the waiting operations to the writer's thread, with the `schedule` operations if due."""
        if self._batch:
            return
        jobs = [job for job in self._waiting if not job.done.cancelled()]
        self._waiting.clear()
        if self._is_due:
            jobs = [*self._scheduled.values(), *jobs]
            self._runs_scheduled = bool(self._scheduled)
            self._scheduled.clear()
            self._is_due = False
        if self._is_closed:
            for job in jobs:
                job.error = StoreUnavailable(f"{self._database.path}: is closed")
                job.resolve()
        elif jobs:
            self._batch_began = time.monotonic()
            self._batch = asyncio.get_running_loop().run_in_executor(self._thread, self._execute, jobs)
            self._batch.add_done_callback(lambda batch: self._resolve(batch, jobs))

    def _resolve(self, batch: "asyncio.Future[None]", jobs: Sequence[_Job]) -> None:
        self._batch = None
        self._runs_scheduled = False
        for job in jobs:
            job.resolve()
        self._plan()
        batch.result()

    def _execute(self, jobs: Sequence[_Job]) -> None:
        """Run unstored and new jobs, in the writer's thread."""
        jobs = [*self._unstored, *jobs]
        self._unstored.clear()
        error = self._commit(jobs)
        if error and len(jobs) > 1 and not is_error(error.__cause__, LOCKED):
            for job in jobs:
                self._fail([job], self._commit([job]))
        else:
            self._fail(jobs, error)

    def _commit(self, jobs: Sequence[_Job]) -> Exception | None:
        """Run jobs in one transaction. Return the error of the transaction, or None."""
        began = time.monotonic()
        try:
            with self._database.translated(), transaction(self._connected()) as connection:
                before = connection.total_changes
                for job in jobs:
                    job.run(connection)
                has_written = connection.total_changes > before
        except Exception as exc:  # noqa: BLE001 - raised in the caller of `write`
            return exc
        if has_written:
            self.last_error = None
            if self._on_commit:
                self._on_commit(time.monotonic() - began)
        return None

    def _fail(self, jobs: Sequence[_Job], error: Exception | None) -> None:
        if error is None:
            return
        for job in jobs:
            job.error = error
        if isinstance(error, StoreUnavailable):
            self.last_error = error
            self._unstored.extend(job for job in jobs if job.retry)
            if not is_error(error.__cause__, LOCKED):
                self._disconnect()

    def _connected(self) -> "sqlite3.Connection":
        if self._connection and self._identity != self._database.identity():
            self._disconnect()
        if self._connection is None:
            connection, identity = self._database.connect(), self._database.identity()
            try:
                self._on_open(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._identity = connection, identity  # set last: `is_open` must be false until here
        return self._connection

    def _finish(self) -> None:
        """Try the unstored jobs a last time, and close the connection."""
        if self._unstored:
            self._execute([])
        if self._unstored:
            logger.error("the ends of %d runs are not kept: %s", len(self._unstored), self.last_error)
        self._disconnect()

    def _disconnect(self) -> None:
        if connection := self._connection:
            self._connection = None
            connection.close()


def _log_failure(done: "asyncio.Future[None]") -> None:
    if not done.cancelled() and (error := done.exception()):
        logger.warning("%s", error)


THREADS = 4


class ReaderThreads:
    """Runs read operations, a few at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="clinvk-reader")
        self._idle: list[tuple[sqlite3.Connection, tuple[int, int] | None]] = []  # with the identity of the file

    async def read(self, operation: "Callable[[sqlite3.Connection], _T]") -> _T:
        """Return the value of an operation, which reads from one snapshot of the database."""
        return await self.call(lambda: self._execute(operation))

    async def call(self, work: Callable[[], _T]) -> _T:
        """Run blocking work in a thread of the readers."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def close(self) -> None:
        """Wait for the threads, and close the connections."""
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._close))

    def _close(self) -> None:
        self._threads.shutdown()
        for connection, _ in self._idle:
            connection.close()

    def _execute(self, operation: "Callable[[sqlite3.Connection], _T]") -> _T:
        import sqlite3

        identity = self._database.identity()
        connection = self._connected(identity)
        is_usable = True
        try:
            with self._database.translated(), snapshot(connection):
                return operation(connection)
        except (StoreUnavailable, sqlite3.Error):
            is_usable = False
            raise
        finally:
            if is_usable:
                self._idle.append((connection, identity))
            else:
                connection.close()

    def _connected(self, identity: tuple[int, int] | None) -> "sqlite3.Connection":
        with suppress(IndexError):
            while True:
                connection, opened_identity = self._idle.pop()
                if opened_identity == identity:
                    return connection
                connection.close()
        return self._database.connect_to_read()
