"""The tools of a client with Gemini CLI: the launch, and the messages of the CLI to the client's tool server."""

import json

import msgspec
import pytest

from clinvk.backends.base import PRIVATE, Delivery, Host, Launch
from clinvk.backends.gemini import Gemini
from clinvk.types.errors import Unsupported
from clinvk.types.events import AwaitingTools, RunStarted, ToolCall, ToolResult
from clinvk.types.request import ClientTool, Image, RunRequest, ToolOutput

TOOLS = (
    ClientTool("weather", "The weather.", {"properties": {"city": {"type": "string"}}}),
    ClientTool("my.tool/x"),
    ClientTool("my_tool_x"),
    ClientTool("a" * 90),
)
REQUEST = RunRequest(prompt="hello", backend="gemini", workdir="/project", client_tools=TOOLS, own_tools=False)
HOST = Host(tool_bridge=("/usr/bin/python3", "bridge.py"), env={"GEMINI_CLI_TRUST_WORKSPACE": "true"})
START = b'{"type":"init","session_id":"s","model":"m"}'


class Process:
    """A channel of a run, and the deliveries to the run and to the tool bridge."""

    def __init__(self) -> None:
        self.channel = Gemini().channel(_launch(REQUEST), HOST)
        self.channel.start("run", REQUEST, None)
        self.events = [event for _, event in map(_event, self.channel.receive(START))]
        self.sent: list[dict[str, object]] = []

    def prints(self, **line: object) -> None:
        self.events += [event for _, event in map(_event, self.channel.receive(json.dumps(line).encode()))]

    def sends(self, **message: object) -> None:
        for delivery in self.channel.receive_tool_message(json.dumps({"jsonrpc": "2.0", **message}).encode()):
            if isinstance(delivery, bytes):
                self.sent.append(json.loads(delivery))
            else:
                self.events.append(delivery[1])

    def calls(self, number: int, tool: str = "weather", **arguments: object) -> None:
        self.sends(id=number, method="tools/call", params={"name": tool, "arguments": arguments})

    def pongs(self) -> None:
        self.sends(id=self.sent[-1]["id"], result={})


def _event(delivery: Delivery) -> tuple[str, object]:
    assert not isinstance(delivery, bytes)
    return delivery


def _launch(request: RunRequest) -> Launch:
    return Gemini().launch(request, None, HOST)


def _settings(launch: Launch) -> dict[str, dict[str, object]]:
    return json.loads(launch.files["home/.gemini/settings.json"])


def test_agent_without_own_tools_has_only_the_tools_of_the_client() -> None:
    launch = _launch(REQUEST)
    settings = _settings(launch)
    assert settings["tools"]["core"] == ["mcp_*"]
    assert settings["mcpServers"]["client"] == {
        "command": "/usr/bin/python3",
        "args": ["bridge.py", "$GEMINI_CLI_HOME/tools"],
        "timeout": 86400000,
    }
    assert launch.env["GEMINI_CLI_HOME"] == f"{PRIVATE}/home"
    assert launch.tool_socket == "home/tools"
    assert launch.warm is None
    assert launch.files["system.md"] == b"You are a helpful assistant."
    assert not [name for name in launch.links if name.endswith(("GEMINI.md", "policies", "project.md"))]


def test_project_is_trusted_only_after_its_settings_were_skipped() -> None:
    launch = _launch(REQUEST)
    assert "--skip-trust" in launch.argv
    assert launch.env["GEMINI_CLI_TRUST_WORKSPACE"] == ""
    assert _settings(launch)["security"]["folderTrust"] == {"enabled": True}
    assert "home/.gemini/trustedFolders.json" not in launch.links


def test_agent_without_any_tools_starts_no_tool_server() -> None:
    launch = _launch(msgspec.structs.replace(REQUEST, client_tools=()))
    assert _settings(launch)["tools"]["core"] == ["mcp_*"]
    assert "mcpServers" not in _settings(launch)
    assert launch.tool_socket == ""


