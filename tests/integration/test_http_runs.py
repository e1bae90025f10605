"""Records of runs over HTTP; runs that go on without their client, and their end."""

import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest

from clinvk.config.model import BackendSettings
from clinvk.store.memory import MemoryStore
from clinvk.types.events import Logged, RunStarted, TextDelta
from clinvk.types.record import RunRecord
from polling import until, until_told
from scripted import Scripted
from scripted.steps import claude_says, exits, hang, letters, spawn, wait_for
from serving import Served, serving

ITEM = [
    "id",
    "state",
    "kind",
    "backend",
    "session_id",
    "parent_id",
    "index",
    "name",
    "prompt",
    "workdir",
    "model",
    "created_at",
    "started_at",
    "ended_at",
    "exit_code",
    "error",
    "error_code",
    "stop_reason",
    "token_usage",
    "cost_usd",
]


def record(number: int, **fields: object) -> RunRecord:
    base: dict[str, object] = {
        "id": f"{number:032x}",
        "backend": "claude",
        "prompt": f"prompt {number}",
        "state": "finished",
        "created_at": 1_700_000_000.0 + number,
    }
    return RunRecord(**{**base, **fields})  # pyright: ignore[reportArgumentType]  # a wrong type fails the test


async def store_of(*records: RunRecord) -> MemoryStore:
    store = MemoryStore()
    for one in records:
        await store.begin(one, None)
    return store


async def get(served: Served, path: str) -> httpx.Response:
    return await served.client.get(f"/api/v1/runs{path}")


async def test_run_is_stored_with_its_request_and_result(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("hello ", "world"))
    async with serving(scripted.env) as served:
        answer = (await served.prompt(workdir=str(tmp_path), sandbox_mode="read-only", model="opus")).json()
        told = (await get(served, f"/{answer['run_id'][:6]}")).json()
    assert list(told) == [*ITEM, "output", "request", "total_runs", "runs"]
    assert (told["id"], told["session_id"]) == (answer["run_id"], answer["session_id"])
    assert (told["state"], told["exit_code"], told["stop_reason"]) == ("finished", 0, "end_turn")
    assert (told["prompt"], told["output"], told["workdir"]) == ("hi", "hello world", str(tmp_path))
    assert (told["model"], told["cost_usd"]) == ("claude-scripted", 0.01)
    assert told["token_usage"] == answer["token_usage"]
    assert told["request"]["sandbox_mode"] == "read-only"
    assert (told["error"], told["error_code"], told["parent_id"]) == (None, None, None)
    assert told["created_at"] <= told["started_at"] <= told["ended_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", told["ended_at"])


async def test_failed_run_reports_its_error(scripted: Scripted) -> None:
    scripted.play([*claude_says("half")[:4], exits(9)])
    async with serving(scripted.env) as served:
        answer = (await served.prompt()).json()
        told = (await get(served, f"/{answer['run_id']}")).json()
    assert (told["state"], told["exit_code"], told["output"]) == ("failed", 9, "half")
    assert (told["error"], told["error_code"]) == (answer["error"], "agent_crashed")


async def test_ephemeral_run_stores_neither_prompt_nor_answer(scripted: Scripted) -> None:
    scripted.play(claude_says("secret"))
    async with serving(scripted.env) as served:
        answer = (await served.prompt(ephemeral=True, prompt="private")).json()
        await served.ended(answer["run_id"])
        told = await get(served, f"/{answer['run_id']}")
        events = await get(served, f"/{answer['run_id']}/events")
        sessions = (await served.client.get("/api/v1/sessions")).json()
    assert (answer["output"], answer["session_id"]) == ("secret", None)
    assert (told.json()["prompt"], told.json()["output"], told.json()["session_id"]) == ("", "", None)
    assert (events.status_code, events.json()["code"]) == (404, "run_not_found")
    assert "ephemeral" in events.json()["detail"]
    assert sessions["total"] == 0


async def test_runs_are_listed_newest_first_in_pages_with_the_total(scripted: Scripted) -> None:
    store = await store_of(*(record(number, output="x", prompt="p" * 2000) for number in range(5)))
    async with serving(scripted.env, store=store) as served:
        whole = (await get(served, "")).json()
        page = (await get(served, "?limit=2&offset=1")).json()
    assert [run["id"] for run in whole["runs"]] == [f"{number:032x}" for number in (4, 3, 2, 1, 0)]
    assert [run["id"] for run in page["runs"]] == [f"{number:032x}" for number in (3, 2)]
    assert (page["total"], page["limit"], page["offset"]) == (5, 2, 1)
    assert list(whole["runs"][0]) == ITEM
    assert whole["runs"][0]["prompt"] == "p" * 1000


