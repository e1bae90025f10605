"""One database, several processes: they die, the server stops, does not answer, or has no space."""

import asyncio
import logging
import os
import random
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from acceptance.server import Server
from clinvk.api.access.key_file import KeyFile, KeyLimits, KeyTable
from clinvk.api.access.keys import ApiKeys
from clinvk.store.postgres.database import MIGRATIONS, Database, identity
from clinvk.store.postgres.postgres import PostgresStore
from clinvk.store.postgres.turns import PostgresTurns
from clinvk.store.protocol import RunQuery, SessionQuery
from clinvk.types.choices import UNDER_WAY
from clinvk.types.errors import ClinvkError, SessionBusy, StoreUnavailable
from clinvk.types.events import RunFailed, TextDelta, Usage
from polling import until, until_told
from postgres_server import PostgresServer
from records import ANSWER, log, run, session, turn
from scripted import Scripted
from scripted.steps import claude_says, hang, wait_for
from serving import serving

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}

HOLD = """if True:
    import asyncio, sys
    from clinvk.store.postgres.postgres import PostgresStore
    from msgspec.structs import replace
    from records import AT, log, run, session
    from clinvk.types.events import TextDelta

    async def main():
        async with PostgresStore(sys.argv[1]) as store:
            given = session(status="active")
            record = run(given)
            await store.begin(record, given)
            await store.append({record.id: log(TextDelta("half "), TextDelta("an answer"))})
            print(record.id, given.id, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            await store.end(replace(record, state="finished", ended_at=AT + 9), replace(given, status="completed"), [])

    asyncio.run(main())
"""
"""Begins a run, and ends the run when stdin is closed."""


@pytest.fixture
async def store(postgres: PostgresServer) -> AsyncGenerator[PostgresStore]:
    async with PostgresStore(postgres.empty()) as opened:
        yield opened


@asynccontextmanager
async def holding(url: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str, str]]:
    """Run a process that has begun a run; yield the process with the ids of the run and the session."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD, url), env=ENVIRONMENT, stdin=PIPE, stdout=PIPE
    )
    assert process.stdin
    assert process.stdout
    try:
        run_id, session_id = (await process.stdout.readline()).decode().split()
        yield process, run_id, session_id
    finally:
        if process.returncode is None:
            process.kill()
        process.stdin.close()
        await process.wait()


async def until_judging(url: str) -> None:
    """Wait until the server has been up for long enough that silent processes count as dead."""
    database = Database(url, connections=1)
    query = "SELECT pg_postmaster_start_time() < clock_timestamp() - interval '5 s'"

    async def is_up() -> bool:
        async with database.connection() as db:
            return (await db.fetch(query))[0][0]

    await until_told(is_up)
    await database.close()


def state_is(store: PostgresStore, run_id: str, state: str) -> Callable[[], Awaitable[bool]]:
    async def has_state() -> bool:
        return (await store.run(run_id)).state == state

    return has_state


async def test_processes_that_open_an_empty_database_at_once_create_the_tables_once(postgres: PostgresServer) -> None:
    url = postgres.empty()

    async def opened() -> int:
        async with PostgresStore(url) as store:
            await turn(store, session())
            return await store.count()

    assert max(await asyncio.gather(*(opened() for _ in range(8)))) == 8


WRITE = """if True:
    import asyncio, sys
    from clinvk.store.postgres.postgres import PostgresStore
    from clinvk.types.errors import SessionBusy
    from records import session, turn

    async def write(store, shared):
        for _ in range(int(sys.argv[2])):
            await turn(store, given := session(tags=("t",)), key_name="ana")
            try:
                await turn(store, session(id=shared), key_name="ana")
            except SessionBusy:
                pass
            print(given.id, flush=True)

    async def main():
        async with PostgresStore(sys.argv[1]) as store, asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(write(store, f"{number:032x}"))

    asyncio.run(main())
