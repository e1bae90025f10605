"""The unified words in Gemini CLI's: which tools an agent may use unasked, as rules of the CLI's policy engine.

Learned from Gemini CLI 0.61.0: its own `policies/*.toml`, and tool calls that tried. None of its approval modes holds
without a terminal: in `default` and `plan` the model itself enters and leaves plan mode, which is granted without
asking and opens the file tools. So the mode is `default` but for `yolo`, plan mode is off, and rules say the rest.
"""

import json
import re

import msgspec

from clinvk.types.errors import Unsupported
from clinvk.types.request import RunRequest

READS = ("read_file", "list_directory", "glob", "grep_search")
EDITS = ("write_file", "replace")
_UNASKED = (
    *READS,
    "google_web_search",
    "codebase_investigator",
    "cli_help",
    "get_internal_docs",
    "update_topic",
    "read_mcp_resource",
    "list_mcp_resources",
)
_PLAN_MODE = ("enter_plan_mode", "exit_plan_mode")
_TOOL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]*")
_IN_WORKSPACE = r"""
[[rule]]
toolName = {tools}
argsPattern = '\x00"file_path":"(@|[^\x00]*(\\u0000|%[0-9A-Fa-f][0-9A-Fa-f]))'
decision = "deny"
priority = 999

[[safety_checker]]
toolName = {tools}
priority = 999
[safety_checker.checker]
type = "in-process"
name = "allowed-path"
required_context = ["environment"]
"""
"""The CLI's own file tools may also write its user's `GEMINI.md` and its records of the project; its checker of paths
lets neither through. But the tools leave out an `@` at the front of a path and each NUL, and decode `%2e`, where the
checker reads a path as it stands. The pattern is of the arguments as JSON, with a NUL before and after each.
"""


class Leave(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent may do.

    Attributes:
        open: it may act without asking, and what its user trusts is trusted.
        asks: each tool is asked for; nobody answers, so that none runs.
        only: the tools there are; None leaves it to the CLI's own rules and the user's.
        edits: those rules are widened by the file tools, within the workspace.
    """

    open: bool = False
    asks: bool = False
    only: tuple[str, ...] | None = None
    edits: bool = False

    @property
    def may_edit(self) -> bool:
        """Files may be edited unasked, within the workspace."""
        return self.edits or (not self.open and not {*EDITS}.isdisjoint(self.only or ()))


def leave(request: RunRequest) -> Leave:
    """Say what a request's approval, sandbox and allowed tools leave to the agent.

    Raises:
        Unsupported: an allowed tool is no plain name.
    """
    approval, sandbox = request.approval_mode or "default", request.sandbox_mode or "default"
    named = _named(request.allowed_tools)
    if approval == "always":
        return Leave(asks=True)
    if sandbox == "read-only":
        return Leave(only=_both(named, READS))
    if sandbox == "workspace":
        return Leave(only=_both(named, READS + EDITS))
    if approval == "none":
        return Leave(open=True, only=named)
    edits = approval == "auto"
    if named is None:
        return Leave(edits=edits)
    return Leave(only=_both(named, (*_UNASKED, *EDITS, "web_fetch") if edits else _UNASKED))


def settled(leave: Leave) -> Leave:
    """Give what comes to the same where the CLI would ask somebody: only the tools that need nobody's leave."""
    if leave.open or leave.only is not None:
        return leave
    return Leave(only=(*_UNASKED, *EDITS, "web_fetch") if leave.edits else _UNASKED)


def _named(tools: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for index, tool in enumerate(tools or ()):
        if not _TOOL_NAME.fullmatch(tool):
            raise Unsupported(
                f"{tool!r} is no tool of gemini: it takes plain names like run_shell_command, no patterns",
                f"allowed_tools[{index}]",
            )
    return tools


def _both(named: tuple[str, ...] | None, granted: tuple[str, ...]) -> tuple[str, ...]:
    return granted if named is None else tuple(tool for tool in granted if tool in named)


def limits(leave: Leave) -> bytes:
    """Give the rules that nothing of the user's may open again; empty where there are none."""
    if leave.asks:
        return _rule(("*",), "ask_user", 999)
    place = _IN_WORKSPACE.format(tools=json.dumps(EDITS)).encode() if leave.may_edit else b""
    if leave.only is not None:
        return _rule(("*",), "deny", 997) + _rule(leave.only, "allow", 998) + place
    return b"" if leave.open else _rule(_PLAN_MODE, "deny", 999) + place


def grants(leave: Leave) -> bytes:
    """Give the rules that open what the CLI by itself would ask for; the user's own rules go before them."""
    return _rule((*EDITS, "web_fetch"), "allow", 15) if leave.edits else b""


def _rule(tools: tuple[str, ...], decision: str, priority: int) -> bytes:
    if not tools:
        return b""
    # An array of plain strings is the same in JSON and TOML.
    return (
        f"[[rule]]\ntoolName = {json.dumps(tools)}\ndecision = {json.dumps(decision)}\npriority = {priority}\n".encode()
    )
