"""Parse argv into typed flags, and format the pages of `clinvk help`.

Flags stand before or after the command or the prompt; `--` ends them.
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from clinvk.cli.parse import commands
from clinvk.cli.parse.flags import Flags, PromptFlags, RunFlags
from clinvk.types.errors import InvalidRequest
from clinvk.types.text import nearest, unknown_name


class ParsedCommand(NamedTuple):
    """The command, empty for a prompt, and its flags."""

    command: str
    flags: Flags


def read(argv: Sequence[str]) -> ParsedCommand:
    """Parse the command line, without the program name.

    Raises:
        InvalidRequest: a flag is unknown, a value is invalid, an argument is missing or superfluous, or a prompt of one
            word looks like a command.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    before, after = argv[:end], argv[end + 1 :]
    flags, unknown = _parse("", before)
    assert isinstance(flags, PromptFlags)
    if flags.words[:1] == ("service",):
        raise InvalidRequest("there is no command service; clinvk help service prints the units of systemd and launchd")
    if flags.help and flags.words and flags.words[0] not in commands.FIRST_WORDS:
        command_named(flags.words)
    # The parser of a prompt takes the values of other flags for words, such as the port of -p.
    words = commands.split_words(before).arguments if unknown or flags.print else flags.words
    if words and words[0] in commands.FIRST_WORDS:
        return _command(words, before, after)
    if before[:1] != unknown[:1]:  # else the word may be the value of the unknown flag
        _refuse_near_commands(words[0] if words else "")
    _refuse_unknown(unknown, "")
    words = (*flags.words, *after)
    if len(words) > 1:
        raise InvalidRequest(f"the prompt must be one argument, got {len(words)}; put it in quotes")
    return ParsedCommand("", flags.with_words(words))


def _command(words: Sequence[str], before: Sequence[str], after: Sequence[str]) -> ParsedCommand:
    if words[0] in commands.GROUPS and len(words) == 1 and {"--help", "-h"} & set(before):
        return ParsedCommand(words[0], Flags(help=True))
    if words[0] in commands.GROUPS and words[1:2] and words[1] not in commands.members(words[0]):
        name = commands.ALONE[words[0]]
        _refuse_unknown(_parse(name, before)[1], name)  # the word may be the value of the unknown flag
    name = command_named(words)
    flags, unknown = _parse(name, before)
    _refuse_unknown(unknown, name)
    own = (*flags.words[min(len(words), len(name.split())) :], *after)
    if not flags.help:
        _check_count(name, own)
    return ParsedCommand(name, flags.with_words(own))


def command_named(words: Sequence[str]) -> str:
    """Return the name of the command at the beginning of the arguments.

    Raises:
        InvalidRequest: the command does not exist.
    """
    first = words[0]
    if first not in commands.FIRST_WORDS:
        raise InvalidRequest(unknown_name("command", first, commands.FIRST_WORDS))
    if first not in commands.GROUPS:
        return first
    second = words[1] if len(words) > 1 else ""
    if second in commands.members(first):
        return f"{first} {second}"
    if not second:
        return commands.ALONE[first]
    raise InvalidRequest(unknown_name("command", f"{first} {second}", commands.members(first), nearest_to=second))


def _check_count(name: str, words: Sequence[str]) -> None:
    command = commands.COMMANDS[name]
    if command.most is not None and len(words) > command.most:
        raise InvalidRequest(f"{name} takes no argument {words[-1]!r}; see clinvk help {name}")
    if len(words) < command.least:
        raise InvalidRequest(f"{name} needs {command.arguments[len(words)]}; usage: {commands.help_of(name).usage}")


def _parse(name: str, argv: Sequence[str]) -> tuple[Flags, list[str]]:
    """Return the flags of a command, and the words that look like flags but are unknown."""
    known, rest = parser_of(name).parse_known_args(argv)
    given: dict[str, Any] = vars(known)
    words: list[str] = [*given.pop("words", ()), *(word for word in rest if not _is_flag(word))]
    unknown = [word for word in rest + words if _is_flag(word)]
    return commands.command_of(name).flags(**given).with_words([word for word in words if not _is_flag(word)]), unknown


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word != "-"


def _refuse_unknown(unknown: Sequence[str], name: str) -> None:
    if not unknown:
        return
    flag, command = unknown[0].split("=", 1)[0], commands.command_of(name)
    known = [spec.names[0].lstrip("-") for spec in commands.flags_shown(name) if spec.help]
    hint = "; put -- before a value that begins with -" if "VALUE" in command.arguments else ""
    if flag == "--json" and issubclass(command.flags, RunFlags):
        raise InvalidRequest(f"unknown flag {flag!r}{f' of {name}' if name else ''}; use -o json")
    every = ((other, spec) for other in ("", *commands.COMMANDS) for spec in commands.flags_shown(other) if spec.help)
    owners = list(dict.fromkeys(other for other, spec in every if flag in spec.names))
    if owners and not name:
        raise InvalidRequest(f"unknown flag {flag!r} of a prompt; it is a flag of {', '.join(owners)}")
    # Without the dashes, which all flags share.
    if not owners and (near := nearest(flag.lstrip("-"), known, likeness=0.55)):
        raise InvalidRequest(f"unknown flag {flag!r}{hint}; did you mean --{near}?")
    if not name:
        raise InvalidRequest(
            f"unknown flag {flag!r}; see clinvk help prompt; put -- before a prompt that begins with -"
        )
    raise InvalidRequest(f"{name} has no flag {flag!r}; see clinvk help {name}{hint}")


