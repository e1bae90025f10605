"""The connections to the database: opened when needed, migrated, and each use with a deadline.

A connection that failed is closed, and the next operation opens another, so the store recovers as soon as the server
answers, and the caller of an operation that failed gets the reason.

The heartbeat reports this process. The database decides by its own clock which processes are alive.
"""

import asyncio
import logging
import os
import select
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from pathlib import Path

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.types.string import StrDumperUnknown, TextLoader

from clinvk.types.errors import ClinvkError, ConfigError, StoreUnavailable

logger = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"

TIMEOUT_S = 10.0
"""How long one use of a connection may take, including the wait for the connection."""

_CONNECTIONS = 4
_DEFAULTS = {
    "connect_timeout": 3,
    "target_session_attrs": "read-write",
    "fallback_application_name": "clinvk",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_PREPARE = (
    "SELECT set_config('statement_timeout', '10s', false),"
    " set_config('idle_in_transaction_session_timeout', '10s', false)"
)
"""The timeouts release the locks of a machine that is gone."""

_LOCK_MIGRATIONS = "SELECT pg_advisory_xact_lock(hashtext('clinvk ' || current_schema()))"
_HAS_SCHEMA = "SELECT to_regclass('clinvk_schema') IS NOT NULL"
_VERSION = "SELECT coalesce(max(version), 0) FROM clinvk_schema"

_Raw = AsyncConnection[TupleRow]


class Connection:
    """A connection for operations, in which a question mark in a statement stands for a value."""

    def __init__(self, raw: _Raw) -> None:
        self.raw = raw

    async def fetch(self, statement: str, *values: object) -> list[TupleRow]:
        """Return the rows of a query."""
        return await (await self.raw.execute(_query(statement), values or None)).fetchall()

    async def execute(self, statement: str, *values: object) -> int:
        """Run a statement, and return the number of rows that it changed."""
        return (await self.raw.execute(_query(statement), values or None)).rowcount


@lru_cache
def _query(statement: str) -> bytes:
    return statement.replace("?", "%s").encode()


class Database:
    """A PostgreSQL database.

    Attributes:
        address: host, port and name of the database, for messages.
    """

    def __init__(self, url: str, connections: int = _CONNECTIONS) -> None:
        """Connect nowhere yet.

        Raises:
            ConfigError: the URL is malformed. The message does not quote the URL, which may have a password.
        """
        try:
            given = conninfo_to_dict(url)
            self._conninfo = make_conninfo(url, **{key: value for key, value in _DEFAULTS.items() if key not in given})
        except psycopg.Error:
            raise ConfigError("store.url is not a valid address: postgresql://USER@HOST:PORT/DATABASE") from None
        host, port = given.get("host", "localhost"), given.get("port", 5432)
        self.address = f"PostgreSQL at {host}:{port}/{given.get('dbname', '')}"
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[Connection] = []
        self._is_migrated = False

    @asynccontextmanager
    async def connection(self, timeout_s: float = TIMEOUT_S, migrates: bool = True) -> AsyncGenerator[Connection]:
        """Lend a connection that commits each statement, unless `transaction` is used.

        Apply missing migrations first. Without `migrates`, there may be no tables.

        Raises:
            StoreUnavailable: the server cannot be reached, refuses the operation, or does not answer in time.
            ClinvkError: the server refuses a value, and would refuse the value again.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
            try:
                async with asyncio.timeout_at(deadline):
                    connection = await self._connected()
                alarm = loop.call_at(deadline, _disconnect, connection)
                try:
                    if migrates and not self._is_migrated:
                        await self._migrate(connection)
                        self._is_migrated = True
                    yield connection
                finally:
                    alarm.cancel()
                    await self._return(connection)
            finally:
                self._slots.release()
        except (psycopg.IntegrityError, psycopg.DataError) as exc:
            raise ClinvkError(f"{self.address} refuses a value: {_first_line(exc)}") from exc
        except (psycopg.Error, TimeoutError) as exc:
            is_late = isinstance(exc, TimeoutError) or loop.time() >= deadline
            reason = f"does not answer within {timeout_s:g} s" if is_late else _first_line(exc)
            raise StoreUnavailable(f"{self.address}: {reason}") from exc

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().raw.close()

    async def _connected(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not _is_lost(connection):
                return connection
            await connection.raw.close()
        connection = Connection(await AsyncConnection.connect(self._conninfo, autocommit=True))
        try:
            connection.raw.adapters.register_dumper(str, _EscapedText)
            connection.raw.adapters.register_loader("text", _UnescapedText)
            await connection.execute(_PREPARE)
        except BaseException:
            await connection.raw.close()
            raise
        return connection

    async def _return(self, connection: Connection) -> None:
        if connection.raw.info.transaction_status == TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            await connection.raw.close()

    async def _migrate(self, connection: Connection) -> None:
        """Apply the missing migrations. Safe if several processes migrate at once."""
        files = await asyncio.to_thread(lambda: [file.read_text() for file in sorted(MIGRATIONS.glob("*.sql"))])
        ((has_schema,),) = await connection.fetch(_HAS_SCHEMA)
        if has_schema and (await connection.fetch(_VERSION))[0][0] == len(files):
            return
        async with connection.raw.transaction():
            await connection.execute(_LOCK_MIGRATIONS)
            await connection.execute("CREATE TABLE IF NOT EXISTS clinvk_schema (version integer NOT NULL)")
            ((version,),) = await connection.fetch(_VERSION)
            if version > len(files):
                raise StoreUnavailable(
                    f"{self.address}: is of a newer clinvk (schema {version}); this one knows {len(files)}"
                )
            for number, file in enumerate(files[version:], start=version + 1):
                await connection.raw.execute(file.encode())
                await connection.execute("INSERT INTO clinvk_schema VALUES (?)", number)


@asynccontextmanager
async def connected(url: str, timeout_s: float = TIMEOUT_S, migrates: bool = True) -> AsyncGenerator[Connection]:
    """Connect to a database for one use. Raises `ConfigError`, `StoreUnavailable`."""
    database = Database(url, connections=1)
    try:
        async with database.connection(timeout_s, migrates) as connection:
            yield connection
    finally:
        await database.close()


async def identity(url: str, timeout_s: float) -> str:
    """Return the id of a database, however its URL is written. Raises as `connected`."""
    async with connected(url, timeout_s) as db:
        return (await db.fetch("SELECT id FROM identity"))[0][0]


async def examine(url: str, timeout_s: float) -> str:
    """Describe the sessions in a database. Change nothing. Raises as `connected`."""
    async with connected(url, timeout_s, migrates=False) as db:
        ((has_table,),) = await db.fetch("SELECT to_regclass('sessions') IS NOT NULL")
        count = (await db.fetch("SELECT count(*) FROM sessions"))[0][0] if has_table else 0
    return f"{count or 'none'} stored in {Database(url).address}"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _is_lost(connection: Connection) -> bool:
    """Return whether the server has closed an idle connection. Does not block."""
    poll = select.poll()
    poll.register(connection.raw.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _disconnect(connection: Connection) -> None:
    """End a connection whose server does not answer. The pending operation fails at once."""
    if not connection.raw.closed:
        with socket.socket(fileno=os.dup(connection.raw.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)


_ESCAPE = "\x1a"


class _EscapedText(StrDumperUnknown):
    """Text without NUL, which PostgreSQL does not store: NUL and the escape character become two characters."""

    def dump(self, obj: str) -> "bytes | bytearray | memoryview | None":
        if "\0" in obj or _ESCAPE in obj:
            obj = obj.replace(_ESCAPE, f"{_ESCAPE}1").replace("\0", f"{_ESCAPE}0")
        return super().dump(obj)


class _UnescapedText(TextLoader):
    """Text as it was before `_EscapedText`."""

    def load(self, data: "bytes | bytearray | memoryview") -> bytes | str:
        text = super().load(data)
        if isinstance(text, str) and _ESCAPE in text:
            return text.replace(f"{_ESCAPE}0", "\0").replace(f"{_ESCAPE}1", _ESCAPE)
        return text


INTERVAL_S = 1.0

_REPORT_TIMEOUT_S = 2.0
_REPORT = (
    "INSERT INTO owners VALUES (?, ?, ?, clock_timestamp())"
    " ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at,"
    " returned_at = CASE WHEN owners.seen_at < excluded.seen_at - interval '4 s' THEN excluded.seen_at"
    " ELSE owners.returned_at END RETURNING returned_at = seen_at"
)
_LEAVE = (
    "DELETE FROM owners WHERE id = ? OR (seen_at < clock_timestamp() - interval '1 day'"
    " AND NOT EXISTS (SELECT 1 FROM runs WHERE owner = owners.id AND under_way))"
)


class Heartbeat:
    """Reports every second, on a connection of its own. `on_return` is called after a gap of more than 4 s.

    Attributes:
        owner: the id of this process.
    """

    def __init__(self, url: str, on_return: Callable[[], None]) -> None:
        self.owner = os.urandom(16).hex()
        self._database = Database(url, connections=1)
        self._on_return = on_return
        self._has_reported = False

    async def start(self) -> None:
        """Report for the first time, before a run begins."""
        if not self._has_reported:
            await self.report()

    async def report(self) -> None:
        """Report this process as alive. Raises `StoreUnavailable`."""
        async with self._database.connection(_REPORT_TIMEOUT_S) as db:
            ((has_returned,),) = await db.fetch(_REPORT, self.owner, socket.gethostname(), os.getpid())
        self._has_reported = True
        if has_returned:
            self._on_return()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.report()
            except StoreUnavailable:
                pass  # the operations of the store report the error
            except Exception:
                logger.exception("this process does not report that it is alive")

    async def close(self) -> None:
        """Leave, and close the connection."""
        with suppress(StoreUnavailable):
            if self._has_reported:
                async with self._database.connection(_REPORT_TIMEOUT_S) as db:
                    await db.execute(_LEAVE, self.owner)
        await self._database.close()
