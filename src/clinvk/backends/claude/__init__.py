"""Claude Code: `claude -p` with stream-json on stdout, one process a prompt or one a conversation.

Written against 2.1.197 to 2.1.332 (https://code.claude.com/docs/en/cli-reference); tests/unit/recordings/claude holds
what they print. `posture` says how the approval and sandbox words become flags, `flags` builds the command, `decoder`
reads the stream, whose lines are in `wire`; `conversing` is the protocol with a process that stays.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from signal import SIGINT
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.backends.base import MOST_RUNS, Capabilities, Channel, Host, Launch, conversation
from clinvk.backends.claude.channel import PING, ConversationChannel
from clinvk.backends.claude.decoder import ClaudeDecoder
from clinvk.backends.claude.flags import ALIASES, SAFE_FLAGS, command, continuing, stdin, streamed
from clinvk.backends.claude.permissions import posture
from clinvk.backends.shared import OneShotChannel, upwards
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume

if TYPE_CHECKING:
    from clinvk.backends.checkup_base import Checkup

_FAMILIES = frozenset({"sonnet", "opus", "haiku", "fable", "opusplan"})

_UNFIT = re.compile("[^a-zA-Z0-9]")
"""What is a dash in the folder that Claude has of a project."""

_USUAL = "~/.claude"
"""The folder of the user's own settings."""

_MANAGED = ("/etc/claude-code/", "/Library/Application Support/ClaudeCode/")
"""Where an administrator puts what holds for all users, on Linux and on macOS."""

_IN_MANAGED = ("", "managed-settings.json", "managed-settings.d/*.json", "managed-mcp.json", "CLAUDE.md")

_BESIDE = ("CLAUDE.md", "CLAUDE.local.md", "AGENTS.md", ".mcp.json")
"""What is read in a directory and in those above it; `AGENTS.md` where a CLAUDE.md imports it, or there is none."""

_IN_FOLDER = (
    *("", "CLAUDE.md", "settings.json", "settings.local.json"),
    *("rules/*.md", "agents/*.md", "commands/*.md", "output-styles/*.md", "skills/*/SKILL.md"),
)
"""What is read in a `.claude` folder, were it the user's, the administrator's, or in any of these directories."""


class Claude:
    """The backend of Claude Code."""

    name = "claude"
    executable = "claude"
    install = "npm install -g @anthropic-ai/claude-code"
    vendor = "anthropic"
    models: tuple[str, ...] = ("sonnet", "opus", "haiku")
    aliases: Mapping[str, str | None] = ALIASES
    capabilities = Capabilities()
    holds_system = False
    safe_flags = SAFE_FLAGS
    folders: tuple[str, ...] = ("~/.claude", "$CLAUDE_CONFIG_DIR")

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Say how to start `claude -p` for this request.

        Raises:
            Unsupported: an approval, sandbox or tool rule that Claude Code cannot honour.
            InvalidRequest: a malformed option, or an `extra` flag that would override what clinvk sets.
        """
        places = [*upwards(host.resolve(request.workdir or ""))]
        words = posture(request, host)
        argv, files, env = command(request, resume, words)
        alone = Launch(argv=argv, env=env, cwd=request.workdir, files=files, stop_signal=SIGINT)
        kept = replace(
            alone,
            argv=streamed(argv),
            long_lived=True,
            continuing=continuing(argv),
            reads=tuple(_read_at_start(places, host)),
            begins_with=tuple(_told_at_first(places, host)) if words.sources is None else (),
            takes_up="started",
            most_runs=1 if _holds_for_the_process(request) else MOST_RUNS,
            ping=PING,
        )
        return replace(alone, warm=kept)

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Make the channel of one process. SIGINT ends it and its tools, which SIGTERM would leave behind."""
        if launch.long_lived:
            return ConversationChannel()
        return OneShotChannel(ClaudeDecoder(), partial(stdin, resumed=bool(continuing(launch.argv))))

    def checkup(self, host: Host) -> "Checkup":
        """Say how to find out, without a prompt, whether the installed CLI can be used."""
        from clinvk.backends.claude.checkup import checkup  # no prompt waits for it

        return checkup(self, host)

    def interactive(self, resume: Resume, model: str | None) -> tuple[str, ...]:
        """Give the command that opens a conversation in Claude Code itself; it finds it only in its directory."""
        chosen = [f"--model={ALIASES.get(model, model)}"] if model else []
        return (self.executable, *chosen, f"--resume={conversation(resume, 'claude')}")

    def claims(self, model: str) -> bool:
        """Say whether this is a Claude model: claude-*, or a family's name such as `sonnet` or `opus[1m]`."""
        name = model.lower()
        return name.startswith("claude") or name.partition("[")[0] in _FAMILIES

    def records(self, handle: str, host: Host) -> Sequence[str]:
        """Give the transcript."""
        return host.find(f"{_folder(host)}/projects", f"*/{handle}.jsonl")


def _holds_for_the_process(request: RunRequest) -> bool:
    """Say whether what a request asks for would hold for the next prompt, too, or count from the first on."""
    return bool(request.ephemeral or request.max_turns or request.output_schema is not None or request.extra)


def _folder(host: Host) -> str:
    return host.env.get("CLAUDE_CONFIG_DIR") or _USUAL


def _read_at_start(places: Sequence[str], host: Host) -> Iterator[str]:
    """Give the instructions and settings that a process started now would find, those of an administrator first."""
    for managed in _MANAGED:
        yield from (f"{managed}{name}" for name in _IN_MANAGED)
        yield from (f"{managed}.claude/{name}" for name in _IN_FOLDER)
    user, home = _folder(host), f"{host.env.get('HOME')}/"
    yield from (f"{user}/{name}" for name in _IN_FOLDER)
    for place in places:
        yield from (f"{place}{name}" for name in _BESIDE)
        if place != home or user != _USUAL:
            yield from (f"{place}.claude/{name}" for name in _IN_FOLDER)


def _told_at_first(places: Sequence[str], host: Host) -> Iterator[str]:
    """Give what tells of the branch and the latest commits, and of Claude's own notes: guarded, it is told neither."""
    for place in places:
        yield f"{place}.git/logs/HEAD"
        yield f"{_folder(host)}/projects/{_UNFIT.sub('-', place[:-1] or place)}/memory/MEMORY.md"
