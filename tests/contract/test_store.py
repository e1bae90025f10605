"""The contract of every store, one sentence of the protocol per test."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.store.memory import MemoryStore
from clinvk.store.postgres.postgres import PostgresStore
from clinvk.store.protocol import InteractionQuery, Project, RunQuery, SessionQuery, SessionStore
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.errors import (
    AmbiguousId,
    InteractionNotFound,
    InvalidRequest,
    RunNotFound,
    SessionBusy,
    SessionNotFound,
)
from clinvk.types.events import RunFailed, RunStarted, TextDelta, Usage
from clinvk.types.interaction import FieldOption, Interaction, InteractionAnswer, QuestionField
from clinvk.types.record import LimitWindow, RunRecord, Session, SteeringPrompt
from records import ANSWER, AT, log, new_id, run, session, turn


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[SessionStore]:
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "postgres":
        async with PostgresStore(request.getfixturevalue("postgres").empty()) as opened:
            yield opened
    else:
        async with SqliteStore(tmp_path / "home") as opened:
            yield opened


async def ids_of(store: SessionStore, **query: object) -> list[str]:
    return [found.id for found in (await store.sessions(replace(SessionQuery(), **query))).items]


async def run_ids(store: SessionStore, **query: object) -> list[str]:
    return [found.id for found in (await store.runs(replace(RunQuery(), **query))).items]


async def test_costs_are_the_sums_of_the_known_costs_of_runs(store: SessionStore) -> None:
    known, unknown, other = session(), session(), session()
    for each, cost_usd in ((known, 0.25), (known, 0.5), (known, None), (unknown, None), (other, 1.0)):
        record = run(each)
        await store.begin(record, each)
        await store.end(replace(record, state="finished", cost_usd=cost_usd), each, [])
    assert await store.costs([known.id, unknown.id, new_id()]) == {known.id: 0.75}


# Runs and their sessions


async def test_begin_stores_a_new_session_with_its_run(store: SessionStore) -> None:
    given = session(status="active", tags=("a", "b"), metadata={"k": [1, None]}, title="T", forks_parent=True)
    record = run(given, request={"approval_mode": "auto", "extra": ["--x"]}, model="sonnet", parent_id=new_id())
    assert await store.begin(record, replace(given, status="completed")) == given
    assert await store.session(given.id) == given
    assert await store.run(record.id) == record


async def test_begin_returns_the_stored_session_not_a_stale_one(store: SessionStore) -> None:
    """A session that was read before another run ended is stale."""
    stale = session()
    await turn(store, stale)
    kept = await store.begin(run(stale), replace(stale, status="active", last_used=AT + 50))
    assert kept is not None
    assert kept.turn_count == 1
    assert kept.backend_session_id == "handle"
    assert (kept.status, kept.last_used) == ("active", AT + 50)
    assert await store.session(stale.id) == kept


async def test_begin_never_moves_last_used_back(store: SessionStore) -> None:
    given = session(last_used=AT + 9)
    await store.create(given)
    kept = await store.begin(run(given), replace(given, last_used=AT))
    assert kept is not None
    assert kept.last_used == AT + 9


async def test_update_stores_changes_to_run_and_session(store: SessionStore) -> None:
    given = session(status="active")
    record = run(given)
    await store.begin(record, given)
    running = replace(record, state="running", started_at=AT + 1, model="opus")
    known = replace(given, backend_session_id="handle", model="opus", turn_count=1)
    await store.update(running, known)
    assert await store.run(record.id) == running
    assert await store.session(given.id) == known


async def test_end_stores_the_result_with_session_and_events(store: SessionStore) -> None:
    given = session(status="active")
    record = run(given)
    await store.begin(record, given)
    ended = replace(
        record,
        state="failed",
        ended_at=AT + 2,
        usage=Usage(7, 5, 3, 1),
        cost_usd=0.25,
        stop_reason="refusal",
        exit_code=3,
        error_code="agent_failed",
        error_message="no",
        output="half an ans",
        steering=(SteeringPrompt("and more", AT + 1, 4),),
    )
    after = replace(given, status="error", error_message="no", token_usage=Usage(7, 5, 3, 1), counted=Usage(9))
    await store.end(ended, after, ANSWER)
    assert await store.run(record.id) == ended
    assert await store.session(given.id) == after
    assert await store.events(record.id) == ANSWER


async def test_reassigned_run_and_session_are_listed_for_the_other_agent(store: SessionStore) -> None:
    given = session(tags=("a", "b"), backend="claude")
    record = run(given, backend="claude")
    known = await store.begin(record, given)
    assert known
    queued = replace(record, backend="codex", request={"waits_until": AT + 9}, model="large")
    await store.reassign(queued, replace(known, backend="codex", model="large"))
    assert await store.run(record.id) == queued
    assert await store.session(given.id) == replace(known, backend="codex", model="large")
    for query in ({}, {"tag": "a"}):
        assert await ids_of(store, backend="codex", status="active", **query) == [given.id]
        assert (await store.sessions(replace(SessionQuery(), backend="claude", **query))).total == 0
    assert await run_ids(store, backend="codex", state="queued") == [record.id]
    assert (await store.runs(RunQuery(backend="claude"))).total == 0
    with pytest.raises(RunNotFound):
        await store.reassign(run(given), given)


async def test_request_of_an_ended_run_is_changed(store: SessionStore) -> None:
    ended = await turn(store)
    changed = replace(ended, request={"answer_as": None}, output="is not stored")
    await store.change_request(changed)
    assert await store.run(ended.id) == replace(ended, request=changed.request)
    await store.change_request(run())


async def test_run_without_a_session_is_stored(store: SessionStore) -> None:
    record = await turn(store)
    assert await store.run(record.id) == record
    assert await store.count() == 0


async def test_unknown_run_cannot_be_updated_or_ended(store: SessionStore) -> None:
    given = session()
    await store.create(given)
    changed = replace(given, turn_count=7)
    await store.update(run(given), changed)
    with pytest.raises(RunNotFound):
        await store.end(run(given, state="finished"), changed, ANSWER)
    await store.append({(missing := new_id()): ANSWER})
    assert await store.events(missing) == []
    assert await store.session(given.id) == given


async def test_run_does_not_change_creation_fields_or_description_of_its_session(store: SessionStore) -> None:
    given = session(status="active", title="made", tags=("made",), parent_id=new_id(), node="n1")
    record = run(given)
    await store.begin(record, given)
    await store.describe(given.id, "described", ("described",))
    other = session(
        id=given.id, backend="x", created_at=0, working_dir="/x", initial_prompt="x", title="x", turn_count=1, node="x"
    )
    await store.end(replace(record, state="finished"), other, [])
    expected = replace(given, title="described", tags=("described",), status="completed", turn_count=1)
    assert await store.session(given.id) == expected


async def test_update_does_not_change_creation_fields_of_a_run(store: SessionStore) -> None:
    given = session(status="active")
    record = run(given, parent_id=new_id(), request={"approval_mode": "auto"}, key_name="key", node="n1")
    await store.begin(record, given)
    other = run(
        id=record.id,
        backend="x",
        prompt="x",
        created_at=0,
        workdir="/x",
        request={"x": 1},
        key_name="x",
        node="x",
        model="opus",
    )
    await store.update(replace(other, state="running"), None)
    assert await store.run(record.id) == replace(record, state="running", model="opus")
    await store.end(replace(other, state="finished"), None, [])
    assert await store.run(record.id) == replace(record, state="finished", model="opus")
    await store.begin(run(given), given)


# Claims


async def test_a_session_has_one_run_at_a_time(store: SessionStore) -> None:
    given = session(status="active")
    first, second = run(given), run(given)
    await store.begin(first, given)
    with pytest.raises(SessionBusy, match=first.id):
        await store.begin(second, given)
    with pytest.raises(RunNotFound):
        await store.run(second.id)
    await store.end(replace(first, state="finished"), replace(given, status="completed"), [])
    await store.begin(second, given)


async def test_begin_does_not_recreate_a_deleted_session_that_must_exist(store: SessionStore) -> None:
    given = session()
    await turn(store, given)
    await store.delete(given.id)
    late = run(given)
    with pytest.raises(SessionNotFound, match=given.id):
        await store.begin(late, given, must_exist=True)
    with pytest.raises(RunNotFound):
        await store.run(late.id)
    assert await store.count() == 0


async def test_begin_claims_an_existing_session_that_must_exist(store: SessionStore) -> None:
    given = session()
    await store.create(given)
    assert await store.begin(run(given), given, must_exist=True) == replace(given, status="active")
    with pytest.raises(SessionBusy):
        await store.begin(run(given), given, must_exist=True)


async def test_only_one_of_many_concurrent_begins_claims_a_session(store: SessionStore) -> None:
    given = session()
    await store.create(given)
    outcomes = await asyncio.gather(*(store.begin(run(given), given) for _ in range(20)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(Session) == 1
    assert [type(outcome) for outcome in outcomes].count(SessionBusy) == 19
    assert (await store.runs(RunQuery(session_id=given.id))).total == 1


async def test_concurrent_runs_are_all_stored_although_some_fail(store: SessionStore) -> None:
    busy = session(status="active")
    await store.begin(run(busy), busy)
    given = [session() for _ in range(50)]
    outcomes = await asyncio.gather(
        *(turn(store, one) for one in given), *(turn(store, busy) for _ in range(5)), return_exceptions=True
    )
    assert [isinstance(outcome, SessionBusy) for outcome in outcomes] == [False] * 50 + [True] * 5
    assert await store.count() == 51
    assert set(await ids_of(store, status="completed")) == {one.id for one in given}


async def test_waiting_runs_take_their_turns_in_order_of_arrival(store: SessionStore) -> None:
    given = session(status="active")
    holder, first, second, late = run(given), run(given), run(given), run(given)
    await store.begin(holder, given)
    for waiting in (first, second):
        assert await store.enqueue(waiting, given) == given
    assert await store.claim(first.id, given.id) is None
    await store.end(replace(holder, state="finished"), replace(given, status="completed"), [])
    with pytest.raises(SessionBusy, match=first.id):
        await store.begin(late, given)
    assert await store.claim(second.id, given.id) is None
    claimed = await store.claim(first.id, given.id)
    assert claimed is not None
    assert (claimed.id, claimed.status) == (given.id, "active")
    assert await store.claim(second.id, given.id) is None
    await store.end(replace(first, state="failed"), replace(given, status="error"), [])
    assert await store.claim(second.id, given.id) is not None


async def test_waiting_run_that_is_next_takes_its_turn_before_the_others(store: SessionStore) -> None:
    given = session(status="active")
    holder, ordinary, urgent = run(given), run(given), run(given)
    await store.begin(holder, given)
    await store.enqueue(ordinary, given)
    await store.enqueue(urgent, given, is_next=True)
    await store.end(replace(holder, state="cancelled"), given, [])
    assert await store.claim(ordinary.id, given.id) is None
    assert await store.claim(urgent.id, given.id) is not None


async def test_runs_of_a_session_are_listed_in_the_order_of_their_turns(store: SessionStore) -> None:
    """The newest is first: the run whose turn is the last."""
    given = session(status="active")
    holder, withdrawn, queued, urgent = (run(given, created_at=AT + number) for number in range(4))
    await store.begin(holder, given)
    await store.enqueue(withdrawn, given)
    await store.enqueue(queued, given)
    await store.enqueue(urgent, given, is_next=True)
    waiting = [queued.id, withdrawn.id, urgent.id, holder.id]
    assert await run_ids(store, session_id=given.id) == waiting
    holder = replace(holder, started_at=AT + 5)
    await store.update(replace(holder, state="running"), given)
    await store.end(replace(holder, state="cancelled", ended_at=AT + 10), given, [])
    assert await store.claim(urgent.id, given.id) is not None
    assert await run_ids(store, session_id=given.id) == waiting
    await store.update(replace(urgent, state="running", started_at=AT + 11), given)
    await store.end(replace(withdrawn, state="cancelled", ended_at=AT + 12), None, [])
    assert await run_ids(store, session_id=given.id) == [queued.id, withdrawn.id, urgent.id, holder.id]
    assert await run_ids(store, session_id=given.id, limit=2, offset=1) == [withdrawn.id, urgent.id]
    assert await run_ids(store) == [urgent.id, queued.id, withdrawn.id, holder.id]


async def test_waiting_run_is_listed_and_leaves_without_a_change_to_its_session(store: SessionStore) -> None:
    given = session(status="active")
    holder, first, second = run(given), run(given), run(given)
    await store.begin(holder, given)
    for waiting in (first, second):
        await store.enqueue(waiting, given)
    assert set(await run_ids(store, session_id=given.id, state="queued")) == {holder.id, first.id, second.id}
    await store.end(replace(first, state="cancelled"), None, [])
    assert await store.session(given.id) == given
    await store.end(replace(holder, state="finished"), given, [])
    with pytest.raises(SessionBusy):
        await store.delete(given.id)
    assert await store.claim(second.id, given.id) is not None


async def test_run_cannot_wait_for_an_unknown_session(store: SessionStore) -> None:
    given = session()
    with pytest.raises(SessionNotFound):
        await store.enqueue(run(given), given)


# Events


async def test_events_are_read_back_unchanged(store: SessionStore) -> None:
    record = run()
    await store.begin(record, None)
    await store.append({record.id: ANSWER[:2]})
    await store.append({record.id: ANSWER[2:]})
    assert await store.events(record.id) == ANSWER
    assert await store.events(record.id, after=2) == ANSWER[2:]
    assert await store.events(record.id, after=1, limit=2) == ANSWER[1:3]
    assert await store.events(record.id, after=4) == []
    assert await store.events(new_id()) == []


async def test_append_skips_events_that_are_already_stored(store: SessionStore) -> None:
    record = run()
    await store.begin(record, None)
    await store.append({record.id: ANSWER[:2]})
    await store.append({record.id: ANSWER[:3]})
    await store.append({record.id: ANSWER[1:2]})
    await store.end(replace(record, state="finished"), None, ANSWER)
    assert await store.events(record.id) == ANSWER


async def test_events_of_several_runs_are_stored_together(store: SessionStore) -> None:
    one, other = run(), run()
    for record in (one, other):
        await store.begin(record, None)
    await store.append({one.id: ANSWER[:2], new_id(): ANSWER, other.id: ANSWER})
    assert await store.events(one.id) == ANSWER[:2]
    assert await store.events(other.id) == ANSWER


async def test_events_after_a_gap_keep_their_numbers(store: SessionStore) -> None:
    record = run()
    await store.begin(record, None)
    await store.append({record.id: ANSWER[:1]})
    await store.append({record.id: [*ANSWER[2:3], *log(TextDelta("late"), first=9)]})
    assert [event.number for event in await store.events(record.id)] == [1, 3, 9]
    assert [event.number for event in await store.events(record.id, after=3)] == [9]


# Ids


async def test_unique_id_prefix_is_resolved(store: SessionStore) -> None:
    given = session(id="abcd" + "0" * 28)
    await store.create(given)
    await store.create(session(id="abce" + "0" * 28))
    record = await turn(store, session(id="f" * 32), id="1234" + "0" * 28)
    assert await store.session("abcd") == given
    assert await store.session("ABCD0000") == given
    assert await store.session(given.id) == given
    assert (await store.run("1234")).id == record.id


async def test_ambiguous_id_prefix_lists_candidates(store: SessionStore) -> None:
    known = [f"abcd{number:028x}" for number in range(12)]
    for one in reversed(known):
        await turn(store, session(id=one), id=one)
    with pytest.raises(AmbiguousId, match="more") as caught:
        await store.session("abcd")
    assert caught.value.candidates == tuple(known[:10])
    with pytest.raises(AmbiguousId, match=known[3]) as caught:
        await store.run("abcd")
    assert caught.value.candidates == tuple(known[:10])
    assert (await store.session(known[3])).id == known[3]


async def test_malformed_id_is_not_found(store: SessionStore) -> None:
    for reference in ("", "abc", "x" * 32, "a" * 33, "abcd%", "ab cd", "../../etc", "é" * 8):
        with pytest.raises(SessionNotFound):
            await store.session(reference)
        with pytest.raises(RunNotFound):
            await store.run(reference)


async def test_unknown_id_is_not_found(store: SessionStore) -> None:
    with pytest.raises(SessionNotFound, match="'ABcd'"):
        await store.session("ABcd")
    with pytest.raises(RunNotFound, match="'ABcd'"):
        await store.run("ABcd")
    with pytest.raises(SessionNotFound):
        await store.describe(new_id(), "title", None)
    with pytest.raises(SessionNotFound):
        await store.delete(new_id())


# Lists


async def test_sessions_are_listed_newest_first_in_pages(store: SessionStore) -> None:
    given = [session(last_used=AT + age, backend="claude" if age % 2 else "codex") for age in (3, 1, 4, 1, 5, 9, 2, 6)]
    for one in given:
        await store.create(one)
    newest = [given[index].id for index in (5, 7, 4, 2, 0, 6, 3, 1)]
    assert await ids_of(store) == newest
    assert await ids_of(store, limit=3) == newest[:3]
    assert await ids_of(store, limit=3, offset=6) == newest[6:]
    assert await ids_of(store, offset=8) == []
    page = await store.sessions(SessionQuery(limit=2, offset=1))
    assert (len(page.items), page.total) == (2, 8)


async def test_current_session_is_the_newest_with_a_standalone_prompt_of_the_command_line(store: SessionStore) -> None:
    whole = new_id()

    async def kept(
        at: float, *parents: str | None, over_http: bool = False, key_name: str = "", **fields: object
    ) -> Session:
        made = session(last_used=at, backend_session_id="handle", **fields)
        if not parents:
            await store.create(made)
        for parent in parents:
            request = {"over_http": True} if over_http else {}
            await turn(store, made, created_at=at, parent_id=parent, request=request, key_name=key_name)
        return made

    assert await store.current("claude", "/home/user/project") is None
    forked = await kept(AT + 1)
    assert await store.current("claude", "/home/user/project") == forked
    own = await kept(AT + 2, None, whole)
    await kept(AT + 3, whole)
    await kept(AT + 4, whole, whole)
    await kept(AT + 4, None, over_http=True)
    await kept(AT + 4, None, key_name="ana")
    await kept(AT + 5, None, working_dir="/elsewhere")
    await kept(AT + 6, None, backend="codex")
    await store.create(session(last_used=AT + 7))
    current = await store.current("claude", "/home/user/project")
    assert current is not None
    assert current.id == own.id


async def test_used_session_moves_to_the_front_of_the_list(store: SessionStore) -> None:
    old, young = session(tags=("t",)), session(last_used=AT + 5, tags=("t",))
    await store.create(old)
    await store.create(young)
    await store.begin(run(old), replace(old, last_used=AT + 9))
    for query in ({}, {"tag": "t"}, {"working_dir": old.working_dir}, {"text": "parser"}):
        assert await ids_of(store, **query) == [old.id, young.id]


async def test_archived_session_leaves_the_lists_until_its_next_run(store: SessionStore) -> None:
    given, other = session(tags=("t",), project="/p", backend_session_id="handle"), session(last_used=AT - 1)
    for one in (given, other):
        await turn(store, one)
    archived = await store.describe(given.id, None, None, archived=True)
    assert archived.archived
    assert await store.session(given.id) == archived
    marks: list[dict[str, object]] = [{}, {"tag": "t"}, {"project": "/p"}, {"tag": "t", "project": "/p"}]
    for query in (
        *marks,
        {"working_dir": given.working_dir},
        {"text": "parser"},
        {"backend": "claude"},
        {"resumable": True},
    ):
        page = await store.sessions(replace(SessionQuery(), **query, archived=True))
        assert ([one.id for one in page.items], page.total) == ([given.id], 1), query
        assert given.id in await ids_of(store, **query, archived=None)
        assert given.id not in await ids_of(store, **query)
    current = await store.current("claude", given.working_dir)
    assert current is not None
    assert current.id == other.id
    assert await store.count() == 2
    record = run(given)
    begun = await store.begin(record, archived)
    assert begun is not None
    assert not begun.archived
    await store.end(replace(record, state="finished"), begun, [])
    for query in marks:
        assert given.id in await ids_of(store, **query)
        assert await ids_of(store, **query, archived=True) == []


async def test_run_does_not_undo_that_its_session_was_archived_meanwhile(store: SessionStore) -> None:
    given = session()
    record = run(given)
    await store.begin(record, given)
    await store.describe(given.id, None, None, archived=True)
    await store.end(replace(record, state="finished"), replace(given, status="completed"), [])
    assert (await store.session(given.id)).archived
    assert (await store.describe(given.id, None, None, archived=False)).status == "completed"
    assert await ids_of(store) == [given.id]


async def test_waiting_run_takes_its_session_out_of_the_archive_with_its_turn(store: SessionStore) -> None:
    given = session()
    await store.create(given)
    waiting = run(given)
    await store.enqueue(waiting, await store.describe(given.id, None, None, archived=True))
    assert (await store.session(given.id)).archived
    claimed = await store.claim(waiting.id, given.id)
    assert claimed is not None
    assert not claimed.archived


async def test_projects_are_those_of_sessions_that_are_not_archived(store: SessionStore) -> None:
    assert await store.projects() == []
    for project, at in (("/a", 1), ("/b", 4), ("/a", 3), ("", 9)):
        await store.create(session(project=project, working_dir=project, last_used=AT + at))
    await store.create(session(project="/b", last_used=AT + 5, archived=True))
    await store.create(session(project="/c", archived=True))
    assert await store.projects() == [Project("/b", 1, AT + 4), Project("/a", 2, AT + 3)]


SOME = {
    "first": session(backend="claude", tags=("x",), working_dir="/a", last_used=AT + 4, backend_session_id="handle"),
    "second": session(
        backend="codex", tags=("x", "y"), working_dir="/b", last_used=AT + 3, status="error", title="Éclair"
    ),
    "third": session(backend="claude", working_dir="/b", last_used=AT + 2, status="paused", backend_session_id=""),
    "fourth": session(backend="claude", tags=("y",), working_dir="/a", last_used=AT + 1, initial_prompt="100% of it"),
}


SELECTED: list[tuple[dict[str, object], str]] = [
    ({"backend": "claude"}, "first third fourth"),
    ({"backend": "gemini"}, ""),
    ({"status": "error"}, "second"),
    ({"status": "active"}, ""),
    ({"tag": "x"}, "first second"),
    ({"tag": "y", "backend": "claude"}, "fourth"),
    ({"tag": "z"}, ""),
    ({"working_dir": "/a"}, "first fourth"),
    ({"working_dir": "/b", "status": "paused"}, "third"),
    ({"working_dir": "/"}, ""),
    ({"tag": "x", "working_dir": "/b"}, "second"),
    ({"tag": "y", "working_dir": "/a", "resumable": True}, ""),
    ({"resumable": True}, "first"),
    ({"resumable": True, "backend": "claude", "working_dir": "/a", "tag": "x"}, "first"),
    ({"text": "PARSER"}, "first second third"),
    ({"text": "éCLAIR"}, "second"),
    ({"text": "pa"}, "first second third"),
    ({"text": "100% o"}, "fourth"),
    ({"text": "0%"}, "fourth"),
    ({"text": "par%er"}, ""),
    ({"text": 'parser" OR "x'}, ""),
    ({"text": "parser", "backend": "claude", "status": "completed"}, "first"),
    ({"text": "parser", "tag": "x", "working_dir": "/b", "resumable": False}, "second"),
    ({"text": ""}, "first second third fourth"),
]


async def test_sessions_can_be_filtered_by_each_field(store: SessionStore) -> None:
    for one in SOME.values():
        await store.create(one)
    for query, expected in SELECTED:
        page = await store.sessions(replace(SessionQuery(), **query))
        assert [found.id for found in page.items] == [SOME[name].id for name in expected.split()], query
        assert page.total == len(expected.split())


async def test_lists_and_totals_follow_session_status(store: SessionStore) -> None:
    async def totals(**more: object) -> tuple[int, int, int, int]:
        found = [
            await store.sessions(replace(SessionQuery(status=status), **more)) for status in ("active", "completed")
        ]
        resumable = await store.sessions(replace(SessionQuery(resumable=True), **more))
        assert all(len(page.items) == page.total for page in (*found, resumable))
        return found[0].total, found[1].total, resumable.total, await store.count()

    given = session(status="active", tags=("t",))
    record = run(given)
    for more in ({}, {"tag": "t"}, {"working_dir": given.working_dir}, {"backend": "claude"}, {"text": "parser"}):
        await store.begin(record, given)
        assert await totals(**more) == (1, 0, 0, 1)
        given = replace(given, backend_session_id="handle")
        await store.update(replace(record, state="running"), given)
        assert await totals(**more) == (1, 0, 1, 1)
        await store.end(replace(record, state="finished"), replace(given, status="completed"), [])
        assert await totals(**more) == (0, 1, 1, 1)
        await store.delete(given.id)
        assert await totals(**more) == (0, 0, 0, 0)
        given = replace(given, backend_session_id=None)


async def test_runs_can_be_filtered_by_each_field(store: SessionStore) -> None:
    given, parent = session(backend="codex"), new_id()
    of_session = await turn(store, given, created_at=AT + 1)
    later = await turn(store, given, created_at=AT + 5)
    child = await turn(store, parent_id=parent, created_at=AT + 3)
    waiting = run(backend="gemini", created_at=AT + 4)
    await store.begin(waiting, None)
    assert await run_ids(store) == [later.id, waiting.id, child.id, of_session.id]
    assert await run_ids(store, limit=2, offset=1) == [waiting.id, child.id]
    assert await run_ids(store, session_id=given.id) == [later.id, of_session.id]
    assert await run_ids(store, session_id=given.id, state="failed") == []
    assert await run_ids(store, session_id=given.id, limit=1, offset=1) == [of_session.id]
    assert await run_ids(store, parent_id=parent) == [child.id]
    assert await run_ids(store, backend="codex", state="finished") == [later.id, of_session.id]
    assert await run_ids(store, state="queued") == [waiting.id]
    assert await run_ids(store, backend="gemini", state="finished") == []
    assert (await store.runs(RunQuery(limit=1))).total == 4


async def test_any_text_can_be_stored_and_searched(store: SessionStore) -> None:
    for text in ("\udc80", "\ud800 \0", "a\udfff"):
        given = session(initial_prompt=text)
        await store.create(given)
        assert given.id in await ids_of(store, text=text)
        assert (await store.describe(given.id, text, None)).id == given.id
        assert given.id in await ids_of(store, text=text)


TEXTS = {
    "parser": ("Explain the foo_bar.baz of the parser", "Use `--dry-run`, or call __init__."),
    "german": ("Wo ist die STRASSE?", "Die Straße ist über dem Fluß."),
    "russian": ("Привет, мир", "naïve café"),
    "chinese": ("请解释解析器的代码", "日本語の検索"),
    "syntax": ('a "quoted" AND NEAR(x, 2) OR -minus col:value', "100% of star* and ^caret (paren) 'apostrophe'"),
}

FOUND: list[tuple[str, str]] = [
    ("explain foo", "parser"),
    ("parser explain", "parser"),
    ("foo_bar.baz", "parser"),
    ("bar_foo", ""),
    ("FOO.BAR", "parser"),
    ("foo_bar.b", "parser"),
    ("expl parser", ""),
    ("--dry-run", "parser"),
    ("--dry", "parser"),
    ("__init__", "parser"),
    ("parser strasse", ""),
    ("straße fluss", "german"),
    ("ÜBER", "german"),
    ("привет МИ", "russian"),
    ("NAÏVE café", "russian"),
    ("解析器", "chinese"),
    ("検索", "chinese"),
    ("検日", ""),
    ('"quoted"', "syntax"),
    ('"', "syntax"),
    ("NEAR(x, 2)", "syntax"),
    ("AND near", "syntax"),
    ("-minus", "syntax"),
    ("col:value", "syntax"),
    ("value:col", ""),
    ("NOT minus", ""),
    ("star*", "syntax"),
    ("(paren", "syntax"),
    ("^caret", "syntax"),
    ("'apostrophe' & | !", "syntax"),
    ("zzz", ""),
]


async def test_search_finds_words_of_prompts_and_answers(store: SessionStore) -> None:
    given = {name: session(initial_prompt="", title="") for name in TEXTS}
    given["syntax"] = replace(given["syntax"], title='a "title"')
    for name, (prompt, output) in TEXTS.items():
        await turn(store, given[name], prompt=prompt, output=output)
    await turn(store, prompt="explain without a session")
    names = {one.id: name for name, one in given.items()}
    for text, expected in FOUND:
        page = await store.sessions(SessionQuery(text=text))
        assert [names[one.id] for one in page.items] == expected.split(), text
        assert page.total == len(expected.split())
    for query in ({"backend": "codex"}, {"tag": "t"}, {"archived": True}):
        assert await ids_of(store, text="parser", **query) == []


async def test_match_is_the_text_around_the_words_in_the_newest_turn(store: SessionStore) -> None:
    given, other = session(initial_prompt=""), session(initial_prompt="", title="the needle")
    await turn(store, given, prompt="a needle", output="none")
    newest = await turn(store, given, prompt="x " * 100, output="the\nNeedle-case " + "y " * 100)
    await turn(store, given, prompt="no more", output="none")
    await turn(store, other)
    found = await ids_of(store, text="needle")
    assert {*found} == {given.id, other.id}
    matches = await store.matches("needle", found)
    assert [*matches] == [given.id]
    assert matches[given.id].run_id == newest.id
    text = matches[given.id].text
    assert text.startswith("…x x ")
    assert "the Needle-case y" in text
    assert text.endswith("y…")
    assert len(text) < 220
    assert await store.matches("needle", []) == await store.matches("!", found) == {}


async def test_search_finds_steering_prompts_and_forgets_what_is_deleted(store: SessionStore) -> None:
    given, kept = session(initial_prompt="", last_used=AT + 1), session(initial_prompt="", last_used=AT + 9)
    await turn(store, given, prompt="one", steering=(SteeringPrompt("also the lexer", AT, 0),))
    await turn(store, kept, prompt="the lexer too")
    assert await ids_of(store, text="lexer") == [kept.id, given.id]
    assert "lexer" in (await store.matches("lexer", [given.id]))[given.id].text
    await store.delete(given.id)
    assert await ids_of(store, text="lexer") == [kept.id]
    await store.clean(AT + 20)
    assert await ids_of(store, text="lexer") == []


async def test_runs_are_indexed_in_steps_the_newest_first(store: SessionStore) -> None:
    given = [session(initial_prompt="", last_used=AT + number) for number in range(150)]
    for number, one in enumerate(given):
        await turn(store, one, prompt=f"number {number}")
    steps = 1
    while await store.index_runs():
        steps += 1
    assert steps >= 3
    assert not await store.index_runs()
    assert await ids_of(store, text="number", limit=200) == [one.id for one in reversed(given)]
    large = session(initial_prompt="")
    await turn(store, large, output="beginning " + "word " * 200_000 + "end")
    assert await ids_of(store, text="beginning") == [large.id]
    assert await ids_of(store, text="end") == []


# Descriptions, copies, deletion


async def test_describe_changes_only_the_given_title_and_tags(store: SessionStore) -> None:
    given = session(title="old", tags=("a", "b"), initial_prompt="explain")
    await store.create(given)
    assert await store.describe(given.id, "Fresh", None) == replace(given, title="Fresh")
    assert await store.describe(given.id, None, ("c", "b")) == replace(given, title="Fresh", tags=("c", "b"))
    assert await store.session(given.id) == replace(given, title="Fresh", tags=("c", "b"))
    assert await ids_of(store, tag="a") == []
    assert await ids_of(store, tag="c") == [given.id]
    assert await ids_of(store, text="old") == []
    assert await ids_of(store, text="fresh") == [given.id]
    assert await store.describe(given.id, "", ()) == replace(given, title="", tags=())
    assert await ids_of(store, tag="b") == []


async def test_describe_returns_the_latest_session(store: SessionStore) -> None:
    given = session(status="active")
    record = run(given)
    await store.begin(record, given)
    known = replace(given, turn_count=1, model="opus")
    await store.update(replace(record, state="running"), known)
    assert await store.describe(given.id, "Fresh", None) == replace(known, title="Fresh")
    known = replace(known, title="Fresh", backend_session_id="handle")
    await store.update(replace(record, state="running"), known)
    assert await store.tag(given.id, ["a"], ()) == replace(known, tags=("a",))


async def test_tag_appends_and_removes_tags(store: SessionStore) -> None:
    given = session(tags=("a", "b"))
    await store.create(given)
    assert await store.tag(given.id, ["c", "a", "d"], {"b", "d", "x"}) == replace(given, tags=("a", "c"))
    assert await store.session(given.id) == replace(given, tags=("a", "c"))
    assert (await ids_of(store, tag="b"), await ids_of(store, tag="c")) == ([], [given.id])
    with pytest.raises(SessionNotFound):
        await store.tag(new_id(), ["c"], ())


async def test_concurrent_tag_calls_do_not_overwrite_each_other(store: SessionStore) -> None:
    given = session()
    await store.create(given)
    await asyncio.gather(*(store.tag(given.id, [f"t{number}"], ()) for number in range(20)))
    assert sorted((await store.session(given.id)).tags) == sorted(f"t{number}" for number in range(20))


async def test_session_has_at_most_100_tags(store: SessionStore) -> None:
    given = session(tags=tuple(f"t{number}" for number in range(99)))
    await store.create(given)
    with pytest.raises(InvalidRequest, match="100 tags, not 101"):
        await store.tag(given.id, ["a", "b"], ())
    assert await store.session(given.id) == given
    assert len((await store.tag(given.id, ["a", "b"], ["t0"])).tags) == 100


async def test_tags_can_be_removed_from_a_session_above_the_limit(store: SessionStore) -> None:
    given = session(tags=tuple(f"t{number}" for number in range(103)))
    await store.create(given)
    assert len((await store.tag(given.id, (), ["t0"])).tags) == 102
    with pytest.raises(InvalidRequest, match="100 tags, not 103"):
        await store.tag(given.id, ["a"], ())


async def test_duplicate_tag_counts_once(store: SessionStore) -> None:
    await store.create(session(tags=("a", "a")))
    assert (await store.sessions(SessionQuery(tag="a"))).total == 1


async def test_session_created_without_a_run_is_paused(store: SessionStore) -> None:
    given = session(status="active")
    await store.create(given)
    assert (await store.session(given.id)).status == "paused"
    with pytest.raises(ValueError, match=given.id):
        await store.create(given)


async def test_delete_removes_runs_and_events_of_the_session(store: SessionStore) -> None:
    given, other = session(), session()
    record = await turn(store, given)
    kept = await turn(store, other)
    await store.delete(given.id)
    with pytest.raises(SessionNotFound):
        await store.session(given.id)
    with pytest.raises(RunNotFound):
        await store.run(record.id)
    assert await store.events(record.id) == []
    assert await run_ids(store) == [kept.id]
    assert await store.events(kept.id) == ANSWER


async def test_delete_removes_the_text_of_a_session_from_its_orchestrations(store: SessionStore) -> None:
    one, two = session(), session()
    told = {"kind": "chain", "steps": [{"request": {"prompt": "secret"}}, {}], "input": "secret", "resumed": ""}
    whole = replace(run(None), prompt="secret", request=told)
    await store.begin(whole, None)
    await store.end(replace(whole, state="finished", output="secret"), None, [])
    for given in (one, two):
        part = run(given, parent_id=whole.id)
        await store.begin(part, given)
        await store.end(replace(part, state="finished"), replace(given, status="completed"), ANSWER)
    await store.delete(one.id)
    kept = await store.run(whole.id)
    assert (kept.prompt, kept.output, kept.kind) == ("", "", "chain")
    assert kept.request == {"kind": "chain", "steps": 2, "input": None, "resumed": ""}
    await store.delete(two.id)
    with pytest.raises(RunNotFound):
        await store.run(whole.id)


async def orchestration(store: SessionStore) -> RunRecord:
    """Store an orchestration that is in progress."""
    told = {"kind": "chain", "steps": [{"request": {"prompt": "secret"}}, {}], "input": "secret"}
    whole = run(backend="", prompt="secret", request=told, state="running")
    await store.begin(whole, None)
    return whole


FAILED_WITH = RunFailed("agent_failed", "1 of 2 failed, the first with: secret")


async def test_running_orchestration_does_not_restore_deleted_text(store: SessionStore) -> None:
    whole, one, two = await orchestration(store), session(), session()
    await turn(store, one, parent_id=whole.id)
    last = run(two, parent_id=whole.id)
    await store.begin(last, two)
    await store.delete(one.id)
    await store.update(replace(whole, started_at=AT + 1, output="secret"), None)
    await store.end(replace(last, state="failed"), replace(two, status="error"), ANSWER)
    ended = replace(whole, state="failed", ended_at=AT + 2, cost_usd=0.5, error_code=FAILED_WITH.code, started_at=AT)
    said = log(RunStarted(), FAILED_WITH)
    await store.end(replace(ended, output="secret", error_message=FAILED_WITH.message), None, said)
    without = {"kind": "chain", "steps": 2, "input": None}
    assert await store.run(whole.id) == replace(ended, prompt="", request=without)
    assert await store.events(whole.id) == []
    assert (await store.run(last.id)).prompt == last.prompt
    assert await store.events(last.id) == ANSWER


async def test_running_orchestration_with_all_sessions_deleted_ends_without_text(store: SessionStore) -> None:
    whole, only = await orchestration(store), session()
    await turn(store, only, parent_id=whole.id)
    await store.delete(only.id)
    await store.end(replace(whole, state="finished", ended_at=AT + 2, output="secret"), None, log(RunStarted()))
    kept = await store.run(whole.id)
    assert (kept.state, kept.prompt, kept.output) == ("finished", "", "")
    assert await store.events(whole.id) == []


async def test_delete_removes_events_that_quote_the_session_from_ended_orchestrations(store: SessionStore) -> None:
    whole, one, two = await orchestration(store), session(), session()
    await turn(store, one, parent_id=whole.id)
    await turn(store, two, parent_id=whole.id)
    failed = replace(whole, state="failed", ended_at=AT + 2, error_message=FAILED_WITH.message)
    await store.end(failed, None, log(RunStarted(), FAILED_WITH))
    await store.delete(one.id)
    assert (await store.run(whole.id)).error_message is None
    assert await store.events(whole.id) == []


async def test_run_of_a_deleted_session_cannot_be_updated_or_ended(store: SessionStore) -> None:
    given = session()
    late = await turn(store, given)
    await store.delete(given.id)
    await store.update(late, given)
    await store.append({late.id: ANSWER})
    with pytest.raises(RunNotFound):
        await store.end(late, given, ANSWER)
    assert await store.count() == 0
    assert await store.events(late.id) == []


async def test_a_busy_session_is_not_deleted(store: SessionStore) -> None:
    given = session(status="active")
    await store.begin(run(given), given)
    with pytest.raises(SessionBusy):
        await store.delete(given.id)
    assert await store.count() == 1


async def test_clean_removes_old_idle_sessions_and_runs(store: SessionStore) -> None:
    old, young, busy = session(last_used=AT), session(last_used=AT + 10), session(last_used=AT, status="active")
    gone, stays = await turn(store, old), await turn(store, young)
    await store.begin(run(busy), busy)
    alone, late = await turn(store, created_at=AT), await turn(store, created_at=AT + 10)
    waiting = run(created_at=AT)
    await store.begin(waiting, None)

    assert await store.clean(AT + 5, dry_run=True) == 1
    assert await store.count() == 3
    assert await store.run(alone.id) == alone

    assert await store.clean(AT + 5) == 1
    assert set(await ids_of(store)) == {young.id, busy.id}
    left = set(await run_ids(store))
    assert {stays.id, late.id, waiting.id} < left
    assert left.isdisjoint({gone.id, alone.id})
    assert await store.clean(AT + 5) == 0


async def test_clean_removes_text_from_running_orchestrations(store: SessionStore) -> None:
    whole, old, young = await orchestration(store), session(last_used=AT), session(last_used=AT + 10)
    await turn(store, old, parent_id=whole.id)
    last = run(young, parent_id=whole.id)
    await store.begin(last, young)
    assert await store.clean(AT + 5) == 1
    await store.update(replace(whole, started_at=AT + 1, output="secret"), None)
    kept = await store.run(whole.id)
    assert (kept.state, kept.prompt, kept.output) == ("running", "", "")
    assert kept.request == {"kind": "chain", "steps": 2, "input": None}
    await store.end(replace(whole, state="finished", ended_at=AT + 2, output="secret"), None, log(RunStarted()))
    assert (await store.run(whole.id)).output == ""
    assert await store.events(whole.id) == []
    assert (await store.run(last.id)).prompt == last.prompt


async def test_pid_of_a_run_is_that_of_its_process_or_unknown(store: SessionStore) -> None:
    record = run()
    await store.begin(record, None)
    assert await store.pid_of(record.id) in (os.getpid(), None)
    assert await store.pid_of(new_id()) is None


# The limits of accounts


def window(name: str, **fields: object) -> LimitWindow:
    now = time.time()
    limit = LimitWindow(backend="claude", window=name, used_percent=1.5, status="allowed", resets_at=now + 60)
    return replace(limit, updated_at=now, **fields)


async def test_limits_have_the_newest_state_of_each_window(store: SessionStore) -> None:
    newest = window("5h", used_percent=40.25, status="rejected")
    week, codex = window("7d", used_percent=None, resets_at=time.time() + 3600), window("5h", backend="codex")
    for limit in (window("5h"), codex, week, newest):
        await store.update_limit(limit)
    assert await store.limits() == [newest, week, codex]


async def test_limits_leave_out_windows_that_have_ended(store: SessionStore) -> None:
    await store.update_limit(window("5h", resets_at=time.time() - 1))
    assert await store.limits() == []


# What is kept is what was given


async def test_any_text_is_stored_unchanged(store: SessionStore) -> None:
    for text in ("", "\0", "line\nline\r\n", "'; DROP TABLE sessions; --", "日本語 \U0001f389", "x" * 300_000):
        given = session(status="active", initial_prompt=text, title=text[:50], working_dir=text[:50], tags=(text[:50],))
        record = run(given, prompt=text, output=text, request={"system_prompt": text})
        await store.begin(record, given)
        assert await store.session(given.id) == given
        assert await store.run(record.id) == record
        said = log(RunStarted(text[:9]), TextDelta(text), TextDelta(text), RunFailed("agent_failed", text))
        await store.append({record.id: said})
        assert await store.events(record.id) == said
        for query in ({"working_dir": text[:50]}, {"tag": text[:50]}, {"text": text[:40]}):
            assert given.id in await ids_of(store, **query)


# Interactions


async def stored_interaction(store: SessionStore, record: RunRecord, **fields: object) -> Interaction:
    """Store and return a pending interaction of a stored run."""
    interaction = replace(
        Interaction(
            id=new_id(),
            run_id=record.id,
            session_id=record.session_id,
            backend=record.backend,
            tool="Bash",
            title="Run ls",
            input={"command": "ls", "nested": [1, {"k": None}]},
            command="ls",
            fields=(QuestionField(id="q", label="Which?", options=(FieldOption("a", "A"),)),),
            created_at=AT,
            expires_at=AT + 600,
        ),
        **fields,
    )
    await store.add_interaction(interaction)
    return interaction


async def begun(store: SessionStore) -> RunRecord:
    """Begin a run of a new session."""
    record = run(given := session(status="active"))
    await store.begin(record, given)
    return record


async def test_interaction_is_stored_whole(store: SessionStore) -> None:
    interaction = await stored_interaction(store, await begun(store))
    assert await store.interaction(interaction.id) == interaction
    assert await store.interaction(interaction.id[:8]) == interaction
    with pytest.raises(InteractionNotFound):
        await store.interaction(new_id())


async def test_first_answer_of_an_interaction_counts(store: SessionStore) -> None:
    interaction = await stored_interaction(store, await begun(store))
    answer = InteractionAnswer(choice="allow", input={"command": "ls -l"})
    first = replace(interaction, status="answered", resolved_at=AT + 1, answered_by="ci", answer=answer)
    second = replace(first, answered_by="ana", answer=InteractionAnswer(choice="deny", reason="no"))
    assert await store.resolve_interaction(first) == first
    assert await store.resolve_interaction(second) == first
    assert await store.interaction(interaction.id) == first


async def test_interactions_are_listed_newest_first(store: SessionStore) -> None:
    record, other = await begun(store), await begun(store)
    older = await stored_interaction(store, record)
    newer = await stored_interaction(store, other, created_at=AT + 1, status="expired")
    assert await store.interactions(InteractionQuery()) == [newer, older]
    assert await store.interactions(InteractionQuery(limit=1)) == [newer]
    assert await store.interactions(InteractionQuery(status="pending")) == [older]
    assert await store.interactions(InteractionQuery(run_id=other.id)) == [newer]
    assert await store.interactions(InteractionQuery(session_id=record.session_id)) == [older]


async def test_end_of_a_run_withdraws_its_pending_interactions(store: SessionStore) -> None:
    record = await begun(store)
    pending = await stored_interaction(store, record)
    expired = await stored_interaction(store, record, status="expired")
    await store.update(replace(record, state="waiting"), None)
    await store.end(replace(record, state="cancelled", ended_at=AT + 5), None, [])
    assert await store.interaction(pending.id) == replace(pending, status="withdrawn", resolved_at=AT + 5)
    assert await store.interaction(expired.id) == expired


async def test_interactions_of_an_ephemeral_run_are_deleted_at_its_end(store: SessionStore) -> None:
    record = run(None)
    await store.begin(record, None)
    interaction = await stored_interaction(store, record)
    await store.end(replace(record, state="finished", ended_at=AT + 5), None, [])
    with pytest.raises(InteractionNotFound):
        await store.interaction(interaction.id)
    with pytest.raises(InteractionNotFound):
        await store.resolve_interaction(replace(interaction, status="expired"))


async def test_waiting_run_holds_its_session(store: SessionStore) -> None:
    given = session(status="active")
    record = run(given)
    await store.begin(record, given)
    await store.update(replace(record, state="waiting"), given)
    assert await run_ids(store, state="waiting") == [record.id]
    with pytest.raises(SessionBusy):
        await store.begin(run(given), given)
    with pytest.raises(SessionBusy):
        await store.delete(given.id)


async def test_numbers_of_tokens_that_no_agent_can_have_used_are_stored_as_the_limits(store: SessionStore) -> None:
    given = session()
    record = run(given)
    await store.begin(record, given)
    absurd = Usage(2**64, -1)
    ended = replace(record, state="finished", ended_at=record.created_at, usage=absurd)
    await store.end(ended, replace(given, token_usage=absurd + absurd), [])
    assert (await store.run(record.id)).usage == Usage(2**53 - 1, 0)
    assert (await store.session(given.id)).token_usage == Usage(2**53 - 1, 0)
