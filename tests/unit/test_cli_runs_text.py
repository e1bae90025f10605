"""Runs as people read them."""

import pytest
from msgspec.structs import replace

from clinvk.cli.sessions.runs import run_details
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
