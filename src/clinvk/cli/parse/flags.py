"""The flags of each command: a struct of what was given, and how argparse reads them.

A flag's metavar says what its value is, to people and to the completion: DIR and FILE are paths, NAME is a backend.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from clinvk.config.model import OUTPUT_FORMATS, OutputFormat
from clinvk.types.orchestration import Isolation
from clinvk.types.record import RUN_STATES, RunState
from clinvk.types.request import APPROVAL_MODES, EFFORTS, SANDBOX_MODES, ApprovalMode, Effort, SandboxMode
from clinvk.types.session import SESSION_STATUSES, SessionStatus

ExportFormat = Literal["json", "markdown"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = ("json", "markdown")
ISOLATIONS: tuple[Isolation, ...] = ("none", "worktree")


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What every command takes. `words` are the arguments that are no flags."""

    words: tuple[str, ...] = ()
    backend: str | None = None
    model: str | None = None
    workdir: str | None = None
    output_format: OutputFormat | None = None
    config: str | None = None
    dry_run: bool = False
    ephemeral: bool = False
    help: bool = False


class RunFlags(Flags, frozen=True, kw_only=True):
    """What a prompt takes besides, be it the first of a conversation or a later one."""

    approval_mode: ApprovalMode | None = None
    sandbox_mode: SandboxMode | None = None
    system_prompt: str | None = None
    max_turns: int | None = None
    allowed_tools: list[str] | None = None
    add_dir: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    output_schema: str | None = None
    effort: Effort | None = None
    timeout: float | None = None
    verbose: bool = False
    no_stdin: bool = False


class PromptFlags(RunFlags, frozen=True, kw_only=True):
    """What `clinvk PROMPT` takes besides."""

    continue_: bool = False
    new: bool = False
    no_server: bool = False
    version: bool = False


class ResumeFlags(RunFlags, frozen=True, kw_only=True):
    """What `resume` takes besides."""

    last: bool = False
    here: bool = False
    interactive: bool = False
    no_server: bool = False


class ServeFlags(Flags, frozen=True, kw_only=True):
    """What `serve` takes besides."""

    host: str | None = None
    port: int | None = None
    insecure: bool = False


class KeyFlags(Flags, frozen=True, kw_only=True):
    """What `keys create` takes besides."""

    backends: list[str] | None = None
    allow_dir: tuple[str, ...] = ()
    rate: float | None = None
    burst: int | None = None
    tokens_per_day: int | None = None
    cost_per_day: float | None = None
    max_runs: int | None = None
    expires: str | None = None


class JsonFlags(Flags, frozen=True, kw_only=True):
    """What a command takes besides that tells something."""

    json: bool = False

    @property
    def wants_json(self) -> bool:
        """Whether the answer is for a program: `-o json` says it too where it is given."""
        return self.json or self.output_format == "json"


class ServiceFlags(Flags, frozen=True, kw_only=True):
    """What the commands of `service` take besides."""

    system: bool = False
    user: bool = False


class StatusFlags(ServiceFlags, frozen=True, kw_only=True):
    """What `service status` takes besides."""

    json: bool = False

    @property
    def wants_json(self) -> bool:
        """As that of `JsonFlags`."""
        return self.json or self.output_format == "json"


class InstallFlags(ServiceFlags, frozen=True, kw_only=True):
    """What `service install` and `service print` take besides."""

    run_as: str | None = None
    host: str | None = None
    port: int | None = None
    socket: bool = False


class ListFlags(JsonFlags, frozen=True, kw_only=True):
    """What `sessions list` takes besides."""

    status: SessionStatus | None = None
    tag: str | None = None
    search: str | None = None
    limit: int = 20
    here: bool = False


class DeleteFlags(JsonFlags, frozen=True, kw_only=True):
    """What `sessions delete` and `worktrees discard` take besides."""

    yes: bool = False


class CleanFlags(JsonFlags, frozen=True, kw_only=True):
    """What `sessions clean` takes besides."""

    older_than: str | None = None


class TagFlags(JsonFlags, frozen=True, kw_only=True):
    """What `sessions tag` takes besides."""

    remove: tuple[str, ...] = ()


