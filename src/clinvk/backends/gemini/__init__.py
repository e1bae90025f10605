"""Gemini CLI: `gemini -o stream-json` with the prompt on stdin for one prompt, or `gemini --acp` for many.

Everything here was tried with Gemini CLI 0.61.0. How the CLI handles a prompt, and how clinvk responds:

- `@path` in a prompt inserts the text of the file. clinvk allows the insertion unless the prompt is data: see
  `prompt_delivery`, also for `/`.
- The CLI silently truncates a prompt after 8 MiB, so clinvk refuses a longer prompt.
- `GEMINI_SYSTEM_MD` replaces the CLI's entire system prompt and no option appends to the system prompt, so clinvk puts
  a marked system prompt before the prompt.
- The CLI has no flag to limit turns, and no flag to disable recording; see `home` for recording.
- `--resume` resumes a conversation of the working directory; `--session-file` copies a conversation under a fresh id.

`--skip-trust` makes the CLI treat the project's folder as trusted. clinvk passes the flag only if the agent may act
without asking, because in an untrusted folder the agent would ask, or if the agent has only the tools of the client,
because in an untrusted folder the CLI starts no tool server. The flag takes effect too late for the project's
`settings.json`, with its hooks, MCP servers and allowed tools: the CLI has read its settings by then, and accepts the
project's only if `trustedFolders.json` or `GEMINI_CLI_TRUST_WORKSPACE` already trusts the folder. The project's `.env`,
with any variable, and the project's skills do take effect.

The CLI always runs in a private home. If the agent may act without asking, the private home mirrors the user's home.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.backends.base import ALL_CAPABILITIES, PRIVATE, Backend, Channel, Host, Launch
from clinvk.backends.gemini import client_tools, home, permissions, prompt_delivery
from clinvk.backends.gemini.client_tools import ClientToolsChannel
from clinvk.backends.gemini.decoder import GeminiDecoder
from clinvk.backends.gemini.flags import PING, SAFE_FLAGS, check_extra
from clinvk.backends.gemini.permissions import ToolPermissions
from clinvk.backends.refusals import refuse_cost_limit, refuse_mcp_servers
from clinvk.backends.shared import MODEL_PROMPT, OneShotChannel, aliases, conversation_id
from clinvk.types.errors import InvalidRequest, Unsupported
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

if TYPE_CHECKING:
    from clinvk.backends.checkup_base import Checkup

MAX_PROMPT_BYTES = 8 * 1024 * 1024

_ALIASES = aliases(fast="flash-lite", balanced="flash", best="pro")
_STREAM_JSON = "--output-format=stream-json"
_TERMINAL = {"GEMINI_CLI_NO_RELAUNCH": "true", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
"""Disable the relaunch, so that a signal reaches the working process. Name a colour terminal, because the CLI warns on
a plain terminal.
"""

_MAX_RUNS = 50
"""The number of runs after which a process is replaced. For each session, `gemini --acp` rebuilds the system prompts of
all earlier sessions, and no request closes a session. After this many runs, the rebuilding has cost about as much as
starting a process.
"""

_SYSTEM_PROMPT = "system.md"

_STRICT = {
    "GEMINI_CLI_TRUST_WORKSPACE": "false",
    "GEMINI_SANDBOX": "false",
    "GEMINI_CLI_HOME": home.HOME,
    "TMPDIR": PRIVATE,
}


class Gemini(Backend):
    """The Gemini CLI."""

    name = "gemini"
    executable = "gemini"
    install = "npm install -g @google/gemini-cli"
    vendor = "gcp.gemini"
    models: tuple[str, ...] = (
        *("pro", "flash", "flash-lite", "auto", "gemini-3.1-pro-preview", "gemini-3.8-flash", "gemini-3.5-flash"),
        *("gemini-3.5-flash-lite", "gemini-2.5-pro"),
    )
    aliases: Mapping[str, str | None] = _ALIASES
    capabilities = ALL_CAPABILITIES
    keeps_system_prompt = True
    safe_flags = SAFE_FLAGS
    folders: tuple[str, ...] = ("~/.gemini", "$GEMINI_CLI_HOME/.gemini")

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Return the launch for this request."""
        _check(request)
        allowed = _permissions(request)
        check_extra(request.extra, is_open=allowed.is_unrestricted and allowed.only is None)
        if allowed.asks:
            return _asking_launch(request, resume, allowed, host)
        launch = _launch(_STREAM_JSON, request, resume, allowed, host)
        attached = prompt_delivery.files(request)
        own = (f"--include-directories={folder}" for folder in prompt_delivery.directories(attached))
        return replace(
            launch,
            argv=(*launch.argv, *own, *request.extra),
            files=launch.files | attached,
            client_tools=request.client_tools,
            tool_socket=client_tools.SOCKET if request.client_tools else "",
            retries_schema=True,
            warm=_warm_launch(request, resume, allowed, host),
        )

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Return the state machine for one process of this launch."""
        if launch.session_params:
            from clinvk.backends.gemini.acp import GeminiChannel  # imported late: an idle server needs no channels

            return GeminiChannel(launch, host)
        if launch.client_tools:
            return ClientToolsChannel(launch.client_tools)
        return OneShotChannel(GeminiDecoder(), prompt_delivery.stdin)

    def checkup(self, host: Host) -> "Checkup":
        """Return the checks that show, without a prompt, whether the installed CLI can be used."""
        from clinvk.backends.gemini.checkup import checkup  # imported here to keep prompts fast

        return checkup(self, host)

    def interactive(self, resume: Resume, model: str | None) -> tuple[str, ...]:
        """Return the command that opens a conversation in the CLI, which works only in the conversation's directory."""
        chosen = [f"--model={_ALIASES.get(model, model)}"] if model else []
        return (self.executable, *chosen, f"--resume={conversation_id(resume, 'gemini')}")

    def claims_model(self, model: str) -> bool:
        """Return whether the name of a model belongs to this backend."""
        return model.lower().startswith(("gemini", "auto-gemini"))

    def record_files(self, handle: str, host: Host) -> Sequence[str]:
        """Return the files of a conversation."""
        return home.conversation_files(handle, host)


