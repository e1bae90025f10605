"""The outcome of an orchestration as text: answers in columns, tables, and the live display."""

import re
import time

import pytest
from msgspec.structs import replace

from clinvk.cli.orchestrate.progress import LiveProgress
from clinvk.cli.orchestrate.view import answers, failed_checks, overview, side_by_side, wrapped
from clinvk.cli.sessions.session_text import TextView
from clinvk.cli.terminal.output import Notes
from clinvk.cli.terminal.table import width
from clinvk.types.errors import Cancelled, TimedOut
from clinvk.types.events import RunFailed, RunFinished, RunResult
from clinvk.types.orchestration import Chain, Change, Check, Compare, Parallel, Part, PartResult, Plan, Summary, not_run
from clinvk.types.request import RunRequest
from clinvk.types.text import without_sequences

STYLE = re.compile(r"\x1b\[\d*m")
WIDE = "日本語のとても長い答え " * 5


def part(name: str = "", backend: str = "claude") -> Part:
    return Part(request=RunRequest(prompt="do it", backend=backend), name=name)


def done(index: int, text: str, name: str = "") -> PartResult:
    result = RunResult(text=text, started=None, ending=RunFinished())
    return PartResult(index=index, part=part(name), result=result, run_id="r", duration_s=1.25)


def failed(index: int, code: str) -> PartResult:
    result = RunResult(text="", started=None, ending=RunFailed(code, f"it\nis {code}"))
    return PartResult(index=index, part=part(), result=result, run_id="r")


def summary(plan: Plan, *results: PartResult) -> Summary:
    return Summary(run_id="r", plan=plan, results=results, duration_s=2.5)


def compared(*results: PartResult) -> Summary:
    return summary(Compare(prompt="do it", parts=tuple(result.part for result in results)), *results)


@pytest.mark.parametrize(
    "text", [WIDE, "x" * 200, "short", "", "a word " * 30, "tab\tbed \x1b[31m", "é" * 50 + " " + "x" * 50]
)
@pytest.mark.parametrize("wide", [3, 10, 37])
def test_wrapped_lines_fit_and_lose_only_spaces(text: str, wide: int) -> None:
    pieces = wrapped(text, wide)
    assert all(width(piece) <= wide for piece in pieces)
    assert "".join(pieces).replace(" ", "") == text.replace("\t", "").replace("\x1b", "?").replace(" ", "")


def test_wrapping_takes_linear_time() -> None:
    """Copying the rest of the text for each piece would take minutes."""
    pieces = wrapped("word " * (7 * 70_000 + 2), 37)
    assert set(pieces) == {" ".join(["word"] * 7), " ".join(["word"] * 2)}


def test_answers_are_side_by_side_only_if_there_is_room() -> None:
    both = compared(done(0, f"{WIDE}\nend"), done(1, "one\ntwo"))
    lines = side_by_side(both, TextView(0, most=80))
    assert all(width(line) <= 80 for line in lines)
    assert all("│" in line for line in lines[:-1])
    assert side_by_side(both, TextView(0, most=70)) == []
    assert side_by_side(compared(done(0, "alone")), TextView(0, most=200)) == []


def test_rendered_answers_side_by_side_fit_their_columns() -> None:
    code = "```python\n" + "x = 1  # long\n" * 2 + "y" * 50 + "\n```"
    both = compared(done(0, f"Some **bold** text.\n\n{code}"), done(1, f"| a | b |\n|--|--|\n| 1 | {'w' * 50} |"))
    lines = side_by_side(both, TextView(0, most=80, is_rendered=True))
    plain = [*map(without_sequences, lines)]
    assert all(width(line) <= 80 for line in plain)
    assert {line.index("│") for line in plain[:-1]} == {39}
    assert "\x1b[1mbold\x1b[0m" in "".join(lines)
    assert "".join(line[:38].strip() for line in plain).count("y") == 50
    assert "".join(line[42:] for line in plain).count("w") == 50


def test_failure_follows_the_partial_answer() -> None:
    assert [*answers(compared(failed(0, "agent_failed")), TextView(0))] == [
        "── [1] claude ──",
        "",
        "(failed: it is agent_failed)",
        "",
    ]


