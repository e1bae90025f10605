"""Events as the output formats of the command line."""

import json
import os

import pytest

from clinvk.cli.prompt.printers import JsonPrinter, LinesPrinter, MarkdownPrinter, TextPrinter, exit_code_of_ending
from clinvk.cli.terminal import exits
from clinvk.types.errors import (
    AgentCrashed,
    AmbiguousId,
    BackendUnavailable,
    Cancelled,
    ConfigError,
    NotResumable,
    SessionBusy,
    SessionNotFound,
    TimedOut,
)
from clinvk.types.events import (
    Ending,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    Usage,
)
from clinvk.types.request import RunRequest
from known_run import KnownRun

REQUEST = RunRequest(prompt="p", backend="codex", model="asked", workdir="/work")


def ended_run(**facts: object) -> KnownRun:
    return KnownRun(REQUEST, **{"created_at": 100.0, "started_at": 101.0, "ended_at": 103.5, **facts})


def printed(run: KnownRun, *events: TextDelta | RunStarted | Ending) -> dict[str, object]:
    printer = JsonPrinter(run, indent=False)
    chunks = [printer.feed(event, 0.0) for event in events]
    assert not any(chunks[:-1])
    assert chunks[-1].endswith(b"\n")
    return json.loads(chunks[-1])


def test_text_always_ends_with_one_newline() -> None:
    for texts, expected in ((["a", "b"], b"ab\n"), (["a\n"], b"a\n"), ([], b""), (["a", ""], b"a\n")):
        for ending in (RunFinished(), RunFailed("agent_failed", "no")):
            printer = TextPrinter()
            assert b"".join(printer.feed(event, 0) for event in [*map(TextDelta, texts), ending]) == expected


def test_text_contains_only_the_answer() -> None:
    printer = TextPrinter()
    for event in (RunStarted(), ThinkingDelta("hm"), ToolCall("1", "Bash", {}), Progress("retry", "again")):
        assert printer.feed(event, 0) == b""


def test_json_prefers_the_model_reported_by_the_agent() -> None:
    assert printed(ended_run(), RunStarted("told"), RunFinished())["model"] == "told"
    assert printed(ended_run(), RunStarted(), RunFinished())["model"] == "asked"


def test_json_keeps_output_before_a_failure() -> None:
    ending = RunFailed("agent_failed", "it broke", 3)
    result = printed(ended_run(), RunStarted(), TextDelta("a"), TextDelta("b"), ending)
    assert (result["content"], result["error"], result["exit_code"]) == ("ab", "it broke", 1)
    assert result["duration_seconds"] == 2.5


def test_json_counts_each_token_once_and_omits_missing_counts() -> None:
    result = printed(ended_run(), RunFinished(usage=Usage(10, 5, 4, 2)))
    assert result["usage"] == {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "cached_tokens": 4,
        "reasoning_tokens": 2,
    }
    assert printed(ended_run(), RunFinished(usage=Usage(0, 0)))["usage"] == {
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
    }
    assert printed(ended_run(), RunFinished())["usage"] is None


def test_json_contains_the_cost_if_reported() -> None:
    assert printed(ended_run(), RunFinished(cost_usd=0.25))["cost_usd"] == 0.25
    assert printed(ended_run(), RunFailed("agent_failed", "no", cost_usd=0.0))["cost_usd"] == 0
    assert "cost_usd" not in printed(ended_run(), RunFinished())


def test_json_contains_run_id_and_stop_reason() -> None:
    finished = printed(ended_run(), RunFinished("max_turns", structured_output={"a": [1]}))
    assert (finished["run_id"], finished["stop_reason"], finished["structured_output"]) == (
        "run",
        "max_turns",
        {"a": [1]},
    )
    assert "error_code" not in finished
    assert "structured_output" not in printed(ended_run(), RunFinished())
    failed = printed(ended_run(), RunFailed("timed_out", "too late"))
    assert (failed["run_id"], failed["error_code"]) == ("run", "timed_out")
    assert "stop_reason" not in failed


@pytest.mark.parametrize(
    ("raw", "expected"), [(b'{"a":1.50}', {"a": 1.5}), (b"", None), (b"{", None), (b'{"a":"\xff"}', None)]
)
def test_raw_is_the_agents_last_event_or_nothing(raw: bytes, expected: object) -> None:
    assert printed(ended_run(raw=raw), RunFinished())["raw"] == expected


