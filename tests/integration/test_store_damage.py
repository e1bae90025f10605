"""Damaged databases stay unchanged, and are reported."""

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
from clinvk.store.rows import Unreadable
from clinvk.store.sqlite.database import Database
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.errors import StoreUnavailable
from clinvk.types.record import Session
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
        Database(tmp_path, lock_timeout_s=1).connect_to_read()
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
async def test_every_operation_succeeds_or_reports_damage(tmp_path: Path, how: str) -> None:
    whole = await filled(tmp_path / "whole")
    chance = random.Random(1)
    for page in range(1, len(whole) // PAGE, 5):
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
        async with SqliteStore(home, lock_timeout_s=1) as store:
            for ask in (
                lambda store=store: store.sessions(SessionQuery()),
                lambda store=store: store.sessions(SessionQuery(text="ppp")),
                lambda store=store: store.sessions(SessionQuery(working_dir="/srv", tag="red")),
                lambda store=store: store.runs(RunQuery()),
                lambda store=store: turn(store, new_session()),
                store.recover,
            ):
                met = ""
                try:
                    await ask()
                except Unreadable as exc:
                    met = exc.message
                assert met in ("", store.damage)


async def test_list_that_meets_damage_is_refused_and_health_and_doctor_report_it(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    home = scripted.folder / ".clinvk"
    data = bytearray(await filled(home))
    async with SqliteStore(home) as store:
        last = (await store.sessions(SessionQuery())).items[-1]
    page = data.index(b"SESSION-0 ") // PAGE
    data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    (home / "clinvk.db").write_bytes(data)
    async with serving(scripted.env) as server:
        assert (await server.client.get("/health")).json()["status"] == "ok"
        listed = await server.client.get("/api/v1/sessions")
        assert (listed.status_code, listed.json()["code"]) == (503, "store_unavailable")
        assert "clinvk doctor" in listed.json()["detail"]
        health = await server.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert "clinvk doctor" in health.json()["warnings"][0]
        assert (await server.client.get("/health/ready")).status_code == 200, "prompts can still be stored"
        changed = await server.client.patch(f"/api/v1/sessions/{last.id}", json={"title": "x"})
        assert (changed.status_code, (await server.prompt(session_id=last.id)).status_code) == (503, 503)
        assert (await server.prompt()).status_code == 200
    found = await asyncio.to_thread(check_store, home)
    assert (found.status, "damaged" in found.message) == ("problem", True)
    await asyncio.to_thread(repair, found.fix)
    async with SqliteStore(home) as store:
        assert len((await store.sessions(SessionQuery())).items) > SESSIONS / 2
        await turn(store, new_session())


def repair(command: str) -> None:
    """Run the command that doctor shows."""
    assert "sqlite3" in command
    if not shutil.which("sqlite3"):
        pytest.skip("the command of doctor needs sqlite3")
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
    async with serving(scripted.env) as server:
        answers = [await server.prompt(), await server.prompt()]
        assert [answer.status_code for answer in answers] == [503, 503]
        assert answers[0].json()["code"] == "store_unavailable"
        assert answers[0].headers["retry-after"]
    assert scripted.calls() == []


async def test_prompts_are_refused_after_the_end_of_a_run_met_damage(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("x")
    scripted.play([*says[:3], wait_for(tmp_path / "go"), *says[3:]])
    async with serving(scripted.env) as server:
        first = await server.detached()
        await until(scripted.calls)
        database = scripted.folder / ".clinvk" / "clinvk.db"
        await asyncio.to_thread(damage_root, database, "sqlite_autoindex_chunks_1")
        (tmp_path / "go").touch()
        await server.ended(first["run_id"])
        assert (await server.prompt()).status_code == 503


async def filled_with_tags(home: Path) -> bytes:
    """Store twelve sessions of several pages; return the bytes of the database."""
    async with SqliteStore(home) as store:
        for number in range(12):
            of = new_session(last_used=1.8e9 + number, tags=("red",), initial_prompt=f"the parser {'p' * 600}")
            await turn(store, of)
    await asyncio.to_thread(checkpoint, home / "clinvk.db")
    return (home / "clinvk.db").read_bytes()


def checkpoint(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize("name", ["totals", "runs_of_owner", "usage", "sessions_in_order"])
async def test_health_tells_whether_prompts_can_be_stored_in_a_damaged_database(scripted: Scripted, name: str) -> None:
    scripted.play(claude_says("x"))
    home = scripted.folder / ".clinvk"
    await filled_with_tags(home)
    await asyncio.to_thread(damage_root, home / "clinvk.db", name)
    async with serving(scripted.env) as server:
        answer = await server.prompt()
        health = (await server.client.get("/health")).json()
        assert health["status"] == ("unhealthy" if answer.status_code == 503 else "degraded"), answer.text


async def test_values_that_are_never_stored_are_damage(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        await turn(store)
    with closing(sqlite3.connect(tmp_path / "clinvk.db")) as connection, connection:
        connection.execute("UPDATE runs SET usage = '{'")
    found = await asyncio.to_thread(check_store, tmp_path)
    assert (found.status, "damaged" in found.message) == ("problem", True), found
