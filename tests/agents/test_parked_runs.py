"""Parked runs of the real agents: warm processes, many at once, and no tool besides the client's."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import httpx
import msgspec
import psutil
import pytest

from agents.machine import Machine
from clinvk.config.model import WarmSettings
from polling import until, until_told
from serving import LiveServer, serving

CLIS = ("claude", "codex")
TOOL: object = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
Message = Mapping[str, object]


@asynccontextmanager
async def warm_server(machine: Machine) -> AsyncGenerator[LiveServer]:
    """Serve with warm processes."""
    workdir = str(machine.project)
    async with serving(
        machine.env,
        warm=WarmSettings(kept_backends=CLIS),
        default_workdir=workdir,
        max_parked_runs=300,
        max_concurrent_runs=16,
    ) as server:
        yield server


async def send(server: LiveServer, cli: str, messages: list[Message], tools: list[object]) -> Message:
    body = {"model": cli, "messages": messages, "tools": tools}
    response: httpx.Response = await server.client.post("/openai/v1/chat/completions", json=body, timeout=300)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]


async def begin(server: LiveServer, cli: str, text: str, tools: list[object]) -> list[Message]:
    """Send a prompt; return the conversation up to the calls."""
    question = {"role": "user", "content": text}
    return [question, await send(server, cli, [question], tools)]


async def end(server: LiveServer, cli: str, messages: list[Message], tools: list[object]) -> str:
    """Send the output of the only call; return the answer."""
    [call] = msgspec.convert(messages[-1]["tool_calls"], list[dict[str, object]])
    output = f"sun {call['id']}"
    result: Message = {"role": "tool", "tool_call_id": call["id"], "content": output}
    answer = str((await send(server, cli, [*messages, result], tools))["content"])
    assert output in answer
    return answer


async def warm(server: LiveServer, cli: str) -> Mapping[str, int]:
    return (await server.client.get("/health")).json()["warm"]["backends"][cli]


@pytest.mark.parametrize("cli", CLIS)
async def test_request_with_the_same_hundred_tools_finds_a_process_ready(machine: Machine, cli: str) -> None:
    names = ["weather", *(f"tool_{number}" for number in range(99))]
    tools: list[object] = [{"type": "function", "function": {"name": name, "description": name * 20}} for name in names]
    async with warm_server(machine) as server:
        await end(server, cli, await begin(server, cli, "[[call weather {}]]", tools), tools)

        async def is_ready() -> bool:
            return (await warm(server, cli))["ready"] > 0

        await until_told(is_ready, within_s=60)
        hits = (await warm(server, cli))["hits"]
        await end(server, cli, await begin(server, cli, "[[call weather {}]]", tools), tools)
        assert (await warm(server, cli))["hits"] == hits + 1


async def test_parked_runs_of_claude_leave_a_process_ready(machine: Machine) -> None:
    """A parked run uses no processor, so that a spare process slows no run down."""
    async with warm_server(machine) as server:
        for _ in range((os.cpu_count() or 1) + 1):
            await begin(server, "claude", "[[call weather {}]]", [TOOL])

        async def is_ready() -> bool:
            return (await warm(server, "claude"))["ready"] > 0

        await until_told(is_ready, within_s=60)


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_two_processes_of_codex_hold_two_hundred_parked_runs(machine: Machine) -> None:
    async with warm_server(machine) as server:
        tools: list[object] = [TOOL]
        await end(server, "codex", await begin(server, "codex", "[[call weather {}]]", tools), tools)
        runs = [begin(server, "codex", "[[call weather {}]]", tools) for _ in range(200)]
        conversations = await asyncio.gather(*runs)
        assert (await server.client.get("/health")).json()["parked_runs"] == 200
        await until_told(lambda: _has_at_most(server, 2))
        await asyncio.gather(*(end(server, "codex", messages, tools) for messages in conversations))


async def _has_at_most(server: LiveServer, count: int) -> bool:
    return (await warm(server, "codex"))["processes"] <= count


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_memory_and_parked_runs_are_bounded_through_a_thousand_loops(machine: Machine) -> None:
    """Half of the loops end; the other clients never come back."""
    tools: list[object] = [TOOL]
    async with serving(
        machine.env, warm=WarmSettings(kept_backends=CLIS), default_workdir=str(machine.project), max_parked_runs=20
    ) as server:
        used = 0
        for number in range(1000):
            messages = await begin(server, "codex", "[[call weather {}]]", tools)
            if number % 2:
                await end(server, "codex", messages, tools)
            if number == 200:
                used = psutil.Process().memory_info().rss
        assert psutil.Process().memory_info().rss < used + 50_000_000
        assert (await server.client.get("/health")).json()["parked_runs"] <= 20
        assert len(asyncio.all_tasks()) < 100
    await until(lambda: not machine.leftover_processes())


CALLS = {
    "claude": (
        '[[call Bash {"command": "touch OUT"}]]',
        '[[call Write {"file_path": "OUT", "content": "x"}]]',
        '[[call Read {"file_path": "SECRET"}]]',
    ),
    "codex": (
        '[[call shell_command {"command": "touch OUT; cat SECRET"}]]',
        '[[call exec_command {"cmd": "touch OUT; cat SECRET"}]]',
        '[[call apply_patch "*** Begin Patch\\n*** Add File: OUT\\n+x\\n*** End Patch"]]',
        '[[call view_image {"path": "SECRET"}]]',
    ),
}


@pytest.mark.parametrize("cli", CALLS)
@pytest.mark.parametrize("has_tools", [True, False])
async def test_own_tools_of_the_agent_are_off(machine: Machine, cli: str, has_tools: bool) -> None:
    """The model calls the tools one after the other; no file of the server is read or written."""
    secret, written = machine.project / "secret.txt", machine.project / "out.txt"
    await asyncio.to_thread(secret.write_text, "the secret of the server")
    calls = " ".join(CALLS[cli]).replace("OUT", str(written)).replace("SECRET", str(secret))
    async with serving(machine.env, default_workdir=str(machine.project)) as server:
        response = await server.client.post(
            "/openai/v1/chat/completions",
            json={"model": cli, "messages": [{"role": "user", "content": calls}], "tools": [TOOL] if has_tools else []},
            headers={"x-clinvk-tools": "client"},
        )
    assert response.status_code == 200, response.text
    assert len(machine.requests("call ")) > len(CALLS[cli]), "the model made each call"
    assert "the secret of the server" not in response.text
    assert response.json()["choices"][0]["finish_reason"] == "stop"
    assert not written.exists()
