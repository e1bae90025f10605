"""The client's tools as an MCP server, pure (https://modelcontextprotocol.io/specification)."""

from collections.abc import Iterator, Mapping
from itertools import count

import msgspec
from msgspec.structs import replace

from clinvk.backends.base import Delivery
from clinvk.backends.shared import base64_data, decode_line, tool_names
from clinvk.types.events import AwaitingTools, ToolCall
from clinvk.types.request import ClientTool, Image, ToolOutput

SERVER = "client"
"""The name of the server."""

_PROTOCOL = "2025-06-18"

_MAX_NAME_CHARS = 48
"""Agents shorten a name of more than 63 characters, including the server's name."""

_META = {"anthropic/maxResultSizeChars": 1 << 30}
"""Without the entry, Claude Code puts a long result into a file."""

_ANNOTATIONS = {"readOnlyHint": True}
"""Claude Code makes the calls of one message together only if the tools are read-only."""


class Parameters(msgspec.Struct, frozen=True):
    """The parameters of a call."""

    name: str = ""
    arguments: dict[str, object] = {}
    meta: dict[str, object] = msgspec.field(default_factory=dict[str, object], name="_meta")


class McpMessage(msgspec.Struct, frozen=True):
    """A JSON-RPC message to the server; a notification has no id."""

    method: str = ""
    id: int | str | None = None
    params: Parameters = Parameters()

    @property
    def is_call(self) -> bool:
        """Whether the message calls a tool."""
        return self.method == "tools/call"


def result(message: McpMessage, tools: tuple[ClientTool, ...]) -> dict[str, object]:
    """Return the result of a request that is no call; empty for a request without a result."""
    match message.method:
        case "initialize":
            capabilities: dict[str, object] = {"tools": {}}
            server = {"name": SERVER, "version": "1"}
            return {"protocolVersion": _PROTOCOL, "capabilities": capabilities, "serverInfo": server}
        case "tools/list":
            return {"tools": [_definition(tool) for tool in tools]}
        case _:
            return {}


def call_result(output: ToolOutput) -> dict[str, object]:
    """Return the result of a call."""
    return {"content": [_part(part) for part in output.content], "isError": output.is_error}


def response(id_: int | str | None, result: dict[str, object]) -> dict[str, object]:
    """Return the JSON-RPC response to a request."""
    return {"jsonrpc": "2.0", "id": id_, "result": result}


_MESSAGES = msgspec.json.Decoder(McpMessage)


class BridgedServer:
    """The server of one process, whose agent reaches clinvk through the tool bridge. `extra` extends each result.

    The ids of calls are clinvk's own. Agents send the calls of one answer without a pause, so the answer to a ping
    after the last call shows that no further call follows.
    """

    def __init__(self, tools: tuple[ClientTool, ...], extra: Mapping[str, object] = {}) -> None:
        called = tool_names(tools, lambda name: name[:_MAX_NAME_CHARS])
        self.names = {name: own for own, name in called.items()}
        self._tools = tuple(replace(tool, name=called[tool.name]) for tool in tools)
        self._extra = extra
        self._numbers = count()
        self._waiting: dict[str, int | str | None] = {}
        self._ping = ""

    def receive(self, run: str, line: bytes) -> Iterator[Delivery]:
        """Answer a message of the agent, or yield a call and, after the last call, that the agent waits."""
        message = decode_line(_MESSAGES, line)
        if message is None or message.id is None:
            return
        if message.is_call:
            name = message.params.name
            call_id = f"call_{run}{next(self._numbers)}"
            self._waiting[call_id] = message.id
            self._ping = f"ping {call_id}"
            yield run, ToolCall(call_id, self.names.get(name, name), message.params.arguments, for_client=True)
            yield _encode({"id": self._ping, "method": "ping"})
        elif message.id == self._ping:
            yield run, AwaitingTools()
        elif message.method:
            yield _encode({"id": message.id, "result": result(message, self._tools)})

    def answer(self, output: ToolOutput) -> bytes:
        """Return the answer to a call."""
        return _encode({"id": self._waiting.pop(output.call_id), "result": {**call_result(output), **self._extra}})


def _encode(message: dict[str, object]) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n"


def _definition(tool: ClientTool) -> dict[str, object]:
    return {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": {"type": "object", **tool.schema},
        "annotations": _ANNOTATIONS,
        "_meta": _META,
    }


def _part(part: str | Image) -> dict[str, str]:
    if isinstance(part, Image):
        return {"type": "image", "data": base64_data(part), "mimeType": part.media_type}
    return {"type": "text", "text": part}
