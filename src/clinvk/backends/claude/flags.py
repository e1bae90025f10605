"""The command line of `claude -p` for one request, as Claude Code 2.1.197 to 2.1.332 take it.

Values go as `--flag=value`, so that no flag that takes several can eat the next argument, and the prompt goes over
stdin. The system prompt is appended to Claude's own, which makes the model an agent and is not ours to drop
(`extra: ["--system-prompt=…"]` replaces it); it travels in a file, out of reach of `ps` and of the length limit.
"""

import base64
from collections.abc import Iterable, Iterator

import msgspec

from clinvk.backends.base import PRIVATE, conversation, effort_of
from clinvk.backends.claude.permissions import Posture
from clinvk.policy.rules import Flags
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume

ALIASES = {
    "fast": "haiku",
    "quick": "haiku",
    "balanced": "sonnet",
    "default": "sonnet",
    "best": "opus",
    "powerful": "opus",
}
_EFFORTS = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}

INITIALIZE = (
    b'{"type":"control_request","request_id":"clinvk-initialize",'
    b'"request":{"subtype":"initialize","systemPromptSnapshot":false}}\n'
)
"""What it answers at once, and has to be ready for.

From 2.1.332 on a conversation keeps the system prompt that it began with, unless it is told here not to: there is a
flag for that too, which versions before would refuse.
"""

_ENVIRONMENT = {
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_CRON": "1",
    "BUN_GC_TIMER_DISABLE": "1",
}
"""A run is to end with all that it began. A sub-agent or a command in the background would outlast it, as sub-agents do
by themselves from 2.1.332 on, and then begin a turn that nobody asked for. So would what a project's
`.claude/scheduled_tasks.json` names, which is also written when it is due, whatever the words.

Its JavaScript runtime, Bun, also collects garbage by a timer, beside what its heap's growth calls for. That costs half
of the processor time of a process at rest, and a fifth of the prompts a second while several start at once; the most
memory that long conversations take is the same without.
"""

MAX_ARGUMENT_BYTES = 128_000
"""Linux takes 131071 bytes an argument, the flag's name included."""

_SYSTEM_PROMPT = "system-prompt.md"
_STREAM = "--input-format=stream-json"
_OUTPUT = 5
"""The arguments before those of the request."""

# fmt: off
_OURS = (
    "--print", "--output-format", "--input-format", "--verbose", "--include-partial-messages",
    "--replay-user-messages", "--permission-mode", "--permission-prompt-tool", "--dangerously-skip-permissions",
    "--allow-dangerously-skip-permissions", "--enable-auto-mode", "--tools", "--allowed-tools",
    "--disallowed-tools", "--add-dir", "--cwd", "--worktree", "--tmux", "--settings", "--managed-settings",
    "--setting-sources", "--mcp-config", "--strict-mcp-config", "--safe-mode", "--bare", "--model",
    "--append-system-prompt", "--append-system-prompt-file", "--max-turns", "--json-schema",
    "--thinking-display", "--no-session-persistence", "--resume", "--continue", "--session-id",
    "--fork-session", "--from-pr", "--resume-session-at", "--parent-session-id", "--rewind-files",
    "--reply-on-resume", "--prefill", "--prefill-b64", "--session-mirror", "--bg", "--background", "--remote",
    "--cloud", "--teleport", "--remote-control", "--rc", "--sdk-url", "--ide", "--chrome", "--init",
    "--init-only", "--maintenance", "--help", "--version", "--desktop", "--environment", "--pool", "--attach-serve",
    "--await-initialize", "--await-claim", "--resume-drops-turn", "--system-prompt-snapshot", "--permission-prompts",
    "--restricted", "--messaging-socket-path", "--managed-settings-in-initialize",
)
# fmt: on

_HARMLESS = {
    "--effort": True,
    "--fallback-model": True,
    "--max-budget-usd": True,
    "--max-thinking-tokens": True,
    "--thinking": True,
    "--betas": True,
    "--system-prompt": True,
    "--exclude-dynamic-system-prompt-sections": False,
    "--disable-slash-commands": False,
}
"""Flags that no approval, sandbox or tool word forbids, and whether they take a value."""

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
"""Those of them that choose no model either: for requests of anybody."""


def command(
    request: RunRequest, resume: Resume | None, words: Posture
) -> tuple[tuple[str, ...], dict[str, bytes], dict[str, str]]:
    """Give argv, the files it names and the environment it needs.

    Raises:
        InvalidRequest: an option is malformed, or an `extra` flag is not accepted.
    """
    argv = ["claude", "-p", "--output-format=stream-json", "--verbose", "--include-partial-messages"]
    if resume or _in_blocks(request):
        argv.append(_STREAM)
    argv += _word_flags(words)
    argv += _option_flags(request, resume)
    argv += _directory_flags(request, words)
    files: dict[str, bytes] = {}
    if request.system_prompt:
        files[_SYSTEM_PROMPT] = request.system_prompt.encode(errors="replace")
        argv.append(f"--append-system-prompt-file={PRIVATE}/{_SYSTEM_PROMPT}")
    argv += _any_extra(request.extra) if words.free else _harmless_extra(request.extra)
    env = {} if words.sources is None else {"CLAUDE_CODE_ADDITIONAL_DIRECTORIES_CLAUDE_MD": "1"}
    return tuple(argv), files, _ENVIRONMENT | env


