"""Any agent that speaks the Agent Client Protocol: `backends.NAME.acp` of the settings, or a preset.

Tried with opencode 1.18.33 and Qwen Code 0.15.10. The protocol has no permission modes, so clinvk answers the agent's
permission requests by the approval mode, and `read-only` and `workspace` hold by a sandbox around the agent's process.

The client's tools are an MCP server of the agent, which reaches clinvk through the tool bridge. Any agent can offer the
tools besides its own. The protocol cannot turn the agent's own tools off: the switches of the presets can.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from clinvk.backends.acp import sandbox
from clinvk.backends.acp.channel import AcpChannel
from clinvk.backends.base import ALL_CAPABILITIES, PRIVATE, Backend, Channel, Host, Launch
from clinvk.backends.mcp import SERVER
from clinvk.backends.registry import PRESETS, Preset
from clinvk.backends.shared import MODEL_PROMPT
from clinvk.types.errors import Unsupported
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

if TYPE_CHECKING:
    from clinvk.backends.checkup_base import Checkup


class AcpBackend(Backend):
    """An agent; `argv` and `folders` are those of the settings, and override the preset of this name."""

    capabilities = replace(
        ALL_CAPABILITIES, approval_modes=("default", "auto", "ask", "none"), allowed_tools=False, fork=False
    )
    keeps_system_prompt = True

    def __init__(self, name: str, argv: tuple[str, ...], folders: tuple[str, ...]) -> None:
        preset = PRESETS.get(name, Preset((), f"see backends.{name}.acp in the settings", "", ()))
        self.name = name
        self.install = preset.install
        self.folders = folders or preset.folders
        self._argv = argv or preset.argv
        self.executable = self._argv[0]
        self._login = preset.login

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Return the launch for this request."""
        directory = host.resolve(request.workdir or "")
        added = _switches(request)
        launch = Launch(
            argv=(*self._argv, *added.argv, *request.extra),
            wrapper=sandbox.wrapper(request, directory, self.folders, host),
            env={**added.env},
            cwd=request.workdir,
            long_lived=True,
            session_params={"cwd": directory, "mcpServers": _servers(request, host)},
            client_tools=request.client_tools,
            tool_socket=_SOCKET if request.client_tools else "",
        )
        return replace(launch, max_turns=request.max_turns or None, warm=None if request.client_tools else launch)

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Return the state machine for one process of this launch."""
        return AcpChannel(self.name, launch, self._login)

    def checkup(self, host: Host) -> "Checkup":
        """Return a checkup without probes: the protocol reports a missing login only with a session."""
        from clinvk.backends.checkup_base import Checkup, LoginStatus, Remark  # imported here to keep prompts fast

        remarks = () if sandbox.is_available(host) else (Remark(sandbox.NEEDS_BUBBLEWRAP, ("bubblewrap",)),)
        login = LoginStatus(None, "login not known")
        return Checkup(empty_home={"HOME": PRIVATE}, probes=(), login=login, remarks=remarks)


_SOCKET = "tools"
"""The socket in the private folder."""


class _Switches(NamedTuple):
    """Arguments and variables that are added to the start of an agent."""

    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = {}


def _opencode(settings: dict[str, object]) -> dict[str, str]:
    """Return the variable with settings of opencode; an output may take a day."""
    day_ms = 24 * 60 * 60 * 1000
    return {
        "OPENCODE_CONFIG_CONTENT": msgspec.json.encode({"experimental": {"mcp_timeout": day_ms}, **settings}).decode()
    }


_OPENCODE_AGENT = {"mode": "primary", "prompt": MODEL_PROMPT, "permission": {"*": "deny", f"{SERVER}_*": "allow"}}

_QWEN_EXTRA_TOOLS = "tool_search,agent,task_stop,send_message,skill,ask_user_question,exit_plan_mode"
"""The tools of Qwen Code that `--core-tools` does not turn off."""

_WITH_OWN_TOOLS = {
    "opencode": _Switches(env=_opencode({})),
    "qwen": _Switches(("--exclude-tools=tool_search",)),  # else the model has to search for the client's tools
}
_WITHOUT_OWN_TOOLS = {
    "opencode": _Switches(
        env={
            **_opencode({"agent": {"clinvk": _OPENCODE_AGENT}, "default_agent": "clinvk"}),
            "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
        }
    ),
    "qwen": _Switches(
        ("--core-tools=none", f"--exclude-tools={_QWEN_EXTRA_TOOLS}", f"--allowed-mcp-server-names={SERVER}")
    ),
}


def _switches(request: RunRequest) -> _Switches:
    """Return the switches for a request with tools of the client, or without the agent's own tools.

    Raises:
        Unsupported: clinvk cannot turn the agent's own tools off.
    """
    if request.own_tools:
        return _WITH_OWN_TOOLS.get(request.backend, _Switches()) if request.client_tools else _Switches()
    if request.backend not in _WITHOUT_OWN_TOOLS:
        raise Unsupported(
            f"the own tools of {request.backend} cannot be turned off; use its own tools as well, with the header "
            "x-clinvk-tools: both, or alone, with x-clinvk-tools: agent",
            "tools",
        )
    return _WITHOUT_OWN_TOOLS[request.backend]


def _servers(request: RunRequest, host: Host) -> list[dict[str, object]]:
    """Return the MCP servers of a session. A sandbox holds the programs that the agent starts."""
    servers: list[dict[str, object]] = [
        {"type": "http", "name": server.name, "url": server.url, "headers": server.headers}
        if server.type == "http"
        else {"name": server.name, "command": server.command, "args": server.args, "env": server.env}
        for server in request.mcp_servers
    ]
    if request.client_tools:
        command, *arguments = *host.tool_bridge, f"{PRIVATE}/{_SOCKET}"
        servers.append({"name": SERVER, "command": command, "args": arguments, "env": []})
    return servers
