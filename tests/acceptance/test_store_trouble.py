"""An unusable store is reported, nothing runs unrecorded, and nothing is overwritten."""

import os
import sqlite3
import subprocess
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import psutil
import pytest

from acceptance.command import Clinvk, until
from acceptance.server import Server
from echo import Echo, answer

pytestmark = pytest.mark.slow

_MAY_MOUNT = 1 << 21
_SMALL = "size=2m"


def _mounting_is_allowed() -> bool:
    status = Path("/proc/self/status")
    words = status.read_text().split() if status.exists() else ["CapEff:", "0"]
    return bool(int(words[words.index("CapEff:") + 1], 16) & _MAY_MOUNT)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


@contextmanager
def _small_disk(folder: Path) -> Generator[None]:
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", _SMALL, "none", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def _read_only(folder: Path) -> Generator[None]:
    if os.geteuid():
        folder.chmod(0o500)
        for file in folder.iterdir():
            file.chmod(0o400)
        yield
        folder.chmod(0o700)
        return
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,ro,bind", str(folder))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _refused_until_there_is_room(
    echo: Echo, server: Server, no_room: Callable[[], AbstractContextManager[str]], why: str
) -> None:
    """`no_room` gives the shell command that takes the room from a command line too."""
    clinvk = Clinvk(echo, echo.folder)
    client = server.ready().client
    kept = server.prompt(f"{echo.name()} 0").json()
    assert client.get(f"/api/v1/runs/{kept['run_id']}").json()["output"] == kept["output"]
    last = echo.name()
    under_way = server.detached(f"{last} 0.5")
    until(lambda: last in echo.prompts())
    with no_room() as before:
        refused = server.prompt(f"{echo.name()} 0")
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        assert why in refused.json()["detail"]
        for _ in range(2):
            assert client.get(f"/api/v1/runs/{kept['run_id']}").json()["output"] == kept["output"]
            health = client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
            assert health.json()["session_store"]["error"].startswith(why.removeprefix("clinvk.db: "))
        done = clinvk.run("--new", f"{echo.name()} 0", before=before)
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr
        until(lambda: not echo.alive())
    until(lambda: client.get("/health").status_code == 200)
    after = echo.name()
    assert server.prompt(f"{after} 0").json()["output"] == answer(after)
    until(lambda: client.get(f"/api/v1/runs/{under_way['run_id']}").json()["output"] == answer(last))
    assert echo.prompts() == [_named(kept), last, after]
    assert clinvk.run("--new", f"{echo.name()} 0").returncode == 0


def _named(told: dict[str, str]) -> str:
    return told["output"].split()[0]


UNMEASURED = "for name in $(env | sed -n 's/^\\(COV[A-Z_]*\\)=.*/\\1/p'); do unset $name; done"
"""Coverage could not be written either, and would say so on stderr."""


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_FSIZE"), reason="no limits of another process here")
def test_server_at_its_file_size_limit_refuses_prompts_until_it_can_write(echo: Echo) -> None:
    """As with a quota: the disk itself has room.

    Python would keep the beginning of a compiled module, as far as the limit reaches, and read it the next time.
    """
    with Server(echo, {"PYTHONDONTWRITEBYTECODE": "1"}) as server:

        @contextmanager
        def no_room() -> Generator[str]:
            process = psutil.Process(server.process.pid)
            limits = process.rlimit(psutil.RLIMIT_FSIZE)
            process.rlimit(psutil.RLIMIT_FSIZE, (1024, limits[1]))
            yield f"{UNMEASURED}; ulimit -f 1; export PYTHONDONTWRITEBYTECODE=1"
            process.rlimit(psutil.RLIMIT_FSIZE, limits)

        _refused_until_there_is_room(echo, server, no_room, "clinvk.db: disk I/O error")


@pytest.mark.skipif(not hasattr(psutil, "RLIMIT_FSIZE"), reason="no limits of another process here")
def test_health_is_unhealthy_while_a_prompt_does_not_fit(echo: Echo) -> None:
    with Server(echo, {"PYTHONDONTWRITEBYTECODE": "1"}) as server:
        server.ready().prompt(f"{echo.name()} 0 {300_000 * 'x'}")  # fills the journal to its end
        process = psutil.Process(server.process.pid)
        journal = (echo.folder / ".clinvk" / "clinvk.db-wal").stat().st_size
        limits = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (journal + 4 * 4096, limits[1]))
        for _ in range(3):
            assert server.prompt(f"{echo.name()} 0").status_code == 503
            assert server.client.get("/health").json()["status"] == "unhealthy"
        process.rlimit(psutil.RLIMIT_FSIZE, limits)
        assert server.client.get("/health").json()["status"] == "ok"
        assert server.prompt(f"{echo.name()} 0").status_code == 200


