"""The runner of `make conformance`, and docs/compatibility.md, which the runner writes."""

import pytest

from agents.test_frameworks import PROGRAMS
from conformance.__main__ import main
from conformance.page import PAGE, updated
from conformance.suite import Outcome, Suite, load
from conformance.suites import frameworks

EXPECTED = {"sampling": "no agent samples"}


async def no_run(_site: object) -> Outcome:
    raise NotImplementedError


def test_compatibility_page_has_each_suite_with_its_pinned_version() -> None:
    """If this test fails, run the suite that has changed: `make conformance SUITES="NAME --docs"`."""
    text = PAGE.read_text()
    assert updated(text, load(), {}) == text
    assert "| not run |" not in text
    assert "| fails |" not in text


def test_misspelt_suite_is_named_and_no_suite_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["acp", "opnapi"]) == 2
    assert capsys.readouterr().err.startswith("unknown suite 'opnapi' (available: acp/python, ")


def test_each_framework_of_the_tests_is_a_suite() -> None:
    assert frameworks.PROGRAMS.keys() == PROGRAMS.keys()


def test_names_of_suites_are_unique() -> None:
    names = [suite.name for suite in load()]
    assert len(set(names)) == len(names)


def test_expected_failure_is_no_failure() -> None:
    assert Outcome.of(["tools"], ["sampling"], EXPECTED) == Outcome(1, (), ("sampling",))


def test_expected_failure_that_does_not_occur_is_a_failure() -> None:
    stale = ("sampling (remove from EXPECTED: does not fail)",)
    assert Outcome.of(["tools", "sampling"], [], EXPECTED) == Outcome(2, stale)
    assert Outcome.of(["tools"], ["logging"], EXPECTED).failed == ("logging", *stale)


def test_suite_without_a_check_has_failed() -> None:
    assert Outcome.of([], [], EXPECTED) == Outcome(0, ("no check ran",))


def test_page_keeps_the_count_of_a_suite_until_its_version_changes() -> None:
    def suite(name: str, version: str) -> Suite:
        return Suite(name, "all", version, no_run, EXPECTED)

    outcomes = {"one": Outcome(5), "two": Outcome(6, ("tools",))}
    first = updated("# Title\n", [suite("one", "1"), suite("two", "1")], outcomes)
    assert "| one | all | 1 | 5 | 1 |" in first
    assert "| two | all | 1 | fails | 1 |" in first
    second = updated(first, [suite("one", "1"), suite("two", "2")], {})
    assert "| one | all | 1 | 5 | 1 |" in second
    assert "| two | all | 2 | not run | 1 |" in second
    assert second.endswith("| one | sampling | no agent samples |\n| two | sampling | no agent samples |\n")
    assert second.startswith("# Title\n\n## Standards\n")
