"""The client's tools as an SDK server of Claude Code: MCP messages inside control requests (2.1.332).

Claude Code asks for the list of tools once and sends every call with the id that the model chose. The answer to a call
may come at any later time; Claude Code has no time limit for SDK servers.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from clinvk.backends import mcp_tools
from clinvk.backends.claude.approvals import success
from clinvk.backends.mcp_tools import McpMessage
from clinvk.backends.shared import tool_names
from clinvk.types.request import ClientTool, ToolOutput

FLAGS = (
    f'--mcp-config={{"mcpServers":{{"{mcp_tools.SERVER}":{{"type":"sdk","name":"{mcp_tools.SERVER}"}}}}}}',
    f"--allowed-tools=mcp__{mcp_tools.SERVER}",
)
ENVIRONMENT = {"CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1", "ENABLE_TOOL_SEARCH": "false"}
"""The model sees the client's own names, and sees all tools from the start."""


_RESERVED_NAMES = ("ToolSearch", "StructuredOutput")
"""Names of tools that Claude Code does not offer, or whose calls it does not pass on."""


class ToolServer:
    """The server of one process, pure: messages in, answers out. `names` are the client's names by Claude Code's."""

    def __init__(self, tools: tuple[ClientTool, ...]) -> None:
        called = tool_names(tools, lambda name: f"{mcp_tools.SERVER}_{name}" if name in _RESERVED_NAMES else name)
        self.names = {name: own for own, name in called.items()}
        self._tools = tuple(replace(tool, name=called[tool.name]) for tool in tools)
        self._waiting: dict[str, tuple[str, int | str | None]] = {}

    def is_waiting(self, call_id: str) -> bool:
        """Return whether Claude Code waits for the output of a call."""
        return call_id in self._waiting

    def receive(self, request_id: str, message: McpMessage) -> Iterator[bytes]:
        """Yield the answer to a message; a call is answered later."""
        if message.is_call:
            self._waiting[str(message.params.meta.get("claudecode/toolUseId"))] = request_id, message.id
        else:  # notifications must be answered too
            id_ = 0 if message.id is None else message.id
            yield _answer(request_id, id_, mcp_tools.result(message, self._tools))

    def answer(self, output: ToolOutput) -> bytes:
        """Return the answer to a call."""
        request_id, id_ = self._waiting.pop(output.call_id)
        return _answer(request_id, id_, mcp_tools.call_result(output))


def _answer(request_id: str, id_: int | str | None, result: dict[str, object]) -> bytes:
    return success(request_id, {"mcp_response": mcp_tools.response(id_, result)})
