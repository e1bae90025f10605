"""The approval and sandbox words as flags of Claude Code 2.1.197 to 2.1.332.

tests/agents/test_claude_words.py proves each. The words hold against the model and against the files of a project
nobody vouched for. The mode is always passed, because without it a project's `defaultMode: bypassPermissions` is taken
over.

==================  ============================================================================================
read-only           only Read, Grep and Glob exist; no settings, hooks, MCP servers or slash commands of anybody
workspace           no settings or MCP servers of anybody; edits are path-checked by Claude, and the shell is confined
                    by bwrap and socat. Without both programs there is no shell. Never bypassPermissions, whose
                    Write tool writes outside. The shell may also write its own TMPDIR, /tmp/claude-<uid>
default, full       what the approval word gives
==================  ============================================================================================

=======  =======================================================================================================
default  reads and commands that Claude judges harmless; whatever it would ask is denied
auto     edits in the working directory and the added ones unasked
always   each tool call asks, and since nobody answers is denied; allow rules and hooks of the user do not reopen it
none     acts unasked. Without a sandbox word the project counts as trusted: its hooks, MCP servers and settings work
=======  =======================================================================================================

With `workspace`, `default` means `auto`: the sandbox is what guards. With `read-only`, `none` reads outside the
working directory too.

For all words but `none` without a sandbox, only settings of the user's own account are loaded (for `read-only` and
`workspace` not even those, so that a login must be an OAuth one, `ANTHROPIC_API_KEY` or `CLAUDE_CODE_OAUTH_TOKEN`: an
`apiKeyHelper` is a command, and an allow rule or hook of the user's would write). `CLAUDE.md` of the working directory
is text and still read. What else writes or runs without asking is closed by `_settings`: `git status` at the start
(runs `core.fsmonitor` and filters of the repository's .git/config), worktrees (run its git hooks), auto memory. Since
a message to another session of the user's is a prompt to a model that other words hold, none is sent, and none taken
(`SendMessage` would also go on with a sub-agent). Open is that the model, under `default` and `auto`, may run `git
diff` and the like, which Claude takes for harmless, in a directory whose .git/config names a program for them; no clone
brings such a file, and a sandbox word closes it.

`allowed_tools` limits which built-in tools exist, and is intersected with those of the sandbox word. It gives no
permission: a tool that asks still asks.
"""

import re
from collections.abc import Sequence

import msgspec

from clinvk.backends.base import Host, parsed
from clinvk.types.errors import Unsupported
from clinvk.types.request import RunRequest

READ_TOOLS = ("Read", "Grep", "Glob")
FILE_TOOLS = (*READ_TOOLS, "Write", "Edit", "NotebookEdit")
CONFINED_TOOLS = (
    *(*FILE_TOOLS, "Bash", "Task", "TaskCreate", "TaskGet", "TaskList", "TaskOutput", "TaskStop", "TaskUpdate"),
    *("WebFetch", "WebSearch"),
)
_ACTS_LATER = ("CronCreate", "CronDelete", "Monitor", "ScheduleWakeup", "Workflow")
"""What goes on when the run has ended, and begins turns that no run asked for. A process that stays has them between
its runs, and what it says there would be told in the next one."""

_WORKTREES = ("EnterWorktree", "ExitWorktree")
_OTHER_SESSIONS = ("ListAgents", "SendMessage")
_LASTING_COMMANDS = re.compile(
    r"/(?:auto-mode-setup|autocompact|config|heapdump|mcp|output-style|settings)(?![^\s\ufeff])"
)
"""What of Claude's own commands changes the user's settings or writes elsewhere, without the model and unasked.

To Claude, a byte order mark is a blank too.
"""

_TOOL_NAME = re.compile(r"[A-Z][A-Za-z]*")

_SETTINGS = msgspec.json.Decoder(dict[str, object])

_ALONE: dict[str, object] = {"crossSessionInbound": "refuse"}
"""From 2.1.332 on each process listens for messages of other sessions of the same user, which are prompts to it."""

_CONFINED: dict[str, object] = {
    "enabled": True,
    "failIfUnavailable": True,
    "autoAllowBashIfSandboxed": True,
    "allowUnsandboxedCommands": False,
    "filesystem": {"denyWrite": ["~/.npm/_logs", "/tmp/claude"]},  # noqa: S108 - it is kept from writing there
}
"""The folders are writable in each of Claude's sandboxes, where they are there."""


class Posture(msgspec.Struct, frozen=True, kw_only=True):
    """What the words of a request come to.

    Attributes:
        mode: Claude's permission mode.
        settings: goes into `--settings`, which beats the user's and the project's.
        sources: whose settings files count; None is everybody's, as Claude does by itself.
        tools: the built-in tools that exist; None is all.
        denied_tools: those that do not.
        own_mcp_only: no MCP server starts.
        commands: a prompt may be a slash command.
        free: nothing is guarded, so that `extra` may be any flag that clinvk does not set itself.
    """

    mode: str
    settings: dict[str, object] = {}
    sources: str | None = "user"
    tools: tuple[str, ...] | None = None
    denied_tools: tuple[str, ...] = ()
    own_mcp_only: bool = False
    commands: bool = True
    free: bool = False


