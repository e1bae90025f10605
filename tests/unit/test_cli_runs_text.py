"""Runs as people read them."""

import pytest
from msgspec.structs import replace

from clinvk.cli.sessions.runs import details
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


def test_details_leave_out_what_is_empty() -> None:
    lines = details(RUN, NOW, None)
    assert lines[:4] == [
        "id           11111111",
        "backend      claude (m)",
        "state        queued",
        "stop reason  max_tokens",
    ]
    assert [line[:11].rstrip() for line in lines[4:]] == ["directory", "created"]


@pytest.mark.parametrize("run", [RUN, COMPARED], ids=["prompt", "compare"])
def test_a_prompt_that_stands_below_is_not_in_the_details(run: RunRecord) -> None:
    *lines, _ = details(run, NOW, None)
    assert not any(line.startswith("about ") for line in lines)
    assert max(map(width, lines)) <= 41


def test_of_several_agents_whose_prompt_is_not_kept_their_number_is_told() -> None:
    assert "about        2 backends" in details(replace(COMPARED, prompt=""), NOW, None)
