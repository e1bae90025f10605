"""Recorded lines of Gemini CLI as events."""

import json
from collections.abc import Iterable

import pytest

from clinvk.backends.base import Host, Launch
from clinvk.backends.gemini import Gemini
from clinvk.types.events import (
    Event,
    Progress,
    RunFailed,
    RunFinished,
    TextDelta,
    ToolResult,
    Usage,
)
from recordings import decoded, expected_events, recorded

EXPECTED = expected_events("gemini")
HOSTILE = (b'{"type":"error","message":"\xff"}', b'{"type":"error","x":' + b"[" * 100_000)
NOISE = (
    b"",
    b"Empty GEMINI.md created.",
    b"null",
    b"[1]",
    b'{"type":"news","x":1}',
    b'{"type":7}',
    b"\xff{",
    b"{",
    *HOSTILE,
)


def _play(lines: Iterable[bytes], exit_code: int, stderr: bytes = b"") -> list[Event]:
    return decoded(Gemini().channel(Launch(argv=("gemini",)), Host()), lines, exit_code, stderr)


@pytest.mark.parametrize("case", EXPECTED)
def test_recording_is_decoded_to_the_expected_events(case: str) -> None:
    lines, exit_code, stderr = recorded("gemini", case)
    assert _play(lines, exit_code, stderr) == EXPECTED[case]
    noisy = [noise for line in lines for noise in (*NOISE, line)] + [*NOISE]
    assert _play(noisy, exit_code, stderr) == EXPECTED[case]


def test_blank_line_separates_messages_around_tool_calls() -> None:
    def say(text: str) -> bytes:
        return json.dumps({"type": "message", "role": "assistant", "content": text, "delta": True}).encode()

    lines = [
        say("Look"),
        say(" here."),
        b'{"type":"tool_use","tool_name":"glob","tool_id":"1","parameters":{}}',
        b'{"type":"tool_use","tool_name":"glob","tool_id":"2","parameters":{}}',
        b'{"type":"tool_result","tool_id":"1","status":"success"}',
        b'{"type":"tool_result","tool_id":"2","status":"error","error":{"type":"x","message":"no"}}',
        say("Done"),
        say("."),
        b'{"type":"result","status":"success"}',
    ]
    events = _play(lines, 0)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Look here.\n\nDone."
    assert [event for event in events if isinstance(event, ToolResult)] == [
        ToolResult("1", ""),
        ToolResult("2", "no", is_error=True),
    ]


@pytest.mark.parametrize(("exit_code", "told"), [(1, 1), (41, 41), (143, 143), (145, 1), (173, 1), (255, 1)])
def test_exit_code_from_a_truncated_status_is_not_a_signal(exit_code: int, told: int) -> None:
    result = b'{"type":"result","status":"error","error":{"type":"unknown","message":"[API Error: no]"}}'
    (ending,) = _play([result], exit_code)
    assert isinstance(ending, RunFailed)
    assert ending.exit_code == told


def test_nested_json_error_messages_are_decoded() -> None:
    inner = json.dumps({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}})
    outer = json.dumps({"error": {"message": inner, "code": 503, "status": "Service Unavailable"}})
    result = {"type": "result", "status": "error", "error": {"type": "unknown", "message": f"[API Error: {outer}]"}}
    assert _play([json.dumps(result).encode()], 247) == [RunFailed("agent_overloaded", "The model is overloaded.", 1)]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Model response was truncated because it exceeded the token limit. Try using /compress.", "max_tokens"),
        ("The model response was blocked due to safety settings.", "refusal"),
        ("Maximum session turns exceeded", "max_turns"),
    ],
)
@pytest.mark.parametrize("status", ["error", "success"])
def test_end_chosen_by_the_model_is_a_stop_reason(message: str, reason: str, status: str) -> None:
    error = json.dumps({"type": "error", "severity": "error", "message": message}).encode()
    events = _play([error, json.dumps({"type": "result", "status": status}).encode()], 0)
    assert events[0] == Progress("warning", message)
    ending = events[-1]
    assert isinstance(ending, RunFinished)
    assert ending.stop_reason == reason


