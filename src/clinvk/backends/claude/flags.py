"""The command line of `claude -p` for one request, for Claude Code 2.1.197 to 2.1.332.

Values are passed as `--flag=value`, so that a flag with several values cannot consume the next argument. The prompt is
passed on stdin. The request's system prompt is appended to Claude's system prompt, which makes the model an agent;
`extra: ["--system-prompt=…"]` replaces Claude's. The request's system prompt is passed in a file, which hides the text
from `ps` and avoids the limit on the length of an argument.
"""

from collections.abc import Iterable, Iterator

import msgspec

from clinvk.backends import mcp
from clinvk.backends.base import PRIVATE
from clinvk.backends.claude.permissions import PermissionFlags
from clinvk.backends.refusals import refuse_mcp_servers
from clinvk.backends.shared import EFFORT_LEVELS, MODEL_PROMPT, aliases, base64_data, conversation_id, native_effort
from clinvk.policy.rules import Flags
from clinvk.types.errors import InvalidRequest
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

ALIASES = aliases(fast="haiku", balanced="sonnet", best="opus")


def initialize(client_tools: bool = False) -> bytes:
    """Return a control request that Claude Code answers as soon as its startup is complete.

    Since 2.1.332, a conversation keeps its first system prompt unless `systemPromptSnapshot` is false. The equivalent
    flag is not used because earlier versions reject the flag.
    """
    request: dict[str, object] = {"subtype": "initialize", "systemPromptSnapshot": False}
    if client_tools:
        request["sdkMcpServers"] = [mcp.SERVER]
    control = {"type": "control_request", "request_id": "clinvk-initialize", "request": request}
    return msgspec.json.encode(control) + b"\n"


_ENVIRONMENT = {
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_CRON": "1",
    "BUN_GC_TIMER_DISABLE": "1",
}
"""Variables for every process.

The first two make a run end together with all the work that the run started. A sub-agent or command in the background
would outlast the run and then begin a turn that no client requested; since 2.1.332, sub-agents run in the background by
default. Tasks in a project's `.claude/scheduled_tasks.json` would also begin turns, and Claude Code writes to the file
when a task is due, regardless of the approval and sandbox modes.

The third stops the garbage collection timer of Bun, Claude Code's JavaScript runtime; Bun still collects when the heap
grows. The timer costs half of the processor time of an idle process, and a fifth of the prompts per second while
several processes start at once. The peak memory of long conversations is the same without the timer.
"""

_CLIENT_TOOLS = (
    f'--mcp-config={{"mcpServers":{{"{mcp.SERVER}":{{"type":"sdk","name":"{mcp.SERVER}"}}}}}}',
    f"--allowed-tools=mcp__{mcp.SERVER}",
)
_CLIENT_TOOLS_ENVIRONMENT = {"CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1", "ENABLE_TOOL_SEARCH": "false"}
"""The model sees the client's own names, and sees all tools from the start."""

MAX_ARGUMENT_BYTES = 128_000
"""Limit for one value; Linux accepts 131071 bytes per argument, including the flag's name."""

_SYSTEM_PROMPT = "system-prompt.md"
_MCP_SERVERS = "mcp-servers.json"
_STREAM = "--input-format=stream-json"
_OUTPUT = 5
"""Number of arguments that precede the arguments of the request."""

# fmt: off
_RESERVED = (
    "--print", "--output-format", "--input-format", "--verbose", "--include-partial-messages",
    "--replay-user-messages", "--permission-mode", "--permission-prompt-tool", "--dangerously-skip-permissions",
    "--allow-dangerously-skip-permissions", "--enable-auto-mode", "--tools", "--allowed-tools",
    "--disallowed-tools", "--add-dir", "--cwd", "--worktree", "--tmux", "--settings", "--managed-settings",
    "--setting-sources", "--mcp-config", "--strict-mcp-config", "--safe-mode", "--bare", "--model",
    "--append-system-prompt", "--append-system-prompt-file", "--system-prompt-file", "--max-turns", "--json-schema",
    "--thinking-display", "--no-session-persistence", "--resume", "--continue", "--session-id",
    "--fork-session", "--from-pr", "--resume-session-at", "--parent-session-id", "--rewind-files",
    "--reply-on-resume", "--prefill", "--prefill-b64", "--session-mirror", "--bg", "--background", "--remote",
    "--cloud", "--teleport", "--remote-control", "--rc", "--sdk-url", "--ide", "--chrome", "--init",
    "--init-only", "--maintenance", "--help", "--version", "--desktop", "--environment", "--pool", "--attach-serve",
    "--await-initialize", "--await-claim", "--resume-drops-turn", "--system-prompt-snapshot", "--permission-prompts",
    "--restricted", "--messaging-socket-path", "--managed-settings-in-initialize",
)
# fmt: on

