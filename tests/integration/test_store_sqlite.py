"""The SQLite store beyond the contract: files, errors, and several processes."""

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from clinvk.store.protocol import InteractionQuery, RunQuery, SessionQuery
from clinvk.store.sqlite import lists, search
from clinvk.store.sqlite.database import MIGRATIONS, Database
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.store.sqlite.threads import THREADS as READERS
from clinvk.store.sqlite.threads import ReaderThreads
from clinvk.store.sqlite.turns import SqliteTurns
from clinvk.types.errors import SessionBusy, SessionNotFound, StoreUnavailable
from clinvk.types.events import RunFailed, TextDelta
from polling import until
from records import ANSWER, log, run, session, turn


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def database(home: Path) -> sqlite3.Connection:
    """Open the database like another program."""
    return sqlite3.connect(home / "clinvk.db", isolation_level=None, timeout=0)


async def kept(home: Path, *given: object) -> str:
    """Store one session with a run and close the store; return the session's id."""
    async with SqliteStore(home) as store:
        one = session()
        await turn(store, one)
        return one.id


READ_BY_THREADS = """
import sys, threading
from typing import Literal
import msgspec
from clinvk.store.rows import Table

def read(table):
    together.wait()
    table.read(("x", *[None] * 20))

sys.setswitchinterval(1e-6)
together = threading.Barrier(8)
for number in range(100):
    part = msgspec.defstruct("Part", [("kind", Literal["a", number])])
    fields = [(f"part{each}", Literal["a", each] | tuple[part, ...] | None, None) for each in range(20)]
    table = Table("items", msgspec.defstruct("Item", [("id", str), *fields]), "id")
    threads = [threading.Thread(target=read, args=(table,)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def test_threads_that_read_the_first_rows_of_a_table_at_once_do_not_crash() -> None:
    subprocess.run([sys.executable, "-c", READ_BY_THREADS], check=True, timeout=60)


# Files


async def test_store_creates_no_files_before_its_first_use(home: Path) -> None:
    async with SqliteStore(home):
        pass
    assert not home.exists()


async def test_created_files_are_readable_only_by_the_owner(home: Path) -> None:
    os.umask(umask := os.umask(0))
    os.umask(0)
    try:
        async with SqliteStore(home) as store:
            await turn(store, session())
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home, *home.rglob("*"))}
    finally:
        os.umask(umask)
    folders = {"home": modes.pop("home"), "owners": modes.pop("owners")}
    assert folders == {"home": 0o700, "owners": 0o700}
    assert {"clinvk.db", "clinvk.db-wal", "clinvk.db-shm"} < set(modes)
    assert set(modes.values()) == {0o600}


async def test_size_includes_all_database_files(home: Path) -> None:
    async with SqliteStore(home) as store:
        assert await store.size() == 0
        await turn(store, session())
        assert await store.size() == sum(file.stat().st_size for file in home.glob("clinvk.db*")) > 0


async def test_only_writing_transactions_are_timed(home: Path) -> None:
    taken: list[float] = []
    async with SqliteStore(home) as store:
        store.on_commit = taken.append
        await turn(store, session())
        count = len(taken)
        await store.sessions(SessionQuery())
        with pytest.raises(SessionNotFound):
            await store.describe("0" * 32, "title", None)
        assert len(taken) == count
        await turn(store, session())
    assert len(taken) > count > 0
    assert all(0 < seconds < 10 for seconds in taken)


async def test_database_readable_by_others_is_made_private(home: Path) -> None:
    await kept(home)
    (home / "config.yaml").write_text("")
    (home / "clinvk.db").chmod(0o644)
    home.chmod(0o755)
    await kept(home)
    assert stat.S_IMODE((home / "clinvk.db").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "config.yaml").stat().st_mode) == 0o644


async def test_directory_with_other_files_keeps_its_mode(home: Path) -> None:
    """A user's directory may become the clinvk home; clinvk's own files are private all the same."""
    home.mkdir(mode=0o755)
    (home / "notes.txt").write_text("mine")
    await kept(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o755
    assert stat.S_IMODE((home / "clinvk.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["a b", "what?mode=ro#x", "100%41", "é", "'"])
async def test_home_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The path may be relative."""
    monkeypatch.chdir(tmp_path)
    async with SqliteStore(name) as store:
        await turn(store, session())
        assert await store.count() == 1
    assert (tmp_path / name / "clinvk.db").exists()


