"""What the writer owes: operations that must happen, and could not while another program held the database."""

import logging
import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.errors import StoreUnavailable
from clinvk.store.database import Database
from clinvk.store.sqlite import SqliteStore
from clinvk.store.writer import Writer
from records import ANSWER, run, session

PATIENCE_S = 0.1


def locked(home: Path) -> sqlite3.Connection:
    """Hold the database as another program would, once the store is at rest."""
    connection = sqlite3.connect(home / "clinvk.db", isolation_level=None, timeout=5)
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def test_an_end_that_another_program_was_in_the_way_of_is_kept_at_the_close(tmp_path: Path) -> None:
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


async def test_an_end_that_is_never_kept_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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


async def test_what_is_owed_is_bounded_and_what_is_let_go_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []
    writer = Writer(Database(tmp_path, PATIENCE_S), lambda _: None, max_owed=2)
    await writer.write(lambda _: None)
    other = locked(tmp_path)
    for number in range(3):
        with pytest.raises(StoreUnavailable):
            await writer.write(lambda _, number=number: done.append(number), must=True)
    other.close()
    await writer.close()
    assert done == [1, 2]
    (told,) = [line.getMessage() for line in caplog.records if line.levelno == logging.ERROR]
    assert told.startswith("the ends of 1 runs are not kept: ")
