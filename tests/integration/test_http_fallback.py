"""Failover between agents in every API, and its limits by keys and policy, over real sockets."""

import json
import os
import time
from pathlib import Path

import pytest

from clinvk.api.access.key_file import KeyFile, KeyLimits
from clinvk.api.access.keys import ApiKeys
from clinvk.config.load import home
from clinvk.config.model import BackendSettings, PolicySettings
from clinvk.store.memory import MemoryStore
from clinvk.types.record import LimitWindow
from integration.test_fallback import ANSWER, LIMITED, LOGGED_OUT, STARTED
from polling import until
from serving import LiveServer, serving
from shell_backend import Shell
from standin.document import JSON

ENV = {"PATH": os.environ["PATH"]}
AGENTS = {"claude": Shell("claude", STARTED + LIMITED), "codex": Shell("codex", ANSWER)}
LIMIT = {"backend": "claude", "error": "limit reached", "error_code": "agent_rate_limited"}
MODEL_APIS: list[tuple[str, dict[str, JSON]]] = [
    ("/openai/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/openai/v1/responses", {"input": "hi"}),
    ("/openai/v1/completions", {"prompt": "hi"}),
    ("/anthropic/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}),
]


async def answered(server: LiveServer, **body: object) -> tuple[str, list[dict[str, str]]]:
    """Return the backend that answered a prompt, and the `fallback` of the answer."""
    response = await server.prompt(**body)
    assert response.status_code == 200, response.text
    return response.json()["backend"], response.json().get("fallback", [])


async def test_answer_stream_and_run_report_the_fallback() -> None:
    async with serving(ENV, AGENTS, store=MemoryStore()) as server:
        answer = (await server.prompt(fallback=["codex"])).json()
        assert (answer["backend"], answer["output"], answer["fallback"]) == ("codex", "hello", [LIMIT])
        run = (await server.client.get(f"/api/v1/runs/{answer['run_id']}")).json()
        assert (run["backend"], run["state"], run["fallback"]) == ("codex", "finished", [LIMIT])
        stream = await server.prompt(fallback=["codex"], output_format="stream-json")
        lines = [json.loads(line) for line in stream.text.splitlines()]
        assert [line["type"] for line in lines] == ["init", "progress", "message", "done"]
        assert {line["backend"] for line in lines} == {"codex"}
        assert lines[1]["content"]["stage"] == "fallback"
        assert "limit reached" in lines[1]["content"]["message"]
        assert await answered(server) == ("claude", [])


@pytest.mark.parametrize(("path", "body"), MODEL_APIS)
@pytest.mark.parametrize("stream", [False, True])
async def test_model_name_of_a_vendor_api_names_the_fallback(path: str, body: dict[str, JSON], stream: bool) -> None:
    async with serving(ENV, AGENTS, store=MemoryStore()) as server:
        asked = {**body, "model": "claude/opus > codex/large", "stream": stream}
        response = await server.client.post(path, json=asked)
        assert response.status_code == 200, response.text
        assert "hello" in response.text
        assert response.headers["x-clinvk-fallback"] == "claude=agent_rate_limited"
        assert response.headers["x-clinvk-backend"] == "codex"
        assert "x-clinvk-ignored" not in response.headers
        run = (await server.client.get(f"/api/v1/runs/{response.headers['x-clinvk-run-id']}")).json()
        assert (run["backend"], run["model"]) == ("codex", "m")
        alone = await server.client.post(path, json={**body, "model": "claude"})
        assert (alone.status_code, "x-clinvk-fallback" in alone.headers) == (429, False)
        unknown = await server.client.post(path, json={**body, "model": "claude>coddex"})
        assert unknown.status_code == 404
        assert "coddex" in unknown.text


async def test_agent_cannot_replace_itself_but_another_model_of_it_can() -> None:
    settings = {"claude": BackendSettings(fallback=("claude/opus", "codex"))}
    async with serving(ENV, AGENTS, settings, store=MemoryStore()) as server:
        for body in ({"fallback": ["claude"]}, {"model": "opus", "fallback": ["codex", "claude/opus"]}):
            refused = await server.prompt(**body)
            assert (refused.status_code, refused.json()["detail"].count("claude cannot replace itself")) == (400, 1)
        vendor = await server.client.post(MODEL_APIS[0][0], json={**MODEL_APIS[0][1], "model": "claude>claude"})
        assert (vendor.status_code, "claude cannot replace itself" in vendor.text) == (400, True)
        assert await answered(server) == ("codex", [LIMIT, LIMIT])
        assert await answered(server, model="opus") == ("codex", [LIMIT])
        assert await answered(server, fallback=["claude/opus", "codex"]) == ("codex", [LIMIT, LIMIT])


async def test_failure_of_all_agents_keeps_the_status_of_the_first() -> None:
    agents = {**AGENTS, "codex": Shell("codex", LOGGED_OUT)}
    async with serving(ENV, agents, store=MemoryStore()) as server:
        path, body = MODEL_APIS[0]
        response = await server.client.post(path, json={**body, "model": "claude>codex"})
        assert response.status_code == 429
        assert response.json()["error"]["message"] == "claude: limit reached; codex: not logged in"


async def test_key_never_gets_an_agent_by_fallback(tmp_path: Path) -> None:
    environ = {**ENV, "HOME": str(tmp_path)}
    file = KeyFile(home(environ))
    key = await file.create("ana", KeyLimits(backends=("claude",)))
    keys = ApiKeys((), await file.read())
    settings = {"claude": BackendSettings(fallback=("codex",))}
    async with serving(environ, AGENTS, settings, store=MemoryStore(), keys=keys) as server:
        server.client.headers["authorization"] = f"Bearer {key}"
        refused = await server.prompt(fallback=["codex"])
        assert (refused.status_code, refused.json()["code"]) == (403, "backend_not_allowed")
        path, body = MODEL_APIS[0]
        assert (await server.client.post(path, json={**body, "model": "claude>codex"})).status_code == 403
        assert await answered(server) == ("claude", [])


async def test_policy_holds_for_each_agent_of_a_fallback() -> None:
    policy = PolicySettings(allowed_backends=("claude",), allowed_models=("opus",))
    settings = {"claude": BackendSettings(fallback=("codex",))}
    async with serving(ENV, AGENTS, settings, store=MemoryStore(), policy=policy) as server:
        assert (await server.prompt(fallback=["codex"])).status_code == 403
        assert (await server.prompt(fallback=["claude/other"])).status_code == 403
        assert (await server.prompt(fallback=["coddex"])).status_code == 404
        assert await answered(server) == ("claude", [])


async def test_fallback_of_the_settings_applies_unless_the_request_has_its_own() -> None:
    settings = {"claude": BackendSettings(fallback=("codex",))}
    async with serving(ENV, AGENTS, settings, store=MemoryStore()) as server:
        assert await answered(server) == ("codex", [LIMIT])
        assert await answered(server, fallback=[]) == ("claude", [])
        assert (await server.prompt(on_limit="wait")).json()["field"] == "on_limit"
        compared = await server.client.post("/api/v1/compare", json={"prompt": "hi", "backends": ["claude"]})
        assert compared.json()["results"][0]["error_code"] == "agent_rate_limited"
        tasks = await server.client.post("/api/v1/parallel", json={"tasks": [{"backend": "claude", "prompt": "hi"}]})
        assert tasks.json()["results"][0]["backend"] == "codex"


async def test_detached_run_shows_until_when_it_waits_and_can_be_cancelled() -> None:
    store, resets_at = MemoryStore(), time.time() + 3600
    await store.update_limit(
        LimitWindow(
            backend="claude",
            window="5h",
            used_percent=100,
            status="rejected",
            resets_at=resets_at,
            updated_at=time.time(),
        )
    )
    async with serving(ENV, AGENTS, store=store) as server:
        started = await server.detached(on_limit="wait")
        await until(lambda: server.runs.queued == 1)
        run = (await server.client.get(f"/api/v1/runs/{started['run_id']}")).json()
        assert (run["state"], run["started_at"], run["queue_position"]) == ("queued", None, 1)
        assert run["waits_until"].startswith(time.strftime("%Y-%m-%dT%H:%M", time.gmtime(resets_at)))
        assert (await server.client.post(f"/api/v1/runs/{started['run_id']}/cancel")).status_code == 200
        assert (await store.run(started["run_id"])).state == "cancelled"