async def test_runs_are_filtered_by_session_backend_and_state(scripted: Scripted) -> None:
    scripted.play(claude_says("x", session="11111111-1111-4111-8111-111111111112"), when="one")
    scripted.play([exits(9)], when="two")
    async with serving(scripted.env) as served:
        one = (await served.prompt(prompt="one")).json()
        two = (await served.prompt(prompt="two")).json()

        async def found(query: str) -> list[str]:
            return [run["id"] for run in (await get(served, query)).json()["runs"]]

        assert await found(f"?session_id={one['session_id']}") == [one["run_id"]]
        assert await found(f"?session_id={one['session_id'][:8]}") == [one["run_id"]]
        assert await found("?state=failed") == [two["run_id"]]
        assert await found("?backend=claude") == [two["run_id"], one["run_id"]]
        assert await found("?backend=codex") == []
        unknown = await get(served, "?session_id=ffffffff")
        malformed = await get(served, "?session_id=x")
    assert (unknown.status_code, unknown.json()["field"]) == (404, "session_id")
    assert (malformed.status_code, malformed.json()["field"]) == (404, "session_id")


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ("state=done", "state", "one of cancelled, failed, finished, interrupted, queued, running, got"),
        ("status=failed", "status", "unknown parameter 'status'; did you mean 'state'?"),
        ("backend=clod", "backend", "unknown backend 'clod'"),
    ],
)
async def test_error_for_an_invalid_parameter_names_it(
    scripted: Scripted, query: str, field: str | None, words: str
) -> None:
    async with serving(scripted.env, store=MemoryStore()) as served:
        response = await get(served, f"?{query}")
    assert (response.status_code, response.json().get("field")) == (400, field)
    assert words in response.json()["detail"]


@pytest.mark.parametrize("path", ["{}", "{}/events"])
async def test_unknown_ambiguous_or_invalid_run_id_is_reported(scripted: Scripted, path: str) -> None:
    store = await store_of(record(1), record(2))
    async with serving(scripted.env, store=store) as served:
        told = [await get(served, "/" + path.format(reference)) for reference in ("ffff", "0000", "zz")]
    assert [response.status_code for response in told] == [404, 409, 404]
    assert [response.json()["code"] for response in told] == ["run_not_found", "ambiguous_id", "run_not_found"]
    assert told[1].json()["candidates"] == [f"{1:032x}", f"{2:032x}"]


def asked(**fields: object) -> bytes:
    body = json.dumps({"backend": "claude", "prompt": "hi", **fields}).encode()
    head = (
        "POST /api/v1/prompt HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}"
    )
    return f"{head}\r\n\r\n".encode() + body


