"""The table of modes in docs/agents.md agrees with the backends."""

import itertools
import re
from pathlib import Path

import pytest

from clinvk.backends.base import Host, Launch
from clinvk.backends.gemini import MAX_PROMPT_BYTES
from clinvk.backends.registry import BACKENDS
from clinvk.types.choices import APPROVAL_MODES, EFFORTS, SANDBOX_MODES, ApprovalMode, SandboxMode
from clinvk.types.errors import Unsupported
from clinvk.types.request import RunRequest

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
TITLES = {"claude": "Claude Code", "codex": "Codex", "gemini": "Gemini CLI"}
ALIASES = ("fast", "quick", "balanced", "default", "best", "powerful")

USER = Host(env={"HOME": "/home/u"})
ROOT = Host(env={"HOME": "/root"}, is_root=True)
CONFINING = Host(env={"HOME": "/home/u"}, commands=frozenset({"bwrap", "socat"}))

Words = tuple[ApprovalMode, SandboxMode]
PAIRS: list[Words] = [*itertools.product(APPROVAL_MODES, SANDBOX_MODES)]


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the first table in a text, without its ruler."""
    table = re.search(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert table
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()]
    return [lines[0], *lines[2:]]


def cells(backend: str) -> dict[Words, str]:
    """Return the page's text for each pair of modes."""
    head, *body = rows(section(TITLES[backend]))
    assert head[1:] == [f"`{word}`" for word in SANDBOX_MODES]
    assert [row[0] for row in body] == [f"`{word}`" for word in APPROVAL_MODES]
    said = itertools.chain.from_iterable(row[1:] for row in body)
    return dict(zip(PAIRS, said, strict=True))


def launch(backend: str, words: Words, host: Host, model: str | None = None) -> Launch | None:
    """Return how the agent would be started; None where these words are refused."""
    approval, sandbox = words
    asked = RunRequest(prompt="hello", workdir="/work", approval_mode=approval, sandbox_mode=sandbox, model=model)
    try:
        return BACKENDS[backend].launch(asked, None, host)
    except Unsupported:
        return None


def model(launched: Launch | None) -> str | None:
    assert launched
    named = (word.partition("=")[2] for word in launched.argv if word.startswith("--model="))
    return str(launched.session_params["model"]) if "model" in launched.session_params else next(named, None)


def test_page_describes_every_backend() -> None:
    assert [*TITLES] == [*BACKENDS]


@pytest.mark.parametrize(("backend", "words"), [*itertools.product(TITLES, PAIRS)])
def test_page_marks_exactly_the_unsupported_modes_as_refused(backend: str, words: Words) -> None:
    said = cells(backend)[words]
    assert said.startswith("refused") == (launch(backend, words, USER) is None)
    assert ("refused" in said) == (launch(backend, words, ROOT) is None)


@pytest.mark.parametrize("host", [USER, CONFINING])
@pytest.mark.parametrize("backend", TITLES)
def test_modes_with_the_same_command_have_the_same_description(backend: str, host: Host) -> None:
    said = cells(backend)
    for one, other in itertools.combinations(PAIRS, 2):
        if launch(backend, one, host) == launch(backend, other, host):
            assert said[one] == said[other]


@pytest.mark.parametrize("backend", TITLES)
def test_every_term_in_the_mode_tables_is_explained(backend: str) -> None:
    explained = {row[0] for row in rows(PAGE.partition("The cells mean:")[2])}
    for said in cells(backend).values():
        assert re.split(r"[;,]", said)[0] in explained


def test_page_lists_the_tools_disallowed_for_claude() -> None:
    careful = launch("claude", ("default", "default"), USER)
    assert careful
    (denied,) = (word.partition("=")[2] for word in careful.argv if word.startswith("--disallowedTools="))
    for tool in denied.split(","):
        assert f"`{tool}`" in section("Claude Code")


@pytest.mark.parametrize("sandbox", ["read-only", "workspace"])
def test_page_lists_the_tools_of_claude_without_a_shell(sandbox: SandboxMode) -> None:
    held = launch("claude", ("default", sandbox), USER)
    assert held
    (tools,) = (word.partition("=")[2] for word in held.argv if word.startswith("--tools="))
    for tool in tools.split(","):
        assert f"`{tool}`" in section("Claude Code")


def test_page_states_the_prompt_limit_of_gemini() -> None:
    assert MAX_PROMPT_BYTES == 8 * 1024 * 1024
    assert "**Longest prompt**: 8 MiB" in section("Gemini CLI")


@pytest.mark.parametrize(("backend", "alias"), [*itertools.product(TITLES, ALIASES)])
def test_page_states_the_model_of_each_alias(backend: str, alias: str) -> None:
    head, *body = rows(section("Models"))
    (column,) = (index for index, title in enumerate(head) if f"`{alias}`" in title)
    (said,) = (row[column] for row in body if row[0] == f"`{backend}`")
    stands_for = model(launch(backend, ("default", "default"), USER, alias))
    assert said == (f"`{stands_for}`" if stands_for else "its own default")


@pytest.mark.parametrize("backend", TITLES)
def test_page_states_the_effort_level_of_each_backend(backend: str) -> None:
    head, *body = rows(section("Effort"))
    assert head[1:] == [f"`{effort}`" for effort in EFFORTS]
    (said,) = (row[1:] for row in body if row[0] == f"`{backend}`")
    for effort, word in zip(EFFORTS, said, strict=True):
        asked = RunRequest(prompt="hello", workdir="/work", effort=effort)
        launched = BACKENDS[backend].launch(asked, None, USER)
        told = " ".join([*launched.argv, *map(bytes.decode, launched.files.values())]).lower()
        assert re.search(rf"effort\W+{word}\b|thinkinglevel\W+{word}\b", told)
