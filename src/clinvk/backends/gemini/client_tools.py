"""The client's tools as an MCP server of Gemini CLI (0.61.0), which reaches clinvk through the tool bridge.

Gemini CLI prints the calls of the model's answer, then sends those that may run together to the server. A message to
the server does not name the printed call. The CLI itself refuses a call whose arguments do not match the schema.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from clinvk.backends import mcp_tools
from clinvk.backends.base import Delivery, Host, Report
from clinvk.backends.gemini import prompt_delivery
from clinvk.backends.gemini.decoder import GeminiDecoder
from clinvk.backends.mcp_tools import SERVER, McpMessage
from clinvk.backends.shared import OneShotChannel, decode_line, tool_names
from clinvk.types.events import AwaitingTools, ToolCall, ToolResult
from clinvk.types.request import ClientTool, RunRequest, ToolOutput

SOCKET = "home/tools"
"""The socket in the private folder."""

_PREFIX = f"mcp_{SERVER}_"
"""The start of the names that the model sees."""

_TIMEOUT_MS = 24 * 60 * 60 * 1000
_MAX_CHARS = 1 << 30
_MAX_NAME_CHARS = 48
"""Gemini CLI shortens a name of more than 63 characters, including the prefix."""

_ADDED = "wait_for_previous"
"""A parameter that the CLI adds to each tool."""

_MESSAGES = msgspec.json.Decoder(McpMessage)


def names(tools: Iterable[ClientTool]) -> dict[str, str]:
    """Return the name for the CLI of each tool by the client's name."""
    return tool_names(tools, lambda name: name[:_MAX_NAME_CHARS])


def settings(request: RunRequest, host: Host) -> dict[str, object]:
    """Return the settings, by path, of an agent with client tools or without tools of its own.

    With `folderTrust`, the CLI does not trust the project's settings, which it reads before `--skip-trust`.
    """
    found: dict[str, object] = {}
    if request.client_tools:
        command, *arguments = *host.tool_bridge, f"$GEMINI_CLI_HOME/{SOCKET.removeprefix('home/')}"
        found[f"mcpServers.{SERVER}"] = {"command": command, "args": arguments, "timeout": _TIMEOUT_MS}
        found |= {"tools.truncateToolOutputThreshold": _MAX_CHARS, "model.disableLoopDetection": True}
    if not request.own_tools:
        found |= {
            "tools.core": ["mcp_*"],
            "context.includeDirectoryTree": False,
            "security.folderTrust.enabled": True,
        }
    return found


class ClientToolsChannel(OneShotChannel):
    """The channel of a process with client tools.

    The ids of calls are clinvk's own. The CLI sends calls without a pause, so the answer to a ping after the last call
    shows that no further call follows.
    """

    def __init__(self, tools: tuple[ClientTool, ...]) -> None:
        super().__init__(GeminiDecoder(), prompt_delivery.stdin)
        called = names(tools)
        self._names = {name: own for own, name in called.items()}
        self._tools = tuple(replace(tool, name=called[tool.name]) for tool in tools)
        self._printed: dict[str, tuple[str, dict[str, object]]] = {}
        self._call_ids: dict[str, str] = {}
        self._waiting: dict[str, int | str | None] = {}
        self._ping = ""

    def receive(self, line: bytes) -> Iterable[Delivery]:
        """Yield the events of one line, without the calls of client tools."""
        for delivery in super().receive(line):
            if isinstance(delivery, bytes):
                yield delivery
            else:
                yield from ((self._run, event) for event in self._translated(delivery[1]))

    def receive_tool_message(self, line: bytes) -> Iterable[Delivery]:
        """Answer a message to the MCP server, or yield a call and, after the last call, that the agent waits."""
        message = decode_line(_MESSAGES, line)
        if message is None or message.id is None:
            return
        if message.is_call:
            call = self._call(message)
            self._waiting[call.id] = message.id
            self._ping = f"ping {call.id}"
            yield self._run, call
            yield _encode({"id": self._ping, "method": "ping"})
        elif message.id == self._ping:
            yield self._run, AwaitingTools()
        elif message.method:
            yield _encode({"id": message.id, "result": mcp_tools.result(message, self._tools)})

    def answer(self, run: str, output: ToolOutput) -> bytes:
        """Return the answer to a call."""
        return _encode({"id": self._waiting.pop(output.call_id), "result": mcp_tools.call_result(output)})

    def _translated(self, event: Report) -> Iterator[Report]:
        if isinstance(event, ToolCall) and event.name.removeprefix(_PREFIX) in self._names:
            self._printed[event.id] = event.name.removeprefix(_PREFIX), _without_added(event.input)
        elif not isinstance(event, ToolResult):
            yield event
        elif event.id in self._call_ids:
            yield replace(event, id=self._call_ids[event.id])
        elif self._printed.pop(event.id, None) is None:
            yield event

    def _call(self, message: McpMessage) -> ToolCall:
        """Return the call of a message, and assign its id to the printed call."""
        name, arguments = message.params.name, _without_added(message.params.arguments)
        call_id = f"call_{self._run}{len(self._call_ids)}"
        same = (id_ for id_, printed in self._printed.items() if printed == (name, arguments))
        printed = next(same, call_id)
        self._printed.pop(printed, None)
        self._call_ids[printed] = call_id
        return ToolCall(call_id, self._names.get(name, name), arguments, for_client=True)


def _without_added(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if name != _ADDED}


def _encode(message: dict[str, object]) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", **message}) + b"\n"