async def test_close_leaves_no_journal(home: Path) -> None:
    await kept(home)
    assert sorted(path.name for path in home.rglob("*")) == ["clinvk.db", "owners"]


async def test_two_stores_of_one_home_see_the_changes_of_each_other(home: Path) -> None:
    async with SqliteStore(home) as one, SqliteStore(home) as other:
        given = session(status="active")
        record = run(given)
        await one.begin(record, given)
        assert await other.session(given.id) == given
        with pytest.raises(SessionBusy):
            await other.begin(run(given), given)
        await one.end(replace(record, state="finished"), replace(given, status="completed"), ANSWER)
        assert await other.events(record.id) == ANSWER
        await other.delete(given.id)
        assert await one.count() == 0


# Text that is none


async def test_invalid_unicode_is_stored_as_readable_text(home: Path) -> None:
    """An argument or a path may contain any bytes; every record must be printable."""
    async with SqliteStore(home) as store:
        odd = "caf\udce9"
        given = session(initial_prompt=odd, working_dir=odd, title=odd, tags=(odd,), metadata={odd: odd})
        await store.create(given)
        shown = await store.session(given.id)
        assert (shown.initial_prompt, shown.working_dir, shown.tags) == ("caf?", "caf?", ("caf?",))
        assert shown.metadata == {"caf?": "caf?"}
        for query in (SessionQuery(text=odd), SessionQuery(tag=odd), SessionQuery(working_dir=odd)):
            assert (await store.sessions(query)).total == 1


# Troubles


async def refused(home: Path, match: str) -> None:
    """Check that every operation of a store reports the error."""
    async with SqliteStore(home) as store:
        for ask in (store.count, lambda: turn(store, session()), lambda: store.sessions(SessionQuery())):
            with pytest.raises(StoreUnavailable, match=match):
                await ask()


async def test_database_of_a_newer_clinvk_is_left_unchanged(home: Path) -> None:
    await kept(home)
    with database(home) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("CREATE TABLE future (x)")
    connection.close()
    await refused(home, r"clinvk.db: is of a newer clinvk \(schema 99\); this one knows \d+$")
    with database(home) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)
        assert connection.execute("SELECT count(*) FROM sessions").fetchone() == (1,)
    connection.close()


async def test_database_of_another_program_is_left_unchanged(home: Path) -> None:
    home.mkdir()
    with database(home) as connection:
        connection.execute("CREATE TABLE sessions (x)")
    connection.close()
    await refused(home, "clinvk.db: is a database of another program")
    with database(home) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("sessions",)]
    connection.close()


async def test_file_in_place_of_the_home_is_reported(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    await refused(tmp_path / "home", f"^{tmp_path}/home")


@pytest.mark.slow
async def test_database_locked_by_another_program_is_reported(home: Path) -> None:
    """All waiting operations fail at once, not one after another."""
    await kept(home)
    async with SqliteStore(home, lock_timeout_s=2) as store:
        await store.count()
        locked = database(home)
        locked.execute("BEGIN IMMEDIATE")
        waiting = asyncio.gather(*(turn(store, session()) for _ in range(5)), return_exceptions=True)
        began = time.monotonic()
        told = [str(outcome).partition(": ")[2] for outcome in await waiting]
        assert told == ["another program has held its lock for 2 s"] * 5
        assert time.monotonic() - began < 8
        assert (await store.sessions(SessionQuery())).total == 1
        with pytest.raises(StoreUnavailable, match="its lock"):
            await store.count()
        locked.execute("COMMIT")
        locked.close()
        assert await store.count() == 1


async def test_write_waits_for_a_lock_that_is_released_in_time(home: Path) -> None:
    await kept(home)
    locked = sqlite3.connect(home / "clinvk.db", isolation_level=None, check_same_thread=False)
    locked.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: locked.execute("COMMIT"))
    timer.start()
    async with SqliteStore(home) as store:
        await turn(store, session())
        assert await store.count() == 2
    timer.join()
    locked.close()