"""
"""Stores turns of new sessions, and of sessions that all processes want."""


async def test_processes_that_write_at_once_store_each_turn_once(postgres: PostgresServer) -> None:
    url = postgres.empty()
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITE, url, "8"), env=ENVIRONMENT, stdout=PIPE, stderr=PIPE
        )
        for _ in range(6)
    ]
    failures = [(await process.communicate())[1].decode() for process in processes]
    assert failures == [""] * 6
    async with PostgresStore(url) as store:
        assert await store.count() == 6 * 4 * 8 + 4
        runs = await store.runs(RunQuery(state="finished"))
        assert (await store.runs(RunQuery())).total == runs.total
        (used,) = await store.usage("2027-01-01")
        assert (used.runs, used.usage) == (runs.total, Usage(3 * runs.total, 2 * runs.total))


@pytest.mark.slow
async def test_killed_processes_lose_nothing_that_they_reported(postgres: PostgresServer) -> None:
    url, kept, source = postgres.empty(), set[str](), random.Random(7)
    for _ in range(24):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITE, url, "10000"), env=ENVIRONMENT, stdout=PIPE
        )
        assert process.stdout
        first = await process.stdout.readline()
        await asyncio.sleep(source.random() * 0.2)
        process.kill()
        lines = [first, *(await process.stdout.read()).splitlines(keepends=True)]
        await process.wait()
        kept.update(line.decode().strip() for line in lines if line.endswith(b"\n"))
    async with PostgresStore(url) as store:

        async def are_all_ended() -> bool:
            return not sum([(await store.runs(RunQuery(state=state))).total for state in UNDER_WAY])

        await until_told(are_all_ended)
        interrupted = (await store.runs(RunQuery(state="interrupted", limit=1000))).items
        assert len(interrupted) >= 24, "they were not killed at work"
        finished = await store.sessions(SessionQuery(status="completed", limit=1_000_000))
        assert kept <= {each.id for each in finished.items}
        for run_id in [each.id for each in interrupted[:6]]:
            assert isinstance((await store.events(run_id))[-1].event, RunFailed)
        ended = (await store.runs(RunQuery(limit=1))).total
        (used,) = await store.usage("2027-01-01")
        assert used.runs == ended


async def test_database_of_the_first_schema_gets_the_indexes_of_the_current_one(postgres: PostgresServer) -> None:
    query = "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema() ORDER BY indexname"
    first = min(MIGRATIONS.glob("*.sql")).read_text()
    definitions: list[list[str]] = []
    for is_old in (False, True):
        url = postgres.empty()
        if is_old:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(first.encode())
                connection.execute("DROP INDEX sessions_in_order")
                connection.execute("CREATE INDEX sessions_in_order ON sessions (last_used DESC, key DESC)")
                connection.execute("CREATE TABLE clinvk_schema (version integer NOT NULL)")
                connection.execute("INSERT INTO clinvk_schema VALUES (1)")
        async with PostgresStore(url) as store:
            await store.runs(RunQuery())
        with psycopg.connect(url) as connection:
            schema = re.search(r"test_\d+", url)
            assert schema
            definitions.append([row[0].replace(schema[0], "") for row in connection.execute(query)])
    assert definitions[0] == definitions[1]


async def test_database_is_recognized_by_its_id_and_not_by_its_url(postgres: PostgresServer) -> None:
    url = postgres.empty()
    names = [await identity(each, 5) for each in (url, f"{url}&application_name=other", postgres.empty())]
    assert names[0] == names[1] != names[2]


async def test_database_of_a_newer_clinvk_is_refused(postgres: PostgresServer) -> None:
    url = postgres.empty()
    async with PostgresStore(url) as store:
        await store.count()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO clinvk_schema VALUES (999)")
    async with PostgresStore(url) as store:
        with pytest.raises(StoreUnavailable, match=r"is of a newer clinvk \(schema 999\)"):
            await store.count()


async def test_session_that_one_store_claims_is_busy_for_the_other(postgres: PostgresServer) -> None:
    url = postgres.empty()
    given = session(status="active")
    record = run(given)
    async with PostgresStore(url) as one, PostgresStore(url) as other:
        await one.begin(record, given)
        with pytest.raises(SessionBusy, match=record.id):
            await other.begin(run(given), given)
        waiting = run(given)
        await other.enqueue(waiting, given)
        assert await other.claim(waiting.id, given.id) is None
        await one.end(replace(record, state="finished"), replace(given, status="completed"), ANSWER)
        assert await other.events(record.id) == ANSWER
        claimed = await other.claim(waiting.id, given.id)
        assert claimed is not None
        outcomes = await asyncio.gather(
            *(store.begin(run(given), given) for store in (one, other) for _ in range(10)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {SessionBusy}


async def test_runs_of_a_killed_process_are_interrupted_within_5_seconds(postgres: PostgresServer) -> None:
    url = postgres.empty()
    async with PostgresStore(url) as store, holding(url) as (process, run_id, session_id):
        await until_judging(url)
        assert (await store.run(run_id)).state == "queued"
        process.kill()
        killed_at = time.monotonic()
        await until_told(state_is(store, run_id, "interrupted"))
        assert time.monotonic() - killed_at < 9  # 5 s, and the pauses of a busy machine
        interrupted = await store.run(run_id)
        assert (interrupted.output, interrupted.error_code) == ("half an answer", "interrupted")
        *texts, ending = await store.events(run_id)
        assert [event.event for event in texts] == [TextDelta("half "), TextDelta("an answer")]
        assert isinstance(ending.event, RunFailed)
        assert await store.events(run_id, after=ending.number) == []
        assert await store.events(run_id, after=2) == [ending]
        await turn(store, await store.session(session_id))


async def test_run_of_a_silent_process_takes_its_state_back(postgres: PostgresServer) -> None:
    """The process was suspended, or its machine was cut off: the end that was recorded for it is replaced."""
    url = postgres.empty()
    async with PostgresStore(url) as store, holding(url) as (process, run_id, session_id):
        await until_judging(url)
        process.send_signal(signal.SIGSTOP)
        await until_told(state_is(store, run_id, "interrupted"))
        process.send_signal(signal.SIGCONT)
        await until_told(state_is(store, run_id, "queued"))
        with pytest.raises(SessionBusy):
            await store.begin(run(given := await store.session(session_id)), given)
        assert process.stdin
        process.stdin.close()
        await until_told(state_is(store, run_id, "finished"))
        assert await store.events(run_id) == log(TextDelta("half "), TextDelta("an answer"))
        assert (await store.session(session_id)).status == "completed"
        (used,) = await store.usage("2027-01-01")
        assert used.runs == 1


async def test_run_whose_session_was_continued_meanwhile_is_stopped(
    postgres: PostgresServer, scripted: Scripted
) -> None:
    """Two agents must not work in one session: the server was suspended, and its run was declared interrupted."""
    url = postgres.empty()
    scripted.play([*claude_says("part")[:-1], hang()])
    async with PostgresStore(url) as store:
        with await asyncio.to_thread(Server, scripted, {"CLINVK_STORE__URL": url}) as server:
            began = await asyncio.to_thread(lambda: server.ready().detached("hello"))
            await until(lambda: scripted.alive())
            await until_told(state_is(store, began["run_id"], "running"))
            await until_judging(url)
            server.process.send_signal(signal.SIGSTOP)
            await until_told(state_is(store, began["run_id"], "interrupted"))
            given = await store.session(began["session_id"])
            await store.begin(continuing := run(given), given, must_exist=True)
            claimed = await store.session(given.id)
            assert scripted.alive()
            server.process.send_signal(signal.SIGCONT)
            await until(lambda: not scripted.alive())
            await until_told(state_is(store, began["run_id"], "failed"))
        stopped = await store.run(began["run_id"])
        assert stopped.error_code == "session_busy"
        assert await store.session(given.id) == claimed
        assert (await store.run(continuing.id)).state == "queued"


async def test_update_that_comes_after_the_end_of_its_run_is_dropped(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = session()
    await store.begin(record := run(given), given)
    update, is_held, lost = PostgresTurns.update, asyncio.Event(), list[str]()
    store.on_lost.append(lost.append)

    async def update_late(turns: PostgresTurns, *arguments: Any, is_end: bool = False) -> None:
        if not is_end:
            await is_held.wait()
        await update(turns, *arguments, is_end=is_end)

    monkeypatch.setattr(PostgresTurns, "update", update_late)
    await store.update(replace(record, state="running"), replace(given, status="active"))
    reading = asyncio.create_task(store.run(record.id))
    await asyncio.sleep(0.2)
    await store.end(replace(record, state="finished"), replace(given, status="completed"), ANSWER)
    is_held.set()
    assert (await reading).state == "finished"
    assert (await store.session(given.id)).status == "completed"
    assert (lost, caplog.messages) == ([], [])


async def test_new_runs_are_refused_while_too_many_ends_are_unstored(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinvk.store.postgres.postgres._MAX_UNSTORED_BYTES", 100_000)
    records = [run() for _ in range(12)]
    for record in records:
        await store.begin(record, None)
    with psycopg.connect(store.url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;"
            "CREATE TRIGGER full_disk BEFORE UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION fill()"
        )
        for record in records:
            with pytest.raises(StoreUnavailable, match="No space left"):
                await store.end(replace(record, state="finished", output="x" * 10_000), None, ANSWER)
        with pytest.raises(StoreUnavailable, match="of ended runs are not stored yet"):
            await store.begin(run(), None)
        connection.execute("DROP TRIGGER full_disk ON runs")
    for record in records:
        await until_told(state_is(store, record.id, "finished"))
        assert await store.events(record.id) == ANSWER
    await store.begin(run(), None)


async def test_usage_counts_an_end_once_however_often_it_is_stored(store: PostgresStore) -> None:
    record = run()
    await store.begin(record, None)
    ended = replace(record, state="finished", ended_at=record.created_at, usage=Usage(3, 2), cost_usd=0.5)
    for _ in range(3):
        await store.end(ended, None, [])
    (used,) = await store.usage("2027-01-01")
    assert (used.runs, used.usage, used.cost_usd) == (1, Usage(3, 2), 0.5)


async def test_records_survive_a_crash_of_the_server(postgres: PostgresServer, store: PostgresStore) -> None:
    """Runs in progress go on, new ones are refused, and nothing that was acknowledged is lost."""
    given, later = session(status="active"), session(status="active")
    record, other = run(given), run(later)
    for each, of in ((record, given), (other, later)):
        await store.begin(each, of)
    await store.append({record.id: ANSWER[:2]})
    postgres.stop()
    try:
        with pytest.raises(StoreUnavailable, match=r"PostgreSQL at \S+: connection"):
            await store.begin(run(fresh := session()), fresh)
        with pytest.raises(StoreUnavailable):
            await store.append({record.id: ANSWER[:3]})
        await store.update(replace(other, state="running"), None)
        with pytest.raises(StoreUnavailable):
            await store.end(replace(record, state="finished"), replace(given, status="completed"), ANSWER)
        for ask in (store.count(), store.runs(RunQuery()), store.session(given.id)):
            with pytest.raises(StoreUnavailable):
                await ask
    finally:
        postgres.start()
    back_at = time.monotonic()
    async with PostgresStore(store.url) as reading:
        await until_told(state_is(reading, record.id, "finished"))
        await until_told(state_is(reading, other.id, "running"))
    assert time.monotonic() - back_at < 10
    assert await store.events(record.id) == ANSWER
    assert (await store.runs(RunQuery())).total == 2
    await turn(store, given)
    assert await store.count() == 2


async def test_operations_on_a_server_that_does_not_answer_end_at_their_deadline(
    postgres: PostgresServer, store: PostgresStore
) -> None:
    record = run()
    await store.begin(record, None)
    with postgres.suspended():
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer within 2 s"):
            await store.count()
        assert time.monotonic() - began < 8
        ending = asyncio.create_task(store.end(replace(record, state="finished"), None, ANSWER))
        with pytest.raises(StoreUnavailable, match=r"does not answer within 10 s|timeout expired"):
            await ending
        assert time.monotonic() - began < 20
    await until_told(state_is(store, record.id, "finished"))
    assert await store.events(record.id) == ANSWER


async def test_run_whose_caller_leaves_during_begin_is_withdrawn(
    postgres: PostgresServer, store: PostgresStore
) -> None:
    given = session(status="active")
    await turn(store, given)
    record = run(given)
    with psycopg.connect(store.url) as connection:
        connection.execute("SELECT 1 FROM sessions FOR UPDATE")
        beginning = asyncio.create_task(store.begin(record, given))
        await asyncio.sleep(0.1)
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
    await turn(store, given)
    assert (await store.runs(RunQuery(state="queued"))).total == 0


async def test_full_disk_refuses_runs_and_recovers(store: PostgresStore) -> None:
    """The error of a full disk is raised by a trigger: as for all errors of the server, its code and text count."""
    given = session(status="active")
    record = run(given)
    await store.begin(record, given)
    with psycopg.connect(store.url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;"
            "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION fill()"
        )
        for ask in (
            store.end(replace(record, state="finished"), replace(given, status="completed"), ANSWER),
            turn(store, session()),
            store.count(),
        ):
            with pytest.raises(StoreUnavailable, match="No space left on device"):
                await ask
        assert (await store.run(record.id)).state == "queued"
        connection.execute("DROP TRIGGER full_disk ON runs")
    await until_told(state_is(store, record.id, "finished"))
    assert await store.events(record.id) == ANSWER
    assert await store.count() == 1


async def test_record_that_the_server_refuses_stops_no_other_operation(
    store: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal, which no record of clinvk should meet, is raised by a trigger."""
    given = session(status="active")
    refused, ended, other = run(given), run(), run()
    await store.begin(refused, given)
    await store.begin(ended, None)
    await store.begin(other, None)
    with psycopg.connect(store.url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'bigint out of range' USING ERRCODE = '22003'; END $$;"
            "CREATE TRIGGER refuse BEFORE UPDATE ON runs FOR EACH ROW WHEN (new.model = 'refused')"
            " EXECUTE FUNCTION refuse()"
        )
    await store.update(replace(refused, model="refused", state="running"), None)
    await store.update(replace(other, state="running"), None)
    with pytest.raises(ClinvkError, match="refuses a value: bigint out of range"):
        await store.end(replace(ended, model="refused", state="finished"), None, ANSWER)
    assert (await store.run(refused.id)).state == "queued"
    assert (await store.run(other.id)).state == "running"
    assert "refuses a value" in caplog.text
    assert (await store.run(ended.id)).state == "failed"


