"""What is suggested in place of a flag that a command has not."""

import pytest

from clinvk.cli.parse import arguments
from clinvk.cli.parse.commands import COMMANDS
from clinvk.types.errors import InvalidRequest


@pytest.mark.parametrize("name", ["", *COMMANDS])
@pytest.mark.parametrize("flag", ["--json", "--jsn", "--yess", "--continu", "--no-servr", "--port"])
def test_only_a_flag_that_the_command_takes_is_suggested(name: str, flag: str) -> None:
    words = [*name.split(), *(["word"] * COMMANDS[name].least)] if name else ["a prompt"]
    try:
        arguments.read([*words, flag])
    except InvalidRequest as exc:
        _, _, suggested = exc.message.partition("did you mean ")
        taken = arguments.parser_of(name).format_help()
        assert not suggested or f"\n  {suggested.removesuffix('?')}" in taken


@pytest.mark.parametrize("name", ["service uninstall", "service print"])
def test_a_command_without_json_says_that_it_has_no_such_flag(name: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{name} has no flag '--json'; see clinvk help {name}$"):
        arguments.read([*name.split(), "--json"])


def test_a_flag_that_takes_no_value_says_so() -> None:
    with pytest.raises(InvalidRequest, match=r"^--json: takes no value, got 'yes'$"):
        arguments.read(["sessions", "list", "--json=yes"])
