"""`clinvk mcp`: an MCP server on stdin and stdout."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import msgspec

from clinvk.api.access.keys import ApiKeys
from clinvk.api.endpoints.services import Setup, open_services
from clinvk.api.mcp.calls import CallKey, Calls
from clinvk.api.mcp.in_process_rest import InProcessRest
from clinvk.api.mcp.protocol import McpServer, Message, Response, parse
from clinvk.api.mcp.tools import RestApi
from clinvk.api.observe.live import LiveEvents
from clinvk.api.observe.observers import Observers
from clinvk.api.openapi.endpoint_table import ENDPOINTS
from clinvk.api.server.app import Router
from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.sessions.local_store import open_store, real_directory
from clinvk.cli.terminal import streams
from clinvk.remote.messages import RestRequest, RestResponse
from clinvk.remote.socket_client import ServerDeclined, call_rest_on_server
from clinvk.remote.socket_path import path_of
from clinvk.types.errors import InvalidRequest


def mcp(flags: Flags, context: CommandContext) -> int:
    """Serve the client on stdin and stdout until it closes stdin.

    Raises:
        ClinvkError: the settings are invalid, or stdin is not a pipe.
        KeyboardInterrupt: a signal ended the command.
    """
    if not streams.is_pipe(0):
        raise InvalidRequest(
            "an MCP client starts clinvk mcp and speaks with it over stdin and stdout: see docs/mcp.md"
        )
    streams.run(_serve(context, real_directory(flags.workdir)))
    return 0


async def _serve(context: CommandContext, workdir: str) -> None:
    async with _open_rest(context) as rest:

        async def send(request: RestRequest) -> RestResponse:
            """Send a request to the server of the home, if its agents run in the environment of this command."""
            if context.settings.warm.command_line and path_of(context.home).exists():
                try:
                    return await call_rest_on_server(request, context.settings, context.environ, context.backends)
                except ServerDeclined:
                    pass
            return await rest.send(request)

        backend, place, calls = context.settings.default_backend, None if workdir == "/" else workdir, Calls()
        server = McpServer(lambda _, awaited: RestApi(send, awaited, backend, place), calls)
        await _serve_lines(server, calls)


async def _serve_lines(server: McpServer, calls: Calls) -> None:
    """Answer the messages on stdin until it is closed, which cancels the calls of tools."""
    stdout, lock = streams.Stdout(1), asyncio.Lock()

    async def send(message: bytes) -> None:
        async with lock:
            with suppress(streams.BrokenStdout):  # the client is gone, and closes stdin too
                await stdout.write(message + b"\n")

    async def respond(request: Message) -> None:
        await send(msgspec.json.encode(await server.respond(request, None, send)))

    async with anyio.create_task_group() as group:
        async for line in _lines():
            message = parse(line)
            if isinstance(message, Response):
                await send(msgspec.json.encode(message))
            elif message.method == "tools/call":
                group.start_soon(respond, message)
            elif message.is_request:
                await respond(message)
            elif (cancelled := message.cancelled_id) is not None:
                group.start_soon(calls.cancel, CallKey(cancelled))
        group.cancel_scope.cancel()


@asynccontextmanager
async def _open_rest(context: CommandContext) -> AsyncGenerator[InProcessRest]:
    """Open the REST API inside this process. On exit, end the runs of this process."""
    setup = Setup(context.settings, context.environ, context.backends, [], ApiKeys())
    async with (
        open_store(context) as store,
        asyncio.TaskGroup() as group,
        open_services(setup, store, Observers((), LiveEvents()), group) as services,
    ):
        yield InProcessRest(Router(ENDPOINTS, services), services)
        await services.end_orchestrations()


async def _lines() -> AsyncIterator[bytes]:
    """Yield the lines of stdin. A line that is too long becomes an invalid one."""
    async with streams.stdin() as reader:
        line = b"\n"
        while line:
            try:
                line = await reader.readline()
            except ValueError:
                line = b"too long\n"
            if line:
                yield line