async def test_long_paths_and_models_are_stored(store: PostgresStore) -> None:
    """An index of PostgreSQL refuses values of more than 2,704 bytes."""
    path = "/" + os.urandom(2000).hex()
    given = session(working_dir=path, backend_session_id="handle")
    record = run(given, model=path)
    await store.begin(record, given)
    await store.end(replace(record, state="finished", ended_at=record.created_at), given, [])
    current = await store.current("claude", path)
    assert current is not None
    assert current.id == given.id


# API keys


async def test_keys_of_the_database_replace_those_of_the_file(postgres: PostgresServer, tmp_path: Path) -> None:
    """The first change copies the keys of the file, so that no key is lost and no server opens."""

    await KeyFile(tmp_path).create("ana", KeyLimits(max_runs=3))
    url = postgres.empty()
    async with PostgresStore(url) as first, PostgresStore(url) as second:
        one, other = KeyTable(tmp_path, first), KeyTable(tmp_path / "elsewhere", second)
        assert [[key.name for key in await table.read() or ()] for table in (one, other)] == [["ana"], []]
        await one.create("dry", KeyLimits(), dry_run=True)
        await one.create("ben", KeyLimits())
        await other.revoke("ana")
        await other.store_usage({"ben": 7.0})
        assert [(key.name, key.last_used) for key in await one.read() or ()] == [("ben", 7.0)]
        await other.revoke("ben")
        assert await one.read() == ()
        await one.remove()
        assert [await table.read() for table in (one, other)] == [None, None]


