"""The cost of the store: prompts a second into a store with many sessions."""

import asyncio
import os
import time
from pathlib import Path

from msgspec.structs import replace

from bench import local
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.spawning import paced, paces
from bench.workplace import Workplace
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.events import Logged, RunFinished, RunStarted, TextDelta, Usage
from clinvk.types.record import RunRecord, Session

_SESSIONS = 10_000
_AT_ONCE = 500
_CLIENTS = 16
_PROMPTS = 1500
_SHARE_OF_UNKEPT = 0.75
_USAGE = Usage(9, 3)
_EVENTS = (
    Logged(1, 1.0, RunStarted("model", "handle")),
    Logged(2, 2.0, TextDelta("an answer")),
    Logged(3, 3.0, RunFinished(usage=_USAGE)),
)


def persisted(place: Workplace) -> list[Figure]:
    """Count prompts a second that are stored in SQLite, against prompts without a store."""
    home = place.root / "kept"
    asyncio.run(_fill(home, place.some(_SESSIONS)))
    count = place.some(_PROMPTS)
    kept, unkept = interleaved(
        place.rounds,
        lambda: paced(time.process_time, lambda: local.prompts(place, _CLIENTS, count, lambda: SqliteStore(home))),
        lambda: paced(time.process_time, lambda: local.prompts(place, _CLIENTS, count)),
    )
    budget = Budget("ratio", _SHARE_OF_UNKEPT)
    return paces(f"prompts kept, LocalRuns, {_CLIENTS} at once", kept, "kept nowhere", unkept, budget)


async def _fill(home: Path, sessions: int) -> None:
    """Store sessions of one turn each."""
    async with SqliteStore(home) as store:
        for first in range(0, sessions, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, sessions))
            await asyncio.gather(*(_keep(store, number) for number in numbers))


async def _keep(store: SqliteStore, number: int) -> None:
    at = 1_800_000_000.0 + number
    session = Session(
        id=os.urandom(16).hex(),
        backend=("claude", "codex", "gemini")[number % 3],
        created_at=at,
        last_used=at,
        working_dir=f"/home/user/project-{number % 50}",
        initial_prompt=f"explain module {number} of the parser, and why it is as it is",
    )
    run = RunRecord(
        id=os.urandom(16).hex(),
        backend=session.backend,
        prompt=session.initial_prompt,
        state="queued",
        created_at=at,
        session_id=session.id,
    )
    await store.begin(run, session)
    run = replace(run, state="finished", started_at=at, ended_at=at + 1, usage=_USAGE, output="an answer")
    session = replace(session, status="completed", backend_session_id=session.id, turn_count=1, token_usage=_USAGE)
    await store.end(run, session, _EVENTS)
