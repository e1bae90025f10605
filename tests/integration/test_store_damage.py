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
from clinvk.store.sqlite.database import Database
from clinvk.store.sqlite.examination import examine
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


async def test_examine_finds_damage_behind_the_header(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path) as store:
        await store.count()
    size = (tmp_path / "clinvk.db").stat().st_size
    with (tmp_path / "clinvk.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(StoreUnavailable, match="damaged"):
        await asyncio.to_thread(examine, tmp_path, 1)


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
        async with SqliteStore(home, lock_timeout_s=1) as store:
            try:
                for query in (
                    SessionQuery(),
                    SessionQuery(text="ppp"),
                    SessionQuery(working_dir="/srv"),
                    SessionQuery(working_dir="/srv", tag="red"),
                ):
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
    async with serving(scripted.env) as server:
        assert (await server.client.get("/health")).json()["status"] == "ok"
        listed = (await server.client.get("/api/v1/sessions")).json()
        assert listed["total"] == SESSIONS
        assert 0 < listed["unreadable"] == SESSIONS - len(listed["sessions"]) < SESSIONS / 2
        health = await server.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert "clinvk doctor" in health.json()["warnings"][0]
        assert (await server.client.get("/health/ready")).status_code == 200, "prompts can still be stored"
        one = await server.client.get(f"/api/v1/sessions/{last.id}")
        assert (one.status_code, one.json()["code"]) == (503, "store_unavailable")
    found = await asyncio.to_thread(check_store, home)
    assert (found.status, "damaged" in found.message) == ("warning", True)
    await asyncio.to_thread(repair, found.fix)
    async with SqliteStore(home) as store:
        kept = await store.sessions(SessionQuery())
        assert len(kept.items) > SESSIONS / 2
        assert kept.unreadable == 0
        await turn(store, new_session())


def repair(command: str) -> None:
    """Run the command that doctor shows."""
    assert "sqlite3" in command
    if shutil.which("sqlite3"):
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


LISTS = (
    "/api/v1/sessions",
    "/api/v1/sessions?status=completed&backend=claude",
    "/api/v1/sessions?tag=red",
    "/api/v1/sessions?q=parser",
    "/api/v1/runs",
    "/api/v1/runs?state=finished",
)


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


def replace_database(home: Path, data: bytes | bytearray) -> None:
    (home / "copy").write_bytes(data)
    for journal in home.glob("clinvk.db-*"):
        journal.unlink()
    (home / "copy").rename(home / "clinvk.db")


def pages_of(database: Path) -> dict[int, str]:
    """Return the root pages of tables and indexes, with the names."""
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute("SELECT rootpage, name FROM sqlite_master WHERE rootpage > 1"))


async def test_every_list_answers_whatever_page_is_damaged(scripted: Scripted) -> None:
    """A list skips what cannot be read. Only a damaged schema makes every list unavailable."""
    home = scripted.folder / ".clinvk"
    whole = await filled_with_tags(home)
    names = await asyncio.to_thread(pages_of, home / "clinvk.db")
    async with serving(scripted.env) as server:
        paths = [path for path in LISTS if (await server.client.get(path)).json()["total"] == 12]
        assert paths == list(LISTS)
        for page in range(1, len(whole) // PAGE):
            data = bytearray(whole)
            data[page * PAGE : (page + 1) * PAGE] = b"\xa5" * PAGE
            await asyncio.to_thread(replace_database, home, data)
            name = names.get(page + 1, "")
            answers = [await server.client.get(path) for path in (*paths, "/api/v1/usage?since=2020-01-01")]
            if all(answer.status_code == 503 for answer in answers):
                assert not name, "a page of the schema"
                continue
            for answer in answers[:-1]:
                assert answer.status_code == 200, (page, name, answer.url, answer.text)
                shown = answer.json()
                items = shown.get("sessions", shown.get("runs"))
                if name not in ("sessions", "runs"):
                    assert len(items) + shown.get("unreadable", 0) == shown["total"] == 12, (page, name, answer.url)
            assert answers[-1].status_code == (503 if name == "usage" else 200)
            assert all(answer.status_code == 200 or answer.headers["retry-after"] for answer in answers)


@pytest.mark.parametrize("name", ["totals", "runs_of_owner", "usage", "sessions_in_order"])
async def test_server_starts_with_a_damaged_page_and_lists_what_is_stored(scripted: Scripted, name: str) -> None:
    home = scripted.folder / ".clinvk"
    await filled_with_tags(home)
    await asyncio.to_thread(damage_root, home / "clinvk.db", name)
    async with serving(scripted.env) as server:
        for path in LISTS:
            answer = await server.client.get(path)
            assert (answer.status_code, answer.json().get("total")) == (200, 12), (path, answer.text)
        answer = await server.prompt()
        health = (await server.client.get("/health")).json()
        assert health["status"] == ("unhealthy" if answer.status_code == 503 else "degraded"), answer.text


async def test_damage_to_one_session_refuses_its_prompts_only(scripted: Scripted) -> None:
    """`doctor` warns, but clinvk stays usable."""
    scripted.play(claude_says("x"))
    home = scripted.folder / ".clinvk"
    data = bytearray(await filled(home))
    page = data.index(b"SESSION-0 ") // PAGE
    async with SqliteStore(home) as store:
        last = (await store.sessions(SessionQuery())).items[-1]
    await asyncio.to_thread(checkpoint, home / "clinvk.db")
    data = bytearray((home / "clinvk.db").read_bytes())
    data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    (home / "clinvk.db").write_bytes(data)
    async with serving(scripted.env) as server:
        changed = await server.client.patch(f"/api/v1/sessions/{last.id}", json={"title": "x"})
        refused = await server.prompt(session_id=last.id)
        assert (changed.status_code, refused.status_code) == (503, 503)
        assert (await server.prompt()).status_code == 200
        health = await server.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
    found = await asyncio.to_thread(check_store, home)
    assert (found.status, "sqlite3" in found.message) == ("warning", True), found


@pytest.mark.parametrize(
    ("name", "status"), [("chunks", "problem"), ("totals", "problem"), ("sessions_of_directory", "problem")]
)
async def test_doctor_finds_no_room_for_prompts_if_their_pages_are_damaged(
    tmp_path: Path, name: str, status: str
) -> None:
    await filled_with_tags(tmp_path)
    await asyncio.to_thread(damage_root, tmp_path / "clinvk.db", name)
    before = (tmp_path / "clinvk.db").read_bytes()
    found = await asyncio.to_thread(check_store, tmp_path)
    assert (found.status, "sqlite3" in found.message) == (status, True), found
    assert (tmp_path / "clinvk.db").read_bytes() == before