PING = b'{"type":"control_request","request_id":"clinvk-ping","request":{"subtype":"ping"}}\n'
"""An unknown request, which Claude Code refuses immediately, even during a turn."""

SAFE_FLAGS: Flags = {
    "--effort": "[a-z]+",
    "--max-budget-usd": r"\d+(\.\d+)?",
    "--max-thinking-tokens": r"\d+",
    "--thinking": "[a-z]+",
    "--betas": r"[\w.,-]+",
    "--system-prompt": "(?s:.+)",
    "--exclude-dynamic-system-prompt-sections": None,
    "--disable-slash-commands": None,
}
"""Flags that any client may send, with patterns for the values; None is a flag without a value."""

_ALWAYS_ACCEPTED: Flags = {**SAFE_FLAGS, "--fallback-model": ".*"}
"""Flags allowed in every approval mode, sandbox mode and tool list, with any value."""


def command(
    request: RunRequest, resume: Resume | None, permissions: PermissionFlags
) -> tuple[tuple[str, ...], dict[str, bytes], dict[str, str]]:
    """Return argv, the private files that argv names, and the variables to add to the environment.

    Raises:
        InvalidRequest: an option is malformed, or an `extra` flag is not accepted.
    """
    argv = ["claude", "-p", "--output-format=stream-json", "--verbose", "--include-partial-messages"]
    if resume or _needs_blocks(request):
        argv.append(_STREAM)
    argv += _permission_flags(permissions)
    argv += _option_flags(request, resume)
    argv += _directory_flags(request, permissions)
    files: dict[str, bytes] = {}
    if request.system_prompt or not request.own_tools:
        files[_SYSTEM_PROMPT] = (request.system_prompt or MODEL_PROMPT).encode(errors="replace")
        flag = "--append-system-prompt-file" if request.own_tools else "--system-prompt-file"
        argv.append(f"{flag}={PRIVATE}/{_SYSTEM_PROMPT}")
    if request.client_tools:
        argv += _CLIENT_TOOLS
    if request.mcp_servers:
        if permissions.has_no_mcp:
            refuse_mcp_servers(request, "claude starts none with a sandbox or with allowed_tools")
        servers = mcp.server_settings(request.mcp_servers, {"type": "http"})
        files[_MCP_SERVERS] = msgspec.json.encode({"mcpServers": servers})
        argv.append(f"--mcp-config={PRIVATE}/{_MCP_SERVERS}")
    argv += _unguarded_extra(request.extra) if permissions.is_unguarded else _guarded_extra(request.extra)
    env = {} if permissions.sources is None else {"CLAUDE_CODE_ADDITIONAL_DIRECTORIES_CLAUDE_MD": "1"}
    if request.client_tools:
        env |= _CLIENT_TOOLS_ENVIRONMENT
    return tuple(argv), files, _ENVIRONMENT | env


def stdin(request: RunRequest, *, resumed: bool = False) -> bytes:
    """Return the prompt as a one-shot `claude -p` reads stdin: plain text, or one message of blocks."""
    if resumed:
        return initialize() + message(request)
    return message(request) if _needs_blocks(request) else request.prompt.encode(errors="replace")