def _refuse_near_commands(word: str) -> None:
    """Refuse a single word that nearly is a command: the answer to a typing mistake would cost money.

    A word that begins with a slash may be a command of the agent.
    """
    if not word or word.startswith("/") or len(word.split()) != 1 or len(word) > 20:
        return
    if near := nearest(word.lower(), commands.FIRST_WORDS, likeness=0.8):
        raise _not_a_command(word, near)


def refuse_typing_mistake(word: str) -> None:
    """Refuse a prompt of one word on a terminal if it resembles a command, or is part of one: `hlep`, `list`.

    Raises:
        InvalidRequest: names the command, and how to send the word as a prompt.
    """
    if near := nearest(word.lower(), commands.FIRST_WORDS, likeness=0.75):
        raise _not_a_command(word, near)
    seconds = {name.split()[1]: name for name in reversed(commands.COMMANDS) if " " in name}
    if near := nearest(word.lower(), seconds, likeness=0.8):
        raise _not_a_command(word, seconds[near])


def _not_a_command(word: str, command: str) -> InvalidRequest:
    return InvalidRequest(
        f"{word!r} is not a command; did you mean `clinvk {command}`? To send it as a prompt: clinvk -- {word}"
    )


def is_utf8(text: str) -> bool:
    """Return whether a text of the system was UTF-8: Python decodes other bytes as surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Write a flag as `-b, --backend NAME`, for 80 columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=78)  # else argparse imports shutil, for every command

    def _format_action_invocation(self, action: argparse.Action) -> str:
        short = next((f"{name}, " for name in action.option_strings if not name.startswith("--")), " " * 4)
        return f"{short}{action.option_strings[0]} {action.metavar or ''}".rstrip()


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises `InvalidRequest`, and takes no abbreviated flags."""

    def __init__(self, name: str) -> None:
        super().__init__(
            prog=f"clinvk {name}".strip(),
            add_help=False,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=_Formatter,
        )
        self._name = name
        self.add_argument("words", nargs="*", help=argparse.SUPPRESS)

    def format_help(self) -> str:
        """Return the help; the texts are read only here, as most commands print no help."""
        text = commands.help_of(self._name)
        self.usage, self.description, self.epilog = text.usage, text.description, text.epilog
        head = (text.examples, f"documentation: {commands.DOCUMENTATION}")
        return "\n\n".join([*filter(None, head), super().format_help()])

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        detail = message.removeprefix("argument ").replace("ignored explicit argument", "takes no value, got")
        raise InvalidRequest(detail)


def parser_of(name: str) -> Parser:
    """Return the parser of a command or a group, which has no flags; the empty name is a prompt."""
    parser = Parser(name)
    groups: dict[str, object] = {}
    for spec in () if name in commands.GROUPS else commands.flags_shown(name):
        if spec.heading not in groups:
            groups[spec.heading] = parser.add_argument_group(spec.heading)
        spec.add_to(groups[spec.heading])
    return parser


COMMON_FLAGS = (
    *("backend", "model", "continue_", "workdir"),
    *("sandbox_mode", "approval_mode", "output_format", "timeout"),
)
"""The flags of the overview, in its order."""

_HEADING = re.compile(r"^(?:usage:|\S.*:$)", re.MULTILINE)


def help_page(words: Sequence[str]) -> str:
    """Return a page of the help, named by up to two words; no word names the overview.

    Raises:
        InvalidRequest: there is no such page.
    """
    name = " ".join(words)
    if not name:
        return _overview()
    if name == "prompt":
        return parser_of("").format_help()
    if name in commands.topics():
        return commands.topics()[name]
    if name in commands.GROUPS:
        return parser_of(name).format_help()
    if words[0] not in commands.FIRST_WORDS:
        near = nearest(name, ("prompt", *commands.FIRST_WORDS, *commands.topics()), likeness=0.8)
        raise InvalidRequest(
            f"unknown command or topic {name!r}; {f'did you mean {near!r}?' if near else 'see clinvk help'}"
        )
    command = command_named(words)
    if len(words) > len(command.split()):
        raise InvalidRequest(f"{command} has no command {words[-1]!r}")
    return parser_of(command).format_help()


def with_bold_headings(text: str) -> str:
    """Return a page with bold headings for a terminal."""
    return _HEADING.sub("\x1b[1m\\g<0>\x1b[0m", text)


def _overview() -> str:
    parser = Parser(commands.OVERVIEW)
    group = parser.add_argument_group("common flags")
    flags = {flag.field: flag for flag in commands.flags_shown("")}
    for field in COMMON_FLAGS:
        flags[field].add_to(group)
    return parser.format_help()
