"""The registry of commands: what each takes, and the words of its help. A command of two words belongs to a group."""

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

from clinvk.cli import help as texts
from clinvk.cli.flags import Flags, JsonFlags, PromptFlags, ServeFlags, add_json, add_prompt, add_serve


class Command(NamedTuple):
    """What a command takes.

    Attributes:
        help: what stands around its flags in its help.
        words: the arguments that are no flags, by what they are; `?` ends one that may be missing,
            `...` one that may come several times. KEY, COMMAND and SHELL are completed.
        flags: the type of its flags.
        add: adds those that are its own to a parser.
        start: what runs it, as `module:function` of this package; takes the flags, the environment and the notes.
    """

    help: texts.Help
    words: tuple[str, ...] = ()
    flags: type[Flags] = Flags
    add: Callable[[argparse.ArgumentParser], None] | None = None
    start: str = ""

    @property
    def least(self) -> int:
        """The number of words, at least."""
        return sum(not word.endswith("?") for word in self.words)

    @property
    def most(self) -> int | None:
        """The number of words, at most; None is any."""
        return None if any(word.endswith("...") for word in self.words) else len(self.words)


PROMPT = Command(texts.PROMPT, ("PROMPT?",), PromptFlags, add_prompt, "prompt:prompt")

COMMANDS = {
    "serve": Command(texts.SERVE, (), ServeFlags, add_serve, "serve:serve"),
    "config show": Command(texts.CONFIG_SHOW, (), JsonFlags, add_json, "config:show"),
    "config get": Command(texts.CONFIG_GET, ("KEY",), JsonFlags, add_json, "config:get"),
    "config set": Command(texts.CONFIG_SET, ("KEY", "VALUE"), start="config:set_key"),
    "config unset": Command(texts.CONFIG_UNSET, ("KEY",), start="config:unset"),
    "doctor": Command(texts.DOCTOR, (), JsonFlags, add_json, "doctor:doctor"),
    "completion": Command(texts.COMPLETION, ("SHELL",), start="completion:completion"),
    "version": Command(texts.VERSION),
    "help": Command(texts.HELP, ("COMMAND?", "COMMAND?")),
}

GROUPS = {"config": texts.CONFIG}
"""The first words of commands of two."""

FIRST_WORDS = tuple(dict.fromkeys(name.split()[0] for name in COMMANDS))


def members(group: str) -> tuple[str, ...]:
    """Give the second words of a group's commands."""
    return tuple(name.split()[1] for name in COMMANDS if name.startswith(f"{group} "))


def help_of(name: str) -> texts.Help:
    """Give the help of a command or a group; the empty name is a prompt."""
    return texts.PROMPT if not name else GROUPS[name] if name in GROUPS else COMMANDS[name].help


def start_of(name: str) -> Callable[..., int]:
    """Give what runs a command. It is imported only here, so that no command waits for the modules of another."""
    module, _, function = (COMMANDS[name] if name else PROMPT).start.partition(":")
    return getattr(import_module(f"clinvk.cli.{module}"), function)
