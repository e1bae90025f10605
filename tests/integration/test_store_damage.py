"""What is damaged is left as it is, and found by who looks."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from clinvk.errors import StoreUnavailable
from clinvk.session import Session
from clinvk.store.database import Database
from clinvk.store.sqlite import SqliteStore


def digests(home: Path) -> dict[str, str]:
    return {file.name: hashlib.sha1(file.read_bytes()).hexdigest() for file in home.glob("clinvk.db*")}


async def test_a_header_of_garbage_is_left_alone_with_the_journal_beside_it(tmp_path: Path) -> None:
    writing, copy = SqliteStore(tmp_path / "a"), tmp_path / "b"
    async with writing:
        await writing.count()
        copy.mkdir()
        for file in (tmp_path / "a").glob("clinvk.db*"):  # as after a kill: the journal is not yet in the database
            (copy / file.name).write_bytes(file.read_bytes())
    with (copy / "clinvk.db").open("r+b") as file:
        file.write(b"x" * 100)
    before = digests(copy)
    async with SqliteStore(copy) as store:
        with pytest.raises(StoreUnavailable, match="damaged"):
            await store.count()
    assert digests(copy) == before


async def test_a_look_finds_damage_behind_the_header(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        await store.count()
    size = (tmp_path / "clinvk.db").stat().st_size
    with (tmp_path / "clinvk.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(StoreUnavailable, match="damaged"):
        await asyncio.to_thread(Database(tmp_path, 1).peek)


async def test_damage_that_a_run_met_is_told_until_another_file_is_in_its_place(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        await store.create(session(1))
    whole = (tmp_path / "clinvk.db").read_bytes()
    with (tmp_path / "clinvk.db").open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096 * 4))
    async with SqliteStore(tmp_path) as store:
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="damaged"):
                await store.create(session(2))
            with pytest.raises(StoreUnavailable, match="damaged"):
                await store.count()
        (tmp_path / "copy").write_bytes(whole)
        for journal in tmp_path.glob("clinvk.db-*"):
            journal.unlink()
        (tmp_path / "copy").rename(tmp_path / "clinvk.db")
        await store.create(session(2))
        assert await store.count() == 2


def session(number: int) -> Session:
    return Session(
        id=f"{number:032x}", backend="claude", created_at=1.0, last_used=1.0, working_dir="/", initial_prompt="hi"
    )


def test_a_file_that_cannot_be_read_is_not_held_open(tmp_path: Path) -> None:
    path = tmp_path / "clinvk.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreUnavailable) as raised:
        Database(tmp_path, patience_s=1).connect_to_read()
    assert str(path) in raised.value.message
    assert str(path) not in [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