def stdin(request: RunRequest, *, resumed: bool = False) -> bytes:
    """Give the prompt as a `claude -p` of its own reads it: plain text, or one message of blocks."""
    if resumed:
        return INITIALIZE + message(request)
    return message(request) if _in_blocks(request) else request.prompt.encode(errors="replace")


def message(request: RunRequest) -> bytes:
    """Give the prompt as a line of `--input-format=stream-json`.

    Only in the last block, and only if that is text, does Claude Code look for a command of its own and for files to
    read (`@path`). Of a block that is empty the model learns nothing.
    """
    images = [
        {
            "type": "image",
            "source": {
                "type": "base64",
                "media_type": image.media_type,
                "data": base64.b64encode(image.data).decode(),
            },
        }
        for image in request.images
    ]
    prompt = {"type": "text", "text": request.prompt.encode(errors="replace").decode()}
    content = [*images, prompt, *([{"type": "text", "text": ""}] if request.literal else [])]
    return msgspec.json.encode({"type": "user", "message": {"role": "user", "content": content}}) + b"\n"


def streamed(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Give the command that reads messages for as long as stdin is open."""
    return argv if _STREAM in argv else (*argv[:_OUTPUT], _STREAM, *argv[_OUTPUT:])


def continuing(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Give the arguments that name the conversation to go on with."""
    return tuple(word for word in argv if word.startswith("--resume=") or word == "--fork-session")


def _in_blocks(request: RunRequest) -> bool:
    return bool(request.images) or request.literal


def _word_flags(words: Posture) -> Iterator[str]:
    yield f"--permission-mode={words.mode}"
    if words.sources is not None:
        yield f"--setting-sources={words.sources}"
    if words.settings:
        yield f"--settings={msgspec.json.encode(words.settings).decode()}"
    if words.tools is not None:
        yield f"--tools={','.join(words.tools)}"
    if words.denied_tools:
        yield f"--disallowedTools={','.join(words.denied_tools)}"
    if words.own_mcp_only:
        yield "--strict-mcp-config"
    if not words.commands:
        yield "--disable-slash-commands"


def _option_flags(request: RunRequest, resume: Resume | None) -> Iterator[str]:
    if request.model:
        yield f"--model={_checked(ALIASES.get(request.model, request.model), 'model')}"
    if effort := effort_of(request, _EFFORTS):
        yield f"--effort={effort}"
    if request.thinking:
        yield "--thinking-display=summarized"
    if request.max_turns:
        yield f"--max-turns={request.max_turns}"
    if request.output_schema is not None:
        yield f"--json-schema={_checked(msgspec.json.encode(request.output_schema).decode(), 'output_schema')}"
    if request.ephemeral:
        yield "--no-session-persistence"
    if resume:
        yield f"--resume={conversation(resume, 'claude')}"
        if resume.fork:
            yield "--fork-session"


def _directory_flags(request: RunRequest, words: Posture) -> Iterator[str]:
    """Give `--add-dir`; with the working directory itself where only so its CLAUDE.md is read."""
    if words.sources is not None:
        yield f"--add-dir={_checked(request.workdir or '.', 'workdir')}"
    for index, path in enumerate(request.add_dirs):
        field = f"add_dirs[{index}]"
        if not path.startswith("/"):
            raise InvalidRequest(f"{field} must be an absolute path, not {path!r}", field)
        yield f"--add-dir={_checked(path, field)}"


def _harmless_extra(extra: tuple[str, ...]) -> Iterator[str]:
    """Give the extra flags of a guarded run: only such as cannot undo a word."""
    rest = iter(enumerate(extra))
    for index, argument in rest:
        field = f"extra[{index}]"
        flag, equals, value = _checked(argument, field).partition("=")
        takes_value = _HARMLESS.get(flag)
        if takes_value is None or (equals and not takes_value):
            raise InvalidRequest(
                f"extra flag {argument!r} is not accepted with these approval, sandbox and tool words; "
                f"accepted are {', '.join(_HARMLESS)}. Other flags need approval_mode 'none' and no sandbox word",
                field,
            )
        if takes_value and not equals:
            _, value = next(rest, (index, None))
            if value is None:
                raise InvalidRequest(f"extra flag {flag!r} needs a value", field)
        yield f"{flag}={_checked(value, field)}" if takes_value else flag


def _any_extra(extra: tuple[str, ...]) -> Iterable[str]:
    """Give the extra flags of a run in which nothing is guarded: all that clinvk does not set itself."""
    ours = {_plain(flag): flag for flag in _OURS}
    may_be_value = False
    for index, argument in enumerate(extra):
        field = f"extra[{index}]"
        flag, equals, _ = _checked(argument, field).partition("=")
        if flag.startswith("--") and len(flag) > 2:
            if _plain(flag) in ours:
                raise InvalidRequest(f"extra flag {argument!r} is not accepted: clinvk sets it itself", field)
            may_be_value = not equals
        elif flag.startswith("-") or not may_be_value:
            raise InvalidRequest(f"extra {argument!r} is not a flag; each is spelled --flag or --flag=value", field)
        else:
            may_be_value = False
    return extra


def _plain(flag: str) -> str:
    """Give a flag without its spelling: --allowedTools and --allowed-tools are one."""
    return flag.replace("-", "").lower()


def _checked(value: str, field: str) -> str:
    if "\0" in value:
        raise InvalidRequest(f"{field} must not contain a NUL character", field)
    if len(value.encode(errors="replace")) > MAX_ARGUMENT_BYTES:
        raise InvalidRequest(f"{field} is too long for a command line: at most {MAX_ARGUMENT_BYTES} bytes", field)
    return value