def posture(request: RunRequest, host: Host) -> Posture:
    """Say what the approval, sandbox and tool words of a request come to on this machine.

    Raises:
        Unsupported: Claude Code cannot honour them.
    """
    if request.approval_mode == "always" and request.output_schema is not None:
        raise Unsupported(
            "claude answers a schema by a tool call, which approval_mode 'always' denies; "
            "use another approval_mode, or no output_schema",
            "output_schema",
        )
    match request.sandbox_mode:
        case "read-only":
            words = _read_only(request, host)
        case "workspace":
            words = _workspace(request, host)
        case _:
            words = _unconfined(request, host)
    return _only(words, request.allowed_tools)


def _read_only(request: RunRequest, host: Host) -> Posture:
    allow = READ_TOOLS if request.approval_mode == "none" else ()
    return Posture(
        mode="default",
        settings=_settings(host, request, allow=allow),
        sources="",
        tools=READ_TOOLS,
        own_mcp_only=True,
        commands=False,
    )


def _workspace(request: RunRequest, host: Host) -> Posture:
    confined = {"bwrap", "socat"} <= host.commands
    asks = request.approval_mode == "always"
    sandbox = {"sandbox": {**_CONFINED, "autoAllowBashIfSandboxed": not asks}} if confined else {}
    allow = (*READ_TOOLS, "WebFetch", "WebSearch") if request.approval_mode == "none" else ()
    return Posture(
        mode="acceptEdits",
        settings={**_settings(host, request, allow=allow), **sandbox},
        sources="",
        tools=CONFINED_TOOLS if confined else FILE_TOOLS,
        own_mcp_only=True,
        commands=False,
    )


def _unconfined(request: RunRequest, host: Host) -> Posture:
    if request.approval_mode == "none":
        _refuse_root(host)
        return Posture(mode="bypassPermissions", settings=_ALONE, sources=None, denied_tools=_ACTS_LATER, free=True)
    _refuse_lasting_command(request)
    mode = "acceptEdits" if request.approval_mode == "auto" else "default"
    subagents = ("Task",) if _user_switched_hooks_off(host) else ()
    denied = (*_ACTS_LATER, *_WORKTREES, *_OTHER_SESSIONS, *subagents)
    return Posture(mode=mode, settings=_settings(host, request), denied_tools=denied)


def _refuse_lasting_command(request: RunRequest) -> None:
    command = None if request.literal else _LASTING_COMMANDS.match(request.prompt)
    if command:
        raise Unsupported(
            f"claude would carry out {command[0]} itself, which changes settings or files unasked; a space before it "
            "makes it text, and with approval_mode 'none' claude may",
            "prompt",
        )


def _settings(host: Host, request: RunRequest, allow: Sequence[str] = ()) -> dict[str, object]:
    """Give the settings that every guarded posture has.

    A failing `WorktreeCreate` hook replaces `git worktree add`, and with it the repository's own hooks and filters;
    nothing else keeps a sub-agent from asking for a worktree.
    """
    permissions: dict[str, list[str]] = {"deny": [f"Edit({_config_folder(host)}/**)"]}
    if request.approval_mode == "always":
        permissions["ask"] = ["*"]
    elif allow:
        permissions["allow"] = [*allow]
    return {
        **_ALONE,
        "includeGitInstructions": False,
        "autoMemoryEnabled": False,
        "hooks": {"WorktreeCreate": [{"hooks": [{"type": "command", "command": "exit 1"}]}]},
        "permissions": permissions,
    }


def _config_folder(host: Host) -> str:
    """Give Claude's own folder as a permission rule spells it: `//` begins an absolute path."""
    own = host.env.get("CLAUDE_CONFIG_DIR")
    return "/" + own.rstrip("/") if own else "~/.claude"


def _user_switched_hooks_off(host: Host) -> bool:
    """Say whether the user's `disableAllHooks` would switch off the guard against worktrees too."""
    own = host.env.get("CLAUDE_CONFIG_DIR") or "~/.claude"
    data = host.read(f"{own}/settings.json") or b""
    settings = parsed(_SETTINGS, data.decode("utf-8-sig", errors="replace").encode()) or {}
    return settings.get("disableAllHooks") is True


def _refuse_root(host: Host) -> None:
    sandboxed = host.env.get("IS_SANDBOX") == "1" or host.env.get("CLAUDE_CODE_BUBBLEWRAP")
    if host.is_root and not sandboxed:
        raise Unsupported(
            "claude does not act unasked as root; run clinvk as another user, use approval_mode 'auto' or "
            "sandbox_mode 'workspace', or set IS_SANDBOX=1 in the environment where the machine itself is a sandbox",
            "approval_mode",
        )


def _only(words: Posture, allowed: tuple[str, ...] | None) -> Posture:
    """Limit a posture to the allowed tools. MCP servers bring tools that no flag filters: none starts."""
    if allowed is None:
        return words
    for index, name in enumerate(allowed):
        if not _TOOL_NAME.fullmatch(name):
            raise Unsupported(
                f"claude can limit its built-in tools by name, as 'Read' or 'Bash'; {name!r} is no such name: "
                "a rule, a part of a tool or an MCP tool cannot be allowed alone",
                f"allowed_tools[{index}]",
            )
    tools = tuple(name for name in allowed if words.tools is None or name in words.tools)
    return msgspec.structs.replace(words, tools=tools, own_mcp_only=True, free=False)
