"""The events of a run for viewers: replayed from any number, followed while it runs, as SSE or NDJSON."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from msgspec.structs import replace

import records
from clinvk.store.memory import MemoryStore
from clinvk.store.sqlite.sqlite import SqliteStore
from clinvk.types.events import Logged, RunFinished, RunStarted, TextDelta, Usage
from polling import until
from scripted import Scripted
from scripted.steps import Step, claude_says, hang, line, wait_for
from serving import LiveServer, serving

ANSWER = [f"word{number} " for number in range(40)]


class Seen(NamedTuple):
    """An event as a viewer receives it."""

    id: int
    data: str

    @property
    def type(self) -> str:
        """The type of the unified event."""
        return json.loads(self.data)["type"]


def frames(text: str) -> list[Seen]:
    """Read a stream as a browser would: nothing but ids, data and comments."""
    found: list[Seen] = []
    for block in text.split("\n\n"):
        fields = dict(entry.split(": ", 1) for entry in block.split("\n") if entry and not entry.startswith(":"))
        if "data" in fields:
            assert set(fields) == {"id", "data"}
            found.append(Seen(int(fields["id"]), fields["data"]))
    return found


async def events(server: LiveServer, run_id: str, after: int | None = None, **headers: str) -> httpx.Response:
    given = {} if after is None else {"last-event-id": str(after)}
    return await server.client.get(f"/api/v1/runs/{run_id}/events", headers={**given, **headers})


def tool_steps() -> list[Step]:
    """Claude uses a tool and then answers."""
    begin, *answer = claude_says("one ", "two")
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "a.txt"}
    works = [
        line(json.dumps({"type": role, "message": {"id": "m", "role": role, "content": [block]}}))
        for role, block in (("assistant", call), ("user", result))
    ]
    return [begin, *works, *answer]


async def test_replayed_events_equal_the_streamed_events(scripted: Scripted) -> None:
    scripted.play(claude_says(*ANSWER))
    async with serving(scripted.env) as server:
        streamed = await server.prompt(output_format="stream-json")
        run_id = json.loads(streamed.text.splitlines()[0])["content"]["run_id"]
        await server.ended(run_id)
        replayed = await events(server, run_id)
        as_lines = await events(server, run_id, accept="application/x-ndjson")
    assert (replayed.status_code, replayed.headers["content-type"]) == (200, "text/event-stream")
    assert replayed.headers["x-accel-buffering"] == "no"
    assert replayed.text.startswith("retry: 1000\n\n")
    seen = frames(replayed.text)
    assert [data for _, data in seen] == streamed.text.splitlines()
    assert [number for number, _ in seen] == [json.loads(data)["sequence"] for _, data in seen]
    assert as_lines.headers["content-type"] == "application/x-ndjson"
    assert as_lines.text == streamed.text


@pytest.mark.parametrize("kept_by", ["sqlite", "memory"])
async def test_replay_from_any_sequence_returns_exactly_the_rest(scripted: Scripted, kept_by: str) -> None:
    scripted.play(tool_steps())
    store = None if kept_by == "sqlite" else MemoryStore()
    async with serving(scripted.env, store=store) as server:
        run_id = (await server.prompt()).json()["run_id"]
        await server.ended(run_id)
        whole = frames((await events(server, run_id)).text)
        assert [seen.id for seen in whole] == [*range(1, len(whole) + 1)]
        assert [seen.type for seen in whole][:3] == ["init", "tool_use", "tool_result"]
        assert [seen.type for seen in whole][-2:] == ["token_usage", "done"]
        for after in range(len(whole)):
            assert frames((await events(server, run_id, after)).text) == whole[after:]
            by_query = await server.client.get(f"/api/v1/runs/{run_id}/events?after={after}")
            assert frames(by_query.text) == whole[after:]


async def test_nothing_left_to_replay_returns_204_so_that_browsers_stop_reconnecting(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        run_id = (await server.prompt()).json()["run_id"]
        await server.ended(run_id)
        last = frames((await events(server, run_id)).text)[-1]
        for after in (last.id, last.id + 1, 2000):
            response = await events(server, run_id, after)
            assert (response.status_code, response.content) == (204, b"")


async def test_last_event_id_header_overrides_the_query(scripted: Scripted) -> None:
    """A browser reconnects with its first address."""
    scripted.play(claude_says("a", "b"))
    async with serving(scripted.env) as server:
        run_id = (await server.prompt()).json()["run_id"]
        response = await server.client.get(f"/api/v1/runs/{run_id}/events?after=1", headers={"last-event-id": "3"})
    assert frames(response.text)[0].id == 4


@pytest.mark.parametrize(
    ("query", "headers", "field", "words"),
    [
        ("", {"last-event-id": "x"}, "last-event-id", "must be the id of an event, a whole number, got 'x'"),
        ("?after=-1", {}, "after", "after must be a whole number from 0"),
        ("?since=1", {}, "since", "unknown parameter 'since'; known are after"),
    ],
)
async def test_invalid_sequence_number_is_refused(
    scripted: Scripted, query: str, headers: dict[str, str], field: str, words: str
) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        run_id = (await server.prompt()).json()["run_id"]
        response = await server.client.get(f"/api/v1/runs/{run_id}/events{query}", headers=headers)
    assert (response.status_code, response.json()["field"]) == (400, field)
    assert words in response.json()["detail"]


async def lines_of(response: httpx.Response) -> AsyncIterator[Seen]:
    number = 0
    async for text in response.aiter_lines():
        if text.startswith("id: "):
            number = int(text.removeprefix("id: "))
        if text.startswith("data: "):
            yield Seen(number, text.removeprefix("data: "))


@pytest.mark.parametrize("detach", [True, False])
async def test_viewers_follow_a_run_from_the_start_or_from_a_sequence_number(
    scripted: Scripted, tmp_path: Path, detach: bool
) -> None:
    says = claude_says("one", "two", "three")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    async with serving(scripted.env) as server:
        client = asyncio.create_task(server.prompt(output_format="stream-json", detach=detach))
        await until(scripted.calls)
        (run,) = (await server.client.get("/api/v1/runs")).json()["runs"]

        async def follow(after: int) -> list[Seen]:
            seen: list[Seen] = []
            async with server.client.stream(
                "GET", f"/api/v1/runs/{run['id']}/events", headers={"last-event-id": str(after)}
            ) as response:
                async for one in lines_of(response):
                    seen.append(one)
                    if one.id == 2:
                        (tmp_path / "go").touch()
            return seen

        first, second = await asyncio.gather(follow(0), follow(2))
        lines = (await client).text.splitlines()
    assert [data for _, data in first] == lines
    assert [data for _, data in second] == lines[2:]
    assert [seen.type for seen in first] == ["init", "message", "message", "message", "token_usage", "done"]


async def test_viewer_disconnect_does_not_end_the_run(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("one", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    async with serving(scripted.env) as server:
        run = await server.detached()
        reader, writer = await server.raw(
            f"GET /api/v1/runs/{run['run_id']}/events HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        )
        await reader.readuntil(b'"one"')
        writer.close()
        await until(lambda: server.state.active_requests == 0)
        assert server.runs.live(run["run_id"])
        (tmp_path / "go").touch()
        await server.ended(run["run_id"])
        answer = (await server.client.get(f"/api/v1/runs/{run['run_id']}")).json()
    assert (answer["state"], answer["output"]) == ("finished", "onetwo")


async def test_viewer_of_a_queued_run_waits_for_it(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play([*claude_says("x")[:4], wait_for(tmp_path / "go"), *claude_says()[-1:]])
    async with serving(scripted.env, max_concurrent_runs=1) as server:
        await server.detached()
        second = await server.detached()
        async with server.client.stream("GET", f"/api/v1/runs/{second['run_id']}/events") as response:
            assert response.status_code == 200
            (tmp_path / "go").touch()
            types = [seen.type async for seen in lines_of(response)]
    assert (types[0], types[-1]) == ("init", "done")


async def test_run_of_another_clinvk_is_followed_through_the_store(scripted: Scripted, tmp_path: Path) -> None:
    run = records.run(state="running", created_at=10.0, started_at=12.0)
    async with SqliteStore(tmp_path) as other, SqliteStore(tmp_path) as store:
        await other.begin(run, None)
        await other.append({run.id: [Logged(1, 13.0, RunStarted("m", "h")), Logged(2, 14.0, TextDelta("one"))]})
        async with (
            serving(scripted.env, store=store) as server,
            server.client.stream("GET", f"/api/v1/runs/{run.id}/events") as response,
        ):
            seen: list[Seen] = []
            async for one in lines_of(response):
                seen.append(one)
                if one.id == 2:
                    ending = RunFinished("end_turn", Usage(1, 2))
                    last = [Logged(3, 15.0, TextDelta("two")), Logged(4, 16.5, ending)]
                    await other.end(replace(run, state="finished", ended_at=16.5), None, last)
    assert [one.type for one in seen] == ["init", "message", "message", "token_usage", "done"]
    assert [one.id for one in seen] == [1, 2, 3, 4, 5]
    assert json.loads(seen[-1].data)["content"]["duration"] == 4.5


async def test_viewer_of_an_ephemeral_run_of_another_clinvk_gets_its_end(scripted: Scripted) -> None:
    store = MemoryStore()
    run = records.run(state="running", created_at=10.0, started_at=12.0, request={"ephemeral": True})
    await store.begin(run, None)
    async with (
        serving(scripted.env, store=store) as server,
        server.client.stream("GET", f"/api/v1/runs/{run.id}/events") as response,
    ):
        await store.end(replace(run, state="finished", ended_at=16.5, usage=Usage(1, 2)), None, ())
        seen = [one.type async for one in lines_of(response)]
        later = await events(server, run.id)
    assert seen == ["token_usage", "done"]
    assert later.status_code == 404


async def test_stopping_server_does_not_wait_for_a_run_of_another_clinvk(scripted: Scripted) -> None:
    store = MemoryStore()
    run = records.run(state="running")
    await store.begin(run, None)
    async with (
        serving(scripted.env, store=store) as server,
        server.client.stream("GET", f"/api/v1/runs/{run.id}/events") as response,
    ):
        server.state.stopping.set()
        assert [seen async for seen in lines_of(response)] == []


async def test_stopping_server_streams_the_end_of_its_multi_agent_runs(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    body = {"tasks": [{"backend": "claude", "prompt": "hi"}]}
    async with serving(scripted.env) as server:
        answering = asyncio.create_task(server.client.post("/api/v1/parallel", json=body))
        await until(scripted.calls)
        runs = (await server.client.get("/api/v1/runs")).json()["runs"]
        (whole,) = [run["id"] for run in runs if run["kind"] == "parallel"]
        async with server.client.stream("GET", f"/api/v1/runs/{whole}/events") as response:
            server.state.stopping.set()
            (tmp_path / "go").touch()
            seen = [one.type async for one in lines_of(response)]
        assert (await answering).status_code == 200
    assert seen[-1] == "done"


async def test_head_answers_for_a_stream_without_waiting(scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], hang()])
    async with serving(scripted.env) as server:
        run = await server.detached()
        response = await server.client.head(f"/api/v1/runs/{run['run_id']}/events")
        missing = await server.client.head("/api/v1/runs/ffffffff/events")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
    assert missing.status_code == 404


async def test_long_run_is_replayed_completely_from_the_store(scripted: Scripted) -> None:
    store = MemoryStore()
    run = records.run(state="finished", created_at=1.0, started_at=1.0, ended_at=9.0)
    await store.begin(run, None)
    texts = [Logged(number, 2.0, TextDelta(f"{number},")) for number in range(2, 5002)]
    await store.append({run.id: [Logged(1, 1.5, RunStarted()), *texts, Logged(5002, 9.0, RunFinished())]})
    async with serving(scripted.env, store=store) as server:
        whole = frames((await events(server, run.id)).text)
        rest = frames((await events(server, run.id, 4321)).text)
    assert [seen.id for seen in whole] == [*range(1, 5003)]
    assert rest == whole[4321:]
    assert re.search(r'"text":"5001,"', whole[5000].data)


NDJSON, GZIP = "application/x-ndjson", "gzip"


@pytest.mark.parametrize(
    ("accept", "encoding", "is_compressed"),
    [(NDJSON, GZIP, True), (NDJSON, "identity", False), ("text/event-stream", GZIP, False)],
)
async def test_lines_of_a_run_that_has_ended_are_compressed_for_clients_that_accept_it(
    scripted: Scripted, accept: str, encoding: str, is_compressed: bool
) -> None:
    scripted.play(claude_says(*ANSWER))
    async with serving(scripted.env) as server:
        run = (await server.prompt()).json()["run_id"]
        await server.ended(run)
        plain = await events(server, run, None, **{"accept": accept, "accept-encoding": "identity"})
        response = await events(server, run, None, **{"accept": accept, "accept-encoding": encoding})
        refused = await server.client.get(
            "/api/v1/runs/ffffffff/events", headers={"accept": accept, "accept-encoding": encoding}
        )
        nothing = await events(server, run, 10_000, **{"accept": accept, "accept-encoding": encoding})
    assert (response.headers.get("content-encoding") == "gzip") is is_compressed
    assert response.text == plain.text
    assert response.num_bytes_downloaded < len(response.content) * (0.5 if is_compressed else 2)
    assert (refused.status_code, nothing.status_code) == (404, 204)
    assert "content-encoding" not in {*refused.headers, *nothing.headers}


async def test_lines_of_a_run_in_progress_are_not_compressed(scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], hang()])
    async with serving(scripted.env) as server:
        run = await server.detached()
        headers = {"accept": NDJSON, "accept-encoding": GZIP}
        async with server.client.stream("GET", f"/api/v1/runs/{run['run_id']}/events", headers=headers) as response:
            assert "content-encoding" not in response.headers
            assert json.loads(await anext(response.aiter_lines()))["type"] == "init"


async def test_lost_events_do_not_shift_sequence_numbers(scripted: Scripted) -> None:
    store = MemoryStore()
    run = records.run(state="finished", created_at=1.0, started_at=1.0, ended_at=9.0)
    await store.begin(run, None)
    kept = [
        Logged(1, 1.5, RunStarted()),
        Logged(4, 2.0, TextDelta("four")),
        Logged(7, 9.0, RunFinished(usage=Usage(1, 1))),
    ]
    await store.append({run.id: kept})
    async with serving(scripted.env, store=store) as server:
        whole = frames((await events(server, run.id)).text)
        rests = {after: frames((await events(server, run.id, after)).text) for after in (1, 2, 3, 4, 6, 7)}
    assert [seen.id for seen in whole] == [1, 4, 7, 8]
    assert [json.loads(seen.data)["sequence"] for seen in whole] == [1, 4, 7, 8]
    assert rests == {after: [seen for seen in whole if seen.id > after] for after in rests}
