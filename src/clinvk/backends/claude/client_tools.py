"""The client's tools as an SDK server of Claude Code: MCP messages inside control requests (2.1.332).

https://modelcontextprotocol.io/specification. Claude Code asks for the list of tools once and sends every call with the
id that the model chose. The answer to a call may come at any later time; Claude Code has no time limit for SDK servers.
"""

from collections.abc import Iterator

import msgspec

from clinvk.backends.shared import base64_data
from clinvk.types.request import ClientTool, Image, ToolOutput

SERVER = "client"
"""The name of the server, which the model does not see."""

FLAGS = (
    f'--mcp-config={{"mcpServers":{{"{SERVER}":{{"type":"sdk","name":"{SERVER}"}}}}}}',
    f"--allowed-tools=mcp__{SERVER}",
)
ENVIRONMENT = {"CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1", "ENABLE_TOOL_SEARCH": "false"}
"""The model sees the client's own names, and sees all tools from the start."""

_MAX_RESULT_CHARS = 1 << 30
_META = {"anthropic/maxResultSizeChars": _MAX_RESULT_CHARS}
"""Without the entry, Claude Code puts a long result into a file."""

_ANNOTATIONS = {"readOnlyHint": True}
"""Claude Code makes the calls of one message together only if the tools are read-only."""

_PROTOCOL = "2025-06-18"


class Parameters(msgspec.Struct, frozen=True):
    """The parameters of a call; only the model's id of the call is relevant."""

    meta: dict[str, object] = msgspec.field(default_factory=dict[str, object], name="_meta")


class McpMessage(msgspec.Struct, frozen=True):
    """A JSON-RPC message to the server; a notification has no id."""

    method: str = ""
    id: int | str | None = None
    params: Parameters = Parameters()


class ToolServer:
    """The server of one process, pure: messages in, answers out."""

    def __init__(self, tools: tuple[ClientTool, ...]) -> None:
        self.names = frozenset(tool.name for tool in tools)
        self._tools = tools
        self._waiting: dict[str, tuple[str, int | str | None]] = {}

    def is_waiting(self, call_id: str) -> bool:
        """Return whether Claude Code waits for the output of a call."""
        return call_id in self._waiting

    def receive(self, request_id: str, message: McpMessage) -> Iterator[bytes]:
        """Yield the answer to a message; a call is answered later."""
        match message.method:
            case "initialize":
                capabilities: dict[str, object] = {"tools": {}}
                server = {"name": SERVER, "version": "1"}
                yield _answer(
                    request_id,
                    message.id,
                    {"protocolVersion": _PROTOCOL, "capabilities": capabilities, "serverInfo": server},
                )
            case "tools/list":
                yield _answer(request_id, message.id, {"tools": [_definition(tool) for tool in self._tools]})
            case "tools/call":
                self._waiting[str(message.params.meta.get("claudecode/toolUseId"))] = request_id, message.id
            case _:  # notifications must be answered too
                yield _answer(request_id, 0 if message.id is None else message.id, {})

    def answer(self, output: ToolOutput) -> bytes:
        """Return the answer to a call."""
        request_id, id_ = self._waiting.pop(output.call_id)
        return _answer(
            request_id, id_, {"content": [_part(part) for part in output.content], "isError": output.is_error}
        )


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


def _answer(request_id: str, id_: int | str | None, result: dict[str, object]) -> bytes:
    response = {"mcp_response": {"jsonrpc": "2.0", "id": id_, "result": result}}
    control = {"subtype": "success", "request_id": request_id, "response": response}
    return msgspec.json.encode({"type": "control_response", "response": control}) + b"\n"