def test_own_tools_and_client_tools_need_an_unrestricted_agent() -> None:
    both = msgspec.structs.replace(REQUEST, own_tools=True)
    with pytest.raises(Unsupported, match="approval_mode none and no sandbox"):
        _launch(both)
    with pytest.raises(Unsupported):
        _launch(msgspec.structs.replace(both, approval_mode="none", sandbox_mode="read-only"))
    settings = _settings(_launch(msgspec.structs.replace(both, approval_mode="none")))
    assert "client" in settings["mcpServers"]
    assert "tools" not in settings or "core" not in settings["tools"]


def test_server_lists_the_tools_under_names_that_the_cli_accepts() -> None:
    process = Process()
    process.sends(id=0, method="initialize", params={"protocolVersion": "2025-06-18"})
    process.sends(method="notifications/initialized")
    process.sends(id=1, method="tools/list")
    assert [message["id"] for message in process.sent] == [0, 1]
    tools = msgspec.convert(process.sent[1]["result"], dict[str, list[dict[str, object]]])["tools"]
    assert [tool["name"] for tool in tools] == ["weather", "my_tool_x", "my_tool_x_", "a" * 48]
    assert tools[0]["inputSchema"] == {"type": "object", **TOOLS[0].schema}


def test_run_awaits_outputs_once_no_further_call_follows() -> None:
    process = Process()
    process.prints(type="tool_use", tool_id="t1", tool_name="mcp_client_weather", parameters={"city": "Rome"})
    process.prints(type="tool_use", tool_id="t2", tool_name="mcp_client_my_tool_x", parameters={"a": 1})
    process.calls(7, city="Rome")
    process.calls(8, "my_tool_x", a=1)
    process.sends(id=process.sent[0]["id"], result={})
    first = ToolCall("call_run0", "weather", {"city": "Rome"}, for_client=True)
    second = ToolCall("call_run1", "my.tool/x", {"a": 1}, for_client=True)
    assert process.events == [RunStarted("m", "s"), first, second]
    process.pongs()
    assert process.events[3:] == [AwaitingTools()]
    image = Image("image/png", b"x")
    answer = json.loads(process.channel.answer("run", ToolOutput("call_run1", ("no", image), is_error=True)))
    content = [{"type": "text", "text": "no"}, {"type": "image", "data": "eA==", "mimeType": "image/png"}]
    result: dict[str, object] = {"content": content, "isError": True, "structuredContent": {}}
    assert answer == {"jsonrpc": "2.0", "id": 8, "result": result}
    process.prints(type="tool_result", tool_id="t2", status="error", output="no")
    assert process.events[4:] == [ToolResult("call_run1", "no", is_error=True)]


def test_call_that_the_cli_refuses_is_not_reported() -> None:
    process = Process()
    process.prints(type="tool_use", tool_id="t1", tool_name="mcp_client_weather", parameters={"city": 1})
    process.prints(type="tool_use", tool_id="t2", tool_name="mcp_client_weather", parameters={"city": "Rome"})
    process.calls(7, city="Rome")
    process.pongs()
    process.prints(type="tool_result", tool_id="t1", status="error", output="city must be string")
    process.prints(type="tool_result", tool_id="t2", status="success", output="sun")
    call = ToolCall("call_run0", "weather", {"city": "Rome"}, for_client=True)
    assert process.events[1:] == [call, AwaitingTools(), ToolResult("call_run0", "sun")]


def test_call_that_waits_for_another_is_awaited_on_its_own() -> None:
    process = Process()
    process.prints(type="tool_use", tool_id="t1", tool_name="mcp_client_weather", parameters={"city": "Rome"})
    later: dict[str, object] = {"city": "Oslo", "wait_for_previous": True}
    process.prints(type="tool_use", tool_id="t2", tool_name="mcp_client_weather", parameters=later)
    process.calls(7, city="Rome")
    process.pongs()
    process.channel.answer("run", ToolOutput("call_run0", ("sun",)))
    process.sends(id=8, method="tools/call", params={"name": "weather", "arguments": later})
    process.pongs()
    second = ToolCall("call_run1", "weather", {"city": "Oslo"}, for_client=True)
    assert process.events[2:] == [AwaitingTools(), second, AwaitingTools()]


def test_unknown_tool_messages_are_ignored() -> None:
    process = Process()
    for line in (b"noise", b"[]", b"{}", b'{"id":5}', b'{"id":6,"result":{}}'):
        assert not [*process.channel.receive_tool_message(line)]
