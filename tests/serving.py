"""A real server on a real socket inside a test's own event loop."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from clinvk.api.middleware import Front
from clinvk.api.server import listen, opened
from clinvk.backends import BACKENDS
from clinvk.backends.base import Backend
from clinvk.config import BackendSettings, ServerSettings, Settings, UnifiedFlags


@dataclass(frozen=True)
class Served:
    """The server, and a client of it that keeps no connection."""

    port: int
    front: Front
    client: httpx.AsyncClient

    async def prompt(self, **body: object) -> httpx.Response:
        """Send a prompt for `claude`, unless the body says otherwise."""
        return await self.client.post("/api/v1/prompt", json={"backend": "claude", "prompt": "hi", **body})

    async def raw(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send bytes over a connection of their own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await writer.drain()
        return reader, writer


@asynccontextmanager
async def serving(
    environ: Mapping[str, str],
    registry: Mapping[str, Backend] = BACKENDS,
    backends: dict[str, BackendSettings] | None = None,
    unified_flags: UnifiedFlags | None = None,
    **server: object,
) -> AsyncGenerator[Served]:
    """Serve with these settings of `server`."""
    settings = Settings(
        server=ServerSettings(**server),  # pyright: ignore[reportArgumentType]  # a wrong name or type fails the test
        backends=backends or {},
        unified_flags=unified_flags or UnifiedFlags(),
    )
    sockets = listen("127.0.0.1", 0)
    port: int = sockets[0].getsockname()[1]
    async with (
        opened(settings, environ, sockets, registry) as front,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", limits=httpx.Limits(max_keepalive_connections=0)
        ) as client,
    ):
        yield Served(port, front, client)
