"""The database file: create, open, migrate, check, and explain errors.

SQLite is imported with the first connection, not before. All functions block.
"""

import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clinvk.store.rows import INTERACTIONS, RUNS, SESSIONS, Unreadable
from clinvk.types.errors import StoreUnavailable

if TYPE_CHECKING:
    import sqlite3

FILE = "clinvk.db"
MIGRATIONS = Path(__file__).parent / "migrations"

_RETRY_S = 0.02
_CACHED_STATEMENTS = 256
_READER_CACHE_KIB = 1024
_JOURNAL_BYTES = 64 * 1024 * 1024
_MIN_FREE_BYTES = 256 * 1024
_OWN_FILES = frozenset(
    f"{FILE} {FILE}-wal {FILE}-shm clinvk.reserve config.yaml keys.json sessions owners workspace worktrees".split()
)
_MAGIC = b"SQLite format 3\0"


class Database:
    """The store's SQLite database in a clinvk home.

    `lock_timeout_s` is how long the database waits for another program to release the lock.
    """

    def __init__(self, home: str | os.PathLike[str], lock_timeout_s: float, migrations: Path = MIGRATIONS) -> None:
        self.home = Path(home)
        self.path = self.home / FILE
        self._lock_timeout_s = lock_timeout_s
        self._migrations = migrations

    def connect(self) -> "sqlite3.Connection":
        """Open the database for writing. Create and migrate the database if needed.

        Raises:
            StoreUnavailable: the database cannot be created or opened, or is not writable.
        """
        with self.translated():
            self._create()
            self._refuse_read_only()
            self._refuse_garbage()
            with self._opened() as connection:
                self._refuse_foreign(connection)
                self._write_ahead(connection)
                self.migrate(connection)
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
                # Otherwise the undo data of a statement takes 64 KiB for each statement.
                connection.execute("PRAGMA temp_store = MEMORY")
            return connection

    def connect_to_read(self) -> "sqlite3.Connection":
        """Open a migrated database for reading."""
        with self.translated(), self._opened() as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB}")
            return connection

    def _is_full(self) -> bool:
        disk = os.statvfs(self.home)
        free = disk.f_bavail if os.geteuid() else disk.f_bfree
        return disk.f_blocks > 0 and free * disk.f_frsize < _MIN_FREE_BYTES

    def size(self) -> int:
        """Return the size of the database, the journal and the shared-memory file, in bytes."""
        size = 0
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
            with suppress(FileNotFoundError):
                size += os.stat(self.home / name).st_size
        return size

    def identity(self) -> tuple[int, int] | None:
        """Return device and inode, which change if the file is replaced, or None without a file."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def examine(self) -> int:
        """Read the whole database without changing it, and return the number of sessions.

        Raises:
            StoreUnavailable: the database is damaged, or cannot be opened.
        """
        if self.identity() is None:
            return 0
        self.check()
        with self.translated(), self._opened() as connection, closing(connection) as db:
            self._refuse_foreign(db)
            (result,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if result != "ok":
                raise Unreadable(result, self.path)
            if self.version(db) == self.latest:
                for table in (SESSIONS, RUNS, INTERACTIONS):
                    for row in db.execute(table.select("")):
                        table.read(row)
            return db.execute("SELECT count(*) FROM sessions").fetchone()[0] if self.version(db) else 0

    @property
    def latest(self) -> int:
        """The version of the schema with all migrations."""
        return len(self._files())

    def version(self, connection: "sqlite3.Connection") -> int:
        """Return the version of a database's schema; 0 for an empty database."""
        return connection.execute("PRAGMA user_version").fetchone()[0]

    def check(self) -> None:
        """Check that the file is writable.

        Raises:
            StoreUnavailable: the file is read-only, or the disk is full.
        """
        self._refuse_read_only()
        if self._is_full():
            raise StoreUnavailable(f"{self.path}: its disk is full")

    @contextmanager
    def translated(self) -> Generator[None]:
        """Translate errors of SQLite and of the system to `StoreUnavailable`, and damage to `Unreadable`."""
        import sqlite3

        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError):
            raise
        except sqlite3.Error as exc:
            if is_error(exc, DAMAGED) or "decode" in str(exc):
                raise Unreadable(exc, self.path) from exc
            raise StoreUnavailable(f"{self.path}: {self._explain(exc)}") from exc
        except OSError as exc:
            raise StoreUnavailable(f"{exc.filename or self.path}: {exc.strerror or exc}") from exc

    @contextmanager
    def _opened(self) -> "Generator[sqlite3.Connection]":
        """Open a connection, and close it again if the context raises."""
        import sqlite3

        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._lock_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_CACHED_STATEMENTS,
        )
        try:
            yield connection
        except BaseException:
            connection.close()
            raise

    def _create(self) -> None:
        """Create folder and file with access for the owner only.

        SQLite creates the journal files with the mode of the database. A folder with files of other programs keeps its
        mode; the database in the folder is still private.
        """
        os.makedirs(self.home, mode=0o700, exist_ok=True)
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            for file in (self.path, *self.home.glob(f"{FILE}-*")):
                _make_private(file, 0o600)
        if _OWN_FILES.issuperset(os.listdir(self.home)):
            _make_private(self.home, 0o700)

    def _refuse_garbage(self) -> None:
        """Refuse a file that is no database: SQLite would write a journal next to the file into the file."""
        with open(self.path, "rb") as file:
            if file.read(len(_MAGIC)) not in (b"", _MAGIC):
                raise Unreadable("file is not a database", self.path)

    def _refuse_read_only(self) -> None:
        """Refuse a file or folder without write permission: the error of SQLite would not name the reason."""
        if not (os.access(self.path, os.W_OK) and os.access(self.home, os.W_OK)):
            raise StoreUnavailable(f"{self.path}: cannot be written to")

    def _refuse_foreign(self, connection: "sqlite3.Connection") -> None:
        latest = self.latest
        with snapshot(connection):  # another process may be creating the tables
            version = self.version(connection)
            has_tables = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        if version > latest:
            raise StoreUnavailable(f"{self.path}: is of a newer clinvk (schema {version}); this one knows {latest}")
        if version == 0 and has_tables:
            raise StoreUnavailable(f"{self.path}: is a database of another program")

    def migrate(self, connection: "sqlite3.Connection") -> None:
        """Apply the missing migrations, each in a transaction. Safe if several processes migrate at once."""
        for number, file in enumerate(self._files(), start=1):
            if self.version(connection) < number:
                with transaction(connection):
                    if self.version(connection) < number:
                        for statement in _statements(file.read_text(encoding="utf-8")):
                            connection.execute(statement)
                        connection.execute(f"PRAGMA user_version = {number}")

    def _write_ahead(self, connection: "sqlite3.Connection") -> None:
        """Set the journal mode. Retry while another process is opening the database: SQLite refuses without waiting."""
        import sqlite3

        deadline = time.monotonic() + self._lock_timeout_s
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as exc:
                if not is_error(exc, LOCKED) or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)
            else:
                return

    def _explain(self, exc: "sqlite3.Error") -> str:
        name = getattr(exc, "sqlite_errorname", "")
        kind = name.split("_")[1] if "_" in name else ""
        match "FULL" if kind == "IOERR" and self._is_full() else kind:
            case "FULL":
                return "its disk is full"
            case "READONLY":
                return "cannot be written to"
            case "BUSY" | "LOCKED":
                return f"another program has held its lock for {self._lock_timeout_s:g} s"
            case "IOERR":
                return f"{exc}: the disk fails, or a quota or file size limit is reached"
            case _:
                return f"{exc}"

    def _files(self) -> list[Path]:
        return sorted(self._migrations.glob("*.sql"))


@contextmanager
def transaction(connection: "sqlite3.Connection") -> "Generator[sqlite3.Connection]":
    """Run the statements inside the context in a transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def snapshot(connection: "sqlite3.Connection") -> "Generator[sqlite3.Connection]":
    """Run the queries inside the context on one snapshot of the database."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED")
"""Another program holds the database."""

DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
"""The file is damaged, or is no database."""


def is_error(exc: BaseException | None, names: tuple[str, ...]) -> bool:
    """Return whether an error is an SQLite error whose name begins with one of `names`, such as `LOCKED`."""
    return getattr(exc, "sqlite_errorname", "").startswith(names)


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements. A trigger is a single statement."""
    import sqlite3

    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _make_private(path: Path, mode: int) -> None:
    """Remove the permissions of other users. SQLite may remove the file at any time."""
    with suppress(FileNotFoundError):
        status = os.stat(path)
        if status.st_mode & 0o077 and status.st_uid == os.geteuid():
            os.chmod(path, mode)
