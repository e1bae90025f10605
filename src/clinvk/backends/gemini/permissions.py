"""Map clinvk's permissions to Gemini CLI: the tools that may run without asking, as rules of the CLI's policy engine.

Learned from Gemini CLI 0.61.0: from the CLI's `policies/*.toml`, and from attempted tool calls. No approval mode of the
CLI is safe without a terminal: in `default` and `plan` the model itself enters and leaves plan mode, which is granted
without asking and opens the file tools. So clinvk uses `default` for everything except `yolo`, disables plan mode, and
expresses the rest as rules.
"""

import json
import re

import msgspec

from clinvk.types.errors import Unsupported
from clinvk.types.request import RunRequest

READS = ("read_file", "list_directory", "glob", "grep_search")
EDITS = ("write_file", "replace")
_NO_APPROVAL = (
    *(*READS, "google_web_search", "codebase_investigator", "cli_help", "get_internal_docs", "update_topic"),
    *("read_mcp_resource", "list_mcp_resources"),
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
"""The CLI's file tools may also write the user's `GEMINI.md` and the CLI's records of the project; the path checker
allows neither. But the tools drop a leading `@` and every NUL from a path and decode `%2e`, while the checker reads the
path as written. The pattern matches the arguments as JSON, with a NUL before and after each argument.
"""


class ToolPermissions(msgspec.Struct, frozen=True, kw_only=True):
    """The permissions of an agent.

    Attributes:
        is_unrestricted: the agent may act without asking, and trusts whatever the user trusts.
        denies_all: every tool needs permission; no user answers, so no tool runs.
        only: the available tools; None leaves the choice to the rules of the CLI and of the user.
        asks: the user is asked for what needs permission.
        allows_edits: in addition to those rules, the file tools may edit within the workspace.
    """

    is_unrestricted: bool = False
    denies_all: bool = False
    only: tuple[str, ...] | None = None
    asks: bool = False
    allows_edits: bool = False

    @property
    def may_edit(self) -> bool:
        """Whether the agent may edit files in the workspace without asking, at the latest once the user allows it."""
        return (
            self.allows_edits
            or (self.asks and self.only is None)
            or (not self.is_unrestricted and not {*EDITS}.isdisjoint(self.only or ()))
        )


def tool_permissions(request: RunRequest) -> ToolPermissions:
    """Return the permissions for a request's approval mode, sandbox mode and allowed tools.

    Raises:
        Unsupported: An allowed tool is not a plain name.
    """
    approval, sandbox = request.approval_mode or "default", request.sandbox_mode or "default"
    named = _checked_names(request.allowed_tools)
    if approval == "always":
        return ToolPermissions(denies_all=True)
    if sandbox == "read-only":
        return ToolPermissions(only=_intersection(named, READS))
    if sandbox == "workspace":
        return ToolPermissions(only=_intersection(named, READS + EDITS))
    if approval == "none":
        return ToolPermissions(is_unrestricted=True, only=named)
    asks, edits = approval == "ask", approval == "auto"
    if named is None or asks:
        return ToolPermissions(asks=asks, allows_edits=edits, only=named)
    return ToolPermissions(only=_intersection(named, (*_NO_APPROVAL, *EDITS, "web_fetch") if edits else _NO_APPROVAL))


def without_asking(permissions: ToolPermissions) -> ToolPermissions:
    """Return equivalent permissions that never ask: only the tools that need no permission."""
    if permissions.is_unrestricted or permissions.only is not None:
        return permissions
    return ToolPermissions(only=(*_NO_APPROVAL, *EDITS, "web_fetch") if permissions.allows_edits else _NO_APPROVAL)


def _checked_names(tools: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for index, tool in enumerate(tools or ()):
        if not _TOOL_NAME.fullmatch(tool):
            raise Unsupported(
                f"{tool!r} is not a tool name of gemini; use plain names such as run_shell_command, not patterns",
                f"allowed_tools[{index}]",
            )
    return tools


def _intersection(named: tuple[str, ...] | None, granted: tuple[str, ...]) -> tuple[str, ...]:
    return granted if named is None else tuple(tool for tool in granted if tool in named)


def deny_rules(permissions: ToolPermissions) -> bytes:
    """Return the rules that no rule of the user can override; empty if there are none."""
    if permissions.denies_all:
        return _rule(("*",), "ask_user", 999)
    place = _IN_WORKSPACE.format(tools=json.dumps(EDITS)).encode() if permissions.may_edit else b""
    if permissions.only is not None:
        asked = tuple(tool for tool in permissions.only if permissions.asks and tool not in _NO_APPROVAL)
        allowed = tuple(tool for tool in permissions.only if tool not in asked)
        return _rule(("*",), "deny", 997) + _rule(allowed, "allow", 998) + _rule(asked, "ask_user", 998) + place
    return b"" if permissions.is_unrestricted else _rule(_PLAN_MODE, "deny", 999) + place


def allow_rules(permissions: ToolPermissions) -> bytes:
    """Return rules for tools that the CLI by default asks about. The user's rules take precedence."""
    return _rule((*EDITS, "web_fetch"), "allow", 15) if permissions.allows_edits else b""


def _rule(tools: tuple[str, ...], decision: str, priority: int) -> bytes:
    if not tools:
        return b""
    # JSON and TOML write an array of plain strings the same way.
    return (
        f"[[rule]]\ntoolName = {json.dumps(tools)}\ndecision = {json.dumps(decision)}\npriority = {priority}\n".encode()
    )
