"""docs/cli.md and the help say what the command takes."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from clinvk.cli.parse import arguments, commands
from clinvk.cli.parse.arguments import COMMON_FLAGS, help_page, with_bold_headings
from clinvk.cli.parse.commands import topics
from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES
from clinvk.types.errors import InvalidRequest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text()
EVERYWHERE: set[str] = {"--backend", "--model", "--workdir", "--output-format", "--config", "--dry-run", "--ephemeral"}


def listed(text: str) -> set[str]:
    """Return the flags that a help text lists."""
    return set(re.findall(r"^  (?:-\w,|   ) (--[a-z-]+)", text, re.MULTILINE))


@pytest.mark.parametrize("command", ["", *commands.COMMANDS])
def test_page_lists_every_command_and_flag(command: str) -> None:
    flags = set(re.findall(r"--[a-z-]+", arguments.parser_of(command).format_usage() or ""))
    flags |= listed(arguments.parser_of(command).format_help())
    assert flags
    assert {flag for flag in flags if f"`{flag}" not in PAGE} == set()
    assert f"clinvk {command}".strip() in PAGE


@pytest.mark.parametrize("name", ["", "prompt", *commands.COMMANDS, *commands.GROUPS, *topics()])
def test_help_fits_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, help_page(name.split()).splitlines())) <= 80


def test_main_help_has_45_lines_with_eight_flags_and_every_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_page([])
    assert len(text.splitlines()) <= 45
    assert len(listed(text)) == len(COMMON_FLAGS) == 8
    assert set(topics()) == set(re.findall(r"[a-z-]+", text.partition("clinvk help TOPIC")[2]))


ACTING: list[tuple[str, set[str]]] = [
    ("prompt", EVERYWHERE),
    ("resume", EVERYWHERE - {"--ephemeral"}),
    ("compare", EVERYWHERE - {"--backend"}),
    ("parallel", EVERYWHERE),
    ("sessions list", {"--backend", "--workdir", "--config"}),
    ("sessions delete", {"--config", "--dry-run"}),
    ("runs cancel", {"--config", "--dry-run"}),
    ("runs follow", {"--output-format", "--config"}),
    ("usage", {"--backend", "--model", "--config"}),
    ("serve", EVERYWHERE - {"--output-format", "--ephemeral"}),
    ("keys list", set()),
    ("keys revoke", {"--dry-run"}),
    ("version", set()),
]


@pytest.mark.parametrize(("command", "acting"), ACTING)
def test_help_lists_only_common_flags_that_act_on_the_command(command: str, acting: set[str]) -> None:
    assert listed(help_page(command.split())) & EVERYWHERE == acting


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_every_command_accepts_the_common_flags(command: str) -> None:
    words = [*command.split(), *(["word"] * commands.COMMANDS[command].least)]
    given = ["-b", "codex", "-m", "x", "-w", "/", "-o", "json", "--config", "f", "--dry-run", "--ephemeral"]
    flags = arguments.read([*words, *given]).flags
    assert (flags.backend, flags.model, flags.workdir, flags.output_format) == ("codex", "x", "/", "json")
    assert (flags.config, flags.dry_run, flags.ephemeral) == ("f", True, True)


@pytest.mark.parametrize(
    ("words", "hint"),
    [("stdni", "did you mean 'stdin'"), ("promt", "did you mean 'prompt'"), ("nope", "see clinvk help")],
)
def test_unknown_help_topic_suggests_the_nearest(words: str, hint: str) -> None:
    with pytest.raises(InvalidRequest, match=f"unknown command or topic '{words}'; {hint}"):
        help_page([words])


def test_flags_for_a_cluster_are_those_of_the_cluster_only() -> None:
    _, _, rest = help_page(["serve"]).partition("flags for a cluster:\n")
    assert listed(rest.partition("\n\n")[0]) == {"--cluster", "--node", "--labels"}


@pytest.mark.parametrize("name", ["", "prompt", *commands.COMMANDS, *commands.GROUPS])
def test_help_begins_with_examples_and_the_address_of_the_documentation(name: str) -> None:
    examples, *rest = help_page(name.split()).split("\n\n")
    head, *lines = examples.splitlines()
    assert head in ("example:", "examples:")
    assert lines
    assert all("clinvk" in line or line.startswith("   ") for line in lines)
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Documentation"]
    assert rest[0] == f"documentation: {address}"
    assert rest[1].startswith("usage: clinvk")


def test_main_help_has_three_examples() -> None:
    assert len(help_page([]).partition("\n\n")[0].splitlines()) == 4


@pytest.mark.parametrize(("topic", "modes"), [("permissions", APPROVAL_MODES), ("sandbox", SANDBOX_MODES)])
def test_topics_of_modes_explain_each_mode_on_a_screen(topic: str, modes: Sequence[str]) -> None:
    page = help_page([topic])
    assert len(page.splitlines()) <= 28
    assert re.findall(r"^  (?:--\S+| {9,}) +([a-z-]+)  ", page, re.MULTILINE) == [*modes]
    assert help_page(["modes"]) == help_page(["sandbox"])


def test_headings_are_bold_on_a_terminal() -> None:
    shown = with_bold_headings(help_page([]))
    assert shown.startswith("\x1b[1mexamples:\x1b[0m\n  clinvk")
    assert "\n\x1b[1musage:\x1b[0m clinvk [flags] PROMPT | COMMAND\n" in shown
    assert "\n\x1b[1mcommon flags:\x1b[0m\n  -b, --backend" in shown
    assert shown.count("\x1b[1m") == 6


def test_page_lists_every_exit_code() -> None:
    assert all(f"| {code} |" in PAGE for code in range(8))


@pytest.mark.parametrize("command", ["", *commands.COMMANDS])
def test_help_has_each_heading_once(command: str) -> None:
    headings = re.findall(r"^\S.*:$", arguments.parser_of(command).format_help(), re.MULTILINE)
    assert len(headings) == len(set(headings))
