"""The registry of commands: each can be started, helped with, and told apart from a prompt."""

import re
from inspect import signature

import pytest

from clinvk.cli.parse import arguments
from clinvk.cli.parse.commands import ALONE, COMMANDS, FIRST_WORDS, GROUPS, OVERVIEW, PROMPT, help_of, load, members
from clinvk.cli.parse.flags import Flags
from clinvk.types.errors import InvalidRequest

ANSWERED_BY_ENTRY = ("version", "help")
STARTED = [name for name in COMMANDS if name not in ANSWERED_BY_ENTRY]


@pytest.mark.parametrize("name", ["", *STARTED])
def test_command_function_accepts_the_flags_of_its_command(name: str) -> None:
    command = COMMANDS[name] if name else PROMPT
    takes = signature(load(command.start)).parameters["flags"].annotation
    assert issubclass(command.flags, takes)


@pytest.mark.parametrize("name", COMMANDS)
def test_number_of_command_arguments_is_checked(name: str) -> None:
    command = COMMANDS[name]
    words = [*name.split(), *(["word"] * command.least)]
    assert arguments.read(words).command == name
    if command.least:
        with pytest.raises(InvalidRequest, match=f"{name} needs "):
            arguments.read(words[:-1])
    if command.most is not None:
        with pytest.raises(InvalidRequest, match="takes no argument"):
            arguments.read([*words, *(["word"] * (command.most - command.least + 1))])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_flag_works_without_required_arguments(name: str) -> None:
    asked = arguments.read([*name.split(), "--help"])
    assert (asked.command, asked.flags.help) == (name, True)


@pytest.mark.parametrize("group", GROUPS)
def test_group_alone_lists_or_shows(group: str) -> None:
    assert arguments.read([group]).command == ALONE[group]
    with pytest.raises(InvalidRequest, match=f"did you mean '{members(group)[0]}'"):
        arguments.read([group, members(group)[0] + "x"])
    assert arguments.read([group, "-h"]).flags.help


def test_main_help_lists_every_command() -> None:
    listed = help_of(OVERVIEW).description
    assert {word for word in FIRST_WORDS if not re.search(rf"^  .*\b{word}\b", listed, re.MULTILINE)} == set()


def test_group_help_lists_every_subcommand() -> None:
    for name in COMMANDS:
        first, _, second = name.partition(" ")
        assert (first in GROUPS) == bool(second)
        assert not second or f"\n  {name}" in help_of(first).epilog


def test_words_after_two_dashes_are_arguments() -> None:
    assert arguments.read(["config", "set", "k", "--dry-run", "--", "-v"]).flags.words == ("k", "-v")
    assert arguments.read(["config", "set", "--", "-k", "--dry-run"]).flags == Flags(words=("-k", "--dry-run"))
