"""Runs as text."""

import pytest
from msgspec.structs import replace

from clinvk.cli.sessions.runs import run_details, run_transcript
from clinvk.cli.sessions.session_text import TextView
from clinvk.cli.terminal.table import width
from clinvk.types.record import RunRecord

NOW = 1_700_000_000.0

RUN = RunRecord(
    id="1" * 8,
    backend="claude",
    prompt="長い" * 400,
    state="queued",
    created_at=NOW,
    workdir="/d",
    model="m",
    stop_reason="max_tokens",
)
COMPARED = replace(RUN, backend="", model=None, request={"kind": "compare", "backends": ["claude", "codex"]})


def test_details_omit_empty_fields() -> None:
    lines = run_details(RUN, TextView(NOW))
    assert lines[:4] == [
        "id           11111111",
        "backend      claude (m)",
        "state        queued",
        "stop reason  max_tokens",
    ]
    assert [line[:11].rstrip() for line in lines[4:]] == ["directory", "created"]


@pytest.mark.parametrize("run", [RUN, COMPARED], ids=["prompt", "compare"])
def test_details_omit_a_prompt_that_is_printed_below(run: RunRecord) -> None:
    *lines, _ = run_details(run, TextView(NOW))
    assert not any(line.startswith("about ") for line in lines)
    assert max(map(width, lines)) <= 41


def test_details_of_a_comparison_without_a_prompt_show_the_number_of_backends() -> None:
    assert "about        2 backends" in run_details(replace(COMPARED, prompt=""), TextView(NOW))


def test_transcript_of_several_agents_has_the_answer_of_each_in_their_order() -> None:
    parts = [
        replace(RUN, request={"part": {"run_id": "0", "index": 1}}, state="failed", output="half", error_message="no"),
        replace(RUN, request={"part": {"run_id": "0", "index": 0}}, output="whole\n"),
    ]
    whole = replace(COMPARED, prompt="ask", output="best: [1] claude")
    assert "\n".join(run_transcript(whole, parts, TextView(NOW))) == (
        "\n── prompt ──\nask\n\n── [1] claude ──\nwhole\n"
        "\n── [2] claude ──\nhalf\n(failed: no)\n\n── answer ──\nbest: [1] claude"
    )


def test_transcript_omits_the_message_of_a_cancelled_part_that_repeats_its_state() -> None:
    part = replace(RUN, state="cancelled", error_message="the run was cancelled")
    assert "(cancelled)" in "\n".join(run_transcript(COMPARED, [part], TextView(NOW)))
    part = replace(part, error_message="the server is stopping")
    assert "(cancelled: the server is stopping)" in "\n".join(run_transcript(COMPARED, [part], TextView(NOW)))


def test_transcript_of_a_chain_does_not_repeat_the_last_answer() -> None:
    step = replace(RUN, request={"part": {"run_id": "0", "index": 0, "name": "review"}}, output="fine")
    chain = replace(COMPARED, prompt="", output="fine", request={"kind": "chain", "steps": 1})
    assert [*run_transcript(chain, [step], TextView(NOW))] == ["\n── step 1 claude review ──", "fine"]


def test_details_of_an_ended_run_have_its_duration() -> None:
    assert "duration     2.0 s" in run_details(replace(RUN, started_at=NOW, ended_at=NOW + 2), TextView(NOW))