def test_result_without_a_cause_reports_the_preceding_error() -> None:
    error = b'{"type":"error","severity":"error","message":"The model returned an empty response."}'
    assert _play([error, b'{"type":"result","status":"error"}'], 0) == [
        Progress("warning", "The model returned an empty response."),
        RunFailed("agent_failed", "The model returned an empty response.", 0),
    ]


ANSWER = b'{"type":"message","role":"assistant","content":"Hi"}'
SUCCESS = b'{"type":"result","status":"success","stats":{"total_tokens":3,"input_tokens":2,"output_tokens":1}}'


def _warning(message: str) -> bytes:
    return json.dumps({"type": "error", "severity": "warning", "message": message}).encode()


def test_interrupted_answer_fails_despite_a_success_result() -> None:
    looped = "Loop detected, stopping execution"
    assert _play([ANSWER, _warning(looped), SUCCESS], 0) == [
        TextDelta("Hi"),
        Progress("warning", looped),
        RunFailed("agent_failed", looped, usage=Usage(input_tokens=2, output_tokens=1)),
    ]


def test_warning_before_an_answer_does_not_fail_the_run() -> None:
    """The CLI also warns if a hook makes it continue."""
    events = _play([_warning("Agent execution blocked: no"), ANSWER, SUCCESS], 0)
    assert events[-1] == RunFinished(usage=Usage(input_tokens=2, output_tokens=1))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([_warning("Agent execution blocked: no")], "Agent execution blocked: no"),
        ([], "gemini reported success without an answer"),
    ],
)
def test_success_without_text_or_tool_calls_is_a_failure(said: list[bytes], message: str) -> None:
    ending = _play([*said, b'{"type":"result","status":"success"}'], 0)[-1]
    assert isinstance(ending, RunFailed)
    assert ending.code == "agent_failed"
    assert ending.message.startswith(message)


def test_tool_calls_without_text_are_an_answer() -> None:
    call = b'{"type":"tool_use","tool_name":"glob","tool_id":"1","parameters":{}}'
    assert isinstance(_play([call, SUCCESS], 0)[-1], RunFinished)


RETRIED = b"""\
Attempt 1 failed with status 500. Retrying with backoff... _ApiError: {"error":{"code":500}}
Attempt 2 failed with status 503. Retrying with backoff... _ApiError: {"error":{"code":503}}
    at throwErrorIfNotOK (file:///bundle/chunk.js:1:2) {
  cause: { code: 503 },
  status: 503
}
Ripgrep is not available. Falling back to GrepTool.
"""


@pytest.mark.parametrize(
    ("stderr", "complaint"),
    [
        (RETRIED, 'Attempt 2 failed with status 503. Retrying with backoff... _ApiError: {"error":{"code":503}}'),
        (
            recorded("gemini", "maxattempts1_429")[2],
            "Error when talking to Gemini API: RetryableQuotaError: rate limited (fake)",
        ),
        (recorded("gemini", "midstream_drop")[2], "Error when talking to Gemini API: TypeError: terminated"),
        (recorded("gemini", "text")[2], ""),
        (b"", ""),
        (b"\xff no", "\N{REPLACEMENT CHARACTER} no"),
    ],
)
def test_complaint_skips_noise_and_error_dumps(stderr: bytes, complaint: str) -> None:
    channel = Gemini().channel(Launch(argv=("gemini",)), Host())
    assert channel.stderr_message(stderr) == complaint


def test_killed_agent_is_reported_as_crashed() -> None:
    assert _play([], 137, b"Ripgrep is not available. Falling back to GrepTool.\n") == [
        RunFailed(
            "agent_crashed",
            "gemini was killed by signal 9 before it reported a result and printed nothing on stderr",
            137,
        )
    ]