@pytest.mark.parametrize("replaced", [False, True])
async def test_removed_database_is_created_again(home: Path, replaced: bool) -> None:
    """Writes of other programs to the new database are visible, and the deleted file gets no writes."""
    async with SqliteStore(home) as store:
        await turn(store, session())
        for file in home.glob("clinvk.db*"):
            file.unlink()
        if replaced:
            (home / "clinvk.db").touch()
        assert await store.count() == 0
        record = await turn(store, session())
        async with SqliteStore(home) as other:
            assert await other.run(record.id) == record


async def test_failed_operation_does_not_affect_concurrent_ones(home: Path) -> None:
    async with SqliteStore(home) as store:
        record = await turn(store, session())
        outcomes = await asyncio.gather(
            turn(store, session()), turn(store, session(), id=record.id), turn(store, session()), return_exceptions=True
        )
        assert [isinstance(outcome, sqlite3.IntegrityError) for outcome in outcomes] == [False, True, False]
        assert await store.count() == 3


class _Counted(Database):
    """Counts the connections that are opened to read."""

    opened = 0

    def connect_to_read(self) -> sqlite3.Connection:
        self.opened += 1
        return super().connect_to_read()


async def test_reader_keeps_its_connection_after_an_invalid_query(home: Path) -> None:
    await kept(home)
    counted = _Counted(home, 1)
    readers = ReaderThreads(counted)

    def find(_: sqlite3.Connection) -> None:
        raise SessionNotFound("no session")

    for _ in range(20):
        with pytest.raises(SessionNotFound):
            await readers.read(find)
    await readers.close()
    assert counted.opened <= READERS


async def test_reader_closes_a_connection_that_failed(home: Path) -> None:
    await kept(home)
    counted = _Counted(home, 1)
    readers = ReaderThreads(counted)
    for _ in range(READERS + 2):
        with pytest.raises(StoreUnavailable):
            await readers.read(lambda db: db.execute("SELECT * FROM nowhere"))
    await readers.close()
    assert counted.opened == READERS + 2


async def test_foreign_files_among_the_locks_are_left_alone(home: Path) -> None:
    await kept(home)
    owners = home / "owners"
    (owners / "folder").mkdir()
    (owners / f"{'a' * 32}.lock").mkdir()
    (owners / "notes.txt").write_text("mine")
    (owners / "other.lock").write_text("mine")
    (owners / f"{'b' * 32}.lock").write_text("")
    async with SqliteStore(home) as store:
        assert await store.count() == 1
        assert {path.name for path in owners.iterdir()} == {"folder", f"{'a' * 32}.lock", "notes.txt", "other.lock"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_lock_created_by_root_belongs_to_the_owner_of_the_directory(home: Path) -> None:
    """Else that user could not tell whether root's process is dead, and could not use the store."""
    owners = home / "owners"
    owners.mkdir(parents=True)
    os.chown(owners, 12345, 12345)
    async with SqliteStore(home) as store:
        await turn(store, session())
        assert [path.stat().st_uid for path in owners.iterdir()] == [12345]


# Callers that leave


async def test_caller_cancelled_while_its_run_begins_leaves_no_claim(home: Path) -> None:
    async with SqliteStore(home) as store:
        given = session()
        await store.create(given)
        for _ in range(20):
            beginning = asyncio.create_task(store.begin(run(given), given))
            await asyncio.sleep(0)
            beginning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await beginning
        await turn(store, given)
        states = {record.state for record in (await store.runs(RunQuery())).items}
        assert states <= {"finished", "cancelled"}
        assert (await store.sessions(SessionQuery(status="active"))).total == 0


async def test_caller_cancelled_while_its_run_ends_still_ends_it(home: Path) -> None:
    async with SqliteStore(home) as store:
        given = session(status="active")
        record = run(given)
        await store.begin(record, given)
        ending = asyncio.create_task(store.end(replace(record, state="finished"), given, ANSWER))
        await asyncio.sleep(0)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        await turn(store, given)
        assert (await store.run(record.id)).state == "finished"


async def test_close_stores_pending_updates(home: Path) -> None:
    given = session(status="active")
    record = run(given)
    async with SqliteStore(home) as store:
        await store.begin(record, given)
        await store.update(replace(record, state="running", model="opus"), replace(given, backend_session_id="handle"))
    with database(home) as connection:
        assert connection.execute("SELECT state, model FROM runs").fetchone() == ("running", "opus")
        assert connection.execute("SELECT backend_session_id FROM sessions").fetchone() == ("handle",)
    connection.close()


async def test_update_is_stored_without_another_write(home: Path) -> None:
    given = session(status="active")
    record = run(given)
    async with SqliteStore(home) as store:
        await store.begin(record, given)
        await store.update(record, replace(given, backend_session_id="handle"))
        connection = database(home)
        await until(lambda: connection.execute("SELECT backend_session_id FROM sessions").fetchone() == ("handle",))
        connection.close()


# Processes that died


async def left_behind(home: Path, *said: str) -> tuple[str, str]:
    """Let a process begin a run and die in it; give the ids of session and run."""
    code = """if True:
        import asyncio, os, sys
        from clinvk.store.sqlite.sqlite import SqliteStore
        from records import ANSWER, log, new_id, run, session, turn
        from clinvk.types.events import TextDelta

        async def main():
            store = SqliteStore(sys.argv[1])
            given = session(status="active", backend_session_id="handle")
            record = run(given)
            await store.begin(record, given)
            if said := sys.argv[2:]:
                await store.append({record.id: log(*map(TextDelta, said))})
            print(given.id, record.id, flush=True)
            os.kill(os.getpid(), 9)

        asyncio.run(main())
    """
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, str(home), *said],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    session_id, run_id = done.stdout.split()
    return session_id, run_id


