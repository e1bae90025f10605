"""The flags of each command: a struct of what was given, and how argparse reads them.

A flag's metavar says what its value is, to people and to the completion: DIR and FILE are paths, NAME is a backend.
"""

import argparse
import math
from collections.abc import Callable, Sequence

import msgspec

from clinvk.config import OUTPUT_FORMATS, OutputFormat
from clinvk.request import APPROVAL_MODES, SANDBOX_MODES, ApprovalMode, SandboxMode


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


class PromptFlags(Flags, frozen=True, kw_only=True):
    """What a prompt takes besides."""

    approval_mode: ApprovalMode | None = None
    sandbox_mode: SandboxMode | None = None
    system_prompt: str | None = None
    max_turns: int | None = None
    allowed_tools: list[str] | None = None
    add_dir: tuple[str, ...] = ()
    timeout: float | None = None
    verbose: bool = False
    no_stdin: bool = False
    version: bool = False


class ServeFlags(Flags, frozen=True, kw_only=True):
    """What `serve` takes besides."""

    host: str | None = None
    port: int | None = None


class JsonFlags(Flags, frozen=True, kw_only=True):
    """What a command takes besides that tells something."""

    json: bool = False

    @property
    def wants_json(self) -> bool:
        """Whether the answer is for a program: `-o json` says it too where it is given."""
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


def add_prompt(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a prompt."""
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
    own.add_argument("--system-prompt", metavar="TEXT", help="instructions that stand before the prompt")
    own.add_argument("--max-turns", type=_whole(), metavar="N", help="at most N requests to the model (0: no limit)")
    own.add_argument("--timeout", type=_seconds, metavar="SECS", help="stop the agent after so long (0: never)")
    own.add_argument("--no-stdin", action="store_true", help="leave stdin alone")
    own.add_argument("--verbose", "-v", action="store_true", help="show tools and the agent's stderr, on stderr")
    own.add_argument("--version", action="store_true", help="show the version")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the flag of a command that tells something."""
    own = parser.add_argument_group("flags")
    own.add_argument("--json", action="store_true", help="print JSON, for programs (-o json says so too)")


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


def _whole(most: int | None = None) -> Callable[[str], int]:
    allowed = "a whole number, 0 or more" if most is None else f"a whole number from 0 to {most}"

    def read_number(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or len(text) > 18 or (most is not None and int(text) > most):
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
