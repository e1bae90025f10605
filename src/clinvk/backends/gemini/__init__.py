"""Gemini CLI: `gemini -o stream-json` with the prompt on stdin, one process a prompt, or `gemini --acp` for many.

Everything here was tried with Gemini CLI 0.61.0. How it takes a prompt, and what clinvk does about it:

- `@path` in a prompt puts the file's text into it; that stays, unless the prompt is data: see `asking`, also for `/`.
- Of more than 8 MiB the CLI silently reads the first 8: such a prompt is refused.
- `GEMINI_SYSTEM_MD` replaces all of the CLI's own system prompt and nothing appends to it, so that a system prompt
  comes before the prompt, marked as such.
- It has no flag for a limit of turns, and none that keeps it from recording; see `home` for the latter.
- `--resume` goes on with a conversation of the working directory; `--session-file` copies one, under an id of its own.

Only where the agent may act unasked anyway, `--skip-trust` has the CLI take the project's folder as trusted; in any
other folder it would not act unasked. The flag comes too late for the project's `settings.json`, with its hooks, MCP
servers and allowed tools: the CLI has read its settings by then, and takes those only where `trustedFolders.json` or
`GEMINI_CLI_TRUST_WORKSPACE` already said so. The project's `.env`, with any variable, and its skills do act.

In every case the CLI runs in a home of its own; where it may act unasked, that is as the user's.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from clinvk.backends.base import PRIVATE, Capabilities, Channel, Host, Launch, conversation
from clinvk.backends.gemini import home, prompt_delivery
from clinvk.backends.gemini.acp import PING, ProtocolChannel
from clinvk.backends.gemini.decoder import GeminiDecoder
from clinvk.backends.gemini.flags import SAFE_FLAGS, check_extra
from clinvk.backends.gemini.permissions import Leave, grants, leave, limits, settled
from clinvk.backends.shared import OneShotChannel
from clinvk.types.errors import InvalidRequest, Unsupported
from clinvk.types.request import RunRequest
from clinvk.types.session import Resume

if TYPE_CHECKING:
    from clinvk.backends.checkup_base import Checkup

MAX_PROMPT_BYTES = 8 * 1024 * 1024

_ALIASES = {
    "fast": "flash-lite",
    "quick": "flash-lite",
    "balanced": "flash",
    "default": "flash",
    "best": "pro",
    "powerful": "pro",
}
_ALONE = "--output-format=stream-json"
_QUIET = {"GEMINI_CLI_NO_RELAUNCH": "true", "TERM": "xterm-256color", "COLORTERM": "truecolor"}
"""Without a relaunch a signal reaches the process that works; on a plain terminal the CLI complains of its colours."""

_MOST_RUNS = 50
"""With each session that it begins, `gemini --acp` makes the system prompts of all earlier ones anew, and none can be
closed: after so many runs that has cost about what it costs to start another process.
"""

_STRICT = {
    "GEMINI_CLI_TRUST_WORKSPACE": "false",
    "GEMINI_SANDBOX": "false",
    "GEMINI_CLI_HOME": home.HOME,
    "TMPDIR": PRIVATE,
}


class Gemini:
    """The Gemini CLI."""

    name = "gemini"
    executable = "gemini"
    install = "npm install -g @google/gemini-cli"
    vendor = "gcp.gemini"
    models: tuple[str, ...] = (
        "pro",
        "flash",
        "flash-lite",
        "auto",
        "gemini-3.1-pro-preview",
        "gemini-3.8-flash",
        "gemini-3.5-flash",
        "gemini-3.5-flash-lite",
        "gemini-2.5-pro",
    )
    aliases: Mapping[str, str | None] = _ALIASES
    capabilities = Capabilities()
    holds_system = True
    safe_flags = SAFE_FLAGS
    folders: tuple[str, ...] = ("~/.gemini", "$GEMINI_CLI_HOME/.gemini")

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Say how to start the CLI for this request."""
        _check(request)
        allowed = leave(request)
        check_extra(request.extra, open_words=allowed.open and allowed.only is None)
        files, links, env = _surroundings(request, resume, allowed, host)
        asked = prompt_delivery.files(request)
        own = (f"--include-directories={folder}" for folder in prompt_delivery.directories(asked))
        return Launch(
            argv=(self.executable, _ALONE, *_arguments(request, resume, allowed, host), *own, *request.extra),
            env={**_QUIET, **env},
            cwd=request.workdir,
            files=files | asked,
            links=links,
            counted_turns=request.max_turns or None,
            asks_again=True,
            warm=_kept(self.executable, request, resume, allowed, host),
        )

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Make the state machine for one process of this launch."""
        return (
            ProtocolChannel(launch.opening, host)
            if launch.opening
            else OneShotChannel(GeminiDecoder(), prompt_delivery.stdin)
        )

    def checkup(self, host: Host) -> "Checkup":
        """Say how to find out, without a prompt, whether the installed CLI can be used."""
        from clinvk.backends.gemini.checkup import checkup  # no prompt waits for it

        return checkup(self, host)

    def interactive(self, resume: Resume, model: str | None) -> tuple[str, ...]:
        """Give the command that opens a conversation in the CLI itself; it finds it only in its directory."""
        chosen = [f"--model={_ALIASES.get(model, model)}"] if model else []
        return (self.executable, *chosen, f"--resume={conversation(resume, 'gemini')}")

    def claims(self, model: str) -> bool:
        """Say whether a model of this name is this backend's."""
        return model.lower().startswith(("gemini", "auto-gemini"))

    def records(self, handle: str, host: Host) -> Sequence[str]:
        """Give the files of a conversation."""
        return home.conversation_files(handle, host)


