"""Several agents in the background: parallel, chain and compare with `detach`."""

import json
from pathlib import Path

import httpx
import msgspec
import pytest

from clinvk.dialects.rest.views import RunView
from polling import until, until_told
from repositories import Repository
from scripted import Scripted
from scripted.steps import claude_says, wait_for
from serving import LiveServer, serving

TASK = {"backend": "claude", "prompt": "hi"}
BODIES: dict[str, dict[str, object]] = {
    "parallel": {"tasks": [TASK, TASK], "max_parallel": 1},
    "chain": {"steps": [TASK, TASK]},
    "compare": {"prompt": "hi", "backends": ["claude", "claude"]},
}
KINDS = pytest.mark.parametrize("kind", BODIES)


async def detached(server: LiveServer, kind: str, **more: object) -> httpx.Response:
    body = {**BODIES[kind], "detach": True, **more}
    return await server.client.post(f"/api/v1/{kind}", json=body, headers={"prefer": "respond-async"})


async def shown(server: LiveServer, run_id: str) -> RunView:
    response = await server.client.get(f"/api/v1/runs/{run_id}")
    return msgspec.json.decode(response.content, type=RunView)


async def ended(server: LiveServer, run_id: str) -> RunView:
    async def is_over() -> bool:
        return (await shown(server, run_id)).state != "running"

    await until_told(is_over)
    return await shown(server, run_id)


@KINDS
async def test_background_agents_are_accepted_at_once_and_their_answers_can_be_read_later(
    scripted: Scripted, tmp_path: Path, kind: str
) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    async with serving(scripted.env) as server:
        response = await detached(server, kind)
        told = response.json()
        assert (response.status_code, response.headers["preference-applied"]) == (202, "respond-async")
        assert response.headers["location"] == f"/api/v1/runs/{told['run_id']}"
        assert response.headers["x-clinvk-run-id"] == told["run_id"]
        assert told == {"run_id": told["run_id"], "session_id": None, "state": "running"}
        under_way = await shown(server, told["run_id"])
        assert (under_way.state, under_way.kind, under_way.ended_at) == ("running", kind, None)
        (tmp_path / "go").touch()
        whole = await ended(server, told["run_id"])
        answers = [(await shown(server, part.id)).output for part in whole.runs]
    assert (whole.state, answers) == ("finished", ["x", "x"])


@KINDS
async def test_background_agents_are_awaited_without_the_preference(scripted: Scripted, kind: str) -> None:
    scripted.play(claude_says("x"))
    async with serving(scripted.env) as server:
        response = await server.client.post(f"/api/v1/{kind}", json={**BODIES[kind], "detach": True})
    assert response.status_code == 200
    assert [result["output"] for result in response.json()["results"]] == ["x", "x"]


@KINDS
async def test_background_agents_continue_after_their_client_disconnects(
    scripted: Scripted, tmp_path: Path, kind: str
) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    body = json.dumps({**BODIES[kind], "detach": True}).encode()
    head = f"POST /api/v1/{kind} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    async with serving(scripted.env) as server:
        _, writer = await server.raw(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await until(scripted.calls)
        writer.close()
        await until(lambda: server.state.active_requests == 0)
        (tmp_path / "go").touch()
        runs = (await server.client.get("/api/v1/runs")).json()["runs"]
        (run_id,) = [run["id"] for run in runs if run["kind"] == kind]
        whole = await ended(server, run_id)
    assert (whole.state, whole.total_runs) == ("finished", 2)


async def test_background_agents_that_cannot_run_are_refused_as_usual(scripted: Scripted) -> None:
    (scripted.folder / "gemini").unlink()
    async with serving(scripted.env) as server:
        response = await detached(server, "compare", backends=["claude", "gemini"])
        full = await detached(server, "parallel", tasks=[TASK, {**TASK, "workdir": "/nowhere"}])
    assert (response.status_code, response.json()["field"]) == (404, "backends[1].backend")
    assert (full.status_code, full.json()["field"]) == (400, "tasks[1].workdir")
    assert scripted.calls() == []


async def test_dry_run_has_no_background(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        response = await detached(server, "compare", dry_run=True)
    assert (response.status_code, len(response.json()["results"])) == (200, 2)


async def test_checks_and_verdict_of_a_compare_can_be_read_later(scripted: Scripted, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository", scripted.folder)
    repository.commit()
    scripted.play(claude_says("x"), when="ask")
    scripted.play(claude_says('{"best": "A", "reasons": "A is short."}'), when="Judge the answers")
    more = {"prompt": "ask", "workdir": str(repository.path), "isolation": "worktree", "check": "true"}
    async with serving(scripted.env) as server:
        response = await detached(server, "compare", **more, judge={"backend": "claude"})
        whole = await ended(server, response.json()["run_id"])
    assert whole.output.startswith("[1] claude: check passed\n[2] claude: check passed\nbest: [")
    assert whole.output.endswith("] claude\nA is short.")
