"""The client's tools as an MCP server of Gemini CLI (0.61.0), which reaches clinvk through the tool bridge.

Gemini CLI prints the calls of the model's answer, then sends those that may run together to the server. A message to
the server does not name the printed call. The CLI itself refuses a call whose arguments do not match the schema.
"""

from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from clinvk.backends.base import Delivery, Host, Report
from clinvk.backends.gemini import prompt_delivery
from clinvk.backends.gemini.decoder import GeminiDecoder
from clinvk.backends.mcp import SERVER, BridgedServer, server_settings
from clinvk.backends.shared import OneShotChannel
from clinvk.types.events import ToolCall, ToolResult
from clinvk.types.request import ClientTool, RunRequest, ToolOutput

SOCKET = "home/tools"
"""The socket in the private folder."""

_PREFIX = f"mcp_{SERVER}_"
"""The start of the names that the model sees."""

_TIMEOUT_MS = 24 * 60 * 60 * 1000
_MAX_CHARS = 1 << 30
_EXTRA: dict[str, object] = {"structuredContent": {}}
"""Without the field, the CLI copies a text that is JSON into the field, and then refuses all but objects."""

_ADDED = "wait_for_previous"
"""A parameter that the CLI adds to each tool."""


def settings(request: RunRequest, host: Host) -> dict[str, object]:
    """Return the settings, by path, of an agent with MCP servers of an editor, with client tools, or without its own.

    With `folderTrust`, the CLI does not trust the project's settings, which it reads before `--skip-trust`.
    """
    editor = server_settings(request.mcp_servers, {"type": "http"})
    found: dict[str, object] = {f"mcpServers.{name}": server for name, server in editor.items()}
    if request.client_tools:
        command, *arguments = *host.tool_bridge, f"$GEMINI_CLI_HOME/{SOCKET.removeprefix('home/')}"
        found[f"mcpServers.{SERVER}"] = {"command": command, "args": arguments, "timeout": _TIMEOUT_MS}
        found |= {"tools.truncateToolOutputThreshold": _MAX_CHARS, "model.disableLoopDetection": True}
    if not request.own_tools:
        found |= {"tools.core": ["mcp_*"], "context.includeDirectoryTree": False, "security.folderTrust.enabled": True}
    return found


class ClientToolsChannel(OneShotChannel):
    """The channel of a process with client tools."""

    def __init__(self, tools: tuple[ClientTool, ...]) -> None:
        super().__init__(GeminiDecoder(), prompt_delivery.stdin)
        self._server = BridgedServer(tools, _EXTRA)
        self._printed: dict[str, tuple[str, dict[str, object]]] = {}
        self._call_ids: dict[str, str] = {}

    def receive(self, line: bytes) -> Iterable[tuple[str, Report]]:
        """Yield the events of one line, without the calls of client tools."""
        for run, event in super().receive(line):
            yield from ((run, each) for each in self._translated(event))

    def receive_tool_message(self, line: bytes) -> Iterable[Delivery]:
        """Answer a message to the MCP server, or yield a call and, after the last call, that the agent waits."""
        for delivery in self._server.receive(self._run, line):
            if not isinstance(delivery, bytes) and isinstance(delivery[1], ToolCall):
                yield self._run, self._assigned(delivery[1])
            else:
                yield delivery

    def answer(self, run: str, output: ToolOutput) -> bytes:
        """Return the answer to a call."""
        return self._server.answer(output)

    def _translated(self, event: Report) -> Iterator[Report]:
        name = event.name.removeprefix(_PREFIX) if isinstance(event, ToolCall) else ""
        if isinstance(event, ToolCall) and name in self._server.names:
            self._printed[event.id] = self._server.names[name], _without_added(event.input)
        elif not isinstance(event, ToolResult):
            yield event
        elif event.id in self._call_ids:
            yield replace(event, id=self._call_ids[event.id])
        elif self._printed.pop(event.id, None) is None:
            yield event

    def _assigned(self, call: ToolCall) -> ToolCall:
        """Return a call without the CLI's own parameter, and assign its id to the printed call."""
        arguments = _without_added(call.input)
        same = (id_ for id_, printed in self._printed.items() if printed == (call.name, arguments))
        printed = next(same, call.id)
        self._printed.pop(printed, None)
        self._call_ids[printed] = call.id
        return replace(call, input=arguments)


def _without_added(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if name != _ADDED}
