"""What can stand on the command line, as the scripts for the shells need it: read off the parsers themselves."""

import argparse
from typing import NamedTuple

from clinvk.backends.registry import BACKENDS
from clinvk.cli.parse.arguments import parser_of
from clinvk.cli.parse.commands import COMMANDS, FIRST_WORDS, GROUPS, PROMPT, help_of, members
from clinvk.cli.parse.flags import OneOf
from clinvk.config import setting_values

MANAGERS = ("systemd", "launchd")
SHELLS = ("bash", "zsh", "fish")
_LIST = "A,B"
_ALIASES = ("fast", "balanced", "best")


class Flag(NamedTuple):
    """A flag. `value` says what it takes: empty is nothing, DIR and FILE are paths; `words` are values to offer.

    Of a list, what is given may be several of them, with commas between.
    """

    names: tuple[str, ...]
    about: str
    value: str = ""
    words: tuple[str, ...] = ()

    @property
    def is_list(self) -> bool:
        """Whether it takes a list."""
        return self.value == _LIST


class Spoken(NamedTuple):
    """A command, empty for a prompt: its words by what they are, and its flags."""

    name: str
    words: tuple[str, ...]
    flags: tuple[Flag, ...]

    @property
    def ids(self) -> str:
        """What its first word is the ID of, `sessions`, `runs` or `worktrees`; empty where it is none."""
        if not self.words or not self.words[0].startswith("ID"):
            return ""
        group = self.name.split()[0]
        return group if group in GROUPS else "sessions"

    @property
    def takes_several(self) -> bool:
        """Whether its first word may come several times."""
        return self.words[:1] != () and self.words[0].endswith("...")


class Grammar(NamedTuple):
    """The whole command line.

    Attributes:
        commands: all, the prompt first.
        after: the words that may follow a beginning, with what they are about: "" is the beginning of all.
        keys: those of the settings; one that ends with a dot goes on with a name.
        values: of the keys that take one of a few words.
    """

    commands: tuple[Spoken, ...]
    after: dict[str, dict[str, str]]
    keys: tuple[str, ...]
    values: dict[str, tuple[str, ...]]

    @property
    def with_value(self) -> list[Flag]:
        """The flags that take a value, each once."""
        return list({flag.names: flag for command in self.commands for flag in command.flags if flag.value}.values())

    @property
    def names_with_value(self) -> list[str]:
        """All names of these."""
        return [name for flag in self.with_value for name in flag.names]


def grammar() -> Grammar:
    """Read off what clinvk takes."""
    names = ("", *COMMANDS)
    after = {"": {word: _about(word) for word in FIRST_WORDS}}
    after |= {group: {word: _about(f"{group} {word}") for word in members(group)} for group in GROUPS}
    after |= {"help": after[""], **{f"help {group}": after[group] for group in GROUPS}}
    after["completion"] = dict.fromkeys(SHELLS, "")
    after |= {f"service {word}": dict.fromkeys(MANAGERS, "") for word in members("service")}
    found = dict(setting_values.all_keys(BACKENDS))
    dotted = {name: ".".join(name) for name in found}
    return Grammar(
        commands=tuple(Spoken(name, (COMMANDS[name] if name else PROMPT).words, _flags(name)) for name in names),
        after=after,
        keys=tuple(f"{text}." if setting_values.is_section(found[name]) else text for name, text in dotted.items()),
        values={
            **{text: words for name, text in dotted.items() if (words := setting_values.words_of(found[name]))},
            "default_backend": tuple(BACKENDS),
        },
    )


def _about(name: str) -> str:
    """Give the first sentence of a command's help."""
    return " ".join(help_of(name).description.split()).split(". ")[0].split(": ")[0].rstrip(".")


def _flags(name: str) -> tuple[Flag, ...]:
    actions = parser_of(name)._get_optional_actions()  # pyright: ignore[reportPrivateUsage]  # argparse has no other way
    found: list[Flag] = []
    for action in actions:
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        found.append(Flag(tuple(action.option_strings), action.help or "", value, _words(value, action)))
    return tuple(found)


def _words(value: str, action: argparse.Action) -> tuple[str, ...]:
    match value:
        case "NAME":
            return tuple(BACKENDS)
        case "A,B" if action.dest == "backends":  # the others are tools, by the agent's names
            return tuple(BACKENDS)
        case "MODEL":
            return tuple(dict.fromkeys([*_ALIASES, *(model for own in BACKENDS.values() for model in own.models)]))
        case _:
            return tuple(action.type.words) if isinstance(action.type, OneOf) else ()