async def test_runs_of_a_dead_process_are_interrupted_and_their_session_can_be_resumed(home: Path) -> None:
    session_id, run_id = await left_behind(home, "half ", "an ans")
    async with SqliteStore(home) as store:
        left = await store.session(session_id)
        assert (left.status, left.backend_session_id) == ("paused", "handle")
        assert left.error_message == "the run was interrupted: its clinvk process ended"
        record = await store.run(run_id)
        assert (record.state, record.error_code, record.error_message) == (
            "interrupted",
            "interrupted",
            left.error_message,
        )
        events = await store.events(run_id)
        assert events[:2] == log(TextDelta("half "), TextDelta("an ans"))
        assert record.ended_at == events[1].at
        (last,) = events[2:]
        assert last.event == RunFailed("interrupted", left.error_message)
        assert last.number > 100_000, "a client may have read many events that were not stored"
        assert (await turn(store, left)).state == "finished"
    assert list((home / "owners").iterdir()) == []


async def test_reads_while_a_store_is_opened_wait_for_recovery(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run_id = await left_behind(home)
    recovering, may_go_on, recover = threading.Event(), threading.Event(), SqliteTurns.recover

    async def late(*given: Any) -> int:
        recovering.set()
        may_go_on.wait(60)
        return await recover(*given)

    monkeypatch.setattr(SqliteTurns, "recover", late)
    async with SqliteStore(home) as store, asyncio.TaskGroup() as group:
        first = group.create_task(store.count())
        await until(recovering.is_set)
        second = group.create_task(store.run(run_id))
        await asyncio.sleep(0.2)
        may_go_on.set()
        assert await first == 1
        assert (await second).state == "interrupted"


async def test_open_store_releases_the_claims_of_a_dead_process(home: Path) -> None:
    async with SqliteStore(home) as store:
        await turn(store, session())
        session_id, run_id = await left_behind(home)
        await turn(store, await store.session(session_id))
        assert (await store.run(run_id)).state == "interrupted"

        session_id, _ = await left_behind(home)
        await store.delete(session_id)

        session_id, run_id = await left_behind(home)
        assert await store.recover() == 1
        assert (await store.run(run_id)).state == "interrupted"
        assert await store.recover() == 0


async def test_runs_of_a_living_process_are_not_interrupted(home: Path) -> None:
    async with SqliteStore(home) as one:
        given = session(status="active")
        record = run(given)
        await one.begin(record, given)
        for _ in range(3):
            async with SqliteStore(home) as other:
                assert (await other.run(record.id)).state == "queued"
                assert await other.recover() == 0
                with pytest.raises(SessionBusy):
                    await other.begin(run(given), given)
        await one.end(replace(record, state="finished"), given, [])


async def test_waiting_run_of_a_dead_process_is_interrupted_and_leaves_the_session_to_its_holder(home: Path) -> None:
    given = session(status="active")
    holder, dead, waiting = run(given), run(given), run(given)
    async with SqliteStore(home) as one:
        await one.begin(holder, given)
        async with SqliteStore(home) as other:
            await other.enqueue(dead, given)
        await one.enqueue(waiting, given)
        await one.recover()
        assert (await one.run(dead.id)).state == "interrupted"
        assert (await one.session(given.id)).status == "active"
        await one.end(replace(holder, state="finished"), given, [])
        assert await one.claim(waiting.id, given.id) is not None


@pytest.mark.parametrize("gone", ["home", "owners", "replaced"])
async def test_process_recreates_its_removed_lock_with_its_next_run(home: Path, gone: str) -> None:
    """The database may be a new one, or restored from a backup together with an unused lock."""
    async with SqliteStore(home) as one:
        earlier = session()
        before = run(earlier)
        await one.begin(before, earlier)
        if gone == "replaced":
            (lock,) = (home / "owners").iterdir()
            lock.unlink()
            lock.touch()
        else:
            shutil.rmtree(home if gone == "home" else home / gone)
        given = session()
        record = run(given)
        await one.begin(record, given)
        async with SqliteStore(home) as other:
            assert await other.recover() == 0
            for under_way in [record] if gone == "home" else [before, record]:
                assert (await other.run(under_way.id)).state == "queued"
            with pytest.raises(SessionBusy):
                await other.begin(run(given), given)
    assert list((home / "owners").iterdir()) == []


async def test_interrupted_run_keeps_its_stored_ending(home: Path) -> None:
    async with SqliteStore(home) as store:
        record = run()
        await store.begin(record, None)
        await store.append({record.id: ANSWER})
    async with SqliteStore(home) as store:
        assert (await store.run(record.id)).state == "interrupted"
        assert await store.events(record.id) == ANSWER


# Migrations


STANDING = sorted(MIGRATIONS.glob("*.sql"))


def migrations(folder: Path, *more: str) -> Path:
    folder.mkdir()
    for number, text in enumerate([*(file.read_text() for file in STANDING), *more], start=1):
        (folder / f"{number:04}_step.sql").write_text(text)
    return folder


async def test_older_database_is_migrated_with_its_data(home: Path, tmp_path: Path) -> None:
    await kept(home)
    more = "ALTER TABLE sessions ADD COLUMN added TEXT;\nCREATE TRIGGER t AFTER DELETE ON runs BEGIN\nSELECT 1;\nEND;\n"
    newer = Database(home, 10, migrations(tmp_path / "more", more, "UPDATE sessions SET added = 'x';"))
    (await asyncio.to_thread(newer.connect)).close()
    with database(home) as connection:
        assert connection.execute("SELECT added FROM sessions").fetchall() == [("x",)]
        assert connection.execute("PRAGMA user_version").fetchone() == (len(STANDING) + 2,)
    connection.close()


async def test_failed_migration_changes_nothing(home: Path, tmp_path: Path) -> None:
    await kept(home)
    broken = migrations(tmp_path / "more", "CREATE TABLE made (x);\nINSERT INTO nowhere VALUES (1);")
    with pytest.raises(StoreUnavailable, match="no such table: nowhere"):
        await asyncio.to_thread(Database(home, 10, broken).connect)
    with database(home) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(STANDING),)
        assert connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'made'").fetchone() is None
    connection.close()