def test_run_that_never_started_has_zero_duration() -> None:
    assert printed(ended_run(started_at=None), RunFailed("invalid_request", "no"))["duration_seconds"] == 0


def test_lines_contain_the_known_facts_of_the_run() -> None:
    printer = LinesPrinter(ended_run(session_id="s"))
    first = json.loads(printer.feed(RunStarted(), 101.0))
    last = json.loads(printer.feed(RunFinished(), 103.5))
    assert first["content"] == {"model": "asked", "backend_session_id": None, "working_dir": "/work", "run_id": "run"}
    assert (last["type"], last["sequence"], last["session_id"]) == ("done", 2, "s")
    assert last["content"]["duration"] == 2.5


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (RunFinished(), 0),
        (RunFinished("max_turns"), 0),
        (RunFailed(AgentCrashed.code, "", None), 1),
        (RunFailed(AgentCrashed.code, "", 0), 1),
        (RunFailed(AgentCrashed.code, "", 7), 1),
        (RunFailed(AgentCrashed.code, "", 8), 8),
        (RunFailed(AgentCrashed.code, "", 137), 137),
        (RunFailed(TimedOut.code, "", 143), 6),
        (RunFailed(Cancelled.code, "", 143), 7),
        (RunFailed(BackendUnavailable.code, ""), 2),
    ],
)
def test_exit_code_follows_the_ending(ending: Ending, code: int) -> None:
    assert exit_code_of_ending(ending) == code


def test_exit_code_follows_the_error_before_the_run() -> None:
    assert [exits.exit_code_of_error(kind.code) for kind in (BackendUnavailable, ConfigError)] == [2, 3]
    of_sessions = (SessionNotFound, SessionBusy, NotResumable, AmbiguousId)
    assert {exits.exit_code_of_error(kind.code) for kind in of_sessions} == {4}
    assert exits.exit_code_of_error("anything else") == 1


class Live:
    """A printer of Markdown on a terminal whose size can change."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.size = os.terminal_size((columns, rows))
        self.printer = MarkdownPrinter(lambda: self.size.columns, lambda: self.size)

    def feed(self, *texts: str) -> str:
        """Return what is printed for the last of these texts, however soon it comes."""
        self.printer.erase()
        return [self.printer.feed(TextDelta(text), 0).decode() for text in texts][-1]


def test_unfinished_block_is_erased_and_drawn_again() -> None:
    live = Live()
    assert live.feed("One **tw") == "One **tw"
    assert live.printer.is_drawn
    assert live.printer.feed(ToolCall("1", "Bash", {}), 0).decode() == "\r\x1b[JOne **tw\n"
    assert not live.printer.is_drawn
    assert live.printer.feed(RunFinished(), 0) == b""


def test_redraws_wait_for_a_moment() -> None:
    live = Live()
    assert live.feed("one") == "one"
    drawn = [live.printer.feed(TextDelta(" two"), 0) for _ in range(1000)]
    assert sum(map(bool, drawn)) < 100
    assert live.printer.feed(RunFinished(), 0).count(b"two") == 1000


@pytest.mark.parametrize("text", ["- x\n" + "  - y\n" * 50, "```\n" + "y\n" * 50, "y\n" * 50])
def test_only_the_last_rows_of_a_long_block_are_drawn(text: str) -> None:
    shown = Live(rows=10).feed(text)
    assert (shown.count("y"), shown.count("\n")) == (9, 8)


@pytest.mark.parametrize(("columns", "rows"), [(80, 2), (40, 4), (120, 2)])
def test_resized_terminal_has_no_remains_of_the_unfinished_block(columns: int, rows: int) -> None:
    live = Live(80)
    live.feed(f"{'x' * 80}\n{'y' * 80}")
    live.size = os.terminal_size((columns, 24))
    assert live.printer.erase() == f"\r\x1b[{rows - 1}A\x1b[J"
    assert live.printer.erase() == ""


def test_wide_characters_take_two_cells() -> None:
    live = Live(20)
    assert live.feed("漢" * 25).count("\n") == 2
    assert live.printer.erase() == "\r\x1b[2A\x1b[J"
