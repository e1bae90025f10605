"""Claude Code: `claude -p` with stream-json on stdout, with one process per prompt or per conversation.

Written against 2.1.197 to 2.1.332 (https://code.claude.com/docs/en/cli-reference); tests/unit/recordings/claude holds
recordings of their output. `permissions` translates the approval and sandbox modes into flags, `flags` builds the
command, `decoder` reads the stream, `wire` defines the lines of the stream, and `channel` is the protocol with a
long-lived process.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from signal import SIGINT
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.backends.base import ALL_CAPABILITIES, MAX_RUNS, Backend, Channel, Host, Launch
from clinvk.backends.claude.flags import ALIASES, PING, SAFE_FLAGS, command, resume_args, stdin, with_stream_input
from clinvk.backends.claude.permissions import (
    DEFAULT_FOLDER,
    FILE_TOOLS,
    NO_SHELL,
    SHELL_PACKAGES,
    config_folder,
    permission_flags,
)
from clinvk.backends.refusals import install_command
from clinvk.backends.shared import OneShotChannel, conversation_id, parent_directories
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

if TYPE_CHECKING:
    from clinvk.backends.checkup_base import Checkup

_FAMILIES = frozenset({"sonnet", "opus", "haiku", "fable", "opusplan"})

_NOT_ALPHANUMERIC = re.compile("[^a-zA-Z0-9]")
"""Characters that Claude replaces with a dash in the name of a project's folder."""

_MANAGED = ("/etc/claude-code/", "/Library/Application Support/ClaudeCode/")
"""Folders for an administrator's settings for all users, on Linux and on macOS."""

_MANAGED_FILES = ("", "managed-settings.json", "managed-settings.d/*.json", "managed-mcp.json", "CLAUDE.md")

_PROJECT_FILES = ("CLAUDE.md", "CLAUDE.local.md", "AGENTS.md", ".mcp.json")
"""Files read in a directory and its parents; `AGENTS.md` if a CLAUDE.md imports `AGENTS.md` or no CLAUDE.md exists."""

_FOLDER_FILES = (
    *("", "CLAUDE.md", "settings.json", "settings.local.json"),
    *("rules/*.md", "agents/*.md", "commands/*.md", "output-styles/*.md", "skills/*/SKILL.md"),
)
"""Files read in a `.claude` folder: the user's, the administrator's, or one in a directory of the project."""


class Claude(Backend):
    """The backend of Claude Code."""

    name = "claude"
    executable = "claude"
    install = "npm install -g @anthropic-ai/claude-code"
    vendor = "anthropic"
    models: tuple[str, ...] = ("sonnet", "opus", "haiku")
    aliases: Mapping[str, str | None] = ALIASES
    capabilities = ALL_CAPABILITIES
    safe_flags = SAFE_FLAGS
    folders: tuple[str, ...] = ("~/.claude", "$CLAUDE_CONFIG_DIR")

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Return how to start `claude -p` for this request.

        Raises:
            Unsupported: an approval, sandbox or tool rule that Claude Code cannot honour.
            InvalidRequest: a malformed option, or an `extra` flag that would override what clinvk sets.
        """
        places = [*parent_directories(host.resolve(request.workdir or ""))]
        permissions = permission_flags(request, host)
        argv, files, env = command(request, resume, permissions)
        alone = Launch(argv=argv, env=env, cwd=request.workdir, files=files, stop_signal=SIGINT)
        kept = replace(
            alone,
            argv=with_stream_input(argv),
            long_lived=True,
            resume_args=resume_args(argv),
            reads=tuple(_read_at_start(places, host)),
            conversation_reads=tuple(_read_at_first_prompt(places, host)) if permissions.sources is None else (),
            resumes="named",
            max_runs=1 if _affects_later_prompts(request) else MAX_RUNS,
            ping=PING,
        )
        if request.client_tools or permissions.asks:
            kept = alone = replace(kept, client_tools=request.client_tools, asks=permissions.asks)
        return replace(alone, warm=kept)

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Return the channel of one process. SIGINT ends the process and its tools; SIGTERM would orphan the tools."""
        warning = (
            NO_SHELL + install_command(*SHELL_PACKAGES) if f"--tools={','.join(FILE_TOOLS)}" in launch.argv else ""
        )
        if launch.long_lived:
            from clinvk.backends.claude.approvals import Approvals  # imported late: an idle server needs no channels
            from clinvk.backends.claude.channel import ConversationChannel

            approvals = Approvals(host) if launch.asks else None
            return ConversationChannel(warning, launch.client_tools, approvals)
        from clinvk.backends.claude.decoder import ClaudeDecoder

        return OneShotChannel(ClaudeDecoder(warning=warning), partial(stdin, resumed=bool(resume_args(launch.argv))))

    def checkup(self, host: Host) -> "Checkup":
        """Return the checks that show, without a prompt, whether the installed CLI can be used."""
        from clinvk.backends.claude.checkup import checkup  # imported late: no prompt needs the module

        return checkup(self, host)

    def interactive(self, resume: Resume, model: str | None) -> tuple[str, ...]:
        """Return the command that opens a conversation in Claude Code, to be run in the conversation's directory."""
        chosen = [f"--model={ALIASES.get(model, model)}"] if model else []
        return (self.executable, *chosen, f"--resume={conversation_id(resume, 'claude')}")

    def claims_model(self, model: str) -> bool:
        """Return whether a name is a Claude model: claude-*, or a family such as `sonnet` or `opus[1m]`."""
        name = model.lower()
        return name.startswith("claude") or name.partition("[")[0] in _FAMILIES

    def record_files(self, handle: str, host: Host) -> Sequence[str]:
        """Return the path of the transcript."""
        return host.find(f"{config_folder(host)}/projects", f"*/{handle}.jsonl")


def _affects_later_prompts(request: RunRequest) -> bool:
    """Return whether an option of a request would also affect the next prompt of the process.

    Some options hold for the life of a process, others count from its first prompt.
    """
    limits = request.max_turns or request.max_cost_usd
    return bool(request.ephemeral or limits or request.output_schema is not None or request.extra)


def _read_at_start(places: Sequence[str], host: Host) -> Iterator[str]:
    """Yield the instructions and settings that a new process reads, an administrator's files first."""
    for managed in _MANAGED:
        yield from (f"{managed}{name}" for name in _MANAGED_FILES)
        yield from (f"{managed}.claude/{name}" for name in _FOLDER_FILES)
    user, home = config_folder(host), f"{host.env.get('HOME')}/"
    yield from (f"{user}/{name}" for name in _FOLDER_FILES)
    for place in places:
        yield from (f"{place}{name}" for name in _PROJECT_FILES)
        if place != home or user != DEFAULT_FOLDER:
            yield from (f"{place}.claude/{name}" for name in _FOLDER_FILES)


def _read_at_first_prompt(places: Sequence[str], host: Host) -> Iterator[str]:
    """Yield the files that show changes of the branch, the latest commits or Claude's memory notes.

    The first prompt of a conversation includes the information, except in a guarded run.
    """
    for place in places:
        yield f"{place}.git/logs/HEAD"
        yield f"{config_folder(host)}/projects/{_NOT_ALPHANUMERIC.sub('-', place[:-1] or place)}/memory/MEMORY.md"
