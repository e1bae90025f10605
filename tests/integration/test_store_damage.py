"""What is damaged is left as it is, and found by who looks."""

import asyncio
import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.cli.admin.doctor.machine import check_store
from clinvk.store.protocol import RunQuery, SessionQuery
from clinvk.store.sqlite.database import Database
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.errors import StoreUnavailable
from clinvk.types.session import Session
from polling import until
from records import ANSWER, run, turn
from records import session as new_session
from scripted import Scripted
from scripted.steps import claude_says, wait_for
from serving import serving

PAGE = 4096


def digests(home: Path) -> dict[str, str]:
    return {file.name: hashlib.sha1(file.read_bytes()).hexdigest() for file in home.glob("clinvk.db*")}


def damage_root(database: Path, name: str) -> None:
    """Overwrite the first page of a table or an index."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    with database.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xa5" * PAGE)


async def test_database_with_a_garbage_header_and_its_journal_are_left_unchanged(tmp_path: Path) -> None:
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


async def test_peek_finds_damage_behind_the_header(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        await store.count()
    size = (tmp_path / "clinvk.db").stat().st_size
    with (tmp_path / "clinvk.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(StoreUnavailable, match="damaged"):
        await asyncio.to_thread(Database(tmp_path, 1).peek)


async def test_damage_is_reported_until_the_file_is_replaced(tmp_path: Path) -> None:
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


def test_unreadable_file_is_not_held_open(tmp_path: Path) -> None:
    path = tmp_path / "clinvk.db"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreUnavailable) as raised:
        Database(tmp_path, patience_s=1).connect_to_read()
    assert str(path) in raised.value.message
    assert str(path) not in [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]


SESSIONS = 40


async def filled(home: Path) -> bytes:
    """Fill a database with long sessions, each a page or more; return its bytes."""
    async with SqliteStore(home) as store:
        for number in range(SESSIONS):
            given = new_session(
                status="active", last_used=1e9 + number, initial_prompt=f"SESSION-{number} {'p' * 3000}"
            )
            record = run(given, prompt="p" * 3000)
            await store.begin(record, given)
            await store.end(replace(record, state="finished"), replace(given, status="completed"), ANSWER)
    return (home / "clinvk.db").read_bytes()


@pytest.mark.parametrize("how", ["zeros", "garbage", "bits"])
async def test_damaged_page_is_skipped_or_reported(tmp_path: Path, how: str) -> None:
    """No list ends with an error of the program, and most damage costs some items only."""
    whole = await filled(tmp_path / "whole")
    chance = random.Random(1)
    refused = 0
    pages = range(1, len(whole) // PAGE, 5)
    for page in pages:
        data = bytearray(whole)
        at = slice(page * PAGE, (page + 1) * PAGE)
        if how == "bits":
            for _ in range(30):
                data[at.start + chance.randrange(PAGE)] ^= 1 << chance.randrange(8)
        else:
            data[at] = bytes(PAGE) if how == "zeros" else b"\xa5" * PAGE
        home = tmp_path / str(page)
        home.mkdir()
        (home / "clinvk.db").write_bytes(data)
        async with SqliteStore(home, patience_s=1) as store:
            try:
                for query in (SessionQuery(), SessionQuery(text="ppp"), SessionQuery(working_dir="/srv")):
                    await store.sessions(query)
                for listed in (await store.runs(RunQuery())).items:
                    await store.events(listed.id)
                await store.recover()
            except StoreUnavailable:
                refused += 1
    assert refused < len(pages) / 3


async def test_lists_skip_damaged_items_and_health_and_doctor_report_them(scripted: Scripted) -> None:
    home = scripted.folder / ".clinvk"
    data = bytearray(await filled(home))
    async with SqliteStore(home) as store:
        last = (await store.sessions(SessionQuery())).items[-1]
    page = data.index(b"SESSION-0 ") // PAGE
    data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    (home / "clinvk.db").write_bytes(data)
    async with serving(scripted.env) as served:
        assert (await served.client.get("/health")).json()["status"] == "ok"
        listed = (await served.client.get("/api/v1/sessions")).json()
        assert listed["total"] == SESSIONS
        assert 0 < listed["unreadable"] == SESSIONS - len(listed["sessions"]) < SESSIONS / 2
        health = await served.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert "clinvk doctor" in health.json()["warnings"][0]
        assert (await served.client.get("/health/ready")).status_code == 200, "prompts can still be stored"
        one = await served.client.get(f"/api/v1/sessions/{last.id}")
        assert (one.status_code, one.json()["code"]) == (503, "store_unavailable")
    found = await asyncio.to_thread(check_store, home)
    assert (found.status, "damaged" in found.message) == ("problem", True)
    await asyncio.to_thread(repaired_as_told, found.message)
    async with SqliteStore(home) as store:
        kept = await store.sessions(SessionQuery())
        assert len(kept.items) > SESSIONS / 2
        assert kept.unreadable == 0
        await turn(store, new_session())


def repaired_as_told(message: str) -> None:
    if shutil.which("sqlite3"):
        command = message.partition("sqlite3): ")[2]
        subprocess.run(["sh", "-c", command], check=True, timeout=60)


@pytest.mark.parametrize("name", ["chunks", "sqlite_autoindex_chunks_1", "usage", "runs"])
async def test_prompt_whose_end_could_not_be_stored_is_refused_before_its_agent_starts(
    scripted: Scripted, name: str
) -> None:
    scripted.play(claude_says("x"))
    home = scripted.folder / ".clinvk"
    async with SqliteStore(home) as store:
        await turn(store)
    await asyncio.to_thread(damage_root, home / "clinvk.db", name)
    async with serving(scripted.env) as served:
        answers = [await served.prompt(), await served.prompt()]
        assert [answer.status_code for answer in answers] == [503, 503]
        assert answers[0].json()["code"] == "store_unavailable"
        assert answers[0].headers["retry-after"]
    assert scripted.calls() == []


async def test_prompts_are_refused_after_the_end_of_a_run_met_damage(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("x")
    scripted.play([*says[:3], wait_for(tmp_path / "go"), *says[3:]])
    async with serving(scripted.env) as served:
        first = await served.detached()
        await until(scripted.calls)
        database = scripted.folder / ".clinvk" / "clinvk.db"
        await asyncio.to_thread(damage_root, database, "sqlite_autoindex_chunks_1")
        (tmp_path / "go").touch()
        await served.ended(first["run_id"])
        assert (await served.prompt()).status_code == 503
