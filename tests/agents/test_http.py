"""The real CLIs through a server on a real socket."""

import json

import httpx
import pytest

from agents.machine import Machine
from serving import LiveServer, serving

CLIS = ("claude", "codex", "gemini")


async def ask(server: LiveServer, machine: Machine, prompt: str, **more: object) -> httpx.Response:
    fields: dict[str, object] = {"approval_mode": "none", "sandbox_mode": "full", "workdir": str(machine.project)}
    body = {"prompt": prompt, **fields, **more}
    return await server.client.post("/api/v1/prompt", json=body, timeout=100)


@pytest.mark.parametrize("backend", CLIS)
async def test_stream_reports_agent_events(machine: Machine, backend: str) -> None:
    prompt = '[[tool=shell cmd="echo from-the-tool" words=3]]'
    async with serving(machine.env) as server:
        response = await ask(server, machine, prompt, backend=backend, output_format="stream-json")
    events = [json.loads(line) for line in response.text.splitlines()]
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-1]) == ("init", "done")
    assert kinds.index("tool_use") < kinds.index("tool_result") < kinds.index("message")
    assert "".join(event["content"]["text"] for event in events if event["type"] == "message") == "word1 word2 word3"
    (result,) = [event["content"] for event in events if event["type"] == "tool_result"]
    assert "from-the-tool" in result["output"]
    assert result["tool_name"]
    assert events[0]["content"]["working_dir"] == str(machine.project)
    assert events[0]["content"]["backend_session_id"]
