"""Records of runs over HTTP, and background runs."""

import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest

from clinvk.config.model import ClusterSettings
from clinvk.store.memory import MemoryStore
from clinvk.types.events import Logged, RunStarted, TextDelta
from clinvk.types.record import RunRecord
from polling import until, until_told
from scripted import Scripted
from scripted.steps import claude_says, exits, hang, letters, spawn, wait_for
from serving import LiveServer, serving
from shell_backend import Shell

ITEM = [
    *("id", "state", "kind", "backend", "session_id", "parent_id", "index", "name", "prompt", "workdir"),
    *("model", "created_at", "started_at", "waits_until", "fallback", "ended_at", "exit_code", "error"),
    *("error_code", "stop_reason", "token_usage", "cost_usd"),
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


async def get(server: LiveServer, path: str) -> httpx.Response:
    return await server.client.get(f"/api/v1/runs{path}")


@pytest.mark.one_machine
async def test_run_is_stored_with_its_request_and_result(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("hello ", "world"))
    async with serving(scripted.env) as server:
        answer = (await server.prompt(workdir=str(tmp_path), sandbox_mode="read-only", model="opus")).json()
        body = (await get(server, f"/{answer['run_id'][:6]}")).json()
    assert list(body) == [*ITEM, "output", "request", "steering", "total_runs", "runs"]
    assert (body["id"], body["session_id"]) == (answer["run_id"], answer["session_id"])
    assert (body["state"], body["exit_code"], body["stop_reason"]) == ("finished", 0, "end_turn")
    assert (body["prompt"], body["output"], body["workdir"]) == ("hi", "hello world", str(tmp_path))
    assert (body["model"], body["cost_usd"]) == ("claude-scripted", 0.01)
    assert body["token_usage"] == answer["token_usage"]
    assert body["request"]["sandbox_mode"] == "read-only"
    assert (body["error"], body["error_code"], body["parent_id"]) == (None, None, None)
    assert body["created_at"] <= body["started_at"] <= body["ended_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["ended_at"])


@pytest.mark.one_machine
async def test_runs_and_sessions_name_the_node_of_the_settings(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    tasks = [{"backend": "claude", "prompt": "hi"}]
    async with serving(scripted.env, cluster=ClusterSettings(node="n1")) as server:
        await server.client.post("/api/v1/parallel", json={"tasks": tasks})
        runs = (await get(server, "")).json()["runs"]
        session = (await server.client.get(f"/api/v1/sessions/{runs[0]['session_id']}")).json()
        fork = await server.client.post(f"/api/v1/sessions/{session['id']}/fork")
    assert [(run["kind"], run["node"]) for run in runs] == [("prompt", "n1"), ("parallel", "n1")]
    assert (session["node"], fork.json()["node"]) == ("n1", "n1")


async def test_runs_are_listed_newest_first_in_pages_with_the_total(scripted: Scripted) -> None:
    store = await store_of(*(record(number, output="x", prompt="p" * 2000) for number in range(5)))
    async with serving(scripted.env, store=store) as server:
        whole = (await get(server, "")).json()
        page = (await get(server, "?limit=2&offset=1")).json()
    assert [run["id"] for run in whole["runs"]] == [f"{number:032x}" for number in (4, 3, 2, 1, 0)]
    assert [run["id"] for run in page["runs"]] == [f"{number:032x}" for number in (3, 2)]
    assert (page["total"], page["limit"], page["offset"]) == (5, 2, 1)
    assert list(whole["runs"][0]) == ITEM
    assert whole["runs"][0]["prompt"] == "p" * 1000


async def test_runs_are_filtered_by_session_backend_and_state(scripted: Scripted) -> None:
    scripted.play(claude_says("x", session="11111111-1111-4111-8111-111111111112"), when="one")
    scripted.play([exits(9)], when="two")
    async with serving(scripted.env) as server:
        one = (await server.prompt(prompt="one")).json()
        two = (await server.prompt(prompt="two")).json()

        async def found(query: str) -> list[str]:
            return [run["id"] for run in (await get(server, query)).json()["runs"]]

        assert await found(f"?session_id={one['session_id']}") == [one["run_id"]]
        assert await found(f"?session_id={one['session_id'][:8]}") == [one["run_id"]]
        assert await found("?state=failed") == [two["run_id"]]
        assert await found("?backend=claude") == [two["run_id"], one["run_id"]]
        assert await found("?backend=codex") == []
        unknown = await get(server, "?session_id=ffffffff")
        malformed = await get(server, "?session_id=x")
    assert (unknown.status_code, unknown.json()["field"]) == (404, "session_id")
    assert (malformed.status_code, malformed.json()["field"]) == (404, "session_id")


@pytest.mark.parametrize("path", ["{}", "{}/events"])
async def test_unknown_ambiguous_or_invalid_run_id_is_reported(scripted: Scripted, path: str) -> None:
    store = await store_of(record(1), record(2))
    async with serving(scripted.env, store=store) as server:
        answer = [await get(server, "/" + path.format(reference)) for reference in ("ffff", "0000", "zz")]
    assert [response.status_code for response in answer] == [404, 409, 404]
    assert [response.json()["code"] for response in answer] == ["run_not_found", "ambiguous_id", "run_not_found"]
    assert answer[1].json()["candidates"] == [f"{1:032x}", f"{2:032x}"]


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
    async with serving(scripted.env) as server:
        response = await server.client.post(
            "/api/v1/prompt",
            json={"backend": "claude", "prompt": "hi", "detach": True},
            headers={"prefer": "handling=strict, Respond-Async; wait=10"},
        )
        answer = response.json()
        assert (response.status_code, response.headers["preference-applied"]) == (202, "respond-async")
        assert response.headers["location"] == f"/api/v1/runs/{answer['run_id']}"
        assert list(answer) == ["run_id", "session_id", "state"]
        assert answer["state"] in ("queued", "running")
        await until(scripted.calls)
        under_way = (await server.client.get(response.headers["location"])).json()
        assert (under_way["state"], under_way["output"], under_way["ended_at"]) == ("running", "", None)
        by_state = {state: (await get(server, f"?state={state}")).json()["runs"] for state in ("queued", "running")}
        assert {state: [run["state"] for run in runs] for state, runs in by_state.items()} == {
            "queued": [],
            "running": ["running"],
        }
        (tmp_path / "go").touch()
        await server.ended(answer["run_id"])
        ended = (await server.client.get(response.headers["location"])).json()
    assert (ended["state"], ended["output"], ended["session_id"]) == ("finished", "one two", answer["session_id"])


async def test_prefer_respond_async_without_detach_is_ignored(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        response = await server.client.post(
            "/api/v1/prompt", json={"backend": "claude", "prompt": "hi"}, headers={"prefer": "respond-async"}
        )
    assert (response.status_code, response.json()["output"]) == (200, "x")
    assert "preference-applied" not in response.headers


@pytest.mark.parametrize("output_format", ["json", "stream-json"])
async def test_detached_run_is_awaited_without_prefer_respond_async(scripted: Scripted, output_format: str) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        response = await server.prompt(detach=True, output_format=output_format)
    assert response.status_code == 200
    last = json.loads(response.text.splitlines()[-1])
    assert last.get("output") == "x" or last["type"] == "done"


@pytest.mark.parametrize("output_format", ["json", "stream-json"])
async def test_detached_run_continues_after_its_client_disconnects(
    scripted: Scripted, tmp_path: Path, output_format: str
) -> None:
    says = claude_says("one ", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    async with serving(scripted.env) as server:
        _, writer = await server.raw(asked(detach=True, output_format=output_format))
        await until(scripted.calls)
        writer.close()
        await until(lambda: server.state.active_requests == 0)
        (run,) = (await get(server, "?state=running")).json()["runs"] or (await get(server, "")).json()["runs"]
        (tmp_path / "go").touch()
        await server.ended(run["id"])
        answer = (await get(server, f"/{run['id']}")).json()
    assert (answer["state"], answer["output"]) == ("finished", "one two")


async def test_detached_run_starts_even_if_its_client_disconnects_at_once(scripted: Scripted) -> None:
    """The client may leave during the check of the schema, which takes a process."""
    scripted.play(claude_says('"one"'))
    async with serving(scripted.env) as server:
        for schema in (None, {"type": "string", "minLength": 1}):
            _, writer = await server.raw(asked(detach=True, output_schema=schema))
            await asyncio.sleep(0.03)
            writer.transport.abort()
        await until(lambda: len(scripted.calls()) >= 2)


async def test_detached_run_with_unread_output_finishes(scripted: Scripted) -> None:
    says = claude_says("SPLIT")
    before, after = str(says[3]["line"]).split("SPLIT")
    scripted.play([*says[:3], *[letters(100_000, before, after)] * 100, *says[-1:]])
    async with serving(scripted.env) as server:
        run = await server.detached()
        await server.ended(run["run_id"])
        answer = (await get(server, f"/{run['run_id']}")).json()
    assert (answer["state"], len(answer["output"])) == ("finished", 10_000_000)


async def test_cancel_ends_a_detached_run(scripted: Scripted) -> None:
    scripted.play([*claude_says("half")[:4], spawn("setsid"), hang()])
    async with serving(scripted.env) as server:
        run = await server.detached()
        await until(scripted.grandchildren)
        response = await server.client.post(f"/api/v1/runs/{run['run_id'][:8]}/cancel")
        again = await server.client.post(f"/api/v1/runs/{run['run_id']}/cancel")
        session = (await server.client.get(f"/api/v1/sessions/{run['session_id']}")).json()
        await until(lambda: not scripted.alive())
    answer = response.json()
    assert (response.status_code, answer["state"], answer["error_code"]) == (200, "cancelled", "cancelled")
    assert answer["output"] == "half"
    assert (again.status_code, again.json()["code"]) == (409, "run_not_cancellable")
    assert "has ended already: it is cancelled" in again.json()["detail"]
    assert session["status"] == "paused"


async def test_cancelled_queued_run_never_starts(scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], hang()])
    async with serving(scripted.env, max_concurrent_runs=1) as server:
        first = await server.detached()
        second = await server.detached()
        assert second["state"] == "queued"
        response = await server.client.post(f"/api/v1/runs/{second['run_id']}/cancel")
        assert (response.json()["state"], response.json()["started_at"]) == ("cancelled", None)
        await until(scripted.calls)
        await server.client.post(f"/api/v1/runs/{first['run_id']}/cancel")
    assert len(scripted.calls()) == 1


ASKED = {"messages": [{"role": "user", "content": "hi"}]}


async def queued(server: LiveServer) -> list[dict[str, str]]:
    return (await get(server, "?state=queued")).json()["runs"]


@pytest.mark.parametrize(
    ("path", "body", "status", "expected"),
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
@pytest.mark.one_machine
async def test_cancelling_a_queued_run_does_not_make_its_client_retry(
    scripted: Scripted, path: str, body: dict[str, object], status: int, expected: str
) -> None:
    """SDKs retry after a 503, and Codex after any error status."""
    scripted.play([*claude_says("x")[:4], hang()])
    accept = {"accept": "text/event-stream"} if "responses" in path else {}
    async with serving(scripted.env, max_concurrent_runs=1) as server:
        first = await server.detached()
        await until(scripted.calls)
        waiting = asyncio.create_task(server.client.post(path, json=body, headers=accept))
        await until_told(lambda: queued(server))
        (run,) = await queued(server)
        await server.client.post(f"/api/v1/runs/{run['id']}/cancel")
        response = await waiting
        await server.client.post(f"/api/v1/runs/{first['run_id']}/cancel")
    assert (response.status_code, "retry-after" in response.headers) == (status, False), response.text
    assert response.headers.get("x-should-retry", "") == ("false" if status == 500 else "")
    assert expected in response.text


async def test_cancel_is_reported_to_the_waiting_client(scripted: Scripted) -> None:
    scripted.play([*claude_says("half")[:4], hang()])
    async with serving(scripted.env) as server:
        waiting = asyncio.create_task(server.prompt())
        await until(scripted.calls)
        (run,) = (await get(server, "")).json()["runs"]
        await server.client.post(f"/api/v1/runs/{run['id']}/cancel")
        answer = (await waiting).json()
        kept = (await get(server, f"/{run['id']}")).json()
    assert (answer["exit_code"], answer["error_code"]) == (1, "cancelled")
    assert (run["exit_code"], kept["exit_code"]) == (None, 1), "that of a run which has ended is known"


async def test_run_of_another_clinvk_cannot_be_cancelled(scripted: Scripted) -> None:
    store = await store_of(record(1, state="running"))
    await store.append({f"{1:032x}": [Logged(1, 1.0, RunStarted()), Logged(2, 1.0, TextDelta("x"))]})
    async with serving(scripted.env, store=store) as server:
        response = await server.client.post(f"/api/v1/runs/{1:032x}/cancel")
    assert (response.status_code, response.json()["code"]) == (409, "run_not_cancellable")
    assert "another clinvk" in response.json()["detail"]


async def test_interrupted_run_ends_with_its_error(scripted: Scripted) -> None:
    store = await store_of(record(1, state="interrupted", error_message="clinvk died", ended_at=1_700_000_002.0))
    async with serving(scripted.env, store=store) as server:
        answer = (await get(server, f"/{1:032x}")).json()
        events = await get(server, f"/{1:032x}/events")
    assert (answer["state"], answer["error"]) == ("interrupted", "clinvk died")
    (data,) = re.findall(r"^data: (.*)$", events.text, re.MULTILINE)
    assert (json.loads(data)["type"], json.loads(data)["content"]["message"]) == ("error", "clinvk died")


BIG = "a" * 400_000


async def test_queued_prompts_are_limited_in_bytes(scripted: Scripted) -> None:
    scripted.play([*claude_says("x")[:4], hang()])
    async with serving(scripted.env, max_concurrent_runs=1, max_queued_mb=1, trusted_proxies=("127.0.0.1",)) as server:
        await server.detached(prompt=BIG)
        started = [await server.detached(prompt=BIG) for _ in range(2)]
        assert [run["queue_position"] for run in started] == [1, 2]
        refused = [await server.prompt(prompt=BIG, detach=True)]
        refused += [await server.client.post("/openai/v1/chat/completions", json={"model": "claude", **OF_BIG})]
        tasks = [{"backend": "claude", "prompt": BIG}] * 2
        refused += [await server.client.post("/api/v1/parallel", json={"tasks": tasks})]
        assert (await queued(server))[0]["id"] == started[1]["run_id"], "refused requests leave no run behind"
        other = await server.client.post(
            "/api/v1/prompt",
            json={"backend": "claude", "prompt": "hi", "detach": True},
            headers={"prefer": "respond-async", "x-forwarded-for": "192.0.2.1"},
        )
        assert other.json()["queue_position"] == 1, "another client has room, and it is its turn"
    assert [(answer.status_code, "retry-after" in answer.headers) for answer in refused] == [(503, True)] * 3


OF_BIG = {"messages": [{"role": "user", "content": BIG}]}


async def test_queued_run_reports_its_position_in_the_queue(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    async with serving(scripted.env, max_concurrent_runs=1) as server:
        runs = [await server.detached() for _ in range(3)]
        assert [run.get("queue_position") for run in runs] == [None, 1, 2]
        last = f"/api/v1/runs/{runs[2]['run_id']}"
        assert (await server.client.get(last)).json()["queue_position"] == 2
        await server.client.post(f"/api/v1/runs/{runs[1]['run_id']}/cancel")
        assert (await server.client.get(last)).json()["queue_position"] == 1
        (tmp_path / "go").touch()
        await server.ended(runs[2]["run_id"])
        assert "queue_position" not in (await server.client.get(last)).json()


async def test_run_in_progress_has_the_plan_of_its_agent(scripted: Scripted) -> None:
    progress = {"type": "progress", "stage": "plan", "message": "1", "steps": [{"text": "read", "priority": "high"}]}
    prompt = {"backend": "shell", "prompt": f"echo '{json.dumps(progress)}'\nsleep 100", "detach": True}
    async with serving(scripted.env, {"shell": Shell()}) as server:
        headers = {"Prefer": "respond-async"}
        run = (await server.client.post("/api/v1/prompt", json=prompt, headers=headers)).json()["run_id"]

        async def plan() -> object:
            return (await server.client.get(f"/api/v1/runs/{run}")).json().get("plan")

        await until_told(plan)
        assert await plan() == [{"text": "read", "status": "pending", "priority": "high"}]
        await server.client.post(f"/api/v1/runs/{run}/cancel")
        assert await plan() is None
