"""The directives of the stand-in model; `tests/agents` has its answers in each wire format."""

from pathlib import Path

import pytest

from standin.directive import BadDirective, parse
from standin.wire import Call, written


def test_tool_calls_can_be_made_together() -> None:
    found = parse('[[call A {}]] [[call b.c "text"]] [[together]]', "")
    assert found.turns == [[Call("A", {}), Call("b.c", "text")]]


def test_first_calls_can_be_made_together() -> None:
    found = parse("[[together=2]] [[call A {}]] [[call B {}]] [[call C {}]]", "")
    assert found.turns == [[Call("A", {}), Call("B", {})], [Call("C", {})]]


def test_text_of_a_client_tells_that_the_first_calls_were_made() -> None:
    asked = '[[call A {}]] [[call B {}]] [[made="Result:"]]'
    assert len(parse(asked, "").turns) == 2
    found = parse(f"{asked} Result: 1", "")
    assert (found.turns, found.told) == ([[Call("B", {})]], "Result: 1")


def test_script_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('[[["A", {"x": 1}], ["exec", "code", "space"]], [["B", {}]]]')
    turns = parse(f"go [[script {tmp_path}/s.json]]", "").turns
    assert turns == [[Call("A", {"x": 1}), Call("exec", "code", "space")], [Call("B", {})]]


@pytest.mark.parametrize(
    "bad",
    [
        *("[[words=many]]", "[[words]]", "[[wrods=3]]", "[[delay=x]]", "[[tool=dig]]", "[[call]]"),
        *("[[call A {]]", "[[script /no/file]]", '[[say="x]]', "[[usage=1,a]]"),
    ],
)
def test_invalid_directive_is_rejected(bad: str) -> None:
    with pytest.raises(BadDirective):
        parse(bad, "")


def test_other_double_brackets_are_text() -> None:
    assert parse("if [[ -f x ]]; see [[page]]", "words=5").values == {"words": "5"}


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (["<system-reminder>\nx [[error=500]]\n</system-reminder>\n", "real"], "real"),
        (["<environment_context>\n<cwd>/</cwd>\n</environment_context>real"], "real"),
        (["# AGENTS.md instructions for /x\n\n<INSTRUCTIONS>\na\n</INSTRUCTIONS>"], ""),
        (["use <b> tags"], "use <b> tags"),
    ],
)
def test_text_that_a_cli_prepends_is_not_part_of_the_prompt(sent: list[str], wanted: str) -> None:
    assert written(sent) == wanted
