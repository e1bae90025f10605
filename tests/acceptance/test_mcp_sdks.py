"""Both transports of the MCP server with the unmodified SDKs, which validate the structured content of each result."""

import asyncio
import json
import re
import shutil
from collections.abc import Awaitable, Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import fastmcp
import pytest
from fastmcp.client.transports import StdioTransport, StreamableHttpTransport
from mcp import MCPError, StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from acceptance.command import Clinvk
from acceptance.server import Server
from clients import finished
from clinvk.api.mcp.tools import TOOLS
from polling import until
from scripted.steps import claude_says, wait_for

HANDSHAKES = {"legacy": "2025-11-25", "auto": "2026-07-28"}
"""The protocol version of each mode of the Python clients: `initialize`, or `server/discover` if the server answers."""

TESTS = Path(__file__).parents[1]
CLIENTS = TESTS.parent / ".clients" / "node_modules"


@pytest.fixture
def server(clinvk: Clinvk, tmp_path: Path) -> Generator[Server]:
    """A server whose agent answers `7`, and a prompt with the word `slow` only when it is cancelled."""
    clinvk.agent.play(claude_says("7"))
    clinvk.agent.play([wait_for(tmp_path / "never")], when="slow")
    with Server(clinvk.agent) as server:
        yield server.ready()


def check(report: dict[str, Any], name: str, version: str) -> None:
    """Check what a client has found with a version of the protocol."""
    assert re.match(r"run [0-9a-f]{8} is running", report.pop("progress"))
    assert report == {
        "server": "clinvk",
        "version": version,
        "tools": [*TOOLS],
        "output": "7",
        "state": "cancelled",
        "read": [True, "application/json", f"slow {name}"],
        "templates": 4,
        "unknown": -32602 if version == "2026-07-28" else -32002,
    }


async def test_typescript_sdk(clinvk: Clinvk, server: Server, tmp_path: Path) -> None:
    assert CLIENTS.is_dir(), f"no {CLIENTS}: run `make clients`"
    node = shutil.which("node")
    assert node
    program = tmp_path / "mcp_sdk.mjs"
    program.write_text((TESTS / "agents" / "clients" / program.name).read_text())
    (tmp_path / "node_modules").symlink_to(CLIENTS)
    done = await finished(
        node, str(program), server.url, clinvk.command, cwd=tmp_path, env=clinvk.agent.env, within_s=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, report in json.loads(done.stdout).items():
        check(report, name, "2025-11-25")


async def test_python_sdk(clinvk: Clinvk, server: Server) -> None:
    words = ["-i", *(f"{name}={value}" for name, value in clinvk.agent.env.items()), clinvk.command, "mcp"]
    program = StdioServerParameters(command="/usr/bin/env", args=words, cwd=str(clinvk.folder))

    async def checked(mode: str, transport: str) -> None:
        streams = stdio_client(program) if transport == "stdio" else streamable_http_client(f"{server.url}/mcp")
        async with Client(streams, mode=mode) as client:
            report = await reported(client, "", "progress_callback", f"{mode} {transport}")
        check(report, f"{mode} {transport}", HANDSHAKES[mode])

    await in_all_ways(checked)


async def test_fastmcp(clinvk: Clinvk, server: Server) -> None:
    words = ["-i", *(f"{name}={value}" for name, value in clinvk.agent.env.items()), clinvk.command, "mcp"]

    async def checked(mode: str, transport: str) -> None:
        streams = (
            StdioTransport("/usr/bin/env", words, cwd=str(clinvk.folder), keep_alive=False)
            if transport == "stdio"
            else StreamableHttpTransport(f"{server.url}/mcp")
        )
        async with fastmcp.Client(streams, mode=mode) as client:
            report = await reported(client, "_mcp", "progress_handler", f"{mode} {transport}")
        check(report, f"{mode} {transport}", HANDSHAKES[mode])

    await in_all_ways(checked)


async def in_all_ways(checked: Callable[[str, str], Awaitable[None]]) -> None:
    """Run a check of both handshakes over both transports, all at once."""
    await asyncio.gather(*(checked(mode, transport) for mode in HANDSHAKES for transport in ("stdio", "http")))


async def reported(client: Any, suffix: str, progress_argument: str, name: str) -> dict[str, Any]:
    """Use a client of a Python SDK, whose methods end in `suffix`, and return what it finds."""

    def method(verb: str) -> Callable[..., Awaitable[Any]]:
        return getattr(client, verb + suffix)

    async def call(tool: str, arguments: Mapping[str, object], **more: object) -> dict[str, Any]:
        return (await method("call_tool")(tool, arguments, **more)).structured_content

    messages: list[str] = []

    async def note(_progress: float, _total: float | None, message: str | None) -> None:
        messages.append(message or "")

    tools = (await method("list_tools")()).tools
    output = (await call("run_agent", {"prompt": f"quick {name}", "backend": "claude"}))["output"]
    task = {"prompt": f"slow {name}", "backend": "claude", "wait_secs": 100}
    calling = asyncio.ensure_future(call("run_agent", task, **{progress_argument: note}))
    await until(lambda: messages or calling.done())
    calling.cancel()
    await asyncio.wait([calling])
    resources = (await method("list_resources")()).resources
    [uri] = [str(each.uri) for each in resources if "runs/" in str(each.uri) and each.title == task["prompt"]]
    [content] = (await method("read_resource")(uri)).contents
    with pytest.raises(MCPError) as unknown:
        await method("read_resource")("clinvk://runs/abcdef")
    return {
        "server": client.server_info.name,
        "version": client.protocol_version,
        "tools": [tool.name for tool in tools],
        "output": output,
        "progress": messages[0],
        "state": (await call("wait_run", {"run_id": uri.rpartition("/")[2]}))["state"],
        "read": [str(content.uri) == uri, content.mime_type, json.loads(content.text)["prompt"]],
        "templates": len((await method("list_resource_templates")()).resource_templates),
        "unknown": unknown.value.error.code,
    }
