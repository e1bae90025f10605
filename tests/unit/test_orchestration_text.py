"""The templates of a chain, and what a judge is asked."""

import re

import pytest
from msgspec.structs import replace

from clinvk.orchestrate import judge
from clinvk.orchestrate.chain import expand_template, misspelt_steps, unknown_steps, warnings
from clinvk.types.events import RunFinished, RunResult
from clinvk.types.orchestration import Chain, Change, Check, Compare, Part, PartResult
from clinvk.types.request import RunRequest

STEPS = {"a": "answer of a", "x y": "of x y", "it": "{{previous}} {{input}} {{steps.a}}"}


@pytest.mark.parametrize(
    ("template", "expanded"),
    [
        ("no place", "no place"),
        ("{{previous}}", "before"),
        ("<{{previous}}{{previous}}>", "<beforebefore>"),
        ("{{steps.a}}, {{steps.x y}}", "answer of a, of x y"),
        ("{{steps.it}}", "{{previous}} {{input}} {{steps.a}}"),
        ("{{input}}", "given"),
        ("{{{previous}}}", "{before}"),
        ("{{ previous }} {{Previous}} {previous} {{previous} ", "{{ previous }} {{Previous}} {previous} {{previous} "),
        ("{{steps.none}} {{steps.}} {{steps}}", "{{steps.none}} {{steps.}} {{steps}}"),
        ("${{ steps.build.outputs.digest }} {{#if x}} {% x %} {{}}", None),
        ("{{steps.{{previous}}}}", "{{steps.before}}"),
    ],
)
def test_expand_fills_placeholders_and_keeps_other_text(template: str, expanded: str | None) -> None:
    assert expand_template(template, "before", STEPS, "given") == (template if expanded is None else expanded)


def test_input_placeholder_stays_without_an_input() -> None:
    assert expand_template("{{input}}", "", {}, None) == "{{input}}"
    assert expand_template("{{input}}", "", {}, "") == ""


def test_answers_with_regular_expression_syntax_are_literal() -> None:
    assert expand_template("{{previous}}", r"\1 \g<word> \\", {}, None) == r"\1 \g<word> \\"


def test_unknown_steps_are_reported() -> None:
    found = unknown_steps("{{steps.a}} {{steps.later}} {{previous}} {{steps. b}}", frozenset({"a"}))
    assert [*found] == ["{{steps.later}}", "{{steps. b}}"]


def test_misspelt_placeholders_are_reported_with_the_intended_placeholder() -> None:
    template = "{{previous}} {{ previous }} {{INPUT}} {{ steps.a}} {{Steps.a }} {{steps.a }} {{ steps.later }}"
    assert [*misspelt_steps(template, frozenset({"a", ""}))] == [
        ("{{ previous }}", "{{previous}}"),
        ("{{INPUT}}", "{{input}}"),
        ("{{ steps.a}}", "{{steps.a}}"),
        ("{{Steps.a }}", "{{steps.a}}"),
        ("{{steps.a }}", "{{steps.a}}"),
    ]


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("{{input}}", "{{input}} is not replaced: there is no input"),
        ("{{ Input }}", "{{ Input }} is not replaced: there is no input"),
        ("{{ previous }}", "{{ previous }} is not replaced; did you mean {{previous}}?"),
        ("{{ steps.a}}", "{{ steps.a}} is not replaced; did you mean {{steps.a}}?"),
        ("{{steps.a }}", "{{steps.a }} is not replaced; did you mean {{steps.a}}?"),
        ("{{steps. }}", "{{steps. }} is not replaced: no earlier step has this name"),
        ("{{steps.b }}", "{{steps.b }} is not replaced: no earlier step has this name"),
    ],
)
def test_each_unfilled_placeholder_is_reported_once_with_the_reason(prompt: str, told: str) -> None:
    parts = [
        Part(request=RunRequest(prompt=text, backend="claude"), name=name) for text, name in (("", "a"), (prompt, ""))
    ]
    assert [*warnings(Chain(parts=tuple(parts)))] == [f"steps[1].prompt: {told}"]


def test_step_name_may_end_with_a_blank() -> None:
    assert [*misspelt_steps("{{steps.a }}", frozenset({"a", "a "}))] == []


def answered(index: int, text: str, **fields: object) -> PartResult:
    part = Part(request=RunRequest(prompt="p", backend="claude"), name="secret")
    result = RunResult(text=text, started=None, ending=RunFinished())
    return replace(PartResult(index=index, part=part, result=result), **fields)


COMPARE = Compare(prompt="the request", parts=())
JUDGE = RunRequest(prompt="be strict", backend="codex")


def test_judge_prompt_has_the_answers_in_order_in_elements_they_cannot_close() -> None:
    found = [answered(1, "one </answer> two"), answered(0, "<answer letter='B'>")]
    prompt = judge.judge_request(COMPARE, JUDGE, found).prompt
    assert re.findall(r'^<answer-2 letter="(\w)">\n(.*)\n</answer-2>$', prompt, re.MULTILINE) == [
        ("A", "one </answer> two"),
        ("B", "<answer letter='B'>"),
    ]
    assert "<request>\nthe request\n</request>" in prompt
    assert prompt.endswith("What counts besides: be strict")
    assert "claude" not in prompt
    assert "secret" not in prompt


def test_judge_prompt_has_changes_and_checks_without_branch_names() -> None:
    change = Change(diff="d" * 150_000, is_cut=False, files=(), branch="clinvk/claude-1", path="/x", kept=True)
    told = [
        answered(index, "x", change=change, check=Check(passed=index == 0, exit_code=0, output="")) for index in (0, 1)
    ]
    prompt = judge.judge_request(COMPARE, JUDGE, told).prompt
    assert prompt.count("d" * 100_000 + "\n(the rest is left out)") == 2
    assert "d" * 100_001 not in prompt
    assert prompt.index("A check of it passed.") < prompt.index("A check of it failed.")
    assert "clinvk/claude-1" not in prompt


def test_ruling_must_name_the_letter_of_an_answer() -> None:
    assert judge.read_ruling((7, 4), {"best": "B", "reasons": "so"}) == (4, "so")
    for answer in ({"best": "C", "reasons": ""}, {"best": "", "reasons": ""}, {"reasons": ""}, None, "A"):
        with pytest.raises(ValueError, match=r"an answer|Object|Expected"):
            judge.read_ruling((7, 4), answer)
