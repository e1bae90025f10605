"""Many processes on one home, some of which die."""

import asyncio
import os
import random
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clinvk.store.protocol import RunQuery, SessionQuery
from clinvk.store.sqlite.sqlite import SqliteStore
from records import ANSWER, turn

WRITE = """if True:
    import asyncio, sys
    from clinvk.store.sqlite.sqlite import SqliteStore
    from records import session, turn

    async def write(store, many):
        for _ in range(many):
            given = session(tags=("t",), working_dir=sys.argv[3])
            await turn(store, given)
            print(given.id, flush=True)

    async def main(home, at_once, many):
        async with SqliteStore(home) as store:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(write(store, many))

    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[4])))
"""
"""Keeps turns of new sessions, several at once, and tells each when it is kept."""


@asynccontextmanager
async def writing(home: Path, at_once: int, many: int) -> AsyncGenerator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITE, str(home), str(at_once), "/project", str(many)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def printed_words(process: Process) -> list[str]:
    assert process.stdout
    return (await process.stdout.read()).decode().split()


def check(home: Path) -> None:
    """Check that the database is intact, and that each total is the sum of its parts."""
    connection = sqlite3.connect(home / "clinvk.db")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    counted = connection.execute(
        "SELECT 'sessions', '', backend, status, resumable, archived, count(*) FROM sessions GROUP BY 3, 4, 5, 6"
        " UNION ALL SELECT 'tag', tag, backend, status, resumable, archived, count(*) FROM session_tags"
        " GROUP BY 2, 3, 4, 5, 6 UNION ALL SELECT 'runs', '', backend, state, 0, 0, count(*) FROM runs GROUP BY 3, 4"
    ).fetchall()
    totals = connection.execute("SELECT * FROM totals WHERE total > 0").fetchall()
    connection.close()
    assert sorted(totals) == sorted(counted)


async def test_twenty_processes_store_each_session_once(tmp_path: Path) -> None:
    """A concurrent reader sees complete sessions only."""

    async def keep() -> list[str]:
        async with writing(tmp_path, 2, 12) as process:
            kept = await printed_words(process)
            assert await process.wait() == 0
            return kept

    async with SqliteStore(tmp_path) as reading:
        everything = asyncio.gather(*(keep() for _ in range(20)))
        while not everything.done():
            page = await reading.sessions(SessionQuery(status="completed", limit=5))
            for run in (await reading.runs(RunQuery(state="finished", limit=5))).items:
                assert await reading.events(run.id) == ANSWER
            assert all(one.turn_count == 1 for one in page.items)
            await asyncio.sleep(0.01)
        kept = [session_id for some in everything.result() for session_id in some]
        assert len(kept) == 480
        listed = [one.id for one in (await reading.sessions(SessionQuery(limit=1000))).items]
        assert sorted(listed) == sorted(kept)
        assert (await reading.runs(RunQuery(state="finished"))).total == 480
    check(tmp_path)


@pytest.mark.slow
async def test_killed_process_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    source = random.Random(7)
    kept: list[str] = []
    interrupted = 0
    for _ in range(24):
        async with writing(tmp_path, 6, 10_000) as process:
            assert process.stdout
            kept.append((await process.stdout.readline()).decode().strip())
            await asyncio.sleep(source.random() * 0.08)
            process.send_signal(signal.SIGKILL)
            lines = (await process.stdout.read()).decode().splitlines(keepends=True)
            kept.extend(line.strip() for line in lines if line.endswith("\n"))
        async with SqliteStore(tmp_path) as store:
            assert (await store.sessions(SessionQuery(status="active"))).total == 0
            left = (await store.runs(RunQuery(state="interrupted", limit=1000))).items
            assert (await store.runs(RunQuery(state="queued"))).total == 0
            assert (await store.runs(RunQuery(state="running"))).total == 0
            interrupted = len(left)
            for run in left[:6]:
                assert run.session_id
                assert (await store.session(run.session_id)).status == "paused"
    async with SqliteStore(tmp_path) as store:
        finished = await store.sessions(SessionQuery(status="completed", limit=1_000_000))
        assert set(kept) <= {one.id for one in finished.items}
        assert interrupted > 24, "they were not killed at work"
        for session_id in kept[-20:]:
            (run,) = (await store.runs(RunQuery(session_id=session_id))).items
            assert run.state == "finished"
            assert await store.events(run.id) == ANSWER
        for one in (await store.sessions(SessionQuery(status="paused", limit=10))).items:
            await turn(store, one)
    assert list((tmp_path / "owners").iterdir()) == []
    check(tmp_path)
