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


@pytest.mark.parametrize("backends", [{}, CONFIGURED], ids=["no model configured", "one configured"])
async def test_unknown_model_name_is_reported_as_ignored(
    scripted: Scripted, backends: dict[str, BackendSettings]
) -> None:
    scripted.play(says("claude", "fine"))
    async with serving(scripted.env, store=MemoryStore(), backends=backends) as server:
        for path, body in ASKING.items():
            for stream in (False, True):
                answer = await server.client.post(path, json={**body, "model": "cluade", "stream": stream})
                assert (answer.status_code, answer.headers.get("x-clinvk-ignored")) == (200, "model"), path
                assert '"model":"cluade"' in answer.text
    assert {call.name for call in scripted.calls()} == {"claude"}
    assert not [call for call in scripted.calls() if "cluade" in call.argv]


async def test_effective_model_name_is_not_reported_as_ignored(scripted: Scripted) -> None:
    scripted.play(says("claude", "fine"))
    names = ("claude", "claude/opus", "opus", "claude-of-the-future")
    async with serving(scripted.env, store=MemoryStore(), backends=CONFIGURED) as server:
        for (path, body), model in zip(ASKING.items(), names, strict=True):
            answer = await server.client.post(path, json={**body, "model": model})
            assert answer.status_code == 200
            assert "x-clinvk-ignored" not in answer.headers, path


async def test_ignored_model_is_listed_with_other_ignored_fields(scripted: Scripted) -> None:
    scripted.play(says("claude", "fine"))
    tool = {"type": "web_search"}
    path = "/openai/v1/chat/completions"
    async with serving(scripted.env, store=MemoryStore()) as server:
        answer = await server.client.post(path, json={**ASKING[path], "model": "cluade", "tools": [tool]})
    assert answer.headers["x-clinvk-ignored"] == "model, tools"
