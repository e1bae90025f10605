"""Several agents with one request over HTTP: parallel, chain and compare."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec
import pytest

from clinvk.config.model import ServerSettings
from clinvk.store.memory import MemoryStore
from clinvk.types.events import Logged
from clinvk.types.record import RunRecord, Session
from clinvk.types.request import PartPosition
from echo import Echo, answer
from polling import until, until_told
from scripted import Scripted
from scripted.steps import claude_says, exits, hang, says, spawn, touch, wait_for
from serving import LiveServer, serving


async def post(server: LiveServer, kind: str, body: object, **headers: str) -> httpx.Response:
    return await server.client.post(f"/api/v1/{kind}", json=body, headers=headers, timeout=30)


def agents_alive(scripted: Scripted) -> set[int]:
    """Return the agents that were started for a prompt, and their grandchildren, without queries of versions."""
    return {call.pid for call in scripted.calls()}.union(scripted.grandchildren()).intersection(scripted.alive())


def task(prompt: str, **fields: object) -> dict[str, object]:
    return {"backend": "claude", "prompt": prompt, **fields}


async def test_results_are_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    echo = Echo(tmp_path)
    names = [echo.name() for _ in range(4)]
    tasks = [task(f"{name} {seconds}\n", id=f"t{name}") for name, seconds in zip(names, (0.3, 0, 0.1, 0), strict=True)]
    async with serving(echo.env) as server:
        response = await post(server, "parallel", {"tasks": tasks, "max_parallel": 4})
    body = response.json()
    assert response.status_code == 200, body
    assert [body[key] for key in ("total_tasks", "completed", "failed")] == [4, 4, 0]
    assert [result["output"] for result in body["results"]] == [answer(name) for name in names]
    assert [(result["index"], result["id"]) for result in body["results"]] == [
        (index, f"t{name}") for index, name in enumerate(names)
    ]
    assert list(body)[:5] == ["total_tasks", "completed", "failed", "total_duration_ms", "results"]
    assert "warnings" not in body


async def test_failing_task_leaves_the_others_running(scripted: Scripted) -> None:
    scripted.play([*claude_says("half")[:4], exits(9)], when="two")
    scripted.play(claude_says("fine"), when="one")
    async with serving(scripted.env) as server:
        body = {"tasks": [task("one"), task("two"), task("one")], "max_parallel": 1}
        result = (await post(server, "parallel", body)).json()
    assert [result[key] for key in ("total_tasks", "completed", "failed")] == [3, 2, 1]
    one, two, _ = result["results"]
    assert (one["exit_code"], one["output"], one["token_usage"]["output_tokens"]) == (0, "fine", 5)
    assert (two["exit_code"], two["output"], two["error_code"]) == (9, "half", "agent_crashed")
    assert two["error"]


async def test_fail_fast_cancels_running_tasks_and_skips_waiting_ones(scripted: Scripted, tmp_path: Path) -> None:
    marker = tmp_path / "begun"
    scripted.play([wait_for(marker), exits(9)], when="fail")
    scripted.play([*claude_says("so far")[:4], touch(marker), hang()], when="slow")
    async with serving(scripted.env) as server:
        tasks = [task("slow"), task("fail"), task("never"), task("never")]
        body = (await post(server, "parallel", {"tasks": tasks, "max_parallel": 2, "fail_fast": True})).json()
    assert [body[key] for key in ("total_tasks", "completed", "failed", "cancelled")] == [4, 0, 4, 3]
    slow, fail, *never = body["results"]
    assert (slow["error_code"], slow["output"]) == ("cancelled", "so far")
    assert fail["error_code"] == "agent_crashed"
    assert [(result["index"], result["error_code"]) for result in never] == [(2, "cancelled"), (3, "cancelled")]
    assert never[0]["error"] == "not run: task 2 failed, and fail_fast ends the others"
    assert [call.stdin for call in scripted.calls()].count(b"never") == 0
    assert not agents_alive(scripted)


@pytest.mark.one_machine
async def test_as_many_agents_run_at_once_as_there_are_slots_after_a_reload(scripted: Scripted, tmp_path: Path) -> None:
    go = tmp_path / "go"
    scripted.play([wait_for(go), *claude_says("x")])
    body = {"tasks": [task("x")] * 3, "max_parallel": 3}
    async with serving(scripted.env, max_concurrent_runs=1) as server:
        assert (await post(server, "parallel", {**body, "dry_run": True})).status_code == 200
        server.runs.resize(ServerSettings(max_concurrent_runs=2))
        answering = asyncio.create_task(post(server, "parallel", body))
        await until(lambda: len(scripted.calls()) == 2)
        assert (server.runs.busy, server.runs.queued) == (2, 0)
        go.touch()
        assert (await answering).json()["completed"] == 3


@pytest.mark.parametrize("kind", ["parallel", "chain", "compare"])
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_request_is_refused_before_anything_runs_if_its_first_task_finds_the_queue_full(
    scripted: Scripted, tmp_path: Path, kind: str, accept: str
) -> None:
    go = tmp_path / "go"
    scripted.play([wait_for(go), *claude_says("x")])
    body = {
        "parallel": {"tasks": [task("task"), task("task")]},
        "chain": {"steps": [task("task"), task("{{previous}}")]},
        "compare": {"prompt": "task", "backends": ["claude", "codex"]},
    }[kind]
    async with serving(scripted.env, max_concurrent_runs=1, max_queued_runs=0) as server:
        other = asyncio.create_task(server.prompt(prompt="other"))
        await until(scripted.calls)
        answer = await post(server, kind, body, accept=accept)
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_full"), answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert (await server.client.get("/api/v1/runs")).json()["total"] == 1
        dry = await post(server, "parallel", {"tasks": [task("task")], "dry_run": True})
        assert dry.status_code == 200
        go.touch()
        assert (await other).status_code == 200
    assert len(scripted.calls()) == 1


async def test_further_tasks_wait_while_the_queue_is_full(scripted: Scripted, tmp_path: Path) -> None:
    go = tmp_path / "go"
    scripted.play([wait_for(go), *claude_says("x")], when="other")
    scripted.play(claude_says("x"), when="task")
    async with serving(scripted.env, max_concurrent_runs=1, max_queued_runs=1) as server:
        other = asyncio.create_task(server.prompt(prompt="other"))
        await until(lambda: server.runs.busy)
        body = {"tasks": [task("task")] * 3, "max_parallel": 3}
        answering = asyncio.create_task(post(server, "parallel", body))
        await until(lambda: server.runs.queued)
        go.touch()
        assert (await answering).json()["completed"] == 3
        assert (await other).status_code == 200


async def test_task_waiting_for_room_ends_with_the_orchestration(scripted: Scripted, tmp_path: Path) -> None:
    go = tmp_path / "go"
    scripted.play([wait_for(go), *claude_says("x")])
    async with serving(scripted.env, max_concurrent_runs=1, max_queued_runs=1) as server:
        other = asyncio.create_task(server.prompt(prompt="other"))
        await until(lambda: scripted.calls())
        body = {"tasks": [task("task")] * 3, "max_parallel": 3}
        answering = asyncio.create_task(post(server, "parallel", body))
        await until(lambda: server.runs.queued)
        whole: list[str] = []
        while not whole:
            runs = (await server.client.get("/api/v1/runs?state=running")).json()["runs"]
            whole = [run["id"] for run in runs if run["kind"] == "parallel"]
        await server.client.post(f"/api/v1/runs/{whole[0]}/cancel")
        document = (await answering).json()
        go.touch()
        await other
    assert [result["error_code"] for result in document["results"]] == ["cancelled"] * 3
    assert len(scripted.calls()) == 1


FAULTS: list[tuple[str, object, str, str]] = [
    ("parallel", {}, "tasks", "tasks is missing"),
    ("parallel", {"tasks": []}, "tasks", "tasks must be a list of 1 to 10000 items"),
    ("parallel", {"tasks": [task("a"), task("b"), {**task("c"), "promt": ""}]}, "tasks[2].promt", "did you mean"),
    ("parallel", {"tasks": [task("a"), {"prompt": "b"}]}, "tasks[1].backend", "tasks[1]: backend is missing"),
    ("parallel", {"tasks": [task("a", workdir="/nowhere")]}, "tasks[0].workdir", "'/nowhere' does not exist"),
    ("parallel", {"tasks": [task("a", detach=True)]}, "tasks[0].detach", "set it beside tasks"),
    (
        "parallel",
        {"tasks": [task("a", id="x"), task("c", id="x")]},
        "tasks[1].id",
        "is that of tasks[0] already",
    ),
    ("parallel", {"tasks": [task("a", isolation="tree")]}, "tasks[0].isolation", "none, worktree"),
    ("parallel", {"tasks": [task("a", on_busy="steer")]}, "tasks[0].on_busy", "steer is for single prompts"),
    ("chain", {"steps": [task("a", name="x\0")]}, "steps[0].name", "without NUL"),
    ("compare", {"prompt": " ", "backends": ["claude"]}, "prompt", "prompt is empty"),
    ("compare", {"prompt": "x", "backends": ["claude", " "]}, "backends[1]", "backends[1] is empty"),
    ("compare", {"prompt": "x", "backends": ["claude"], "check": "true"}, "check", "isolation must be 'worktree'"),
    (
        "compare",
        {"prompt": "x", "backends": ["claude"], "judge": {"backend": "claude", "modl": "x"}},
        "judge.modl",
        "did",
    ),
]


async def test_a_request_with_a_fault_is_refused_whole(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        for kind, body, field, words in FAULTS:
            response = await post(server, kind, body)
            problem = response.json()
            assert (response.status_code, problem["code"], problem["field"]) == (400, "invalid_request", field), problem
            assert words in problem["detail"]
        assert (await server.client.get("/api/v1/runs")).json()["total"] == 0
    assert scripted.calls() == []


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        ("parallel", {"tasks": [task("a"), {"backend": "clod", "prompt": "b"}]}, "tasks[1].backend"),
        ("parallel", {"tasks": [task("a"), {"backend": "gemini", "prompt": "b"}]}, "tasks[1].backend"),
        ("compare", {"prompt": "a", "backends": ["claude", "gemini"]}, "backends[1].backend"),
        ("compare", {"prompt": "a", "backends": ["claude"], "judge": {"backend": "gemini"}}, "judge.backend"),
    ],
)
async def test_missing_backend_is_refused_before_anything_runs(
    scripted: Scripted, kind: str, body: object, field: str
) -> None:
    (scripted.folder / "gemini").unlink()
    async with serving(scripted.env, store=MemoryStore()) as server:
        response = await post(server, kind, body)
    assert (response.status_code, response.json()["field"]) == (404, field), response.json()
    assert scripted.calls() == []


async def test_a_dry_run_shows_every_command_and_keeps_nothing(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        body = {"tasks": [task("a"), task("b", backend="codex")], "dry_run": True}
        document = (await post(server, "parallel", body)).json()
        chain = (await post(server, "chain", {"steps": [task("a"), task("{{previous}}x")], "dry_run": True})).json()
        compared = (await post(server, "compare", {"prompt": "x", "backends": ["gemini"], "dry_run": True})).json()
        kept = (await server.client.get("/api/v1/runs")).json()["total"]
    claude, codex = document["results"]
    assert " claude " in claude["output"]
    assert " codex " in codex["output"]
    assert [result["exit_code"] for result in document["results"]] == [0, 0]
    assert "run_id" not in document
    assert chain["completed_steps"] == 2
    assert " gemini " in compared["results"][0]["output"]
    assert (kept, scripted.calls()) == (0, [])


@pytest.mark.parametrize("judge", [None, {"backend": "codex", "model": "fast"}])
async def test_dry_run_names_the_judge(scripted: Scripted, judge: dict[str, str] | None) -> None:
    body = {"prompt": "x", "backends": ["gemini", "claude"], "judge": judge, "dry_run": True}
    async with serving(scripted.env, store=MemoryStore()) as server:
        result = (await post(server, "compare", body)).json()
    assert ("judge" in result) == bool(judge)
    if judge:
        judge_keys = ("backend", "exit_code", "best", "best_backend", "order", "output")
        shown = {key: result["judge"][key] for key in judge_keys}
        assert shown == {
            "backend": "codex",
            "exit_code": 0,
            "best": None,
            "best_backend": None,
            "order": [],
            "output": "",
        }
        assert result["judge"]["model"]
        assert "run_id" not in result["judge"]
    assert (len(result["results"]), scripted.calls()) == (2, [])


def lines_of(response: httpx.Response) -> list[dict[str, object]]:
    return [json.loads(line) for line in response.text.splitlines()]


async def test_stream_has_all_tagged_events_and_the_summary(scripted: Scripted) -> None:
    scripted.play(claude_says("a", "b"), when="one")
    scripted.play([exits(9)], when="two")
    scripted.play(says("codex", "c"), when="three")
    tasks = [task("one", id="x"), task("two", name="y"), task("three", backend="codex")]
    async with serving(scripted.env) as server:
        response = await post(server, "parallel", {"tasks": tasks}, accept="application/x-ndjson")
        whole = (await post(server, "parallel", {"tasks": tasks})).json()
    assert response.headers["content-type"] == "application/x-ndjson"
    *events, summary = lines_of(response)
    of = [[event for event in events if event["index"] == index] for index in range(3)]
    assert [event["type"] for event in of[0]] == ["init", "message", "message", "token_usage", "done"]
    assert [event["sequence"] for event in of[0]] == [1, 2, 3, 4, 5]
    assert {event["id"] for event in of[0]} == {"x"}
    assert [(event["type"], event["name"]) for event in of[1]] == [("error", "y")]
    assert of[2][0]["backend"] == "codex"
    assert summary["type"] == "summary"
    assert summary["run_id"] == response.headers["x-clinvk-run-id"]
    assert {*summary} == {"type", *whole}
    assert summary["completed"] == whole["completed"] == 2


async def test_events_come_as_they_happen(scripted: Scripted, tmp_path: Path) -> None:
    go = tmp_path / "go"
    steps = claude_says("early ", "late")
    scripted.play([*steps[:4], wait_for(go), *steps[4:]])
    async with (
        serving(scripted.env) as server,
        server.client.stream(
            "POST", "/api/v1/chain", json={"steps": [task("x")]}, headers={"accept": "text/event-stream"}
        ) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        seen: list[dict[str, object]] = []
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
                if seen[-1]["type"] == "message":
                    go.touch()
    assert [event["type"] for event in seen] == ["init", "message", "message", "token_usage", "done", "summary"]
    assert {event["step"] for event in seen[:-1]} == {1}
    assert seen[-1]["completed_steps"] == 1


async def test_skipped_part_is_one_error_event(scripted: Scripted) -> None:
    scripted.play([exits(9)])
    async with serving(scripted.env) as server:
        body = {"tasks": [task("one"), task("two")], "max_parallel": 1, "fail_fast": True}
        *events, _ = lines_of(await post(server, "parallel", body, accept="application/x-ndjson"))
    last = [event for event in events if event["index"] == 1]
    assert [event["type"] for event in last] == ["error"]
    assert last[0]["content"]["code"] == "cancelled"  # pyright: ignore[reportIndexIssue]


async def test_part_is_recorded_when_its_turn_comes(scripted: Scripted, tmp_path: Path) -> None:
    go = tmp_path / "go"
    scripted.play([wait_for(go), *claude_says("x")])
    async with serving(scripted.env) as server:
        body = {"tasks": [task("x") for _ in range(6)], "max_parallel": 2}
        answering = asyncio.create_task(post(server, "parallel", body))
        await until(lambda: len(scripted.calls()) == 2)

        async def states() -> list[str]:
            runs = (await server.client.get("/api/v1/runs")).json()["runs"]
            return sorted(run["state"] for run in runs if run["kind"] == "prompt")

        async def have_two_running() -> bool:
            return await states() == ["running", "running"]

        await until_told(have_two_running)
        assert (server.runs.busy, server.runs.queued, len(scripted.calls())) == (2, 0, 2)
        go.touch()
        assert (await answering).json()["completed"] == 6
        assert await states() == ["finished"] * 6


async def test_orchestration_is_the_parent_run_of_its_parts(scripted: Scripted) -> None:
    scripted.play(claude_says("x"))
    scripted.play([exits(9)], when="two")
    async with serving(scripted.env) as server:
        body = (await post(server, "parallel", {"tasks": [task("one", name="n"), task("two")]})).json()
        tree = (await server.client.get(f"/api/v1/runs/{body['run_id']}")).json()
        part = (await server.client.get(f"/api/v1/runs/{body['results'][0]['run_id']}")).json()
        parts = (await server.client.get(f"/api/v1/runs?parent_id={body['run_id'][:8]}")).json()
        events = await server.client.get(
            f"/api/v1/runs/{body['run_id']}/events?", headers={"accept": "application/x-ndjson"}
        )
    assert (tree["kind"], tree["state"], tree["total_runs"], tree["exit_code"]) == ("parallel", "failed", 2, 1)
    assert [run["id"] for run in tree["runs"]] == [result["run_id"] for result in body["results"]]
    assert [(run["index"], run["name"], run["state"]) for run in tree["runs"]] == [
        (0, "n", "finished"),
        (1, None, "failed"),
    ]
    assert tree["error"].startswith("1 of 2 failed, the first with: ")
    assert tree["token_usage"] == part["token_usage"]
    assert (part["kind"], part["parent_id"], part["total_runs"]) == ("prompt", body["run_id"], 0)
    assert parts["total"] == 2
    assert [event["type"] for event in lines_of(events)] == ["init", "token_usage", "error"]


class Slow(MemoryStore):
    """A store that is slow to store the end of an orchestration."""

    async def end(self, run: RunRecord, session: Session | None, events: Sequence[Logged]) -> None:
        if run.kind != "prompt":
            await asyncio.sleep(0.3)
        await super().end(run, session, events)


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_outcome_is_recorded_before_the_answer_is_sent(scripted: Scripted, accept: str) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env, store=Slow()) as server:
        answer = await post(server, "parallel", {"tasks": [task("one")]}, accept=accept)
        run_id = json.loads(answer.text.splitlines()[-1])["run_id"]
        run = (await server.client.get(f"/api/v1/runs/{run_id}")).json()
    assert run["state"] == "finished"


async def test_orchestration_can_be_cancelled(scripted: Scripted) -> None:
    scripted.play([*claude_says("so far")[:4], spawn("setsid"), hang()])
    async with serving(scripted.env) as server:
        body = {"tasks": [task("x") for _ in range(5)], "max_parallel": 2}
        answering = asyncio.create_task(post(server, "parallel", body))
        await until(lambda: len(scripted.grandchildren()) == 2)
        listed = (await server.client.get("/api/v1/runs?state=running")).json()["runs"]
        whole = next(run["id"] for run in listed if run["kind"] == "parallel")
        cancelled = (await server.client.post(f"/api/v1/runs/{whole}/cancel")).json()
        assert not agents_alive(scripted)
        document = (await answering).json()
        again = await server.client.post(f"/api/v1/runs/{whole}/cancel")
    assert (cancelled["state"], cancelled["error_code"]) == ("cancelled", "cancelled")
    assert [result["error_code"] for result in document["results"]] == ["cancelled"] * 5
    assert [result["output"] for result in document["results"][:2]] == ["so far"] * 2
    assert (again.status_code, again.json()["code"]) == (409, "run_not_cancellable")


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_disconnect_ends_all_agents(scripted: Scripted, accept: str) -> None:
    scripted.play([*claude_says("x")[:4], spawn("setsid"), hang()])
    async with serving(scripted.env) as server:
        body = json.dumps({"tasks": [task("x") for _ in range(5)], "max_parallel": 3}).encode()
        head = f"POST /api/v1/parallel HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\n"
        head += "content-type: application/json\r\n"
        _, writer = await server.raw(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await until(lambda: len(scripted.grandchildren()) == 3)
        writer.close()
        await until(lambda: not scripted.alive())
        await until(lambda: not server.state.active_requests)
        runs = (await server.client.get("/api/v1/runs")).json()["runs"]
    assert {run["state"] for run in runs} == {"cancelled"}
    assert len(runs) == 4  # the orchestration and the parts that ran


async def test_shared_tree_of_editing_agents_is_reported(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x"))
    edits = {"approval_mode": "auto", "workdir": str(tmp_path)}
    async with serving(scripted.env) as server:

        async def warnings(*tasks: dict[str, object], **body: object) -> list[str]:
            return (await post(server, "parallel", {"tasks": tasks, **body})).json().get("warnings", [])

        assert "2 tasks may change files in" in (await warnings(task("a", **edits), task("b", **edits)))[0]
        assert await warnings(task("a", **edits), task("b", **edits), max_parallel=1) == []
        below = [{**edits, "workdir": str(tmp_path / name)} for name in ("x", "x/y", "xy")]
        for each in below:
            Path(str(each["workdir"])).mkdir()
        (warning,) = await warnings(task("a", **below[1]), task("b", **below[0]), task("c", **below[2]))
        assert f"2 tasks may change files in '{tmp_path}/x' at" in warning
        (warning,) = await warnings(*(task("a", **each) for each in below), task("b", **edits))
        assert f"4 tasks may change files in '{tmp_path}' at" in warning
        assert await warnings(task("a", **edits), task("b", workdir=str(tmp_path))) == []
        assert await warnings(task("a", **edits), task("b", **{**edits, "sandbox_mode": "read-only"})) == []


class Faulty(MemoryStore):
    """A store with a fault that shows at the second run of a part."""

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        place = msgspec.convert(run.request.get("part"), PartPosition | None)
        if place and place.index == 1:
            raise RuntimeError("a fault")
        return await super().begin(run, session, must_exist)


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_broken_stream_ends_with_an_untagged_error(scripted: Scripted, accept: str) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env, store=Faulty()) as server:
        response = await post(server, "chain", {"steps": [task("one"), task("two")]}, accept=accept)
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if "{" in line]
    *_, done, last = map(json.loads, lines)
    assert done["type"] == "done"
    assert (last["type"], last["content"]["code"], "index" in last) == ("error", "internal_error", False)
    assert "clinvk itself failed" in last["content"]["message"]
    assert "a fault" not in response.text


@pytest.mark.slow
async def test_broken_answer_after_keep_alive_is_an_error(scripted: Scripted, tmp_path: Path) -> None:
    go = tmp_path / "go"
    scripted.play([wait_for(go), *claude_says("x")])
    async with serving(scripted.env, store=Faulty()) as server:
        steps = {"steps": [task("one"), task("two")]}
        async with server.client.stream("POST", "/api/v1/chain", json=steps) as response:
            pieces = response.aiter_raw()
            await anext(pieces)
            go.touch()
            rest = b"".join([piece async for piece in pieces])
    assert (response.status_code, json.loads(rest)["status"]) == (200, 500)


def prompts_of(scripted: Scripted) -> list[str]:
    return [(call.stdin or b"").decode().strip() for call in scripted.calls()]


async def test_step_prompt_gets_earlier_answers_expanded_once(scripted: Scripted) -> None:
    hostile = "{{input}} {{steps.first}} {{previous}}"
    scripted.play(claude_says(hostile), when="one")
    scripted.play(claude_says("second"), when="two")
    scripted.play(claude_says("third"), when="three")
    steps = [
        task("one [{{previous}}] {{ previous }} {{x}} ${{steps.later}}", name="first"),
        task("two <{{previous}}>", name="later"),
        task("three {{steps.first}}|{{steps.later}}|{{input}}|{{previous}}|{{steps.none}}"),
    ]
    async with serving(scripted.env) as server:
        body = (await post(server, "chain", {"steps": steps, "input": "given {{previous}}"})).json()
    assert prompts_of(scripted) == [
        "one [] {{ previous }} {{x}} ${{steps.later}}",
        f"two <{hostile}>",
        f"three {hostile}|second|given {{{{previous}}}}|second|{{{{steps.none}}}}",
    ]
    assert [body[key] for key in ("total_steps", "completed_steps", "failed_step")] == [3, 3, 0]
    assert [(result["step"], result.get("name"), result["output"]) for result in body["results"]] == [
        (1, "first", hostile),
        (2, "later", "second"),
        (3, None, "third"),
    ]
    assert body["warnings"] == [
        "steps[0].prompt: {{ previous }} is not replaced; did you mean {{previous}}?",
        "steps[0].prompt: {{steps.later}} is not replaced: no earlier step has this name",
        "steps[2].prompt: {{steps.none}} is not replaced: no earlier step has this name",
    ]


@pytest.mark.parametrize(
    ("prompt", "given", "is_data"),
    [
        ("{{previous}}", None, True),
        (" {{steps.first}} then", None, True),
        ("{{previous}}/mine", None, True),
        ("/{{previous}}", None, True),
        ("/mine{{previous}}", None, True),
        ("/mine {{previous}}", None, False),
        ("{{input}} {{previous}}", "/mine", False),
        ("about {{previous}}", None, True),
        ("see @notes.md and {{previous}}", None, False),
        ("{{input}}", "/mine", False),
        ("{{steps.none}} {{input}}", "@notes.md", False),
    ],
)
async def test_answer_is_never_a_command_or_file_for_the_next_cli(
    scripted: Scripted, prompt: str, given: str | None, is_data: bool
) -> None:
    """Claude Code looks for both, but not in a message with a text behind it."""
    scripted.play(claude_says("/init @secret"))
    steps = [task("one", name="first"), task(prompt)]
    async with serving(scripted.env) as server:
        await post(server, "chain", {"steps": steps, "input": given})
    _, second = prompts_of(scripted)
    assert second.startswith('{"type":"user"') is is_data, second


@pytest.mark.parametrize(("stop", "ran"), [(None, 3), (False, 3), (True, 2)])
async def test_stop_on_failure_decides_whether_a_chain_continues(
    scripted: Scripted, stop: bool | None, ran: int
) -> None:
    scripted.play(claude_says("fine"))
    scripted.play([*claude_says("half")[:4], exits(9)], when="two")
    async with serving(scripted.env) as server:
        body = {"steps": [task("one"), task("two"), task("three {{previous}}")], "stop_on_failure": stop}
        document = (await post(server, "chain", body)).json()
    assert [document[key] for key in ("total_steps", "completed_steps", "failed_step")] == [3, ran - 1, 2]
    assert [result["step"] for result in document["results"]] == [1, 2, 3][:ran]
    assert prompts_of(scripted) == ["one", "two", "three half"][:ran]


async def test_step_with_an_empty_expanded_prompt_does_not_run(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        body = (await post(server, "chain", {"steps": [task("{{previous}}")]})).json()
    assert (body["failed_step"], body["results"][0]["error"]) == (1, "prompt is empty")
    assert scripted.calls() == []


async def test_pass_working_dir_makes_steps_follow(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("x"))
    third = tmp_path / "third"
    third.mkdir()
    steps = [task("one", workdir=str(tmp_path)), task("two"), task("three", workdir=str(third))]
    async with serving(scripted.env) as server:
        await post(server, "chain", {"steps": steps, "pass_working_dir": True})
        await post(server, "chain", {"steps": steps})
    first, last, own = str(tmp_path), str(third), str(Path.cwd())
    assert [call.cwd for call in scripted.calls()] == [first, first, last, first, own, last]


async def test_chain_resumes_at_the_first_unfinished_step(scripted: Scripted) -> None:
    scripted.play(claude_says("first"), when="one")
    scripted.play([exits(9)], when="two")
    steps = [task("one"), task("two {{previous}}", name="n"), task("three {{steps.n}} {{input}}")]
    async with serving(scripted.env) as server:
        body = {"steps": steps, "stop_on_failure": True, "input": "i"}
        failed = (await post(server, "chain", body)).json()
        again = (await post(server, "chain", {"resume_from": failed["run_id"]})).json()
        scripted.play(claude_says("second"), when="two")
        scripted.play(claude_says("third"), when="three")
        document = (await post(server, "chain", {"resume_from": again["run_id"][:10]})).json()
        finished = await post(server, "chain", {"resume_from": document["run_id"]})
        unknown = await post(server, "chain", {"resume_from": "f" * 32})
        prompt = (await server.prompt(prompt="one")).json()
        no_chain = await post(server, "chain", {"resume_from": prompt["run_id"]})
        both = await post(server, "chain", {"resume_from": document["run_id"], "steps": steps})
    assert (failed["failed_step"], again["failed_step"], document["failed_step"]) == (2, 2, 0)
    assert prompts_of(scripted)[:5] == ["one", "two first", "two first", "two first", "three second i"]
    assert [result["output"] for result in document["results"]] == ["first", "second", "third"]
    assert document["results"][0]["run_id"] == failed["results"][0]["run_id"]
    assert (finished.status_code, finished.json()["field"]) == (400, "resume_from")
    assert "no unfinished step" in finished.json()["detail"]
    assert (unknown.status_code, unknown.json()["code"]) == (404, "run_not_found")
    assert unknown.json()["field"] == "resume_from"
    assert (no_chain.status_code, no_chain.json()["field"]) == (400, "resume_from")
    assert (both.status_code, both.json()["field"]) == (400, "steps")


async def test_finished_steps_of_a_resumed_chain_are_not_examined(scripted: Scripted, tmp_path: Path) -> None:
    """Their requirements may be gone: here the directory of the first step."""
    gone = tmp_path / "gone"
    gone.mkdir()
    scripted.play(claude_says("first"), when="one")
    scripted.play([exits(9)], when="two")
    async with serving(scripted.env) as server:
        steps = [task("one", workdir=str(gone)), task("two", workdir=str(tmp_path))]
        failed = (await post(server, "chain", {"steps": steps})).json()
        gone.rmdir()
        scripted.play(claude_says("second"), when="two")
        body = (await post(server, "chain", {"resume_from": failed["run_id"]})).json()
        shown = (await post(server, "chain", {"resume_from": failed["run_id"], "dry_run": True})).json()
    assert [result["output"] for result in body["results"]] == ["first", "second"]
    assert "run_id" not in shown


async def test_ephemeral_chain_cannot_be_resumed(scripted: Scripted) -> None:
    scripted.play([exits(9)])
    async with serving(scripted.env) as server:
        body = (await post(server, "chain", {"steps": [task("secret", ephemeral=True)]})).json()
        again = await post(server, "chain", {"resume_from": body["run_id"]})
        kept = (await server.client.get(f"/api/v1/runs/{body['run_id']}")).text
    assert (again.status_code, again.json()["field"]) == (400, "resume_from")
    assert "secret" not in kept


async def test_chain_resumes_after_sessions_were_deleted(scripted: Scripted) -> None:
    scripted.play(claude_says("first"), when="one")
    scripted.play([exits(9)], when="two")
    async with serving(scripted.env) as server:
        body = {"steps": [task("one"), task("two")], "stop_on_failure": True}
        failed = (await post(server, "chain", body)).json()
        again = (await post(server, "chain", {"resume_from": failed["run_id"]})).json()
        first, second = (result["session_id"] for result in failed["results"])
        assert (await server.client.delete(f"/api/v1/sessions/{first}")).status_code == 200
        emptied = await post(server, "chain", {"resume_from": failed["run_id"]})
        assert (await server.client.delete(f"/api/v1/sessions/{second}")).status_code == 200
        document = (await post(server, "chain", {"resume_from": again["run_id"]})).json()
    assert (emptied.status_code, emptied.json()["field"]) == (400, "resume_from")
    assert "the session of a step was deleted" in emptied.json()["detail"]
    assert [result["output"] for result in document["results"]] == ["first", ""]
    assert prompts_of(scripted) == ["one", "two", "two", "one", "two"]


async def test_one_prompt_is_compared_side_by_side(scripted: Scripted) -> None:
    for backend in ("claude", "codex", "gemini"):
        scripted.play(says(backend, f"by {backend}"), when="x")
    scripted.play(says("claude", "by claude"))
    async with serving(scripted.env) as server:
        backends = ["claude", {"backend": "claude", "model": "opus", "name": "big"}]
        body = (await post(server, "compare", {"prompt": "x", "backends": backends, "model": "fast"})).json()
    assert list(body)[:4] == ["prompt", "backends", "total_duration_ms", "results"]
    assert (body["prompt"], body["backends"]) == ("x", ["claude", "claude"])
    assert [(result["index"], result["backend"], result.get("name")) for result in body["results"]] == [
        (0, "claude", None),
        (1, "claude", "big"),
    ]


async def test_sequential_compare_runs_one_backend_at_a_time(scripted: Scripted, tmp_path: Path) -> None:
    go = tmp_path / "go"
    scripted.play([wait_for(go), *claude_says("x")])
    async with serving(scripted.env) as server:
        body = {"prompt": "x", "backends": ["claude"] * 3, "sequential": True}
        answering = asyncio.create_task(post(server, "compare", body))
        await until(lambda: scripted.calls())
        assert (server.runs.busy, server.runs.queued) == (1, 0)
        go.touch()
        assert len((await answering).json()["results"]) == 3


@pytest.mark.one_machine
@pytest.mark.parametrize("fields", [{"node": "web"}, {"labels": ["gpu"]}])
async def test_server_without_a_cluster_refuses_another_node(tmp_path: Path, fields: dict[str, object]) -> None:
    (name, value), *_ = fields.items()
    bodies: dict[str, dict[str, object]] = {
        "prompt": task("a"),
        "parallel": {"tasks": [task("a")]},
        "chain": {"steps": [task("a")]},
        "compare": {"prompt": "a", "backends": ["claude"]},
    }
    async with serving(Echo(tmp_path).env) as server:
        for kind, body in bodies.items():
            header = {f"x-clinvk-{name}": value if isinstance(value, str) else "gpu"}
            for refused in (await post(server, kind, body | fields), await post(server, kind, body, **header)):
                problem = refused.json()
                assert (refused.status_code, problem["code"], problem["field"]) == (400, "invalid_request", name)
        inside = await post(server, "parallel", {"tasks": [task("a", **fields)]})
        assert (inside.status_code, inside.json()["field"]) == (400, f"tasks[0].{name}")
        empty = await post(server, "prompt", task("a", node="", labels=()))
        assert empty.status_code == 200
        assert (await server.client.get("/api/v1/runs")).json()["total"] == 1
