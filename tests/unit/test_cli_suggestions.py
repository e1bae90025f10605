"""Suggestions for an unknown flag of a command."""

import re

import pytest

from clinvk.cli.parse import arguments
from clinvk.cli.parse.commands import COMMANDS
from clinvk.types.errors import InvalidRequest


@pytest.mark.parametrize("name", ["", *COMMANDS])
@pytest.mark.parametrize("flag", ["--json", "--jsn", "--yess", "--continu", "--no-servr", "--port"])
def test_suggested_flag_exists_for_the_command(name: str, flag: str) -> None:
    words = [*name.split(), *(["word"] * COMMANDS[name].least)] if name else ["a prompt"]
    try:
        arguments.read([*words, flag])
    except InvalidRequest as exc:
        _, _, suggested = exc.message.partition("did you mean ")
        taken = arguments.parser_of(name).format_help()
        assert not suggested or re.search(rf"^  (-\w,|   ) {suggested.removesuffix('?')}\b", taken, re.MULTILINE)


def test_json_flag_is_rejected_by_commands_without_it() -> None:
    name = "keys create"
    with pytest.raises(InvalidRequest, match=rf"^{name} has no flag '--json'; see clinvk help {name}$"):
        arguments.read([*name.split(), "--json"])


@pytest.mark.parametrize(("word", "command"), [("hlep", "help"), ("list", "sessions list")])
def test_word_on_a_terminal_that_resembles_a_command_is_refused(word: str, command: str) -> None:
    with pytest.raises(InvalidRequest, match=f"did you mean `clinvk {command}`"):
        arguments.refuse_typing_mistake(word)


def test_value_for_a_boolean_flag_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match=r"^--json: takes no value, got 'yes'$"):
        arguments.read(["sessions", "list", "--json=yes"])