def test_database_can_be_created_concurrently(tmp_path: Path) -> None:
    """Many rounds with frequent thread switches, because one round seldom has a conflict."""
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(16) as threads:
            for number in range(50):
                barrier = threading.Barrier(16)
                made = [threads.submit(_make, tmp_path / str(number), barrier) for _ in range(16)]
                for one in made:
                    one.result()
    finally:
        sys.setswitchinterval(often)


def _make(home: Path, barrier: threading.Barrier) -> None:
    barrier.wait()
    Database(home, 10).connect().close()


# Search


async def test_search_without_fts5_looks_in_title_and_first_prompt(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = session(initial_prompt="Wo ist die STRASSE?")
    async with SqliteStore(home) as store:
        await turn(store, given, prompt="Wo ist die STRASSE?", output="an answer")
        assert (await store.sessions(SessionQuery(text="answer"))).total == 1

    def cannot(_: sqlite3.Connection) -> bool:
        return False

    monkeypatch.setattr(search, "_can_index", cannot)
    async with SqliteStore(home) as store:
        assert not await store.index_runs()
        assert (await store.sessions(SessionQuery(text="answer"))).total == 0
        assert (await store.sessions(SessionQuery(text="straße"))).total == 1
        assert await store.matches("straße", [given.id]) == {}


async def test_deleted_text_leaves_the_index(home: Path) -> None:
    async with SqliteStore(home) as store:
        given = [session(initial_prompt="") for _ in range(3)]
        for one in given:
            await turn(store, one, prompt="unheard-of")
        await turn(store, prompt="ephemeral")
        while await store.index_runs():
            pass
        for one in given:
            await store.delete(one.id)
    connection = database(home)
    assert connection.execute("SELECT * FROM run_words").fetchall() == []
    connection.execute("CREATE VIRTUAL TABLE terms USING fts5vocab (run_words, row)")
    assert connection.execute("SELECT term FROM terms").fetchall() == []
    connection.close()


async def test_changed_text_of_an_indexed_run_is_indexed_again(home: Path) -> None:
    given = session(initial_prompt="")
    async with SqliteStore(home) as store:
        ended = await turn(store, given, output="before")
        assert (await store.sessions(SessionQuery(text="before"))).total == 1
        await store.end(replace(ended, output="after"), None, [])
        assert (await store.sessions(SessionQuery(text="before"))).total == 0
        assert (await store.sessions(SessionQuery(text="after"))).total == 1


# Speed, by its reason


def test_no_list_query_scans_a_table(home: Path) -> None:
    """SQLite's own plan of each statement that a list makes goes by an index."""
    connection = Database(home, 10).connect()
    for kind, value in (("sessions", ""), ("tag", "t"), ("runs", "")):
        connection.execute("INSERT INTO totals VALUES (?, ?, 'claude', 'completed', 1, 0, 1)", (kind, value))
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    places: list[dict[str, str]] = [
        {},
        {"tag": "t"},
        {"working_dir": "/"},
        {"project": "/"},
        {"tag": "t", "project": "/"},
    ]
    for marks, archived in product(places, (False, True, None)):
        for more in ({}, {"backend": "claude"}, {"status": "completed"}, {"resumable": True, "backend": "claude"}):
            lists.sessions(connection, replace(SessionQuery(archived=archived), **marks, **more))
    for marks in ({}, {"session_id": "x"}, {"parent_id": "x"}, {"backend": "claude"}, {"state": "completed"}):
        lists.runs(connection, replace(RunQuery(), **marks))
    lists.count(connection)
    connection.set_trace_callback(None)
    plans = {step[3] for one in set(statements) for step in connection.execute(f"EXPLAIN QUERY PLAN {one}")}
    connection.close()
    assert len(plans) > 5
    assert not [step for step in plans if step.startswith("SCAN") or "TEMP B-TREE FOR GROUP" in step]
    assert not [step for step in plans if "USING INDEX" in step], "it reads rows only to pass over them"


async def test_list_of_interactions_is_read_by_an_index(home: Path) -> None:
    statements: list[str] = []

    class Traced(Database):
        def connect_to_read(self) -> sqlite3.Connection:
            connection = super().connect_to_read()
            connection.set_trace_callback(statements.append)
            return connection

    async with SqliteStore(home, database=Traced(home, 10)) as store:
        for filters in ({}, {"status": "pending"}, {"run_id": "x"}, {"session_id": "x"}):
            assert await store.interactions(replace(InteractionQuery(), **filters)) == []
    statements = [statement for statement in statements if statement.startswith("SELECT")]
    connection = await asyncio.to_thread(Database(home, 10).connect)
    plans = [step[3] for one in statements for step in connection.execute(f"EXPLAIN QUERY PLAN {one}")]
    connection.close()
    assert [plan.partition(" USING INDEX ")[2].split()[0] for plan in plans if "USING INDEX" in plan] == [
        "interactions_in_order",
        "interactions_by_status",
        "interactions_of_run",
        "interactions_of_session",
    ]


def test_importing_the_store_does_not_import_sqlite3() -> None:
    code = "import sys, clinvk.store.sqlite.sqlite, clinvk.store.memory; print('sqlite3' in sys.modules)"
    env = {"PATH": os.environ["PATH"]}  # without what makes a child measure its coverage, in a database of its own
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
