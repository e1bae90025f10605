"""The store alone: turns a second, lists and counts, beside the same in bare sqlite3 on a file of the same size."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import uvloop
from msgspec.structs import replace

from bench.report import Budget, Figure
from bench.workplace import Workplace
from clinvk.store.protocol import SessionQuery
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.events import Logged, RunFinished, RunStarted, TextDelta, Usage
from clinvk.types.record import RunRecord, Session

_SIZES = (10_000, 100_000)
_AT_ONCE = 500
_CLIENTS = 16
_TURNS = 2000
_ASKED = 100
_LIST_MS = 2
_COUNT_MS = 1
_NEWEST = SessionQuery(limit=20)
_NONE = SessionQuery(backend="claude", status="error", limit=20)
_EVENTS = (
    Logged(1, 1.0, RunStarted("m", "handle")),
    Logged(2, 2.0, TextDelta("an answer")),
    Logged(3, 3.0, RunFinished()),
)
_BARE = (
    "CREATE TABLE sessions (id TEXT PRIMARY KEY, last_used REAL, prompt TEXT);"
    "CREATE TABLE runs (id TEXT PRIMARY KEY, session TEXT, state TEXT, output TEXT);"
    "CREATE INDEX newest ON sessions (last_used)"
)


def store(place: Workplace) -> list[Figure]:
    """Look at stores of two sizes."""
    return [figure for size in _SIZES for figure in uvloop.run(_sized(place, place.some(size)))]


async def _sized(place: Workplace, size: int) -> list[Figure]:
    home = place.root / f"store-{size}"
    async with SqliteStore(home) as kept:
        for first in range(0, size, _AT_ONCE):
            await asyncio.gather(*(kept.create(_session(number)) for number in range(first, first + _AT_ONCE)))
        with _bare(home / "bare.db", size) as bare:
            return await _figures(place, kept, bare, size)


async def _figures(place: Workplace, kept: SqliteStore, bare: sqlite3.Connection, size: int) -> list[Figure]:
    turns, lists, none, counts, bare_turns, bare_lists, bare_counts = (list[float]() for _ in range(7))
    count, asked = place.some(_TURNS), place.some(_ASKED)
    for _ in range(place.rounds):
        lists.append(await _median_ms(lambda: kept.sessions(_NEWEST), asked))
        bare_lists.append(_bare_ms(lambda: _newest(bare), asked))
        none.append(await _median_ms(lambda: kept.sessions(_NONE), asked))
        counts.append(await _median_ms(kept.count, asked))
        bare_counts.append(_bare_ms(lambda: bare.execute("SELECT count(*) FROM sessions").fetchone(), asked))
        turns.append(await _rate(kept, count))
        bare_turns.append(_bare_rate(bare, count))

    def figure(
        name: str, unit: str, ours: list[float], peer_name: str, peer: list[float], budget: Budget | None = None
    ) -> Figure:
        name = f"{name}, {size:,} sessions"
        return Figure(name=name, unit=unit, ours=ours, peer_name=peer_name, peer=peer, budget=budget)

    return [
        figure(f"turns kept, {_CLIENTS} at once", "/s", turns, "bare sqlite3, one by one", bare_turns),
        figure("list of 20", "ms", lists, "bare sqlite3", bare_lists, Budget("at most", _LIST_MS)),
        figure("list that finds nothing", "ms", none, "list of 20", lists, Budget("at most", _LIST_MS)),
        figure("count", "ms", counts, "bare sqlite3", bare_counts, Budget("at most", _COUNT_MS)),
    ]


async def _rate(kept: SqliteStore, count: int) -> float:
    left = count

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await _turn(kept, _session(left))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(_CLIENTS):
            group.create_task(client())
    return count / (time.perf_counter() - began)


async def _turn(kept: SqliteStore, session: Session) -> None:
    run = RunRecord(
        id=os.urandom(16).hex(),
        backend=session.backend,
        prompt=session.initial_prompt,
        state="queued",
        created_at=time.time(),
        session_id=session.id,
    )
    await kept.begin(run, session)
    session = replace(session, backend_session_id=session.id, turn_count=1)
    await kept.update(replace(run, state="running"), session)
    run = replace(run, state="finished", ended_at=time.time(), usage=Usage(9, 3), output="an answer")
    await kept.end(run, replace(session, status="completed", last_used=time.time()), _EVENTS)


def _session(number: int) -> Session:
    at = time.time()
    return Session(
        id=os.urandom(16).hex(),
        backend=("claude", "codex", "gemini")[number % 3],
        created_at=at,
        last_used=at,
        working_dir=f"/home/user/project-{number % 50}",
        initial_prompt=f"explain module {number} of the parser, and why it is as it is",
        status="completed",
    )


@contextmanager
def _bare(file: Path, size: int) -> Generator[sqlite3.Connection]:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(_BARE)
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO sessions VALUES (?, ?, ?)",
        ((one.id, one.last_used, one.initial_prompt) for one in map(_session, range(size))),
    )
    connection.execute("COMMIT")
    try:
        yield connection
    finally:
        connection.close()


def _bare_rate(bare: sqlite3.Connection, count: int) -> float:
    began = time.perf_counter()
    for number in range(count):
        session, run = _session(number), os.urandom(16).hex()
        for statement, values in (
            ("INSERT INTO sessions VALUES (?, ?, ?)", (session.id, session.last_used, session.initial_prompt)),
            ("INSERT INTO runs VALUES (?, ?, 'running', '')", (run, session.id)),
            ("UPDATE runs SET state = 'finished', output = 'an answer' WHERE id = ?", (run,)),
        ):
            bare.execute(statement, values)
    return count / (time.perf_counter() - began)


def _newest(bare: sqlite3.Connection) -> None:
    bare.execute("SELECT * FROM sessions ORDER BY last_used DESC LIMIT 20").fetchall()


async def _median_ms(ask: Callable[[], Awaitable[object]], count: int) -> float:
    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await ask()
        times.append((time.perf_counter() - began) * 1000)
    return median(times)


def _bare_ms(ask: Callable[[], object], count: int) -> float:
    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began) * 1000)
    return median(times)
