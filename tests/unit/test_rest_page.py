"""docs/rest.md names all that the REST API takes and gives, and nothing else."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest

from clinvk.api.openapi.document import document
from clinvk.backends.registry import BACKENDS
from clinvk.dialects.rest import unified
from clinvk.dialects.rest.batch_answers import ChainAnswer, CompareAnswer, JudgeAnswer, ParallelAnswer, PartAnswer
from clinvk.dialects.rest.batch_bodies import ChainBody, CompareBody, ParallelBody, PartBody, chain, compare, parallel
from clinvk.dialects.rest.bodies import PromptBody
from clinvk.dialects.rest.rest import PromptAnswer, Rest
from clinvk.dialects.rest.views import RunListing, RunView, SessionListing, SessionView
from clinvk.types.choices import RunState

PAGE = (Path(__file__).parents[2] / "docs" / "rest.md").read_text()


class _Problem(msgspec.Struct):
    code: str
    status: int


class _Api(msgspec.Struct, rename={"problems": "x-problems"}):
    problems: list[_Problem]


API = msgspec.json.decode(document(BACKENDS), type=_Api)


def first_cells(header: str) -> list[str]:
    """Return the first cells of the table below a header."""
    _, found, table = PAGE.partition(f"{header}\n")
    assert found
    return re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.MULTILINE)


def test_page_documents_each_field_of_an_answer() -> None:
    assert sorted(first_cells("| field | |")) == sorted(PromptAnswer.__struct_fields__)


def test_page_documents_each_field_of_a_session() -> None:
    _, _, section = PAGE.partition("\n## Sessions\n")
    table = section.partition("| field | |\n")[2].partition("\n\n")[0]
    reported = [
        name for cell in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    ]
    assert sorted(reported) == sorted(SessionView.__struct_fields__)


@pytest.mark.parametrize(("listing", "section"), [(SessionListing, "Sessions"), (RunListing, "Runs")])
def test_page_names_each_list_parameter(listing: type[msgspec.Struct], section: str) -> None:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    for name in listing.__struct_encode_fields__:
        assert f"`{name}`" in text


def test_page_shows_each_field_and_state_of_a_run() -> None:
    text = PAGE.partition("\n## Runs\n")[2].partition("\n## ")[0]
    for name in RunView.__struct_fields__:
        assert f'"{name}"' in text or f"`{name}`" in text
    for state in get_args(RunState):
        assert f"`{state}`" in text


def test_page_documents_each_event_type_with_all_its_fields() -> None:
    table = PAGE.partition("| `type` | `content` |\n")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE))
    kinds = get_args(unified.Line)
    assert first_cells("| `type` | `content` |") == [kind.__struct_config__.tag for kind in kinds]
    for kind in kinds:
        for field in get_type_hints(kind)["content"].__struct_fields__:
            assert f"`{field}`" in rows[kind.__struct_config__.tag], f"{kind}: {field}"


@pytest.mark.parametrize("problem", API.problems, ids=lambda problem: problem.code)
def test_page_documents_each_problem_with_its_status(problem: _Problem) -> None:
    assert f"| {problem.status} | `{problem.code}` |" in PAGE


def test_page_documents_only_problems_of_the_api() -> None:
    reported = re.findall(r"^\| \d+ \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(reported) == sorted(problem.code for problem in API.problems)


def test_sample_prompt_bodies_are_valid() -> None:
    bodies = [body for body in samples("prompt") if '"prompt"' in body]
    assert len(bodies) >= 4
    for body in bodies:
        if '"many"' not in body:
            assert Rest().parse(body.encode(), {}).request.prompt


def test_sample_plan_bodies_are_valid() -> None:
    plans = [
        *(parallel(msgspec.json.decode(body, type=ParallelBody)) for body in samples("parallel")),
        *(chain(msgspec.json.decode(body, type=ChainBody)) for body in samples("chain")),
        *(compare(msgspec.json.decode(body, type=CompareBody)) for body in samples("compare")),
    ]
    assert {plan.kind for plan in plans} == {"parallel", "chain", "compare"}


def samples(endpoint: str) -> list[str]:
    """Return the bodies that the samples send to an endpoint."""
    return re.findall(rf"^curl [^\n]*/api/v1/{endpoint}(?: [^\n]*\n)+?    -d '(.*)'$", PAGE, re.MULTILINE)


def documented_fields(header: str) -> list[str]:
    """Return all fields that the first cells of the table below a header name, including a second field of a row."""
    table = PAGE.partition(f"| {header} | |\n")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_page_documents_each_field_of_multi_agent_bodies() -> None:
    of_parallel, of_chain, of_compare = (
        PAGE.partition(f"\n### {title}\n")[2].partition("\n### ")[0] for title in ("Parallel", "Chain", "Compare")
    )
    for name in ParallelBody.__struct_fields__:
        assert f"| `{name}` |" in of_parallel
    for name in ChainBody.__struct_fields__:
        assert f"| `{name}` |" in of_chain
    for name in set(CompareBody.__struct_fields__) - set(PromptBody.__struct_fields__):
        assert f"| `{name}` |" in of_compare
    for kind, text in ((ParallelAnswer, of_parallel), (ChainAnswer, of_chain), (CompareAnswer, of_compare)):
        for name in kind.__struct_fields__:
            assert f"`{name}`" in text or f'"{name}"' in text, name
    for name in set(JudgeAnswer.__struct_fields__) - set(PromptAnswer.__struct_fields__):
        assert f"`{name}`" in of_compare


def test_page_documents_each_field_of_a_part_and_its_result() -> None:
    assert set(documented_fields("field of a part")) == set(PartBody.__annotations__)
    results = set(PartAnswer.__struct_fields__) - set(PromptAnswer.__struct_fields__) - {"diff_is_cut"}
    assert set(documented_fields("field of a result")) == results
    assert "`diff_is_cut`" in PAGE
