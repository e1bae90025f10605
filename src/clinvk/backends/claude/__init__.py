"""Claude Code: `claude -p` with stream-json on stdout, one process a prompt or one a conversation.

Written against 2.1.197 (https://code.claude.com/docs/en/cli-reference); tests/unit/recordings/claude holds what it
prints. `posture` says how the approval and sandbox words become flags, `flags` builds the command, `decoder` reads
the stream, whose lines are in `wire`; `conversing` is the protocol with a process that stays.
"""

from collections.abc import Iterator, Sequence
from signal import SIGINT
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.backends.base import MOST_RUNS, Capabilities, Channel, Host, Launch, conversation
from clinvk.backends.claude.conversing import PING, ConversationChannel
from clinvk.backends.claude.decoder import ClaudeDecoder
from clinvk.backends.claude.flags import ALIASES, SAFE_FLAGS, command, continuing, stdin, streamed
from clinvk.backends.claude.posture import posture
from clinvk.backends.oneshot import OneShotChannel
from clinvk.backends.places import upwards
from clinvk.request import RunRequest
from clinvk.session import Resume

if TYPE_CHECKING:
    from clinvk.backends.checkup import Checkup

_FAMILIES = frozenset({"sonnet", "opus", "haiku", "fable", "opusplan"})


class Claude:
    """The backend of Claude Code."""

    name = "claude"
    executable = "claude"
    install = "npm install -g @anthropic-ai/claude-code"
    vendor = "anthropic"
    models: tuple[str, ...] = ("sonnet", "opus", "haiku")
    capabilities = Capabilities()
    safe_flags = SAFE_FLAGS
    folders: tuple[str, ...] = ("~/.claude", "$CLAUDE_CONFIG_DIR")

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Say how to start `claude -p` for this request.

        Raises:
            Unsupported: an approval, sandbox or tool rule that Claude Code cannot honour.
            InvalidRequest: a malformed option, or an `extra` flag that would override what clinvk sets.
        """
        argv, files, env = command(request, resume, posture(request, host))
        alone = Launch(argv=argv, env=env, cwd=request.workdir, files=files, stop_signal=SIGINT)
        kept = replace(
            alone,
            argv=streamed(argv),
            long_lived=True,
            continuing=continuing(argv),
            reads=tuple(_read_at_start(request, host)),
            takes_up="started",
            most_runs=1 if _holds_for_the_process(request) else MOST_RUNS,
            ping=PING,
        )
        return replace(alone, warm=kept)

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Make the channel of one process. SIGINT ends it and its tools, which SIGTERM would leave behind."""
        return ConversationChannel() if launch.long_lived else OneShotChannel(ClaudeDecoder(), stdin)

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
    return host.env.get("CLAUDE_CONFIG_DIR") or "~/.claude"


def _read_at_start(request: RunRequest, host: Host) -> Iterator[str]:
    """Give the instructions and settings that a process started now would find."""
    here, *above = upwards(host.resolve(request.workdir or ""))
    yield from (f"{_folder(host)}/{name}" for name in ("CLAUDE.md", "settings.json"))
    yield from (f"{place}{name}" for place in (here, *above) for name in ("CLAUDE.md", "CLAUDE.local.md"))
    yield from (f"{here}{name}" for name in (".mcp.json", ".claude/settings.json", ".claude/settings.local.json"))