def test_part_cancelled_before_its_agent_started_has_no_answer() -> None:
    results = (done(0, "x"), not_run(1, part(), Cancelled("not run")), failed(2, "agent_failed"))
    plan = Parallel(parts=tuple(result.part for result in results))
    heads = [line for line in answers(summary(plan, *results), TextView(0)) if line.startswith("──")]
    assert heads == ["── [1] claude ──", "── [3] claude ──"]


def test_table_has_a_status_for_each_outcome() -> None:
    results = (
        done(0, "x", "first"),
        failed(1, "agent_failed"),
        failed(2, TimedOut.code),
        not_run(3, part(), Cancelled("not run")),
    )
    plan = Parallel(parts=tuple(result.part for result in results))
    head, *rows, totals = overview(summary(plan, *results), TextView(0.0), show_tokens=True)
    assert head.split() == ["#", "BACKEND", "STATE", "DURATION", "TITLE"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3", "4"]
    assert [row[12:].strip() for row in rows] == [
        "done          1.2 s  first",
        "failed        0.0 s  do it",
        "failed        0.0 s  do it",
        "cancelled            do it",
    ]
    assert totals == "4 tasks: 1 done, 2 failed, 1 cancelled in 2.5 s; 0 in, 0 out tokens"


def test_table_of_isolated_agents_has_changed_files_and_check() -> None:
    change = Change(diff="", is_cut=False, files=(), branch="b", path="/p", kept=True)
    result = replace(done(0, "an\nanswer"), change=change, check=Check(passed=False, exit_code=1, output=""))
    head, row, _ = overview(compared(result), TextView(0.0), show_tokens=False)
    assert head.split() == ["#", "BACKEND", "STATE", "DURATION", "FILES", "CHECK", "ANSWER"]
    assert row.split() == ["1", "claude", "done", "1.2", "s", "0", "failed", "an", "answer"]


def test_output_of_failed_checks_is_printed() -> None:
    checks = (Check(passed=True, exit_code=0, output="fine"), Check(passed=False, exit_code=None, output="\x1b[31mx\n"))
    both = compared(*(replace(done(index, "x"), check=check) for index, check in enumerate(checks)))
    assert [*failed_checks(both)] == ["── [2] claude ── check failed (timed out)", "x", ""]


def test_totals_count_the_steps_that_were_not_run() -> None:
    plan = Chain(parts=(part(), part(), part()))
    assert overview(summary(plan, done(0, "x")), TextView(0.0), show_tokens=False)[-1] == (
        "3 steps: 1 done, 2 not run in 2.5 s"
    )


async def test_display_fits_the_terminal_with_many_parts() -> None:
    display = LiveProgress(Parallel(parts=tuple(part(f"n{index}") for index in range(1000))), Notes({}))
    for index in (0, 1, 3):
        await display.ended(done(index, WIDE, f"n{index}"))
    lines = display.drawn(60, 12)
    assert len(lines) <= 12
    assert max(map(width, lines)) <= 60
    assert [line.split()[0] for line in lines[1:-1]] == [f"[{number}]" for number in range(1, 10)]
    assert [line.split()[3] for line in lines[1:6]] == ["done", "done", "queued", "done", "queued"]
    assert lines[-1].strip() == "3 done, 997 queued"


@pytest.mark.parametrize("columns", [8, 20, 40, 100])
async def test_colors_take_no_room_in_the_display(columns: int) -> None:
    parts = tuple(part(f"n{index}") for index in range(3))
    styled = Notes({})
    styled.has_color = True
    plain, colored = (LiveProgress(Parallel(parts=parts), notes) for notes in (Notes({}), styled))
    for display in (plain, colored):
        await display.ended(done(0, WIDE, "n0"))
        await display.ended(failed(1, "agent_failed"))
    lines = plain.drawn(columns, 24)
    assert max(map(width, lines)) <= columns
    assert [STYLE.sub("", line) for line in colored.drawn(columns, 24)] == lines


async def test_drawing_time_does_not_grow_with_parts() -> None:
    display = LiveProgress(Parallel(parts=(part(),) * 50_000), Notes({}))
    for index in range(40_000):
        await display.ended(done(index, "x"))
    began = time.process_time()
    display.drawn(80, 30)
    assert time.process_time() - began < 1
