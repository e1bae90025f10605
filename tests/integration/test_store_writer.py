"""The writer's duties while another program locks the database, with bounded waits."""

import asyncio
import logging
import sqlite3
import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.store.sqlite import sqlite
from clinvk.store.sqlite.database import Database
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.store.sqlite.threads import WriterThread
from clinvk.types.errors import StoreUnavailable
from polling import until
from records import ANSWER, run, session, turn

PATIENCE_S = 0.1


def locked(home: Path) -> sqlite3.Connection:
    """Hold the database as another program would, once the store is at rest."""
    connection = sqlite3.connect(home / "clinvk.db", isolation_level=None, timeout=5)
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def test_end_blocked_by_another_program_is_stored_on_close(tmp_path: Path) -> None:
    given = session(status="active")
    record = run(given)
    async with SqliteStore(tmp_path, PATIENCE_S) as store:
        await store.begin(record, given)
        other = locked(tmp_path)
        with pytest.raises(StoreUnavailable):
            await store.end(replace(record, state="finished"), replace(given, status="completed"), ANSWER)
        other.close()
    async with SqliteStore(tmp_path) as store:
        assert (await store.run(record.id)).state == "finished"
        assert await store.events(record.id) == ANSWER


async def test_end_that_is_never_stored_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = session(status="active")
    record = run(given)
    async with SqliteStore(tmp_path, PATIENCE_S) as store:
        await store.begin(record, given)
        other = locked(tmp_path)
        with pytest.raises(StoreUnavailable):
            await store.end(replace(record, state="finished"), given, ANSWER)
    other.close()
    (told,) = [line.getMessage() for line in caplog.records if line.levelno == logging.ERROR]
    assert told.startswith("the ends of 1 runs are not kept: ")
    assert told.endswith(f"another program has held its lock for {PATIENCE_S:g} s")


async def test_failed_required_write_is_logged_after_its_caller_is_cancelled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = WriterThread(Database(tmp_path, PATIENCE_S), lambda _: None)
    await writer.write(lambda _: None)
    other = locked(tmp_path)
    writing = asyncio.create_task(writer.write(lambda _: None, retry=True))
    asyncio.get_running_loop().call_soon(writing.cancel)
    await until(lambda: [line for line in caplog.messages if "another program has held its lock" in line])
    other.close()
    await writer.close()


async def test_deferred_write_runs_soon_after_the_write_before_it_is_cancelled(tmp_path: Path) -> None:
    done: list[str] = []
    writer = WriterThread(Database(tmp_path, PATIENCE_S), lambda _: None)
    await writer.write(lambda _: None)
    writing = asyncio.create_task(writer.write(lambda _: done.append("now")))
    asyncio.get_running_loop().call_soon(lambda: writer.schedule("key", lambda _: done.append("later")))
    asyncio.get_running_loop().call_soon(writing.cancel)
    await until(lambda: done)
    await writer.close()
    assert done == ["later"]


async def test_deferred_write_runs_soon_under_constant_writes(tmp_path: Path) -> None:
    done: list[str] = []
    writer = WriterThread(Database(tmp_path, PATIENCE_S), lambda _: None)
    await writer.write(lambda _: None)

    def writing(go_on: threading.Event) -> asyncio.Task[bool]:
        return asyncio.create_task(writer.write(lambda _: go_on.wait(30)))

    go_on = threading.Event()
    present = writing(go_on)
    asyncio.get_running_loop().call_soon(lambda: writer.schedule("key", lambda _: done.append("later")))
    async with asyncio.timeout(30):
        while not done:
            await asyncio.sleep(0)
            following = threading.Event()
            next_one = writing(following)
            await asyncio.sleep(0)
            go_on.set()
            await present
            go_on, present = following, next_one
    go_on.set()
    await present
    await writer.close()


async def test_write_after_close_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = WriterThread(Database(tmp_path, PATIENCE_S), lambda _: None)
    await writer.write(lambda _: None)
    await writer.close()
    for must in (False, True):
        with pytest.raises(StoreUnavailable, match="is closed"):
            await writer.write(lambda _: None, retry=must)
    writer.submit(lambda _: None)
    writer.schedule("key", lambda _: None)
    await until(lambda: len([line for line in caplog.messages if "is closed" in line]) == 2)


async def test_faulty_commit_callback_does_not_prevent_other_transactions(tmp_path: Path) -> None:
    faults: list[object] = []
    has_begun, go_on = threading.Event(), threading.Event()

    def fail_until_faults(_: float) -> None:
        if not faults:
            raise RuntimeError("a fault")

    def first(connection: sqlite3.Connection) -> None:
        has_begun.set()
        go_on.wait(30)
        connection.execute("CREATE TABLE made (it)")
        connection.execute("INSERT INTO made VALUES (1)")

    writer = WriterThread(Database(tmp_path, PATIENCE_S), lambda _: None, on_commit=fail_until_faults)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
    writing = asyncio.create_task(writer.write(first))
    await until(has_begun.is_set)
    another = asyncio.create_task(writer.write(lambda _: "done"))
    await asyncio.sleep(0)
    go_on.set()
    await writing
    assert await another == "done"
    await writer.close()
    assert [str(fault) for fault in faults] == ["a fault"]


async def test_store_is_unavailable_while_a_write_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that does not answer: reads still work, but no prompt can be stored."""
    monkeypatch.setattr(sqlite, "_BEGIN_TIMEOUT_S", 0.5)
    monkeypatch.setattr(sqlite, "_HANGS_AFTER_S", 0.5)
    async with SqliteStore(tmp_path, lock_timeout_s=60) as store:
        assert await store.count() == 0
        other = locked(tmp_path)
        given = session(status="active")
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.begin(run(given), given)
        async with asyncio.timeout(30):
            while True:
                try:
                    await store.count()
                except StoreUnavailable as exc:
                    assert "does not answer" in exc.message  # noqa: PT017
                    break
                await asyncio.sleep(0.1)
        other.close()
        async with asyncio.timeout(30):
            await turn(store, session())
        assert await store.count() == 2
        assert (await store.session(given.id)).status == "paused", "the run was withdrawn"
