"""The approval and sandbox modes as flags of Claude Code 2.1.197 to 2.1.332.

tests/agents/test_claude_permissions.py proves each mode. The modes restrict the model, and hold even if the files of
the project are untrusted. The permission mode is always passed; without the flag, a project's `defaultMode:
bypassPermissions` would apply.

Sandbox modes:

==================  ============================================================================================
read-only           Only Read, Grep and Glob exist. No settings, hooks, MCP servers or slash commands are loaded.
workspace           No settings or MCP servers are loaded. Claude checks the paths of edits, and bwrap and socat
                    confine the shell; without both programs there is no shell. The mode is never
                    bypassPermissions, whose Write tool writes outside the workspace. The shell may also write to
                    its TMPDIR, /tmp/claude-<uid>.
default, full       The approval mode decides.
==================  ============================================================================================

Approval modes:

=======  =======================================================================================================
default  Reads, and commands that Claude judges harmless, are allowed. Actions that need approval are denied.
auto     Edits in the working directory and in the added directories are allowed too.
ask      As `default`, but clinvk asks its user for the actions that need approval.
always   Every tool call needs approval and is denied, because no user is present. The user's allow rules and
         hooks do not override the denial.
none     The agent acts without asking. Without a sandbox mode the project is trusted: its hooks, MCP servers and
         settings apply.
=======  =======================================================================================================

With `workspace`, `default` means `auto`, because the sandbox is the guard. With `read-only`, `none` also permits reads
outside the working directory.

Setting sources: with `none` and no sandbox, all settings are loaded. Otherwise only the user's settings are loaded, and
with `read-only` and `workspace` no settings at all, because an `apiKeyHelper` is a command, and the user's allow rules
or hooks could write. With these two modes the login must be OAuth, `ANTHROPIC_API_KEY` or `CLAUDE_CODE_OAUTH_TOKEN`.
`CLAUDE.md` of the working directory is plain text and always read.

`_settings` closes the other ways to write or run a program without asking: `git status` at the start (runs
`core.fsmonitor` and filters of the repository's .git/config), worktrees (run the repository's git hooks) and auto
memory. Messages between the user's sessions are neither sent nor accepted, because a message is a prompt to a model
under different modes (`SendMessage` would also resume a sub-agent).

Known gap: under `default` and `auto`, the model may run `git diff` and similar commands, which Claude judges harmless,
in a directory whose .git/config names a program for the command. A clone never contains such a file, and a sandbox mode
closes the gap.

`allowed_tools` limits the built-in tools to the intersection with the tools of the sandbox mode. The option grants no
permission: a tool that needs approval still needs approval.
"""

import re
from collections.abc import Sequence

import msgspec

from clinvk.backends.base import Host
from clinvk.backends.shared import decode_line
from clinvk.types.errors import Unsupported
from clinvk.types.request import RunRequest

DEFAULT_FOLDER = "~/.claude"
"""Claude's default folder for the user's settings."""

READ_TOOLS = ("Read", "Grep", "Glob")
FILE_TOOLS = (*READ_TOOLS, "Write", "Edit", "NotebookEdit")
CONFINED_TOOLS = (
    *(*FILE_TOOLS, "Bash", "Task", "TaskCreate", "TaskGet", "TaskList", "TaskOutput", "TaskStop", "TaskUpdate"),
    *("WebFetch", "WebSearch"),
)
_DEFERRED_TOOLS = ("CronCreate", "CronDelete", "Monitor", "ScheduleWakeup", "Workflow")
"""Tools whose work continues after the end of a run and begins turns that no run requested. In a long-lived process,
such turns would fall between two runs, and their output would appear in the next run."""

_WORKTREES = ("EnterWorktree", "ExitWorktree")
_OTHER_SESSIONS = ("ListAgents", "SendMessage")
_CHANGING_COMMANDS = re.compile(
    r"/(?:auto-mode-setup|autocompact|config|heapdump|mcp|output-style|settings)(?![^\s\ufeff])"
)
"""Slash commands that change the user's settings or write elsewhere, without the model and without asking.

Claude treats a byte order mark as a blank.
"""

