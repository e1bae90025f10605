"""The parts of an orchestration on the nodes of a cluster of real processes."""

import asyncio
import json
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.cluster import Cluster, lines, prompt, run_of, until_state
from acceptance.command import until
from acceptance.server import Server
from mcp_client import over_http
from postgres_server import PostgresServer
from repositories import Repository
from scripted import Scripted
from scripted.steps import claude_says, codex_streams, exits, hang, pause, touch, wait_for

ONE_AT_ONCE = {"CLINVK_SERVER__MAX_CONCURRENT_RUNS": "1"}
NO_QUEUE = {**ONE_AT_ONCE, "CLINVK_SERVER__MAX_QUEUED_RUNS": "0"}


@pytest.fixture
def cluster(scripted: Scripted, tmp_path: Path) -> Generator[Cluster]:
    """A NATS server, and what a test starts."""
    with Cluster(scripted, tmp_path) as running:
        yield running


def task(text: str, **fields: object) -> dict[str, object]:
    """Return a task for Claude."""
    return {"backend": "claude", "prompt": text, **fields}


def parallel(gateway: Server, *tasks: dict[str, object], **fields: object) -> httpx.Response:
    """Run tasks, all at once."""
    body = {"tasks": tasks, "max_parallel": len(tasks), **fields}
    return gateway.client.post("/api/v1/parallel", json=body)


def detached(gateway: Server, *tasks: dict[str, object], **fields: object) -> str:
    """Start tasks in the background; return the run id."""
    body = {"tasks": tasks, "max_parallel": len(tasks), "detach": True, **fields}
    response = gateway.client.post("/api/v1/parallel", json=body, headers={"prefer": "respond-async"})
    assert response.status_code == 202, response.text
    return response.json()["run_id"]


def test_agents_on_different_nodes_are_compared_and_judged(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "codex").mkdir()
    claude, codex = cluster.agent, Scripted(tmp_path / "codex", ("codex",))
    (claude.folder / "codex").unlink()
    claude.play(claude_says("from claude"))
    codex.play(codex_streams("from codex"))
    codex.play(codex_streams(json.dumps({"best": "A", "reasons": "short"})), when="<answer")
    cluster.worker("one")
    cluster.worker("two", PATH=codex.path)
    gateway = cluster.gateway()
    body = {"prompt": "hi", "backends": ["claude", "codex"], "judge": {"backend": "codex"}}
    compared = gateway.client.post("/api/v1/compare", json=body).json()
    parts = [(part["backend"], part["output"], part["node"]) for part in compared["results"]]
    assert parts == [("claude", "from claude", "one"), ("codex", "from codex", "two")]
    assert (compared["judge"]["node"], compared["judge"]["reasons"]) == ("two", "short")
    run = run_of(gateway, compared["run_id"])
    assert sorted((part["node"], part["state"]) for part in run["runs"]) == [
        ("one", "finished"),
        ("two", "finished"),
        ("two", "finished"),
    ]
    headers = {"accept": "application/x-ndjson"}
    with gateway.client.stream("POST", "/api/v1/compare", json=body, headers=headers) as response:
        *events, summary = lines(response.iter_lines())
    said = {
        event["index"]: event["content"]["text"] for event in events if event["type"] == "message" and "index" in event
    }
    assert said == {0: "from claude", 1: "from codex"}
    assert [part["node"] for part in summary["results"]] == ["one", "two"]
    run = asyncio.run(compared_over_mcp(gateway, prompt="hi", backends=["claude", "codex"]))
    assert (run["state"], len(run["runs"])) == ("finished", 2)


async def compared_over_mcp(gateway: Server, **arguments: object) -> Any:
    """Compare agents over MCP; return the run."""
    async with over_http("legacy", gateway.client.base_url.port or 0) as mcp:
        return await mcp.call(dict[str, Any], "compare", **arguments)


