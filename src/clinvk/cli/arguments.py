"""argv as typed flags. Flags stand before or after the command or the prompt; `--` ends them."""

import argparse
import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import NamedTuple, NoReturn, TypeVar

import msgspec

from clinvk.cli import help as texts
from clinvk.config import OUTPUT_FORMATS, OutputFormat
from clinvk.errors import InvalidRequest
from clinvk.request import APPROVAL_MODES, SANDBOX_MODES, ApprovalMode, SandboxMode

COMMANDS = ("serve", "version", "help")
_KEPT_WORDS = ("resume", "sessions", "parallel", "chain", "compare", "config", "doctor")
"""Words that people who know clinvk type as a command: one of them is not sent to an agent by mistake."""


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


_F = TypeVar("_F", bound=Flags)


class Asked(NamedTuple):
    """The command, empty for a prompt, and its flags."""

    command: str
    flags: Flags


def read(argv: Sequence[str]) -> Asked:
    """Read the command line, program name left out.

    Raises:
        InvalidRequest: an unknown flag, a wrong value, a word too many, or a word that looks like a command.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    flags, unknown = _parse(parser_of(""), PromptFlags, argv[:end])
    command = flags.words[0] if flags.words else ""
    if command in COMMANDS:
        return _command(command, argv)
    _refuse_near_commands(command)
    _refuse_unknown(unknown, PromptFlags, "")
    words = (*flags.words, *argv[end + 1 :])
    if len(words) > 1:
        raise InvalidRequest(f"the prompt must be one argument, got {len(words)}; put it in quotes")
    return Asked("", msgspec.structs.replace(flags, words=words))


def _command(command: str, argv: Sequence[str]) -> Asked:
    kind = ServeFlags if command == "serve" else Flags
    flags, unknown = _parse(parser_of(command), kind, [word for word in argv if word != "--"])
    _refuse_unknown(unknown, kind, command)
    words = flags.words[1:]
    if len(words) > (1 if command == "help" else 0):
        raise InvalidRequest(f"{command} takes no argument {words[-1]!r}")
    return Asked(command, msgspec.structs.replace(flags, words=words))


def _parse(parser: "Parser", kind: type[_F], argv: Sequence[str]) -> tuple[_F, list[str]]:
    """Give the flags, and what looks like a flag but is none of the parser's."""
    known, rest = parser.parse_known_args(argv)
    given = {name: value for name, value in vars(known).items() if value is not None}
    words = [*given.pop("words", ()), *(word for word in rest if not _is_flag(word))]
    unknown = [word for word in rest + words if _is_flag(word)]
    return msgspec.convert({**given, "words": [word for word in words if not _is_flag(word)]}, kind), unknown


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _refuse_unknown(unknown: Sequence[str], kind: type[Flags], command: str) -> None:
    if not unknown:
        return
    name = unknown[0].split("=", 1)[0]
    known = [f"--{field.name.replace('_', '-')}" for field in msgspec.structs.fields(kind) if field.name != "words"]
    if near := get_close_matches(name, known, n=1):
        raise InvalidRequest(f"no flag {name!r}; did you mean {near[0]}?")
    if command:
        raise InvalidRequest(f"{command} has no flag {name!r}; see clinvk help {command}")
    raise InvalidRequest(f"no flag {name!r}; see clinvk help; a prompt that begins with - stands after --")


def _refuse_near_commands(word: str) -> None:
    """Refuse a single word that is, or nearly is, a command: an agent would be paid to answer a typing mistake."""
    if not word or len(word.split()) != 1 or len(word) > 20:
        return
    near = get_close_matches(word.lower(), (*COMMANDS, *_KEPT_WORDS), n=1, cutoff=0.8)
    if near:
        hint = f"did you mean {near[0]!r}? " if near[0] in COMMANDS else ""
        raise InvalidRequest(f"no command {word!r}; {hint}as a prompt it stands after --: clinvk -- {word}")


def is_utf8(text: str) -> bool:
    """Say whether a text of the system was UTF-8: for other bytes Python puts half characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Parser(argparse.ArgumentParser):
    """argparse with our errors: exit code 2 is not theirs, and no flag is guessed from its beginning."""

    def __init__(self, command: str, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"clinvk {command}".strip(),
            usage=usage,
            description=description,
            epilog=epilog,
            add_help=False,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28),
        )
        self.add_argument("words", nargs="*", help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise InvalidRequest(message.removeprefix("argument "))


def parser_of(command: str) -> Parser:
    """Make the parser of a command; the empty name is that of a prompt."""
    parser = Parser(command, *texts.COMMANDS[command])
    if command == "serve":
        _add_serve(parser)
    if not command:
        _add_prompt(parser)
    _add_global(parser)
    return parser


def _add_serve(parser: Parser) -> None:
    own = parser.add_argument_group("flags")
    own.add_argument("--host", help="address to listen on (default: server.host, 127.0.0.1)")
    own.add_argument(
        "--port", "-p", type=_whole(65535), metavar="N", help="port to listen on (default: server.port, 8080)"
    )


def _add_prompt(parser: Parser) -> None:
    own = parser.add_argument_group("flags for a prompt")
    own.add_argument(
        "--approval-mode",
        type=_one_of(APPROVAL_MODES),
        metavar="MODE",
        help="when the agent asks: default, auto (edits unasked), none (never), always",
    )
    own.add_argument(
        "--sandbox-mode",
        type=_one_of(SANDBOX_MODES),
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


def _add_global(parser: Parser) -> None:
    group = parser.add_argument_group("flags for every command")
    group.add_argument("--backend", "-b", metavar="NAME", help="agent CLI: claude, codex, gemini")
    group.add_argument("--model", "-m", help="its name for the model, or fast, balanced, best")
    group.add_argument("--workdir", "-w", metavar="DIR", help="directory the agent works in (default: here)")
    group.add_argument(
        "--output-format",
        "-o",
        type=_one_of(OUTPUT_FORMATS),
        metavar="FORMAT",
        help="text, json or stream-json (default: output.format, json)",
    )
    group.add_argument("--config", metavar="FILE", help="settings file (default: ~/.clinvk/config.yaml)")
    group.add_argument("--dry-run", action="store_true", help="show the command and run nothing")
    group.add_argument("--ephemeral", action="store_true", help="keep no record of the conversation")
    group.add_argument("--help", "-h", action="store_true", help="show help")


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def read_word(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return read_word


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
