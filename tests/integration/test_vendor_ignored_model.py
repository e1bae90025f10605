"""An unknown model name selects the default backend, and the answer reports that the name had no effect."""

import pytest

from clinvk.config.model import BackendSettings
from clinvk.store.memory import MemoryStore
from scripted import Scripted
from scripted.steps import says
from serving import serving

ASKING: dict[str, dict[str, object]] = {
    "/openai/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/openai/v1/completions": {"prompt": "x"},
    "/openai/v1/responses": {"input": "x"},
    "/anthropic/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9},
}
CONFIGURED = {"claude": BackendSettings(model="sonnet")}


@pytest.mark.parametrize("path", ASKING)
@pytest.mark.parametrize("backends", [{}, CONFIGURED], ids=["no model configured", "one configured"])
async def test_unknown_model_name_is_reported_as_ignored(
    scripted: Scripted, path: str, backends: dict[str, BackendSettings]
) -> None:
    scripted.play(says("claude", "fine"))
    async with serving(scripted.env, store=MemoryStore(), backends=backends) as server:
        answers = [
            await server.client.post(path, json={**ASKING[path], "model": "cluade", "stream": stream})
            for stream in (False, True)
        ]
    assert [(answer.status_code, answer.headers.get("x-clinvk-ignored")) for answer in answers] == [(200, "model")] * 2


@pytest.mark.parametrize("path", ASKING)
@pytest.mark.parametrize("model", ["claude", "claude/opus", "opus", "claude-of-the-future"])
async def test_effective_model_name_is_not_reported_as_ignored(scripted: Scripted, path: str, model: str) -> None:
    scripted.play(says("claude", "fine"))
    async with serving(scripted.env, store=MemoryStore(), backends=CONFIGURED) as server:
        answer = await server.client.post(path, json={**ASKING[path], "model": model})
    assert answer.status_code == 200
    assert "x-clinvk-ignored" not in answer.headers


async def test_ignored_model_is_listed_with_other_ignored_fields(scripted: Scripted) -> None:
    scripted.play(says("claude", "fine"))
    tool = {"type": "web_search"}
    path = "/openai/v1/chat/completions"
    async with serving(scripted.env, store=MemoryStore()) as server:
        answer = await server.client.post(path, json={**ASKING[path], "model": "cluade", "tools": [tool]})
    assert answer.headers["x-clinvk-ignored"] == "model, tools"
