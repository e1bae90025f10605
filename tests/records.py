"""Sessions, runs and events for the tests of stores."""

import os
from collections.abc import Sequence

from msgspec.structs import replace

from clinvk.store.protocol import SessionStore
from clinvk.types.events import Event, Logged, RunFinished, RunStarted, TextDelta, Usage
from clinvk.types.record import RunRecord, Session

AT = 1_800_000_000.0
"""When things happen: a time that is not the tests' own."""


def new_id() -> str:
    """Make an id."""
    return os.urandom(16).hex()


def session(**fields: object) -> Session:
    """Return an idle session with these fields; the project is the directory, as the runtime begins sessions."""
    plain = Session(
        id=new_id(),
        backend="claude",
        created_at=AT,
        last_used=AT,
        working_dir="/home/user/project",
        initial_prompt="explain the parser",
        status="completed",
    )
    return replace(plain, **{"project": fields.get("working_dir", plain.working_dir), **fields})


def run(of: Session | None = None, **fields: object) -> RunRecord:
    """Return a queued run with these fields."""
    plain = RunRecord(
        id=new_id(),
        backend=of.backend if of else "claude",
        prompt="explain the parser",
        state="queued",
        created_at=AT,
        session_id=of.id if of else None,
        workdir="/home/user/project",
    )
    return replace(plain, **fields)


def log(*events: Event, first: int = 1) -> list[Logged]:
    """Number events, a quarter of a second from each to the next."""
    return [Logged(number, AT + number / 4, event) for number, event in enumerate(events, start=first)]


ANSWER = log(RunStarted("sonnet", "handle"), TextDelta("a "), TextDelta("parser"), RunFinished(usage=Usage(3, 2)))


async def turn(
    store: SessionStore, of: Session | None = None, events: Sequence[Logged] = ANSWER, **fields: object
) -> RunRecord:
    """Keep a whole run of a session, as the runtime does; give its record."""
    record = run(of, **fields)
    of = await store.begin(record, of)
    if of:
        of = replace(of, backend_session_id="handle", turn_count=of.turn_count + 1)
    await store.update(replace(record, state="running", started_at=AT), of)
    output = record.output or "a parser"
    ended = replace(record, state="finished", ended_at=AT + 1, started_at=AT, usage=Usage(3, 2), output=output)
    if of:
        of = replace(of, status="completed", token_usage=of.token_usage + Usage(3, 2))
    await store.end(ended, of, events)
    return ended