def _permissions(request: RunRequest) -> ToolPermissions:
    """Return the permissions for a request.

    The CLI starts tool servers only in a trusted folder, where the project's files could lift the limits of an agent.
    """
    if not request.own_tools:
        return ToolPermissions()  # the settings permit the client's tools only
    allowed = permissions.tool_permissions(request)
    if allowed.is_unrestricted and allowed.only is None:
        return allowed
    refuse_mcp_servers(request, "gemini starts one only with approval_mode none and no sandbox")
    if request.client_tools:
        raise Unsupported(
            "gemini offers the client's tools besides its own only with approval_mode none and no sandbox; "
            "use the client's tools alone",
            "tools",
        )
    return allowed


def _warm_launch(request: RunRequest, resume: Resume | None, allowed: ToolPermissions, host: Host) -> Launch | None:
    """Return the launch of a process for many prompts, or None if only a process of one prompt behaves as requested.

    A process for many prompts runs no hooks, and hooks may be the only restriction on an agent that acts without
    asking. The process supports neither `@path` and `/command` in a prompt, nor conversations from other processes. The
    process also has more tools and runs some actions without asking that need permission in a process of one prompt.
    The rules therefore deny every tool that may ask, which clinvk cannot ensure for the user's own rules.
    """
    if (
        allowed.is_unrestricted
        or allowed.denies_all
        or request.extra
        or request.client_tools
        or not request.own_tools
        or request.output_schema is not None
        or not prompt_delivery.is_plain(request)
        or home.limits_turns(host)
    ):
        return None
    if (resume and resume.fork) or (allowed.only is None and home.has_rules(host)):
        return None
    return _acp_launch(request, permissions.without_asking(allowed), host)


def _asking_launch(request: RunRequest, resume: Resume | None, allowed: ToolPermissions, host: Host) -> Launch:
    """Return the launch of a process that asks its user, which only a process for many prompts does.

    Raises:
        Unsupported: the prompt would be a command, or the conversation is to be forked.
    """
    if prompt_delivery.is_protocol_command(request):
        raise Unsupported(
            "gemini reads a prompt that begins with / or $ as a command if it asks for approval", "approval_mode"
        )
    if resume and resume.fork:
        raise Unsupported("gemini cannot fork a conversation if it asks for approval", "approval_mode")
    kept = replace(_acp_launch(request, allowed, host), asks=True)
    own = replace(kept, argv=(*kept.argv, *request.extra), reads=(), resumes="any", ping=b"")
    return replace(own, warm=None if request.extra or home.limits_turns(host) else kept)


