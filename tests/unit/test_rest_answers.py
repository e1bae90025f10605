"""Answers of the REST dialect: results, streams of unified events, problem documents."""

import re

import msgspec
import pytest
from msgspec.structs import replace

from clinvk.dialects import sse
from clinvk.dialects.dialect import Call
from clinvk.dialects.rest.rest import Rest
from clinvk.dialects.rest.unified import UnifiedEncoder
from clinvk.types import errors
from clinvk.types.errors import (
    BackendUnavailable,
    BodyTooLarge,
    ClinvkError,
    DirectoryNotAllowed,
    ForeignOrigin,
    InvalidRequest,
    KeyRefused,
    NotCancellable,
    QueueFull,
    SessionNotFound,
    Unsupported,
    WrongMediaType,
)
from clinvk.types.events import (
    Event,
    Progress,
    RunFailed,
    RunFinished,
    RunResult,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
    UserMessage,
)
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts

FACTS = RunFacts(
    run_id="r1",
    backend="claude",
    session_id="s1",
    workdir="/w",
    started_at=1_700_000_000.0,
    ended_at=1_700_000_001.2345,
)
CALL = Call(request=RunRequest(prompt="hi", backend="claude"))
USAGE = Usage(10, 5, 2, 1)
ZEROS = {"input_tokens": 0, "output_tokens": 0, "cached_tokens": 0, "reasoning_tokens": 0}

Line = dict[str, object]


def stream(*events: Event, facts: RunFacts = FACTS) -> list[Line]:
    encoder = UnifiedEncoder(facts)
    data = b"".join(encoder.feed(event, 1_700_000_001.25 + index) for index, event in enumerate(events))
    assert data.endswith(b"\n")
    return [msgspec.json.decode(line, type=Line) for line in data.splitlines()]


def test_non_unicode_directory_is_reported_as_in_the_store() -> None:
    (init,) = stream(RunStarted(), facts=replace(FACTS, workdir="/größe/\udcff"))
    assert isinstance(init["content"], dict)
    assert init["content"]["working_dir"] == "/größe/?"


def answer(result: RunResult, call: Call = CALL) -> Line:
    return msgspec.json.decode(Rest().result(call, result, FACTS), type=Line)


def test_each_event_becomes_the_documented_line() -> None:
    lines = stream(
        RunStarted("opus", "b1"),
        ThinkingDelta("hm"),
        ToolCall("t1", "Bash", {"command": "ls"}),
        ToolResult("t1", "a.txt", is_error=True),
        Progress("retry", "again in 1 s"),
        UserMessage("and more"),
        TextDelta("hello"),
        RunFinished("end_turn", USAGE, 0.01, turns=2),
    )
    usage = {"input_tokens": 10, "output_tokens": 5, "cached_tokens": 2, "reasoning_tokens": 1}
    assert [(line["type"], line["content"]) for line in lines] == [
        ("init", {"model": "opus", "backend_session_id": "b1", "working_dir": "/w", "run_id": "r1"}),
        ("thinking", {"text": "hm", "is_partial": True}),
        ("tool_use", {"tool_id": "t1", "tool_name": "Bash", "input": {"command": "ls"}}),
        ("tool_result", {"tool_id": "t1", "tool_name": "Bash", "output": "a.txt", "is_error": True}),
        ("progress", {"stage": "retry", "message": "again in 1 s"}),
        ("user_message", {"text": "and more", "role": "user"}),
        ("message", {"text": "hello", "role": "assistant", "is_partial": True}),
        ("token_usage", usage),
        (
            "done",
            {"token_usage": usage, "duration": 8.25, "stop_reason": "end_turn", "turn_count": 2, "cost_usd": 0.01},
        ),
    ]


def test_each_line_has_backend_session_timestamp_and_sequence() -> None:
    first, second = stream(RunStarted(), TextDelta("x"))
    assert list(first) == ["type", "backend", "session_id", "timestamp", "sequence", "content"]
    assert (first["backend"], first["session_id"], first["sequence"], second["sequence"]) == ("claude", "s1", 1, 2)
    assert first["timestamp"] == "2023-11-14T22:13:21.250Z"
    assert second["timestamp"] == "2023-11-14T22:13:22.250Z"


def test_timestamp_always_has_three_digits_of_milliseconds() -> None:
    encoder = UnifiedEncoder(FACTS)
    for at in (0.0, 1.0005, 1.9999, 2.0, 1_764_079_200.1):
        line = msgspec.json.decode(encoder.feed(TextDelta("x"), at), type=Line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line["timestamp"]))


def test_lines_of_a_run_without_a_session_omit_session_id() -> None:
    (line,) = stream(RunStarted(), facts=RunFacts(run_id="r", backend="codex"))
    assert "session_id" not in line


def test_failure_ends_the_stream_with_code_message_and_exit_code() -> None:
    *_, usage, error = stream(RunStarted(), RunFailed("agent_crashed", "killed", 137, USAGE, 0.5))
    assert usage["type"] == "token_usage"
    assert error["type"] == "error"
    assert error["content"] == {
        "code": "agent_crashed",
        "message": "killed",
        "details": {"exit_code": 137, "token_usage": msgspec.to_builtins(USAGE), "cost_usd": 0.5},
    }


@pytest.mark.parametrize("claimed", [None, 0])
def test_failure_never_has_exit_code_0(claimed: int | None) -> None:
    (line,) = stream(RunFailed("timed_out", "too long", claimed))
    assert line["content"] == {"code": "timed_out", "message": "too long", "details": {"exit_code": 1}}


def test_failure_before_the_start_is_a_single_error_line() -> None:
    assert [line["type"] for line in stream(RunFailed("agent_crashed", "no", 1, USAGE))] == ["error"]