_TOOL_NAME = re.compile(r"[A-Z][A-Za-z]*")

_SETTINGS = msgspec.json.Decoder(dict[str, object])

_NO_MESSAGES: dict[str, object] = {"crossSessionInbound": "refuse"}
"""Refuses messages from other sessions: since 2.1.332, each process takes messages of the same user as prompts."""

_CONFINED: dict[str, object] = {
    "enabled": True,
    "failIfUnavailable": True,
    "autoAllowBashIfSandboxed": True,
    "allowUnsandboxedCommands": False,
    "filesystem": {"denyWrite": ["~/.npm/_logs", "/tmp/claude"]},  # noqa: S108 - paths to deny
}
"""Sandbox settings. Claude's sandbox makes the folders in `denyWrite` writable by default if they exist."""


class PermissionFlags(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of a request's approval mode, sandbox mode and allowed tools.

    Attributes:
        mode: Claude's permission mode.
        settings: the value of `--settings`, which overrides the user's and the project's settings.
        sources: the setting sources to load; None loads all sources, Claude's default.
        tools: the built-in tools that exist; None is all.
        denied_tools: the built-in tools to remove.
        has_no_mcp: start no MCP server.
        commands: a prompt may be a slash command.
        asks: actions that need approval are asked for.
        is_unguarded: no mode or list restricts the run, so `extra` may contain any flag that clinvk does not set.
    """

    mode: str
    settings: dict[str, object] = {}
    sources: str | None = "user"
    tools: tuple[str, ...] | None = None
    denied_tools: tuple[str, ...] = ()
    has_no_mcp: bool = False
    commands: bool = True
    is_unguarded: bool = False
    asks: bool = False


def permission_flags(request: RunRequest, host: Host) -> PermissionFlags:
    """Return the flags for a request's approval mode, sandbox mode and allowed tools on this machine.

    Raises:
        Unsupported: Claude Code cannot honour the combination.
    """
    if request.approval_mode == "always" and request.output_schema is not None:
        raise Unsupported(
            "claude answers a schema by a tool call, which approval_mode 'always' denies; "
            "use another approval_mode, or no output_schema",
            "output_schema",
        )
    if not request.own_tools:
        return _confined(request, host, "default", (), ())
    match request.sandbox_mode:
        case "read-only":
            flags = _confined(request, host, "default", READ_TOOLS, READ_TOOLS)
        case "workspace":
            flags = _workspace(request, host)
        case _:
            flags = _unconfined(request, host)
    return _limited_to(flags, request.allowed_tools)


def _workspace(request: RunRequest, host: Host) -> PermissionFlags:
    allowed = (*READ_TOOLS, "WebFetch", "WebSearch")
    if not can_confine_shell(host):
        return _confined(request, host, "acceptEdits", FILE_TOOLS, allowed)
    asks = request.approval_mode == "always"
    flags = _confined(request, host, "acceptEdits", CONFINED_TOOLS, allowed)
    sandbox = {**_CONFINED, "autoAllowBashIfSandboxed": not asks}
    return msgspec.structs.replace(flags, settings={**flags.settings, "sandbox": sandbox})


def can_confine_shell(host: Host) -> bool:
    """Return whether the programs that confine the shell of `workspace` are installed."""
    return {"bwrap", "socat"} <= host.commands


SHELL_PACKAGES = ("bubblewrap", "socat")
NO_SHELL = "no shell in sandbox_mode workspace without bubblewrap and socat (Linux)"


def _confined(
    request: RunRequest, host: Host, mode: str, tools: tuple[str, ...], allowed: tuple[str, ...]
) -> PermissionFlags:
    """Return the flags of a sandbox mode; with `approval_mode` none, the `allowed` tools do not ask."""
    settings = _settings(host, request, allow=allowed if request.approval_mode == "none" else ())
    return PermissionFlags(mode=mode, settings=settings, sources="", tools=tools, has_no_mcp=True, commands=False)


def _unconfined(request: RunRequest, host: Host) -> PermissionFlags:
    if request.approval_mode == "none":
        _refuse_root(host)
        denied = _DEFERRED_TOOLS
        return PermissionFlags(
            mode="bypassPermissions", settings=_NO_MESSAGES, sources=None, denied_tools=denied, is_unguarded=True
        )
    _refuse_changing_command(request)
    mode = "acceptEdits" if request.approval_mode == "auto" else "default"
    subagents = ("Task",) if _are_hooks_disabled(host) else ()
    denied = (*_DEFERRED_TOOLS, *_WORKTREES, *_OTHER_SESSIONS, *subagents)
    return PermissionFlags(
        mode=mode, settings=_settings(host, request), denied_tools=denied, asks=request.approval_mode == "ask"
    )


def _refuse_changing_command(request: RunRequest) -> None:
    command = None if request.literal else _CHANGING_COMMANDS.match(request.prompt)
    if command:
        raise Unsupported(
            f"claude would run {command[0]} itself, which changes settings or files without asking; put a space before "
            "the command to send it as text, or use approval_mode 'none'",
            "prompt",
        )


def _settings(host: Host, request: RunRequest, allow: Sequence[str] = ()) -> dict[str, object]:
    """Return the settings common to all guarded runs.

    A failing `WorktreeCreate` hook replaces `git worktree add`, which would run the repository's hooks and filters. No
    other setting prevents a sub-agent from requesting a worktree.
    """
    folder = config_folder(host)
    root = "" if folder == DEFAULT_FOLDER else "/"  # in a rule, `//` begins an absolute path
    permissions: dict[str, list[str]] = {"deny": [f"Edit({root}{folder.rstrip('/')}/**)"]}
    if request.approval_mode == "always":
        permissions["ask"] = ["*"]
    elif allow:
        permissions["allow"] = [*allow]
    return {
        **_NO_MESSAGES,
        "includeGitInstructions": False,
        "autoMemoryEnabled": False,
        "hooks": {"WorktreeCreate": [{"hooks": [{"type": "command", "command": "exit 1"}]}]},
        "permissions": permissions,
    }


def config_folder(host: Host) -> str:
    """Return the folder of the user's settings."""
    return host.env.get("CLAUDE_CONFIG_DIR") or DEFAULT_FOLDER


def _are_hooks_disabled(host: Host) -> bool:
    """Return whether the user sets `disableAllHooks`, which would also disable the hook that prevents worktrees."""
    data = host.read(f"{config_folder(host)}/settings.json") or b""
    settings = decode_line(_SETTINGS, data.decode("utf-8-sig", errors="replace").encode()) or {}
    return settings.get("disableAllHooks") is True


def _refuse_root(host: Host) -> None:
    sandboxed = host.env.get("IS_SANDBOX") == "1" or host.env.get("CLAUDE_CODE_BUBBLEWRAP")
    if host.is_root and not sandboxed:
        raise Unsupported(
            "claude refuses to act without asking as root; run clinvk as another user, use approval_mode 'auto' or "
            "sandbox_mode 'workspace', or set IS_SANDBOX=1 in the environment where the machine itself is a sandbox",
            "approval_mode",
        )


def _limited_to(flags: PermissionFlags, allowed: tuple[str, ...] | None) -> PermissionFlags:
    """Return the flags limited to the allowed tools, without MCP servers, because no flag filters MCP tools."""
    if allowed is None:
        return flags
    for index, name in enumerate(allowed):
        if not _TOOL_NAME.fullmatch(name):
            raise Unsupported(
                f"claude can limit its built-in tools by name, as 'Read' or 'Bash'; {name!r} is no such name: "
                "a rule, a part of a tool or an MCP tool cannot be allowed alone",
                f"allowed_tools[{index}]",
            )
    tools = tuple(name for name in allowed if flags.tools is None or name in flags.tools)
    return msgspec.structs.replace(flags, tools=tools, has_no_mcp=True, is_unguarded=False)