def _acp_launch(request: RunRequest, allowed: ToolPermissions, host: Host) -> Launch:
    """Return the launch of a process for many prompts."""
    place = host.resolve(request.workdir or "")  # the CLI takes any other spelling for a different project
    return replace(
        _launch("--acp", replace(request, literal=False), None, allowed, host),
        long_lived=True,
        session_params={"cwd": place, "mcpServers": []},
        reads=home.read_at_start(place, host),
        resumes="held",
        max_runs=_MAX_RUNS,
        ping=PING,
    )


def _launch(mode: str, request: RunRequest, resume: Resume | None, allowed: ToolPermissions, host: Host) -> Launch:
    """Return the launch of the CLI in a mode: arguments, private home and environment for a request."""
    rules = {"limits.toml": permissions.deny_rules(allowed), "grants.toml": permissions.allow_rules(allowed)}
    settings, links = (
        home.mirrored(request, host) if allowed.is_unrestricted else home.restricted(allowed, request, host)
    )
    env = {"GEMINI_CLI_HOME": home.HOME} if allowed.is_unrestricted else _STRICT
    if not request.own_tools:
        env = {**env, "GEMINI_CLI_TRUST_WORKSPACE": "", "GEMINI_SYSTEM_MD": f"{PRIVATE}/{_SYSTEM_PROMPT}"}
        settings[_SYSTEM_PROMPT] = MODEL_PROMPT.encode()
    if not request.ephemeral or resume:
        links |= home.records(host)
    elif allowed.is_unrestricted:
        env = {**env, "TMPDIR": PRIVATE}
    return Launch(
        argv=(Gemini.executable, mode, *_arguments(request, resume, allowed, host)),
        env={**_TERMINAL, **env},
        cwd=request.workdir,
        files={name: text for name, text in rules.items() if text} | settings,
        links=links,
        max_turns=request.max_turns or None,
    )


def _check(request: RunRequest) -> None:
    refuse_cost_limit(request, "gemini")
    if len(prompt_delivery.prompt_text(request).encode(errors="replace")) > MAX_PROMPT_BYTES:
        raise InvalidRequest(f"the prompt is longer than the {MAX_PROMPT_BYTES} bytes that gemini reads", "prompt")
    for index, folder in enumerate(request.add_dirs):
        if "," in folder or folder != folder.strip():
            raise Unsupported(
                f"gemini cannot be given {folder!r}: it takes no directory with a comma, or a space at an end",
                f"add_dirs[{index}]",
            )


def _arguments(request: RunRequest, resume: Resume | None, allowed: ToolPermissions, host: Host) -> list[str]:
    arguments = [f"--approval-mode={'yolo' if allowed.is_unrestricted else 'default'}"]
    if allowed.is_unrestricted or not request.own_tools:
        arguments.append("--skip-trust")
    if request.model:
        arguments.append(f"--model={_ALIASES.get(request.model, request.model)}")
    if resume:
        arguments.append(_resume_arg(resume, host))
    arguments += [f"--include-directories={folder}" for folder in request.add_dirs]
    if permissions.deny_rules(allowed):
        # These rules override the user's, unless the administrator has rules: then the CLI ignores these.
        arguments.append(f"--admin-policy={PRIVATE}/limits.toml")
        if allowed.denies_all or allowed.may_edit or allowed.only is not None:
            arguments.append(f"--policy={PRIVATE}/limits.toml")
    if allowed.allows_edits:
        arguments.append(f"--policy={PRIVATE}/grants.toml")
    if allowed.allows_edits or (allowed.asks and allowed.only is None):
        # A rule file on the command line replaces the user's rules, so the command line names the user's folder too.
        arguments.append(f"--policy={home.HOME}/.gemini/policies")
    return arguments


def _resume_arg(resume: Resume, host: Host) -> str:
    known = conversation_id(resume, "gemini")
    if not resume.fork:
        return f"--resume={known}"
    files = home.conversation_files(known, host)
    return f"--session-file={files[0] if files else known}"
