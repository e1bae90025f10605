"""Recorded lines of Gemini CLI as events."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from clinvk.backends.base import Host, Launch
from clinvk.backends.gemini import Gemini
from clinvk.types.events import (
    Event,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from clinvk.types.request import RunRequest

MISSING_LOGIN = "gemini is not logged in: run gemini once in a terminal, or set GEMINI_API_KEY"
NO_LOGIN = "gemini is not logged in, or not allowed (run gemini once in a terminal, or set GEMINI_API_KEY): "
RECORDINGS = Path(__file__).parent / "recordings" / "gemini"
CASES = sorted(path.stem for path in RECORDINGS.glob("*.exit"))
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
    channel = Gemini().channel(Launch(argv=("gemini",)), Host())
    channel.start("run", RunRequest(prompt="x"), None)
    deliveries = [delivery for line in lines for delivery in channel.receive(line)]
    deliveries += channel.closed(exit_code, stderr)
    return [delivery[1] for delivery in deliveries if isinstance(delivery[1], Event)]


def _recorded(case: str) -> tuple[list[bytes], int, bytes]:
    path = RECORDINGS / case
    stderr = path.with_suffix(".stderr")
    return (
        path.with_suffix(".stdout").read_bytes().splitlines(),
        int(path.with_suffix(".exit").read_text()),
        stderr.read_bytes() if stderr.exists() else b"",
    )


def _ending(case: str) -> Event:
    return _play(*_recorded(case))[-1]


@pytest.mark.parametrize("case", CASES)
def test_each_recording_starts_and_ends_once(case: str) -> None:
    events = _play(*_recorded(case))
    endings = [event for event in events if isinstance(event, RunFinished | RunFailed)]
    assert endings == events[-1:]
    assert isinstance(events[0], RunStarted) or len(events) == 1
    assert sum(isinstance(event, RunStarted) for event in events) <= 1


@pytest.mark.parametrize("case", CASES)
def test_decoder_ignores_noise_between_lines(case: str) -> None:
    lines, exit_code, stderr = _recorded(case)
    noisy = [noise for line in lines for noise in (*NOISE, line)] + [*NOISE]
    assert _play(noisy, exit_code, stderr) == _play(lines, exit_code, stderr)


@pytest.mark.parametrize("case", CASES)
def test_recording_succeeds_only_if_the_cli_reported_a_result(case: str) -> None:
    lines, exit_code, stderr = _recorded(case)
    finished = isinstance(_play(lines, exit_code, stderr)[-1], RunFinished)
    assert finished == (exit_code in (0, 53) and b'"type":"result"' in b"".join(lines))


def test_text_is_reported_once_without_the_prompt() -> None:
    events = _play(*_recorded("text"))
    assert events == [
        RunStarted("gemini-2.5-flash", "09858904-3cb4-45f6-8f5a-856237b12125"),
        *(TextDelta(f"word{number} ") for number in range(1, 5)),
        TextDelta("word5"),
        RunFinished(usage=Usage(input_tokens=7800, output_tokens=5, cached_tokens=7)),
    ]


def test_hidden_thinking_counts_as_reasoning_tokens() -> None:
    assert _ending("think") == RunFinished(
        usage=Usage(input_tokens=7806, output_tokens=6, cached_tokens=7, reasoning_tokens=3)
    )


def test_tool_call_is_followed_by_its_result() -> None:
    call, result = _play(*_recorded("tool_yolo"))[1:3]
    assert isinstance(call, ToolCall)
    assert (call.name, call.input) == ("run_shell_command", {"command": "echo hi; touch made1", "description": "run"})
    assert result == ToolResult(call.id, "hi")


def test_failed_tool_result_has_the_reason() -> None:
    result = _play(*_recorded("tool_plan"))[2]
    assert isinstance(result, ToolResult)
    assert result.is_error
    assert result.output.startswith("Access denied: plan path")


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


@pytest.mark.parametrize(
    ("case", "code", "message"),
    [
        ("err400", "agent_rejected", "bad request (fake)"),
        ("err401", "agent_unauthenticated", f"{NO_LOGIN}invalid x-api-key"),
        ("maxattempts1_500", "agent_overloaded", "internal (fake)"),
    ],
)
def test_model_api_error_message_is_reported_verbatim(case: str, code: str, message: str) -> None:
    assert _ending(case) == RunFailed(code, message, 1)


def test_exit_code_supplies_the_missing_http_status() -> None:
    ending = _ending("maxattempts1_429")
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.exit_code) == ("agent_rate_limited", 1)
    assert ending.message.startswith("rate limited (fake)\nPlease wait and try again later.")


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


def test_truncated_stream_keeps_its_text() -> None:
    assert _play(*_recorded("midstream_drop"))[1:] == [
        TextDelta("word1 "),
        TextDelta("word2 "),
        RunFailed("agent_failed", "terminated", 1),
    ]


def test_turn_limit_is_a_stop_reason() -> None:
    assert _ending("maxturns") == RunFinished(
        "max_turns", Usage(input_tokens=23603, output_tokens=10, cached_tokens=14)
    )


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
            _recorded("maxattempts1_429")[2],
            "Error when talking to Gemini API: RetryableQuotaError: rate limited (fake)",
        ),
        (_recorded("midstream_drop")[2], "Error when talking to Gemini API: TypeError: terminated"),
        (_recorded("text")[2], ""),
        (b"", ""),
        (b"\xff no", "\N{REPLACEMENT CHARACTER} no"),
    ],
)
def test_complaint_skips_noise_and_error_dumps(stderr: bytes, complaint: str) -> None:
    channel = Gemini().channel(Launch(argv=("gemini",)), Host())
    assert channel.stderr_message(stderr) == complaint


@pytest.mark.parametrize("case", ["sig_norelaunch_INT", "sigtool_norelaunch_TERM"])
def test_agent_stopped_by_a_signal_fails_despite_exit_code_zero(case: str) -> None:
    """The CLI exits with 0 and without a result."""
    ending = _ending(case)
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.exit_code) == ("agent_crashed", 0)


@pytest.mark.parametrize(
    ("case", "code", "exit_code", "message"),
    [
        ("nokey", "agent_unauthenticated", 41, MISSING_LOGIN),
        ("untrusted_yolo", "agent_unauthenticated", 41, MISSING_LOGIN),
        ("empty_stdin", "invalid_request", 42, "No input provided via stdin."),
        (
            "resume_other_cwd",
            "session_not_found",
            42,
            "gemini no longer knows the conversation: Error resuming session: No previous sessions found",
        ),
        ("yolo_both", "agent_crashed", 1, "gemini exited with code 1 before it reported a result: Cannot use both"),
    ],
)
def test_startup_failure_reports_the_reason(case: str, code: str, exit_code: int, message: str) -> None:
    ending = _ending(case)
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.exit_code) == (code, exit_code)
    assert ending.message.startswith(message)
    assert "Warning" not in ending.message
    assert "Usage" not in ending.message


def test_killed_agent_is_reported_as_crashed() -> None:
    assert _play([], 137, b"Ripgrep is not available. Falling back to GrepTool.\n") == [
        RunFailed(
            "agent_crashed",
            "gemini was killed by signal 9 before it reported a result and printed nothing on stderr",
            137,
        )
    ]
