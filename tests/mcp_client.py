"""A client of the MCP server by the SDK, over both handshakes."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx2
import msgspec
from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from polling import until

HANDSHAKES = ["legacy", "2026-07-28"]
"""The handshake of 2025-11-25 and earlier, and the stateless requests of 2026-07-28."""

T = TypeVar("T")


class Mcp:
    """A connected client."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, answer: type[T], tool: str, **arguments: object) -> T:
        """Call a tool. The text of the result is the structured content."""
        result = await self.client.call_tool(tool, dict(arguments))
        [text] = result.content
        assert isinstance(text, TextContent)
        assert not result.is_error, text.text
        assert msgspec.json.decode(text.text) == result.structured_content
        return msgspec.json.decode(text.text, type=answer)

    async def reporting(self, tool: str, **arguments: object) -> tuple[asyncio.Task[object], list[str | None]]:
        """Start a call; return its task and the messages of its progress, once there is one."""
        messages: list[str | None] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            assert 0 <= progress <= (total or 0)
            messages.append(message)

        call = self.client.call_tool(tool, dict(arguments), progress_callback=note)
        task: asyncio.Task[object] = asyncio.ensure_future(call)
        await until(lambda: messages or task.done())
        return task, messages

    async def refused(self, tool: str, **arguments: object) -> str:
        """Call a tool that fails, and return its message."""
        result = await self.client.call_tool(tool, dict(arguments))
        [text] = result.content
        assert isinstance(text, TextContent)
        assert result.is_error, text.text
        return text.text


@asynccontextmanager
async def over_stdio(handshake: str, command: str, cwd: str, env: Mapping[str, str]) -> AsyncGenerator[Mcp]:
    """Start a command in exactly this environment, and connect to it."""
    words = ["-i", *(f"{name}={value}" for name, value in env.items()), command, "mcp"]
    server = StdioServerParameters(command="/usr/bin/env", args=words, cwd=cwd)
    async with Client(stdio_client(server), mode=handshake) as client:
        yield Mcp(client)


@asynccontextmanager
async def over_http(handshake: str, port: int, **headers: str) -> AsyncGenerator[Mcp]:
    """Connect to `/mcp` of a server."""
    async with (
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(f"http://127.0.0.1:{port}/mcp", http_client=http), mode=handshake) as client,
    ):
        yield Mcp(client)