async def test_detached_run_is_answered_at_once_with_prefer_respond_async(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("one ", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    async with serving(scripted.env) as served:
        response = await served.client.post(
            "/api/v1/prompt",
            json={"backend": "claude", "prompt": "hi", "detach": True},
            headers={"prefer": "handling=strict, Respond-Async; wait=10"},
        )
        told = response.json()
        assert (response.status_code, response.headers["preference-applied"]) == (202, "respond-async")
        assert response.headers["location"] == f"/api/v1/runs/{told['run_id']}"
        assert list(told) == ["run_id", "session_id", "state"]
        assert told["state"] in ("queued", "running")
        await until(scripted.calls)
        under_way = (await served.client.get(response.headers["location"])).json()
        assert (under_way["state"], under_way["output"], under_way["ended_at"]) == ("running", "", None)
        by_state = {state: (await get(served, f"?state={state}")).json()["runs"] for state in ("queued", "running")}
        assert {state: [run["state"] for run in runs] for state, runs in by_state.items()} == {
            "queued": [],
            "running": ["running"],
        }
        (tmp_path / "go").touch()
        await served.ended(told["run_id"])
        ended = (await served.client.get(response.headers["location"])).json()
    assert (ended["state"], ended["output"], ended["session_id"]) == ("finished", "one two", told["session_id"])


async def test_prefer_respond_async_without_detach_is_ignored(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as served:
        response = await served.client.post(
            "/api/v1/prompt", json={"backend": "claude", "prompt": "hi"}, headers={"prefer": "respond-async"}
        )
    assert (response.status_code, response.json()["output"]) == (200, "x")
    assert "preference-applied" not in response.headers


@pytest.mark.parametrize("output_format", ["json", "stream-json"])
async def test_detached_run_is_awaited_without_prefer_respond_async(scripted: Scripted, output_format: str) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as served:
        response = await served.prompt(detach=True, output_format=output_format)
    assert response.status_code == 200
    last = json.loads(response.text.splitlines()[-1])
    assert last.get("output") == "x" or last["type"] == "done"


@pytest.mark.parametrize("output_format", ["json", "stream-json"])
async def test_detached_run_continues_after_its_client_disconnects(
    scripted: Scripted, tmp_path: Path, output_format: str
) -> None:
    says = claude_says("one ", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    async with serving(scripted.env) as served:
        _, writer = await served.raw(asked(detach=True, output_format=output_format))
        await until(scripted.calls)
        writer.close()
        await until(lambda: served.state.active_requests == 0)
        (run,) = (await get(served, "?state=running")).json()["runs"] or (await get(served, "")).json()["runs"]
        (tmp_path / "go").touch()
        await served.ended(run["id"])
        told = (await get(served, f"/{run['id']}")).json()
    assert (told["state"], told["output"]) == ("finished", "one two")


async def test_detached_run_starts_even_if_its_client_disconnects_at_once(scripted: Scripted) -> None:
    """Also while its schema is looked at, which takes a process of its own."""
    scripted.play(claude_says('"one"'))
    async with serving(scripted.env) as served:
        for schema in (None, {"type": "string", "minLength": 1}):
            _, writer = await served.raw(asked(detach=True, output_schema=schema))
            await asyncio.sleep(0.03)
            writer.transport.abort()
        await until(lambda: len(scripted.calls()) >= 2)


async def test_detached_run_with_unread_output_finishes(scripted: Scripted) -> None:
    says = claude_says("SPLIT")
    before, after = str(says[3]["line"]).split("SPLIT")
    scripted.play([*says[:3], *[letters(100_000, before, after)] * 100, *says[-1:]])
    async with serving(scripted.env) as served:
        run = await served.detached()
        await served.ended(run["run_id"])
        told = (await get(served, f"/{run['run_id']}")).json()
    assert (told["state"], len(told["output"])) == ("finished", 10_000_000)


async def test_cancel_ends_a_detached_run(scripted: Scripted) -> None:
    scripted.play([*claude_says("half")[:4], spawn("setsid"), hang()])
    async with serving(scripted.env) as served:
        run = await served.detached()
        await until(scripted.grandchildren)
        response = await served.client.post(f"/api/v1/runs/{run['run_id'][:8]}/cancel")
        again = await served.client.post(f"/api/v1/runs/{run['run_id']}/cancel")
        session = (await served.client.get(f"/api/v1/sessions/{run['session_id']}")).json()
        await until(lambda: not scripted.alive())
    told = response.json()
    assert (response.status_code, told["state"], told["error_code"]) == (200, "cancelled", "cancelled")
    assert told["output"] == "half"
    assert (again.status_code, again.json()["code"]) == (409, "run_not_cancellable")
    assert "has ended already: it is cancelled" in again.json()["detail"]
    assert session["status"] == "paused"


async def test_cancelled_queued_run_never_starts(scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], hang()])
    async with serving(scripted.env, max_concurrent_runs=1) as served:
        first = await served.detached()
        second = await served.detached()
        assert second["state"] == "queued"
        response = await served.client.post(f"/api/v1/runs/{second['run_id']}/cancel")
        assert (response.json()["state"], response.json()["started_at"]) == ("cancelled", None)
        await until(scripted.calls)
        await served.client.post(f"/api/v1/runs/{first['run_id']}/cancel")
    assert len(scripted.calls()) == 1


ASKED = {"messages": [{"role": "user", "content": "hi"}]}


async def queued(served: Served) -> list[dict[str, str]]:
    return (await get(served, "?state=queued")).json()["runs"]


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/api/v1/prompt", {"backend": "claude", "prompt": "hi"}, 200, '"exit_code":1,"duration_ms":0,"output":""'),
        (
            "/api/v1/prompt",
            {"backend": "claude", "prompt": "hi", "output_format": "stream-json"},
            200,
            '"sequence":1,"content":{"code":"cancelled"',
        ),
        ("/openai/v1/chat/completions", {"model": "claude", **ASKED}, 500, '"code":"cancelled"'),
        ("/openai/v1/chat/completions", {"model": "claude", "stream": True, **ASKED}, 500, '"code":"cancelled"'),
        ("/openai/v1/responses", {"model": "claude", "stream": True, "input": "hi"}, 200, '"status":"cancelled"'),
        ("/anthropic/v1/messages", {"model": "claude", **ASKED}, 500, '"error_code":"cancelled"'),
    ],
)
async def test_cancelling_a_queued_run_does_not_make_its_client_retry(
    scripted: Scripted, path: str, body: dict[str, object], status: int, told: str
) -> None:
    """An SDK does so after a 503, and Codex, which takes nothing but events, after any status that is an error."""
    scripted.play([*claude_says("x")[:4], hang()])
    accept = {"accept": "text/event-stream"} if "responses" in path else {}
    async with serving(scripted.env, max_concurrent_runs=1) as served:
        first = await served.detached()
        await until(scripted.calls)
        waiting = asyncio.create_task(served.client.post(path, json=body, headers=accept))
        await until_told(lambda: queued(served))
        (run,) = await queued(served)
        await served.client.post(f"/api/v1/runs/{run['id']}/cancel")
        response = await waiting
        await served.client.post(f"/api/v1/runs/{first['run_id']}/cancel")
    assert (response.status_code, "retry-after" in response.headers) == (status, False), response.text
    assert response.headers.get("x-should-retry", "") == ("false" if status == 500 else "")
    assert told in response.text


