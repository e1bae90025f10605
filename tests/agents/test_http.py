"""The real CLIs through a server on a real socket."""

import asyncio
import json
import os
import time
from pathlib import Path

import httpx
import pytest

from agents.machine import Machine
from polling import until, until_told
from serving import LiveServer, serving

CLIS = ("claude", "codex", "gemini")


async def ask(server: LiveServer, machine: Machine, prompt: str, **more: object) -> httpx.Response:
    fields: dict[str, object] = {"approval_mode": "none", "sandbox_mode": "full", "workdir": str(machine.project)}
    body = {"prompt": prompt, **fields, **more}
    return await server.client.post("/api/v1/prompt", json=body, timeout=100)


async def versions(server: LiveServer) -> dict[str, str]:
    """Wait until the server knows all versions."""
    until_s = time.monotonic() + 60
    while True:
        listed = (await server.client.get("/api/v1/backends")).json()["backends"]
        found = {info["name"]: info["version"] for info in listed if "version" in info}
        if len(found) == len(CLIS):
            return found
        assert time.monotonic() < until_s, listed
        await asyncio.sleep(0.1)


def installed(machine: Machine) -> dict[str, str]:
    """Return the versions of the CLIs as npm says them."""
    packages = {"claude": "@anthropic-ai/claude-code", "codex": "@openai/codex", "gemini": "@google/gemini-cli"}
    folder = Path(machine.env["PATH"].split(os.pathsep)[0]).parent
    return {
        name: json.loads((folder / package / "package.json").read_text())["version"]
        for name, package in packages.items()
    }


async def test_server_detects_cli_versions(machine: Machine) -> None:
    async with serving(machine.env) as server:
        assert await versions(server) == installed(machine)


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


@pytest.mark.parametrize("backend", CLIS)
async def test_client_disconnect_ends_the_agent_and_its_tool(machine: Machine, backend: str) -> None:
    up = machine.project / "up"
    data = json.dumps(
        {
            "backend": backend,
            "prompt": '[[tool=shell cmd="touch up; exec sleep 599" words=1]]',
            "workdir": str(machine.project),
            "approval_mode": "none",
            "sandbox_mode": "full",
        }
    ).encode()
    head = f"POST /api/v1/prompt HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n"
    async with serving(machine.env) as server:
        await versions(server)  # an agent that is asked for its version is a process too
        _, writer = await server.raw(head.encode() + b"content-type: application/json\r\n\r\n" + data)
        await until(up.exists, within_s=60)
        writer.close()
        await until_told(
            lambda: asyncio.to_thread(lambda: not machine.leftover_processes())
        )  # a look at all processes takes long
