"""The client's tools as an MCP server of an ACP agent, which reaches clinvk through the tool bridge.

Any agent can offer the tools besides its own. The protocol cannot turn the agent's own tools off: the switches of the
presets can. Tried with opencode 1.18.33 and Qwen Code 0.15.10.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from clinvk.backends.base import PRIVATE, Host
from clinvk.backends.mcp import SERVER
from clinvk.backends.shared import MODEL_PROMPT
from clinvk.types.errors import Unsupported
from clinvk.types.request import RunRequest

SOCKET = "tools"
"""The socket in the private folder."""


class Switches(NamedTuple):
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
    "opencode": Switches(env=_opencode({})),
    "qwen": Switches(("--exclude-tools=tool_search",)),  # else the model has to search for the client's tools
}
_WITHOUT_OWN_TOOLS = {
    "opencode": Switches(
        env={
            **_opencode({"agent": {"clinvk": _OPENCODE_AGENT}, "default_agent": "clinvk"}),
            "OPENCODE_DISABLE_PROJECT_CONFIG": "1",
        }
    ),
    "qwen": Switches(
        ("--core-tools=none", f"--exclude-tools={_QWEN_EXTRA_TOOLS}", f"--allowed-mcp-server-names={SERVER}")
    ),
}


def switches(request: RunRequest) -> Switches:
    """Return the switches for a request with tools of the client, or without the agent's own tools.

    Raises:
        Unsupported: clinvk cannot turn the agent's own tools off.
    """
    if request.own_tools:
        return _WITH_OWN_TOOLS.get(request.backend, Switches()) if request.client_tools else Switches()
    if request.backend not in _WITHOUT_OWN_TOOLS:
        raise Unsupported(
            f"the own tools of {request.backend} cannot be turned off; use its own tools as well, with the header "
            "x-clinvk-tools: both, or alone, with x-clinvk-tools: agent",
            "tools",
        )
    return _WITHOUT_OWN_TOOLS[request.backend]


def servers(request: RunRequest, host: Host) -> list[dict[str, object]]:
    """Return the MCP servers of a session."""
    if not request.client_tools:
        return []
    command, *arguments = *host.tool_bridge, f"{PRIVATE}/{SOCKET}"
    return [{"name": SERVER, "command": command, "args": arguments, "env": []}]