async def test_cancel_is_reported_to_the_waiting_client(scripted: Scripted) -> None:
    scripted.play([*claude_says("half")[:4], hang()])
    async with serving(scripted.env) as served:
        waiting = asyncio.create_task(served.prompt())
        await until(scripted.calls)
        (run,) = (await get(served, "")).json()["runs"]
        await served.client.post(f"/api/v1/runs/{run['id']}/cancel")
        told = (await waiting).json()
        kept = (await get(served, f"/{run['id']}")).json()
    assert (told["exit_code"], told["error_code"]) == (1, "cancelled")
    assert (run["exit_code"], kept["exit_code"]) == (None, 1), "that of a run which has ended is known"


async def test_run_of_another_clinvk_cannot_be_cancelled(scripted: Scripted) -> None:
    store = await store_of(record(1, state="running"))
    await store.append({f"{1:032x}": [Logged(1, 1.0, RunStarted()), Logged(2, 1.0, TextDelta("x"))]})
    async with serving(scripted.env, store=store) as served:
        response = await served.client.post(f"/api/v1/runs/{1:032x}/cancel")
    assert (response.status_code, response.json()["code"]) == (409, "run_not_cancellable")
    assert "another clinvk" in response.json()["detail"]


async def test_session_of_a_disabled_backend_is_not_resumed(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as served:
        session_id = (await served.prompt()).json()["session_id"]
    async with serving(scripted.env, backends={"claude": BackendSettings(enabled=False)}) as served:
        response = await served.prompt(session_id=session_id)
    assert (response.status_code, response.json()["code"]) == (404, "backend_unavailable")


async def test_interrupted_run_ends_with_its_error(scripted: Scripted) -> None:
    store = await store_of(record(1, state="interrupted", error_message="clinvk died", ended_at=1_700_000_002.0))
    async with serving(scripted.env, store=store) as served:
        told = (await get(served, f"/{1:032x}")).json()
        events = await get(served, f"/{1:032x}/events")
    assert (told["state"], told["error"]) == ("interrupted", "clinvk died")
    (data,) = re.findall(r"^data: (.*)$", events.text, re.MULTILINE)
    assert (json.loads(data)["type"], json.loads(data)["content"]["message"]) == ("error", "clinvk died")


BIG = "a" * 400_000


async def test_queued_prompts_are_limited_in_bytes(scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], hang()])
    async with serving(scripted.env, max_concurrent_runs=1, max_queued_mb=1, trusted_proxies=("127.0.0.1",)) as served:
        await served.detached(prompt=BIG)
        begun = [await served.detached(prompt=BIG) for _ in range(2)]
        assert [run["queue_position"] for run in begun] == [1, 2]
        refused = [await served.prompt(prompt=BIG, detach=True)]
        refused += [await served.client.post("/openai/v1/chat/completions", json={"model": "claude", **OF_BIG})]
        tasks = [{"backend": "claude", "prompt": BIG}] * 2
        refused += [await served.client.post("/api/v1/parallel", json={"tasks": tasks})]
        assert (await queued(served))[0]["id"] == begun[1]["run_id"], "refused requests leave no run behind"
        other = await served.client.post(
            "/api/v1/prompt",
            json={"backend": "claude", "prompt": "hi", "detach": True},
            headers={"prefer": "respond-async", "x-forwarded-for": "192.0.2.1"},
        )
        assert other.json()["queue_position"] == 1, "another client has room, and it is its turn"
    assert [(answer.status_code, "retry-after" in answer.headers) for answer in refused] == [(503, True)] * 3


OF_BIG = {"messages": [{"role": "user", "content": BIG}]}


async def test_queued_run_reports_its_position_in_the_queue(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    async with serving(scripted.env, max_concurrent_runs=1) as served:
        runs = [await served.detached() for _ in range(3)]
        assert [run.get("queue_position") for run in runs] == [None, 1, 2]
        last = f"/api/v1/runs/{runs[2]['run_id']}"
        assert (await served.client.get(last)).json()["queue_position"] == 2
        await served.client.post(f"/api/v1/runs/{runs[1]['run_id']}/cancel")
        assert (await served.client.get(last)).json()["queue_position"] == 1
        (tmp_path / "go").touch()
        await served.ended(runs[2]["run_id"])
        assert "queue_position" not in (await served.client.get(last)).json()