def message(request: RunRequest) -> bytes:
    """Return the prompt as a line of `--input-format=stream-json`.

    Claude Code looks for slash commands and files to read (`@path`) only in the last block, and only if the last block
    is text. A literal prompt therefore ends with an empty text block, which the model does not see.
    """
    images: list[dict[str, object]] = [
        {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": base64_data(image)}}
        for image in request.images
    ]
    prompt = {"type": "text", "text": request.prompt.encode(errors="replace").decode()}
    content = [*images, prompt, *([{"type": "text", "text": ""}] if request.literal else [])]
    return msgspec.json.encode({"type": "user", "message": {"role": "user", "content": content}}) + b"\n"


def with_stream_input(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command for a process that reads messages until stdin is closed."""
    return argv if _STREAM in argv else (*argv[:_OUTPUT], _STREAM, *argv[_OUTPUT:])


def resume_args(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Return the arguments that name the conversation to resume."""
    return tuple(word for word in argv if word.startswith("--resume=") or word == "--fork-session")


def _needs_blocks(request: RunRequest) -> bool:
    return bool(request.images) or request.literal


def _permission_flags(permissions: PermissionFlags) -> Iterator[str]:
    yield f"--permission-mode={permissions.mode}"
    if permissions.sources is not None:
        yield f"--setting-sources={permissions.sources}"
    if permissions.settings:
        yield f"--settings={msgspec.json.encode(permissions.settings).decode()}"
    if permissions.tools is not None:
        yield f"--tools={','.join(permissions.tools)}"
    if permissions.denied_tools:
        yield f"--disallowedTools={','.join(permissions.denied_tools)}"
    if permissions.has_no_mcp:
        yield "--strict-mcp-config"
    if permissions.asks:
        yield "--permission-prompt-tool=stdio"  # a control request for each action that needs approval
    if not permissions.commands:
        yield "--disable-slash-commands"


def _option_flags(request: RunRequest, resume: Resume | None) -> Iterator[str]:
    if request.model:
        yield f"--model={_checked(ALIASES.get(request.model, request.model), 'model')}"
    if effort := native_effort(request, EFFORT_LEVELS):
        yield f"--effort={effort}"
    if request.thinking:
        yield "--thinking-display=summarized"
    if request.max_turns:
        yield f"--max-turns={request.max_turns}"
    if request.max_cost_usd:
        yield f"--max-budget-usd={request.max_cost_usd}"
    if request.output_schema is not None:
        yield f"--json-schema={_checked(msgspec.json.encode(request.output_schema).decode(), 'output_schema')}"
    if request.ephemeral:
        yield "--no-session-persistence"
    if resume:
        yield f"--resume={conversation_id(resume, 'claude')}"
        if resume.fork:
            yield "--fork-session"


def _directory_flags(request: RunRequest, permissions: PermissionFlags) -> Iterator[str]:
    """Yield the `--add-dir` flags.

    With limited setting sources, Claude Code reads CLAUDE.md of the working directory only if the directory is added.
    """
    if permissions.sources is not None:
        yield f"--add-dir={_checked(request.workdir or '.', 'workdir')}"
    for index, path in enumerate(request.add_dirs):
        field = f"add_dirs[{index}]"
        if not path.startswith("/"):
            raise InvalidRequest(f"{field} must be an absolute path, not {path!r}", field)
        yield f"--add-dir={_checked(path, field)}"


def _guarded_extra(extra: tuple[str, ...]) -> Iterator[str]:
    """Yield the extra flags of a guarded run; flags that could weaken a mode are refused."""
    rest = iter(enumerate(extra))
    for index, argument in rest:
        field = f"extra[{index}]"
        flag, equals, value = _checked(argument, field).partition("=")
        takes_value = _ALWAYS_ACCEPTED.get(flag) is not None
        if flag not in _ALWAYS_ACCEPTED or (equals and not takes_value):
            raise InvalidRequest(
                f"extra flag {argument!r} is not accepted with this approval_mode, sandbox_mode or allowed_tools "
                f"(accepted: {', '.join(_ALWAYS_ACCEPTED)}); other flags need approval_mode 'none' and no sandbox_mode",
                field,
            )
        if takes_value and not equals:
            following = next(rest, None)
            if following is None:
                raise InvalidRequest(f"extra flag {flag!r} needs a value", field)
            value = following[1]
        yield f"{flag}={_checked(value, field)}" if takes_value else flag


def _unguarded_extra(extra: tuple[str, ...]) -> Iterable[str]:
    """Return the extra flags of an unguarded run; flags that clinvk sets are refused."""
    ours = {_normalized(flag): flag for flag in _RESERVED}
    may_be_value = False
    for index, argument in enumerate(extra):
        field = f"extra[{index}]"
        flag, equals, _ = _checked(argument, field).partition("=")
        if flag.startswith("--") and len(flag) > 2:
            if _normalized(flag) in ours:
                raise InvalidRequest(f"extra flag {argument!r} is not accepted: clinvk sets it itself", field)
            may_be_value = not equals
        elif flag.startswith("-") or not may_be_value:
            raise InvalidRequest(f"extra {argument!r} is not a flag; each is spelled --flag or --flag=value", field)
        else:
            may_be_value = False
    return extra


def _normalized(flag: str) -> str:
    """Return a normalized flag, so that --allowedTools and --allowed-tools are equal."""
    return flag.replace("-", "").lower()


def _checked(value: str, field: str) -> str:
    if len(value.encode(errors="replace")) > MAX_ARGUMENT_BYTES:
        raise InvalidRequest(f"{field} is too long for a command line: at most {MAX_ARGUMENT_BYTES} bytes", field)
    return value
