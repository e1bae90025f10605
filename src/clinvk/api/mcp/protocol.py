"""The MCP server over HTTP and over streams, by the SDK (https://py.sdk.modelcontextprotocol.io).

Both handshakes are served: `initialize` of 2025-11-25 and earlier, and the stateless requests of 2026-07-28.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import anyio
import mcp_types
import msgspec
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.message import SessionMessage
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from clinvk import __version__
from clinvk.api.mcp import tools
from clinvk.api.mcp.calls import CallKey, Calls, cancelled_request, http_key
from clinvk.api.mcp.tools import AwaitedRun, RestApi
from clinvk.api.openapi.document import any_json
from clinvk.dialects.json_bodies import converted
from clinvk.types.errors import ClinvkError

_Context = ServerRequestContext[dict[str, object], Request]
McpServer = Server[dict[str, object]]

_STATELESS = "2026-07-28"


def create_server(api_of: Callable[[Scope | None, AwaitedRun], RestApi], calls: Calls) -> McpServer:
    """Return the MCP server. `api_of` returns the API for the scope of an HTTP request; None stands for streams.

    A cancelled call ends the run that it waits for. Over HTTP, a client of 2026-07-28 cancels by disconnecting, and
    earlier clients by a notification, which `calls` has to get.
    """
    definitions = [*_definitions()]

    async def list_tools(_: _Context, __: mcp_types.PaginatedRequestParams | None) -> mcp_types.ListToolsResult:
        return mcp_types.ListToolsResult(tools=definitions)

    async def call_tool(context: _Context, params: mcp_types.CallToolRequestParams) -> mcp_types.CallToolResult:
        scope = context.request.scope if context.request else None
        api = api_of(scope, AwaitedRun(calls.attached, context.session.report_progress))
        id_ = "" if context.request_id is None else context.request_id
        key = http_key(scope, id_) if scope else CallKey(id_)
        ends_with_connection = scope is not None and context.protocol_version >= _STATELESS
        cancelling = None
        try:
            with calls.entered(key, api) as cancelling:
                return await _called(api, params)
        except asyncio.CancelledError:
            if ends_with_connection or (cancelling and cancelling.cancel_called):
                await _stop(api)
            raise
        await _stop(api)
        return _refusal("cancelled")

    return Server(
        "clinvk", version=__version__, instructions=tools.INSTRUCTIONS, on_list_tools=list_tools, on_call_tool=call_tool
    )


async def _stop(api: RestApi) -> None:
    with anyio.CancelScope(shield=True):
        await api.stop()


async def _called(api: RestApi, params: mcp_types.CallToolRequestParams) -> mcp_types.CallToolResult:
    tool = tools.TOOLS.get(params.name)
    if tool is None:
        raise MCPError(mcp_types.INVALID_PARAMS, f"unknown tool {params.name!r} (available: {', '.join(tools.TOOLS)})")
    try:
        result = await tool(api, converted(params.arguments or {}, tool.__annotations__["arguments"], "argument"))
    except ClinvkError as exc:
        return _refusal(exc.message)
    text = msgspec.json.encode(result)
    return mcp_types.CallToolResult(
        content=[mcp_types.TextContent(type="text", text=text.decode())], structured_content=msgspec.json.decode(text)
    )


def _refusal(message: str) -> mcp_types.CallToolResult:
    return mcp_types.CallToolResult(content=[mcp_types.TextContent(type="text", text=message)], is_error=True)


def _definitions() -> Iterator[mcp_types.Tool]:
    for name, tool in tools.TOOLS.items():
        types = tool.__annotations__
        yield mcp_types.Tool(
            name=name,
            description=tool.__doc__,
            input_schema=_schema(types["arguments"]),
            output_schema=_schema(types["return"]),
            annotations=mcp_types.ToolAnnotations(read_only_hint=tool in tools.READ_ONLY),
        )


def _schema(type_: type[msgspec.Struct]) -> dict[str, object]:
    """Return the schema of a struct: an object at the root, as clients require."""
    _, components = msgspec.json.schema_components([type_], schema_hook=any_json, ref_template="#/$defs/{name}")
    schema = components.pop(type_.__name__)
    return {**schema, "$defs": components} if components else schema


async def serve_request(server: McpServer, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve an HTTP request. Neither its size nor its host is checked."""
    manager = StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=sys.maxsize)
    async with manager.run():
        await manager.handle_request(scope, receive, send)


async def serve_lines(
    server: McpServer, calls: Calls, lines: AsyncIterator[bytes], write: Callable[[bytes], Awaitable[None]]
) -> None:
    """Serve one client until its lines end. The streams of the SDK would ignore a signal until then."""
    received, requests = anyio.create_memory_object_stream[SessionMessage | Exception]()
    responses, unsent = anyio.create_memory_object_stream[SessionMessage]()

    async def receive() -> None:
        async with received:
            async for line in lines:
                try:
                    message = SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
                except ValueError as exc:
                    message = exc
                if (cancelled := cancelled_request(line)) is not None:
                    group.create_task(calls.cancel(CallKey(cancelled)))
                await received.send(message)

    async def send() -> None:
        async with unsent:
            async for message in unsent:
                await write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")

    async with asyncio.TaskGroup() as group:
        group.create_task(receive())
        group.create_task(send())
        async with responses:
            await server.run(requests, responses, server.create_initialization_options())