class ExportFlags(JsonFlags, frozen=True, kw_only=True):
    """What `sessions export` takes besides."""

    format: ExportFormat | None = None
    output: str | None = None


class RunsFlags(JsonFlags, frozen=True, kw_only=True):
    """What `runs list` takes besides."""

    state: RunState | None = None
    parts: bool = False
    limit: int = 20
    here: bool = False


class WorktreesFlags(JsonFlags, frozen=True, kw_only=True):
    """What `worktrees list` takes besides."""

    here: bool = False


class WorktreeShowFlags(JsonFlags, frozen=True, kw_only=True):
    """What `worktrees show` takes besides."""

    diff: bool = False


class ApplyFlags(JsonFlags, frozen=True, kw_only=True):
    """What `worktrees apply` takes besides."""

    keep: bool = False


class TogetherFlags(JsonFlags, frozen=True, kw_only=True):
    """What `parallel`, `chain` and `compare` take besides."""

    quiet: bool = False


class ParallelFlags(TogetherFlags, frozen=True, kw_only=True):
    """What `parallel` takes besides."""

    file: str | None = None
    max_parallel: int | None = None
    fail_fast: bool = False
    isolation: Isolation | None = None


class ChainFlags(TogetherFlags, frozen=True, kw_only=True):
    """What `chain` takes besides."""

    file: str | None = None
    resume_from: str | None = None


class CompareFlags(RunFlags, frozen=True, kw_only=True):
    """What `compare` takes besides."""

    json: bool = False
    quiet: bool = False
    backends: list[str] | None = None
    all_backends: bool = False
    sequential: bool = False
    isolation: Isolation | None = None
    diff: bool = False
    check: str | None = None
    judge: str | None = None
    judge_prompt: str | None = None

    @property
    def wants_json(self) -> bool:
        """As that of `JsonFlags`."""
        return self.json or self.output_format == "json"


class OneOf:
    """Reads one of some words."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    def __call__(self, text: str) -> str:
        """Give the word, or say which there are."""
        if text not in self.words:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(self.words)}")
        return text


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `serve`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--host", help="address to listen on (default: server.host, 127.0.0.1)")
    own.add_argument(
        "--port", "-p", type=_whole(65535), metavar="N", help="port to listen on (default: server.port, 8080)"
    )
    own.add_argument("--insecure", action="store_true", help="ask for no API key, whoever reaches the address")


def add_key(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `keys create`."""
    own = parser.add_argument_group("flags for what the key may do (default: all)")
    own.add_argument("--backends", action="append", metavar="A,B", help="run only these agents")
    own.add_argument("--allow-dir", action="append", metavar="DIR", help="work in DIR or below (repeatable)")
    own.add_argument("--rate", type=_amount, metavar="N", help="N requests a second")
    own.add_argument("--burst", type=_whole(least=1), metavar="N", help="so many at once (default: those of a second)")
    own.add_argument("--tokens-per-day", type=_whole(least=1), metavar="N", help="N tokens a day, in and out (UTC)")
    own.add_argument("--cost-per-day", type=_amount, metavar="USD", help="so many US dollars a day (UTC)")
    own.add_argument("--max-runs", type=_whole(least=1), metavar="N", help="N runs at once; more wait")
    own.add_argument("--expires", metavar="TIME", help="refuse the key after 12h, 30d, 2w, or days (default: never)")


def add_service(parser: argparse.ArgumentParser) -> None:
    """Add the flags of all commands of `service`."""
    _add_service(parser.add_argument_group("flags").add_argument)