def test_finished_run_without_usage_reports_zeros_in_the_last_line_only() -> None:
    lines = stream(RunStarted(), RunFinished())
    assert [line["type"] for line in lines] == ["init", "done"]
    assert lines[1]["content"] == {"token_usage": ZEROS, "duration": 2.25, "stop_reason": "end_turn"}


def test_result_of_an_unknown_tool_call_has_an_empty_name() -> None:
    _, line = stream(RunStarted(), ToolResult("t9", "x"))
    assert line["content"] == {"tool_id": "t9", "tool_name": "", "output": "x", "is_error": False}


def test_success_returns_all_fields() -> None:
    result = RunResult(
        text="hello", started=RunStarted("opus"), ending=RunFinished("max_turns", USAGE, 0.01), stderr="warning"
    )
    assert answer(result) == {
        "session_id": "s1",
        "backend": "claude",
        "exit_code": 0,
        "duration_ms": 1234,
        "output": "hello",
        "token_usage": {"input_tokens": 10, "output_tokens": 5, "cached_tokens": 2, "reasoning_tokens": 1},
        "run_id": "r1",
        "model": "opus",
        "cost_usd": 0.01,
        "stop_reason": "max_turns",
    }


PROBLEMS = [
    (InvalidRequest("no", "extra[0]"), 400, "invalid_request", "extra[0]"),
    (InvalidRequest("no"), 400, "invalid_request", None),
    (Unsupported("no", "sandbox_mode"), 422, "unsupported_option", "sandbox_mode"),
    (BackendUnavailable("no"), 404, "backend_unavailable", "backend"),
    (SessionNotFound("no"), 404, "session_not_found", "session_id"),
    (errors.SessionBusy("no"), 409, "session_busy", "session_id"),
    (errors.NotResumable("no"), 409, "session_not_resumable", "session_id"),
    (errors.RunNotFound("no"), 404, "run_not_found", None),
    (errors.AmbiguousId("no", candidates=("a", "b")), 409, "ambiguous_id", None),
    (errors.StoreUnavailable("no"), 503, "store_unavailable", None),
    (KeyRefused("no"), 401, "unauthorized", None),
    (ForeignOrigin("no"), 403, "foreign_origin", None),
    (DirectoryNotAllowed("no", "workdir"), 403, "directory_not_allowed", "workdir"),
    (NotCancellable("no"), 409, "run_not_cancellable", None),
    (BodyTooLarge("no"), 413, "body_too_large", None),
    (WrongMediaType("no"), 415, "unsupported_media_type", None),
    (errors.ResourcesExhausted("no"), 503, "resources_exhausted", None),
    (QueueFull("no", retry_after_s=5), 503, "queue_full", None),
    (errors.ShuttingDown("no"), 503, "shutting_down", None),
    (errors.AgentCrashed("no"), 502, "agent_crashed", None),
    (errors.ConfigError("no"), 500, "invalid_config", None),
    (ClinvkError("no"), 500, "internal_error", None),
]


@pytest.mark.parametrize(("error", "status", "code", "field"), PROBLEMS)
def test_error_is_a_problem_document(error: ClinvkError, status: int, code: str, field: str | None) -> None:
    told, body = Rest().error(error, "q1")
    problem = msgspec.json.decode(body, type=Line)
    assert told == problem["status"] == status
    assert problem["type"] == f"/docs#{code}"
    assert (problem["code"], problem["detail"], problem["request_id"]) == (code, "no", "q1")
    assert problem.get("field") == field
    assert problem["title"]


def test_only_an_ambiguous_id_problem_lists_candidates() -> None:
    _, body = Rest().error(errors.AmbiguousId("no", candidates=("a", "b")), "q1")
    assert msgspec.json.decode(body, type=Line)["candidates"] == ["a", "b"]
    assert b"candidates" not in Rest().error(errors.RunNotFound("no"), "q1")[1]


def test_accepted_run_is_returned_with_session_and_state() -> None:
    body = Rest().accepted(CALL, replace(FACTS, state="queued"))
    assert msgspec.json.decode(body) == {"run_id": "r1", "session_id": "s1", "state": "queued"}


def test_tool_names_are_known_from_skipped_events() -> None:
    whole, rest = UnifiedEncoder(FACTS), UnifiedEncoder(FACTS)
    told: list[Event] = [RunStarted(), ToolCall("t1", "Bash", {}), TextDelta("x"), ToolResult("t1", "out")]
    lines = [whole.feed(event, 1.0) for event in told]
    for event in told[:3]:
        rest.skip(event)
    rest.sequence = 3
    assert rest.feed(told[3], 1.0) == lines[3]
    assert rest.sequence == 4


def test_server_sent_event_has_an_id_and_one_data_line() -> None:
    line = UnifiedEncoder(FACTS).feed(TextDelta("a\nb\r\u2028c"), 1.0)
    frame = sse.frame(line, id=7)
    assert frame.startswith(b"id: 7\ndata: {")
    assert frame.endswith(b"}\n\n")
    assert frame.count(b"\n") == 3
    assert b"\r" not in frame


def test_pieces_of_a_call_have_no_lines() -> None:
    lines = stream(RunStarted(), ToolCallDelta("c", "f", "{}"), ToolCall("c", "f", {}, for_client=True))
    assert [(line["type"], line["sequence"]) for line in lines] == [("init", 1), ("tool_use", 3)]


@pytest.mark.parametrize(("verbose", "stderr"), [(True, "warning"), (False, None)])
def test_stderr_is_returned_only_if_verbose(verbose: bool, stderr: str | None) -> None:
    call = Call(request=RunRequest(prompt="hi", backend="claude", verbose=verbose))
    result = RunResult(text="", started=RunStarted(), ending=RunFinished(), stderr="warning")
    assert answer(result, call).get("stderr") == stderr
