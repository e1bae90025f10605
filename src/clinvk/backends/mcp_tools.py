"""The client's tools as an MCP server, pure (https://modelcontextprotocol.io/specification)."""

import msgspec

from clinvk.backends.shared import base64_data
from clinvk.types.request import ClientTool, Image, ToolOutput

SERVER = "client"
"""The name of the server."""

_PROTOCOL = "2025-06-18"

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