if _mounting_is_allowed():

    def test_server_with_a_full_disk_refuses_prompts_until_space_is_free(echo: Echo) -> None:
        home = echo.folder / ".clinvk"

        @contextmanager
        def no_room() -> Generator[str]:
            with (home / "fill").open("wb", buffering=0) as file:
                while disk_has_room(home):
                    file.write(bytes(4096))
            yield "true"
            (home / "fill").unlink()

        def disk_has_room(folder: Path) -> bool:
            return os.statvfs(folder).f_bavail > 0

        with _small_disk(home), Server(echo) as server:
            _refused_until_there_is_room(echo, server, no_room, "clinvk.db: its disk is full")


def _garbage(database: Path) -> None:
    database.write_bytes(b"no database" * 1000)


def _holes(database: Path) -> None:
    data = database.read_bytes()
    database.write_bytes(data[:8192] + bytes(len(data) - 8192))


def _newer(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _foreign(database: Path) -> None:
    database.unlink()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE plants (name TEXT)")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_garbage, "the database is damaged (file is not a database)"),
        (_holes, "the database is damaged (database disk image is malformed)"),
        (_newer, "is of a newer clinvk (schema 99)"),
        (_foreign, "is a database of another program"),
    ],
)
def test_unusable_database_is_left_unchanged(echo: Echo, spoil: Callable[[Path], None], why: str) -> None:
    clinvk = Clinvk(echo, echo.folder)
    first = echo.name()
    assert clinvk.run("--new", f"{first} 0").returncode == 0
    database = echo.folder / ".clinvk" / "clinvk.db"
    good = database.read_bytes()
    spoil(database)
    bad = database.read_bytes()
    last = _refused(echo, clinvk, why)
    with Server(echo) as server:
        last += _refused_over_http(echo, server, why)
        assert database.read_bytes() == bad
        database.unlink()
        database.write_bytes(good)
        assert server.client.get("/health").status_code == 200
        assert server.client.get("/api/v1/sessions").json()["total"] == 1
    assert echo.prompts() == [first, *last]


def test_read_only_home_is_left_unchanged(echo: Echo) -> None:
    if not os.geteuid() and not _mounting_is_allowed():
        pytest.skip("root writes everywhere")
    clinvk = Clinvk(echo, echo.folder)
    assert clinvk.run("--new", f"{echo.name()} 0").returncode == 0
    database = echo.folder / ".clinvk" / "clinvk.db"
    before = database.read_bytes()
    with _read_only(database.parent):
        _refused(echo, clinvk, "clinvk.db: cannot be written to")
        with Server(echo) as server:
            _refused_over_http(echo, server, "clinvk.db: cannot be written to")
    assert database.read_bytes() == before


def _refused(echo: Echo, clinvk: Clinvk, why: str) -> list[str]:
    """Check that commands report the reason and run only prompts without a record; return what ran."""
    for arguments in (["--new", f"{echo.name()} 0"], [f"{echo.name()} 0"], ["sessions", "list"], ["resume", "--last"]):
        done = clinvk.run(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
    ran = echo.name()
    done = clinvk.run("--ephemeral", "-o", "text", f"{ran} 0")
    assert (done.returncode, done.stdout) == (0, f"{answer(ran)}\n")
    assert done.stderr.endswith("; the run is not recorded\n")
    return [ran]


def _refused_over_http(echo: Echo, server: Server, why: str) -> list[str]:
    """Check that a server starts, reports the reason and runs nothing; return what ran."""
    client = server.ready().client
    for response in (
        server.prompt(f"{echo.name()} 0"),
        client.get("/api/v1/sessions"),
        client.get("/api/v1/runs"),
        client.delete("/api/v1/sessions/0123456789abcdef0123456789abcdef"),
    ):
        assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")
        assert why in response.json()["detail"]
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "unhealthy")
    assert health.json()["session_store"]["error"].startswith(why.removeprefix("clinvk.db: "))
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200
    return []