async def test_servers_see_changes_of_keys_and_keep_them_while_the_database_is_away(
    postgres: PostgresServer, scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    url, keys = postgres.empty(), ApiKeys(["k"])
    async with (
        PostgresStore(url) as ours,
        PostgresStore(url) as store,
        serving(scripted.env, store=store, keys=keys) as server,
    ):

        async def status() -> int:
            return (await server.client.get("/api/v1/runs", headers={"x-api-key": key})).status_code

        table = KeyTable(scripted.folder, ours)
        key = await table.create("ana", KeyLimits())
        await until(lambda: keys.by_text(key))
        assert await status() == 200
        with caplog.at_level(logging.WARNING):
            postgres.stop()
            await until(lambda: "already read stay valid" in caplog.text)
        assert keys.by_text(key)
        postgres.start()
        await table.revoke("ana")
        revoked_at = time.monotonic()
        await until(lambda: not keys.by_text(key))
        assert time.monotonic() - revoked_at < 10
        assert await status() == 401


# Servers


async def test_session_begun_at_one_server_is_continued_at_another(
    postgres: PostgresServer, scripted: Scripted
) -> None:
    url = postgres.empty()
    scripted.play(claude_says("first"))
    async with (
        PostgresStore(url) as one,
        PostgresStore(url) as other,
        serving(scripted.env, store=one) as first,
        serving(scripted.env, store=other) as second,
    ):
        began = (await first.prompt(workdir=str(scripted.folder))).json()
        listed = (await second.client.get("/api/v1/sessions")).json()["sessions"]
        assert [each["id"] for each in listed] == [began["session_id"]]
        events = (await second.client.get(f"/api/v1/runs/{began['run_id']}/events")).text
        assert "first" in events
        continued = await second.prompt(prompt="go on", session_id=began["session_id"])
        assert continued.status_code == 200, continued.text
        assert continued.json()["session_id"] == began["session_id"]
        assert (await first.client.get("/api/v1/runs")).json()["total"] == 2


async def test_run_goes_on_while_the_database_is_away_and_new_ones_get_503(
    postgres: PostgresServer, scripted: Scripted, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    scripted.play([wait_for(go), *claude_says("done")])
    async with PostgresStore(postgres.empty()) as store, serving(scripted.env, store=store) as server:
        started = await server.detached(workdir=str(scripted.folder))
        await until(lambda: scripted.calls())
        postgres.stop()
        try:
            refused = await server.prompt(workdir=str(scripted.folder))
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            assert (await server.client.get("/health")).status_code == 503
            go.touch()
            await server.ended(started["run_id"])
        finally:
            postgres.start()
        await until_told(state_is(store, started["run_id"], "finished"))
        assert (await store.run(started["run_id"])).output == "done"
        assert (await server.prompt(workdir=str(scripted.folder))).status_code == 200
        assert (await server.client.get("/health")).status_code == 200
