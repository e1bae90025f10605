"""The registry of commands: each can be started, helped with, and told apart from a prompt."""

from typing import get_type_hints

import pytest

from clinvk.cli.parse import arguments
from clinvk.cli.parse.commands import COMMANDS, FIRST_WORDS, GROUPS, PROMPT, members, start_of
from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.help import help_of
from clinvk.types.errors import InvalidRequest

ANSWERED_BY_ENTRY = ("version", "help")
STARTED = [name for name in COMMANDS if name not in ANSWERED_BY_ENTRY]


@pytest.mark.parametrize("name", ["", *STARTED])
def test_a_command_is_started_with_the_flags_that_it_takes(name: str) -> None:
    start = start_of(name)
    takes = get_type_hints(start)["flags"]
    given = (COMMANDS[name] if name else PROMPT).flags
    assert issubclass(given, takes)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_read_with_as_many_words_as_it_needs_and_no_fewer(name: str) -> None:
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
def test_help_is_asked_for_before_words_are_counted(name: str) -> None:
    asked = arguments.read([*name.split(), "--help"])
    assert (asked.command, asked.flags.help) == (name, True)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_needs_one_of_its_commands(group: str) -> None:
    assert len(members(group)) > 1
    with pytest.raises(InvalidRequest, match=f"{group} needs one of {', '.join(members(group))}"):
        arguments.read([group])
    with pytest.raises(InvalidRequest, match=f"did you mean '{members(group)[0]}'"):
        arguments.read([group, members(group)[0] + "x"])
    assert arguments.read([group, "-h"]).flags.help


def test_the_help_of_a_prompt_lists_every_command() -> None:
    listed = help_of("").epilog.partition("examples:")[0]
    assert {word for word in FIRST_WORDS if f"\n  {word}" not in listed} == set()


def test_every_command_of_two_words_belongs_to_a_group_and_the_groups_help_lists_it() -> None:
    for name in COMMANDS:
        first, _, second = name.partition(" ")
        assert (first in GROUPS) == bool(second)
        assert not second or f"\n  {name}" in help_of(first).epilog


def test_what_follows_two_dashes_is_a_word_of_the_command() -> None:
    assert arguments.read(["config", "set", "k", "--dry-run", "--", "-v"]).flags.words == ("k", "-v")
    assert arguments.read(["config", "set", "--", "-k", "--dry-run"]).flags == Flags(words=("-k", "--dry-run"))
