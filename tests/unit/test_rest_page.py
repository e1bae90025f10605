"""docs/rest.md names all that the REST API takes and gives, and nothing else."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest

from clinvk.api.openapi import document
from clinvk.dialects import unified
from clinvk.dialects.prompt_body import PromptBody
from clinvk.dialects.records import RunListing, RunView, SessionListing, SessionView
from clinvk.dialects.rest import PromptAnswer, Rest
from clinvk.record import RunState

PAGE = (Path(__file__).parents[2] / "docs" / "rest.md").read_text()


class _Problem(msgspec.Struct):
    code: str
    status: int


class _Api(msgspec.Struct, rename={"problems": "x-problems"}):
    problems: list[_Problem]


API = msgspec.json.decode(document(), type=_Api)


def first_cells(header: str) -> list[str]:
    """Give the first cells of the table below a header."""
    _, found, table = PAGE.partition(f"{header}\n")
    assert found
    return re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.MULTILINE)


def test_each_field_of_a_prompt_is_explained() -> None:
    assert sorted(first_cells("| field | | |")) == sorted(PromptBody.__struct_fields__)


def test_each_field_of_an_answer_is_explained() -> None:
    assert sorted(first_cells("| field | |")) == sorted(PromptAnswer.__struct_fields__)


def test_each_field_of_a_session_is_explained() -> None:
    _, _, section = PAGE.partition("\n## Sessions\n")
    table = section.partition("| field | |\n")[2].partition("\n\n")[0]
    told = [
        name for cell in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    ]
    assert sorted(told) == sorted(SessionView.__struct_fields__)


@pytest.mark.parametrize(("listing", "section"), [(SessionListing, "Sessions"), (RunListing, "Runs")])
def test_each_parameter_of_a_list_is_named(listing: type[msgspec.Struct], section: str) -> None:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    for name in listing.__struct_fields__:
        assert f"`{name}`" in text


def test_each_field_and_state_of_a_run_is_shown() -> None:
    text = PAGE.partition("\n## Runs\n")[2].partition("\n## ")[0]
    for name in RunView.__struct_fields__:
        assert f'"{name}"' in text or f"`{name}`" in text
    for state in get_args(RunState):
        assert f"`{state}`" in text


def test_each_type_of_event_is_explained_with_all_its_fields() -> None:
    table = PAGE.partition("| `type` | `content` |\n")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    kinds = get_args(unified.Line)
    assert first_cells("| `type` | `content` |") == [kind.__struct_config__.tag for kind in kinds]
    for kind in kinds:
        for field in get_type_hints(kind)["content"].__struct_fields__:
            assert f"`{field}`" in rows[kind.__struct_config__.tag], f"{kind}: {field}"


@pytest.mark.parametrize("problem", API.problems, ids=lambda problem: problem.code)
def test_each_problem_is_explained_with_its_status(problem: _Problem) -> None:
    assert f"| {problem.status} | `{problem.code}` |" in PAGE


def test_no_problem_is_explained_that_cannot_come() -> None:
    told = re.findall(r"^\| \d+ \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(told) == sorted(problem.code for problem in API.problems)


def test_the_bodies_of_the_samples_are_prompts() -> None:
    bodies = [body for body in re.findall(r"-d '(.*)'$", PAGE, re.MULTILINE) if '"prompt"' in body]
    assert len(bodies) >= 4
    for body in bodies:
        if '"many"' not in body:
            assert Rest().parse(body.encode(), {}).request.prompt