def test_tasks_use_all_nodes_and_may_ask_for_one(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    cluster.agent.play(claude_says("hello"))
    cluster.agent.play([wait_for(gate), *claude_says("waited")], when="wait")
    cluster.worker("one", "--labels", "gpu,web", **ONE_AT_ONCE)
    cluster.worker("two", **ONE_AT_ONCE)
    gateway = cluster.gateway()
    answers: list[httpx.Response] = []
    request = threading.Thread(target=lambda: answers.append(parallel(gateway, *[task("wait")] * 4)))
    request.start()
    until(lambda: [node["running"] for node in gateway.client.get("/api/v1/nodes").json()["nodes"]] == [1, 1])
    until(lambda: len(cluster.agent.calls()) == 2)
    gate.touch()
    request.join()
    results = answers[0].json()["results"]
    assert [part["output"] for part in results] == ["waited"] * 4
    assert {part["node"] for part in results} == {"one", "two"}
    placed = parallel(
        gateway,
        task("a", node="two"),
        task("b", labels=["gpu"]),
        task("c", session_id=prompt(gateway, "two")["session_id"]),
        task("d", session_id=prompt(gateway, "one")["session_id"]),
        max_parallel=1,
    )
    assert [part["node"] for part in placed.json()["results"]] == ["two", "one", "two", "one"]
    assert {part["node"] for part in parallel(gateway, task("a"), task("b"), node="two").json()["results"]} == {"two"}
    body = {"tasks": [task("a", isolation="worktree", node="one")], "dry_run": True}
    assert gateway.client.post("/api/v1/parallel", json=body).headers["x-clinvk-node"] == "one"
    for refused, status, field in (
        (task("b", labels=["gpu", "other"]), 503, "tasks[1]"),
        (task("b", node="three"), 503, "tasks[1]"),
        (task("b", workdir="/nowhere"), 400, "tasks[1].workdir"),
        (task("b", backend="gemini", approval_mode="always", node="two", workdir="relative"), 400, "tasks[1].workdir"),
    ):
        answer = parallel(gateway, task("a"), refused)
        assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text
    answer = parallel(gateway, task("a", node="one"), node="two")
    assert (answer.status_code, answer.json()["field"]) == (400, "tasks[0].node")


def test_part_waits_while_all_nodes_are_full(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    cluster.agent.play([wait_for(gate), *claude_says("waited")])
    cluster.worker("one", **NO_QUEUE)
    cluster.worker("two", **NO_QUEUE)
    gateway = cluster.gateway()
    gateway.detached("busy")
    until(lambda: len(cluster.agent.alive()) == 1)
    run_id = detached(gateway, task("a"), task("b"))
    until(lambda: len(cluster.agent.alive()) == 2)
    time.sleep(1.5)  # longer than a part waits until it asks the nodes again
    assert (run_of(gateway, run_id)["state"], len(run_of(gateway, run_id)["runs"])) == ("running", 1)
    gate.touch()
    until_state(gateway, run_id, "finished")
    assert len(run_of(gateway, run_id)["runs"]) == 2


def test_killed_node_costs_only_its_parts(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    cluster.agent.play([*claude_says("half")[:4], wait_for(gate), *claude_says(" whole")[3:]])
    workers = {name: cluster.worker(name) for name in ("one", "two", "three")}
    gateway = cluster.gateway()
    run_id = detached(gateway, *(task("hi", node=name) for name in workers))
    until(lambda: len(cluster.agent.calls()) == 3)
    victim = next(name for name in workers if name != run_of(gateway, run_id)["node"])
    workers[victim].kill()
    until(lambda: states(gateway, run_id).get(victim) == "interrupted")
    gate.touch()
    until_state(gateway, run_id, "failed")
    assert f"1 of 3 failed, the first with: node '{victim}' is away" in run_of(gateway, run_id)["error"]
    assert states(gateway, run_id) == dict.fromkeys(workers, "finished") | {victim: "interrupted"}


def test_killed_leader_ends_the_stream_with_an_error_in_the_format_of_the_stream(cluster: Cluster) -> None:
    cluster.agent.play([*claude_says("half")[:4], hang()])
    leader = cluster.worker("one")
    gateway = cluster.gateway()
    body, headers = {"tasks": [task("hi")]}, {"accept": "text/event-stream"}
    with gateway.client.stream("POST", "/api/v1/parallel", json=body, headers=headers) as response:
        events = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))
        assert next(events)["type"] == "init"
        leader.kill()
        *_, last = events
    assert (last["type"], last["content"]["code"]) == ("error", "node_unavailable")


def test_files_stay_on_their_node(cluster: Cluster, tmp_path: Path, postgres: PostgresServer) -> None:
    """A chain is resumed where its directories are. A worktree is found where it was made."""
    repository = Repository(tmp_path / "project", Path(cluster.agent.env["HOME"]))
    repository.commit(**{"a.txt": "one\n"})
    cluster.agent.play([touch(Path("made.txt")), *claude_says("hello")])
    cluster.agent.play([*claude_says("no")[:2], exits(1)], when="fails")
    store = {"CLINVK_STORE__URL": postgres.empty()}
    for node in ("one", "two"):
        cluster.worker(node, **store, CLINVK_HOME=str(cluster.agent.folder / node))
    gateway = cluster.gateway(**store)
    steps = [task("a"), task("fails {{previous}}")]
    for node in ("one", "two"):
        failed = gateway.client.post("/api/v1/chain", json={"steps": steps, "node": node}).json()
        body: dict[str, object] = {"resume_from": failed["run_id"]}
        resumed = gateway.client.post("/api/v1/chain", json=body)
        assert (resumed.status_code, resumed.headers["x-clinvk-node"]) == (200, node), resumed.text
        assert gateway.client.post("/api/v1/chain", json={**body, "labels": ["gpu"]}).status_code == 503
        isolated = task("a", workdir=str(repository.path), isolation="worktree", sandbox_mode="workspace")
        assert parallel(gateway, isolated, node=node).json()["completed"] == 1
    first, second = gateway.client.get("/api/v1/worktrees").json()["worktrees"]
    assert gateway.client.get(f"/api/v1/worktrees/{first['id']}").headers["x-clinvk-node"] == "one"
    assert gateway.client.get(f"/api/v1/worktrees/{second['id'][:-1]}").headers["x-clinvk-node"] == "two"
    for method, path in (("GET", "claude"), ("DELETE", "claude"), ("POST", "claude/apply")):
        refused = gateway.client.request(method, f"/api/v1/worktrees/{path}")
        assert (refused.status_code, "several worktrees" in refused.text) == (400, True), refused.text
    assert gateway.client.get("/api/v1/worktrees/other").status_code == 404


def states(gateway: Server, run_id: str) -> dict[str, str]:
    """Return the states of the parts by node."""
    return {part["node"]: part["state"] for part in run_of(gateway, run_id).get("runs", ())}


def test_stop_of_an_orchestration_reaches_all_nodes(cluster: Cluster) -> None:
    cluster.agent.play(claude_says("hello"))
    cluster.agent.play([*claude_says("half")[:4], hang()], when="slow")
    cluster.agent.play([*claude_says("no")[:2], pause(1), exits(1)], when="fails")
    workers = {name: cluster.worker(name, CLINVK_SERVER__SHUTDOWN_GRACE_SECS="1") for name in ("one", "two")}
    gateway = cluster.gateway()
    tasks = [task("slow", node=name) for name in workers]

    run_id = detached(gateway, *tasks)
    until(lambda: len(cluster.agent.alive()) == 2)
    assert gateway.client.post(f"/api/v1/runs/{run_id}/cancel").json()["state"] == "cancelled"
    assert (states(gateway, run_id), cluster.agent.alive()) == (dict.fromkeys(workers, "cancelled"), [])

    failed = parallel(gateway, *tasks, task("fails", node="one"), task("slow"), fail_fast=True, max_parallel=3)
    assert (failed.json()["cancelled"], failed.json()["failed"]) == (3, 4), failed.text
    until(lambda: not cluster.agent.alive())

    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=gateway.url, timeout=3) as client:
        client.post("/api/v1/parallel", json={"tasks": tasks})
    until(lambda: not cluster.agent.alive())

    run_id = detached(gateway, *tasks)
    until(lambda: len(cluster.agent.alive()) == 2)
    workers[run_of(gateway, run_id)["node"]].process.terminate()
    until_state(gateway, run_id, "cancelled")
    until(lambda: set(states(gateway, run_id).values()) == {"cancelled"} and not cluster.agent.alive())
