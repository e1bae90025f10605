"""Claude Code, one process a prompt: `claude -p` with stream-json on stdout.

Written against 2.1.197 (https://code.claude.com/docs/en/cli-reference); tests/unit/recordings/claude holds what it
prints. `posture` says how the approval and sandbox words become flags, `flags` builds the command, `decoder` reads
the stream, whose lines are in `wire`.
"""

from signal import SIGINT
from typing import TYPE_CHECKING

from clinvk.backends.base import Capabilities, Channel, Host, Launch, conversation
from clinvk.backends.claude.decoder import ClaudeDecoder
from clinvk.backends.claude.flags import ALIASES, SAFE_FLAGS, command, stdin
from clinvk.backends.claude.posture import posture
from clinvk.backends.oneshot import OneShotChannel
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
        return Launch(argv=argv, env=env, cwd=request.workdir, files=files, stop_signal=SIGINT)

    def channel(self, launch: Launch) -> Channel:
        """Make the channel of one process. SIGINT ends it and its tools, which SIGTERM would leave behind."""
        return OneShotChannel(ClaudeDecoder(), stdin)

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
