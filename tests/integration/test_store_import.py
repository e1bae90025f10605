"""The import of the sessions of earlier clinvks."""

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from clinvk.store.protocol import SessionQuery
from clinvk.store.sqlite.legacy import DamagedFile, ImportReport
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.errors import SessionNotFound
from records import new_id, session, turn

OLD = 1_600_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sessions").mkdir()
    return tmp_path / "sessions"


def write(folder: Path, **fields: object) -> Path:
    """Write a session's file, which is not of this moment."""
    fields = {"id": new_id(), "backend": "claude", "created_at": OLD, "last_used": OLD, **fields}
    path = folder / f"{fields['id']}.json"
    path.write_text(json.dumps(fields))
    age(path)
    return path


def age(*paths: Path) -> None:
    """Make it some time ago that files changed; the time has no finer steps than the moments between two imports."""
    for path in paths:
        os.utime(path, (time.time() - 60, time.time() - 60))


async def test_sessions_are_imported_once_and_their_files_stay_unchanged(folder: Path) -> None:
    files = [write(folder, initial_prompt=f"number {number}", tags=["old"]) for number in range(5)]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    async with SqliteStore(folder.parent) as store:
        imported = await store.import_earlier()
        assert (imported.count, imported.damaged) == (5, ())
        assert (await store.sessions(SessionQuery(tag="old", text="number"))).total == 5
        assert (await store.import_earlier()).count == 0
    async with SqliteStore(folder.parent) as store:
        assert (await store.import_earlier()).count == 0
        assert await store.count() == 5
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == before


async def test_import_does_not_undo_changes_to_a_session(folder: Path) -> None:
    """An earlier clinvk may still write to the file."""
    changed, deleted = write(folder, id="a" * 32), write(folder, id="b" * 32)
    async with SqliteStore(folder.parent) as store:
        await store.import_earlier()
        await store.describe("a" * 32, "renamed", None)
        await store.delete("b" * 32)
        for path in (changed, deleted):
            path.write_text(path.read_text().replace("claude", "codex"))
        write(folder, id="c" * 32)
        assert (await store.import_earlier()).count == 1
        kept = await store.session("a" * 32)
        assert (kept.title, kept.backend) == ("renamed", "claude")
        with pytest.raises(SessionNotFound):
            await store.session("b" * 32)


@pytest.mark.parametrize("settled", [False, True])
async def test_file_added_later_is_imported(folder: Path, settled: bool) -> None:
    write(folder)
    if settled:
        age(folder)
    async with SqliteStore(folder.parent) as store:
        await store.import_earlier()
        assert (await store.import_earlier()).count == 0
        write(folder)
        assert (await store.import_earlier()).count == 1


async def test_damaged_files_are_reported_once_and_skipped(folder: Path) -> None:
    good = write(folder)
    broken, no_session = folder / "broken.json", folder / "index.json"
    broken.write_bytes(good.read_bytes()[:20])
    no_session.write_text('{"sessions": []}')
    (folder / "notes.txt").write_text("no session")
    (folder / "folder.json").mkdir()
    age(broken, no_session, folder)
    async with SqliteStore(folder.parent) as store:
        imported = await store.import_earlier()
        assert imported.count == 1
        damaged = {damage.file.name: damage.reason for damage in imported.damaged}
        assert set(damaged) == {"broken.json", "index.json"}
        assert damaged["broken.json"].startswith("it is not a JSON object")
        assert damaged["index.json"] == "it names no backend"
        assert (await store.import_earlier()).damaged == ()

        broken.write_bytes(good.read_bytes().replace(good.stem.encode(), new_id().encode()))
        age(folder)
        again = await store.import_earlier()
        assert (again.count, again.damaged) == (1, ())


async def test_irregular_files_are_ignored(folder: Path) -> None:
    (folder / "loop.json").symlink_to("loop.json")
    (folder / "gone.json").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.json")
    write(folder)
    async with SqliteStore(folder.parent) as store:
        imported = await store.import_earlier()
        assert (imported.count, imported.damaged) == (1, ())


async def test_home_without_earlier_sessions_has_nothing_to_import(tmp_path: Path) -> None:
    async with SqliteStore(tmp_path / "home") as store:
        assert await store.import_earlier() == ImportReport(0, ())
        (tmp_path / "home" / "sessions").write_text("a file")
        assert await store.import_earlier() == ImportReport(
            0, (DamagedFile(tmp_path / "home" / "sessions", "Not a directory"),)
        )


async def test_age_of_an_imported_session_counts_from_its_import(folder: Path) -> None:
    write(folder, id="a" * 32)
    async with SqliteStore(folder.parent) as store:
        await store.create(session(id="b" * 32, last_used=OLD))
        began = time.time()
        await store.import_earlier()
        assert (await store.session("a" * 32)).last_used == OLD
        assert await store.clean(began - 1, dry_run=True) == 1
        assert await store.clean(began - 1) == 1
        assert await store.count() == 1
        assert await store.clean(time.time() + 1) == 1
        assert (await store.import_earlier()).count == 0


async def test_two_stores_may_import_concurrently(folder: Path) -> None:
    for _ in range(300):
        write(folder)
    async with SqliteStore(folder.parent) as one, SqliteStore(folder.parent) as other:
        imported = await asyncio.gather(one.import_earlier(), other.import_earlier())
        assert sum(some.count for some in imported) == 300
        assert await one.count() == 300


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_importing_ten_thousand_files_does_not_delay_runs(folder: Path) -> None:
    """Runs are kept meanwhile; and the next start has next to nothing to look at."""
    for _ in range(10_000):
        write(folder, initial_prompt="explain the parser")
    age(folder)
    async with SqliteStore(folder.parent) as store:
        began = time.process_time()
        importing = asyncio.create_task(store.import_earlier())
        meanwhile = 0
        while not importing.done():
            await turn(store, session())
            meanwhile += 1
        first_s = time.process_time() - began
        assert importing.result().count == 10_000
        assert meanwhile >= 50
        assert (await store.sessions(SessionQuery(text="parser"))).total == 10_000 + meanwhile
    async with SqliteStore(folder.parent) as store:
        await store.count()
        began = time.process_time()
        assert (await store.import_earlier()).count == 0
        assert time.process_time() - began < first_s / 20
