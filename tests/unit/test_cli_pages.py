"""docs/cli.md and the help say what the command takes."""

import re
from pathlib import Path

import pytest

from clinvk.cli.parse import arguments, commands

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


@pytest.mark.parametrize("command", ["", *commands.COMMANDS])
def test_page_lists_every_command_and_flag(command: str) -> None:
    flags = set(re.findall(r"--[a-z-]+", arguments.parser_of(command).format_usage() or ""))
    flags |= set(re.findall(r"^  (--[a-z-]+)", arguments.parser_of(command).format_help(), re.MULTILINE))
    assert flags
    assert {flag for flag in flags if f"`{flag}" not in PAGE} == set()
    assert f"clinvk {command}".strip() in PAGE


@pytest.mark.parametrize("command", ["", *commands.COMMANDS])
def test_help_fits_80_columns(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, arguments.parser_of(command).format_help().splitlines())) <= 80


def test_page_lists_every_exit_code() -> None:
    assert all(f"| {code} |" in PAGE for code in range(8))


@pytest.mark.parametrize("command", ["", *commands.COMMANDS])
def test_help_has_each_heading_once(command: str) -> None:
    headings = re.findall(r"^\S.*:$", arguments.parser_of(command).format_help(), re.MULTILINE)
    assert len(headings) == len(set(headings))
