"""One endpoint on a real socket, with keep-alives after milliseconds instead of seconds."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from clinvk.api.endpoints.prompts import PromptEndpoint
from clinvk.api.server.address import listen
from clinvk.api.server.server import Server
from clinvk.backends import registry as backends
from clinvk.backends.base import Backend
from clinvk.config.model import Settings
from clinvk.dialects.dialect import Dialect
from clinvk.runtime.local import LocalRuns
from clinvk.store.memory import MemoryStore
from serving import services_of


@asynccontextmanager
async def answering(
    dialect: Dialect, environ: Mapping[str, str], registry: Mapping[str, Backend] = backends.BACKENDS
) -> AsyncGenerator[int]:
    """Answer every request in this dialect. Yield the port."""
    settings, store = Settings(), MemoryStore()
    async with asyncio.TaskGroup() as background, LocalRuns(settings, store, environ, registry) as runs:
        services = replace(services_of(runs, store, settings, environ, registry), background=background)
        endpoint = PromptEndpoint(dialect, services, tick_s=0.05, hold_s=0.1)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await endpoint({**scope, "state": {"request_id": "q", "dialect": dialect, "key_name": ""}}, receive, send)

        sockets = listen("127.0.0.1", 0)
        started = asyncio.Event()
        server = Server(app, settings.server, started.set)  # pyright: ignore[reportArgumentType]  # less than all of clinvk
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets))
            await started.wait()
            yield sockets[0].getsockname()[1]
            server.should_exit = True