def _kept(executable: str, request: RunRequest, resume: Resume | None, allowed: Leave, host: Host) -> Launch | None:
    """Say how a process for many prompts carries this one; None where it could not do so in the same way.

    It runs no hooks, which may be all that holds an agent that acts unasked. It has neither the CLI's own words for
    files and commands in a prompt, nor a conversation that it did not begin; and what nobody is there to allow it would
    do in part: there the rules leave it nothing to ask, and the user's cannot.
    """
    if (
        allowed.open
        or allowed.asks
        or request.extra
        or request.output_schema is not None
        or not prompt_delivery.is_plain(request)
        or home.limits_turns(host)
    ):
        return None
    if (resume and resume.fork) or (allowed.only is None and home.has_rules(host)):
        return None
    rules = settled(allowed)
    files, links, env = _surroundings(msgspec.structs.replace(request, literal=False), None, rules, host)
    place = host.resolve(request.workdir or "")  # by any other name it would be another project
    return Launch(
        argv=(executable, "--acp", *_arguments(request, None, rules, host)),
        env={**_QUIET, **env},
        cwd=request.workdir,
        files=files,
        links=links,
        long_lived=True,
        opening={"cwd": place, "mcpServers": []},
        counted_turns=request.max_turns or None,
        reads=home.read_at_start(place, host),
        takes_up="held",
        most_runs=_MOST_RUNS,
        ping=PING,
    )


def _check(request: RunRequest) -> None:
    if len(prompt_delivery.told(request).encode(errors="replace")) > MAX_PROMPT_BYTES:
        raise InvalidRequest(f"the prompt is longer than the {MAX_PROMPT_BYTES} bytes that gemini reads", "prompt")
    for index, folder in enumerate(request.add_dirs):
        if "," in folder or folder != folder.strip():
            raise Unsupported(
                f"gemini cannot be given {folder!r}: it takes no directory with a comma, or a space at an end",
                f"add_dirs[{index}]",
            )
    values = {"model": request.model, "workdir": request.workdir}
    values |= {f"add_dirs[{index}]": folder for index, folder in enumerate(request.add_dirs)}
    for field, value in values.items():
        if value and "\0" in value:
            raise InvalidRequest(f"{field} {value!r} holds a NUL character", field)


def _arguments(request: RunRequest, resume: Resume | None, allowed: Leave, host: Host) -> list[str]:
    arguments = [f"--approval-mode={'yolo' if allowed.open else 'default'}"]
    if allowed.open:
        arguments.append("--skip-trust")
    if request.model:
        arguments.append(f"--model={_ALIASES.get(request.model, request.model)}")
    if resume:
        arguments.append(_continued(resume, host))
    arguments += [f"--include-directories={folder}" for folder in request.add_dirs]
    if limits(allowed):
        # Rules given so stand above the user's, unless the administrator has rules: then the CLI leaves these away.
        arguments.append(f"--admin-policy={PRIVATE}/limits.toml")
        if allowed.asks or allowed.edits or allowed.only is not None:
            arguments.append(f"--policy={PRIVATE}/limits.toml")
    if allowed.edits:
        # A rule file that is named takes the place of the user's own, which therefore is named too.
        arguments += [f"--policy={PRIVATE}/grants.toml", f"--policy={home.HOME}/.gemini/policies"]
    return arguments


def _continued(resume: Resume, host: Host) -> str:
    known = conversation(resume, "gemini")
    if not resume.fork:
        return f"--resume={known}"
    files = home.conversation_files(known, host)
    return f"--session-file={files[0] if files else known}"


def _surroundings(
    request: RunRequest, resume: Resume | None, allowed: Leave, host: Host
) -> tuple[dict[str, bytes], dict[str, str], dict[str, str]]:
    """Give the files, the links and the environment in which the CLI runs."""
    rules = {"limits.toml": limits(allowed), "grants.toml": grants(allowed)}
    files = {name: text for name, text in rules.items() if text}
    if not allowed.open:
        settings, links = home.strict(allowed, request, host)
        if not request.ephemeral or resume:
            links |= home.records(host)
        return {**files, **settings}, links, _STRICT
    settings, links = home.as_the_users(request, host)
    if request.ephemeral and not resume:
        return {**files, **settings}, links, {"GEMINI_CLI_HOME": home.HOME, "TMPDIR": PRIVATE}
    return {**files, **settings}, {**links, **home.records(host)}, {"GEMINI_CLI_HOME": home.HOME}