def add_install(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `service install` and `service print`."""
    add_service(parser)
    own = parser.add_argument_group("flags for what is served")
    own.add_argument("--run-as", metavar="USER", help="with --system: whose agents run (default: who called sudo)")
    own.add_argument("--host", help="address to listen on (default: server.host)")
    own.add_argument("--port", "-p", type=_whole(65535), metavar="N", help="port to listen on (default: server.port)")
    own.add_argument("--socket", action="store_true", help="let systemd listen: a restart loses no request")


def add_status(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `service status`."""
    own = parser.add_argument_group("flags")
    _add_service(own.add_argument)
    _add_json(own.add_argument)


def _add_service(add: Callable[..., object]) -> None:
    add("--system", action="store_true", help="a service of this machine (the default for root)")
    add("--user", action="store_true", help="a service of your own (the default for others)")


def add_prompt(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a prompt."""
    which = parser.add_argument_group("flags for which conversation")
    which.add_argument(
        "--continue", "-c", dest="continue_", action="store_true", help="go on with the newest (of --backend, of -w)"
    )
    which.add_argument("--new", action="store_true", help="begin one, whatever was asked here before")
    _add_run(parser, _add_no_server)
    parser.add_argument_group("more").add_argument("--version", action="store_true", help="show the version")


def add_resume(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `resume`."""
    which = parser.add_argument_group("flags for which conversation")
    which.add_argument("--last", action="store_true", help="the newest (of --backend, of -w)")
    which.add_argument("--here", action="store_true", help="only those of this directory")
    which.add_argument("--interactive", "-i", action="store_true", help="open it in the agent's own program")
    _add_run(parser, _add_no_server)


def _add_run(parser: argparse.ArgumentParser, *more: Callable[[Callable[..., object]], None]) -> None:
    own = parser.add_argument_group("flags for a prompt")
    own.add_argument(
        "--approval-mode",
        type=OneOf(APPROVAL_MODES),
        metavar="MODE",
        help="when the agent asks: default, auto (edits unasked), none (never), always",
    )
    own.add_argument(
        "--sandbox-mode",
        type=OneOf(SANDBOX_MODES),
        metavar="MODE",
        help="what it may write: default, read-only, workspace, full",
    )
    own.add_argument("--allowed-tools", action="append", metavar="A,B", help="only these tools, by the agent's names")
    own.add_argument("--add-dir", action="append", metavar="DIR", help="one more directory it may use (repeatable)")
    own.add_argument("--image", action="append", metavar="FILE", help="a picture that goes with it (repeatable)")
    own.add_argument("--output-schema", metavar="FILE", help="JSON Schema that the answer must fit")
    own.add_argument(
        "--effort", type=OneOf(EFFORTS), metavar="LEVEL", help="how hard to think: none, minimal, low, … max"
    )
    own.add_argument("--system-prompt", metavar="TEXT", help="instructions that stand before the prompt")
    own.add_argument("--max-turns", type=_whole(), metavar="N", help="at most N requests to the model (0: no limit)")
    own.add_argument("--timeout", type=_seconds, metavar="SECS", help="stop the agent after so long (0: never)")
    own.add_argument("--no-stdin", action="store_true", help="leave stdin alone")
    for add in more:
        add(own.add_argument)
    own.add_argument("--verbose", "-v", action="store_true", help="show tools and the agent's stderr, on stderr")


def _add_no_server(add: Callable[..., object]) -> None:
    add("--no-server", action="store_true", help="start the agent here, though a clinvk serve may have one ready")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the flag of a command that tells something."""
    _add_json(parser.add_argument_group("flags").add_argument)


def _add_json(add: Callable[..., object]) -> None:
    add("--json", action="store_true", help="print JSON, for programs (-o json says so too)")


def add_list(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `sessions list`."""
    own = parser.add_argument_group("flags")
    own.add_argument(
        "--status", type=OneOf(SESSION_STATUSES), metavar="STATUS", help=f"only {', '.join(SESSION_STATUSES)}"
    )
    own.add_argument("--tag", metavar="TAG", help="only those with this tag")
    own.add_argument("--search", metavar="TEXT", help="only those with this text in title or first prompt")
    _add_newest(own.add_argument)


def _add_newest(add: Callable[..., object]) -> None:
    add("--here", action="store_true", help="only those of this directory (--workdir: of that one)")
    add("--limit", "-n", type=_whole(), metavar="N", help="at most N, the newest (default: 20; 0: all)")
    _add_json(add)


def add_delete(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `sessions delete` and `worktrees discard`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--yes", "-y", action="store_true", help="do not ask")
    _add_json(own.add_argument)


def add_clean(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `sessions clean`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--older-than", metavar="AGE", help="12h, 30d, 2w, or days (default: session.retention_days)")
    _add_json(own.add_argument)


def add_tag(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `sessions tag`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--remove", action="append", metavar="TAG", help="take a tag away (repeatable)")
    _add_json(own.add_argument)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `sessions export`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--format", type=OneOf(EXPORT_FORMATS), metavar="FORMAT", help="markdown (the default) or json")
    own.add_argument("--output", "-O", metavar="FILE", help="write to a file, not to stdout")
    _add_json(own.add_argument)


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `runs list`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--state", type=OneOf(RUN_STATES), metavar="STATE", help=f"only {', '.join(RUN_STATES)}")
    own.add_argument("--parts", action="store_true", help="those too that are a part of parallel, chain, compare")
    _add_newest(own.add_argument)


def add_worktrees(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `worktrees list`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--here", action="store_true", help="only those of this repository (--workdir: of that one)")
    _add_json(own.add_argument)


def add_worktree_show(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `worktrees show`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--diff", action="store_true", help="print the diff alone, whole: a patch for git apply")
    _add_json(own.add_argument)


def add_apply(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `worktrees apply`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--keep", action="store_true", help="do not remove the worktree")
    _add_json(own.add_argument)


def add_parallel(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `parallel`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--file", "-f", metavar="FILE", help="the tasks: JSON, YAML, JSON Lines (default, and -: stdin)")
    own.add_argument("--max-parallel", type=_whole(least=1), metavar="N", help="at most N agents at once")
    own.add_argument("--fail-fast", action="store_true", help="the first failure ends the others")
    _add_isolation(own.add_argument, "a task")
    _add_together(own.add_argument)


def add_chain(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `chain`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--file", "-f", metavar="FILE", help="the steps: JSON, YAML, JSON Lines (default, and -: stdin)")
    own.add_argument("--resume-from", metavar="ID", help="go on with a chain at its first step that is not finished")
    _add_together(own.add_argument)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `compare`."""
    own = parser.add_argument_group("flags")
    own.add_argument("--backends", action="append", metavar="A,B", help="the agents")
    own.add_argument("--all-backends", action="store_true", help="all that are installed and enabled")
    own.add_argument("--sequential", action="store_true", help="one after the other")
    _add_isolation(own.add_argument, "an agent")
    own.add_argument("--diff", action="store_true", help="show what each changed, or how the answers differ")
    own.add_argument("--check", metavar="CMD", help="shell command that is run in each worktree; 0 is passed")
    own.add_argument("--judge", metavar="NAME", help="one more agent, which names the best answer")
    own.add_argument("--judge-prompt", metavar="TEXT", help="what counts for it besides")
    _add_together(own.add_argument)
    _add_run(parser)


def _add_isolation(add: Callable[..., object], whose: str) -> None:
    add("--isolation", type=OneOf(ISOLATIONS), metavar="WHERE", help=f"worktree: {whose} has a git worktree of its own")


def _add_together(add: Callable[..., object]) -> None:
    add("--quiet", "-q", action="store_true", help="no progress, no answers: the table alone")
    _add_json(add)


def add_global(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every command."""
    group = parser.add_argument_group("flags for every command")
    group.add_argument("--backend", "-b", metavar="NAME", help="agent CLI: claude, codex, gemini")
    group.add_argument("--model", "-m", help="its name for the model, or fast, balanced, best")
    group.add_argument("--workdir", "-w", metavar="DIR", help="directory the agent works in (default: here)")
    group.add_argument(
        "--output-format",
        "-o",
        type=OneOf(OUTPUT_FORMATS),
        metavar="FORMAT",
        help="text, json or stream-json (default: output.format, json)",
    )
    group.add_argument("--config", metavar="FILE", help="settings file (default: ~/.clinvk/config.yaml)")
    group.add_argument("--dry-run", action="store_true", help="show the command and run nothing")
    group.add_argument("--ephemeral", action="store_true", help="keep no record of the conversation")
    group.add_argument("--help", "-h", action="store_true", help="show help")


def _whole(most: int | None = None, least: int = 0) -> Callable[[str], int]:
    allowed = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"

    def read_number(text: str) -> int:
        is_number = text.isascii() and text.isdecimal() and len(text) <= 18
        if not is_number or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")
        return int(text)

    return read_number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (0 <= seconds < math.inf):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return seconds


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not (0 < amount < math.inf):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return amount
