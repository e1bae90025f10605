"""Recordings of Claude Code 2.1.197 and 2.1.332 as events."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from clinvk.backends.base import Host, Launch
from clinvk.backends.claude import Claude
from clinvk.backends.shared import NewText, TextDeduplicator
from clinvk.types.events import (
    Event,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolResult,
    Usage,
)
from clinvk.types.request import RunRequest

NO_LOGIN = "claude is not logged in, or not allowed (run claude and /login, or set ANTHROPIC_API_KEY): "
RECORDINGS = Path(__file__).parent / "recordings" / "claude"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.stdout"))
OPUS = "claude-opus-4-8[1m]"
NEWER = "claude-opus-5-5"


def recorded(name: str) -> tuple[list[bytes], int, bytes]:
    stderr = RECORDINGS / f"{name}.stderr"
    return (
        (RECORDINGS / f"{name}.stdout").read_bytes().splitlines(),
        int((RECORDINGS / f"{name}.exit").read_text()),
        stderr.read_bytes() if stderr.exists() else b"",
    )


def decode(lines: Iterable[bytes], exit_code: int = 0, stderr: bytes = b"") -> list[Event]:
    channel = Claude().channel(Launch(argv=("claude",)), Host())
    channel.start("run", RunRequest(prompt="x"), None)
    deliveries = [delivery for line in lines for delivery in channel.receive(line)]
    deliveries += channel.closed(exit_code, stderr)
    return [delivery[1] for delivery in deliveries if isinstance(delivery[1], Event)]


def words(*texts: str) -> list[Event]:
    return [TextDelta(text) for text in texts]


def finished(inputs: int, outputs: int, cached: int, cost: float, turns: int = 1) -> RunFinished:
    return RunFinished("end_turn", Usage(inputs, outputs, cached), cost, None, turns)


def failed(code: str, message: str, usage: Usage | None = None, cost: float = 0) -> RunFailed:
    return RunFailed(code, message, None, usage or Usage(), cost)


GOLDEN: dict[str, list[Event]] = {
    "text": [
        RunStarted(OPUS, "345b9cfa-a9a1-4ad2-b3c1-7aedd7ca9721"),
        *words("word1 ", "word2 ", "word3 ", "word4 ", "word5"),
        finished(19004, 5, 7, 0.0951135),
    ],
    "think": [
        RunStarted(OPUS, "0f0c35d3-568c-4b04-b33e-6a0bb3386011"),
        *[ThinkingDelta(text) for text in ("think1 ", "think2 ", "think3 ")],
        *words("word1 ", "word2 ", "word3"),
        finished(19005, 3, 7, 0.0950685),
    ],
    "tool_allowed": [
        RunStarted(OPUS, "bb8f202a-5110-4956-9262-593b606d0c70"),
        ToolCall("toolu_174bfdd3fa394746", "Bash", {"command": "echo hi-from-tool", "description": "run"}),
        ToolResult("toolu_174bfdd3fa394746", "hi-from-tool"),
        *words("word1 ", "word2 ", "word3"),
        finished(38098, 6, 14, 0.190577, turns=2),
    ],
    "tool_denied": [
        RunStarted(OPUS, "5ba202d0-343d-4804-89e7-99e4f8000656"),
        ToolCall("toolu_56b3dd4eb1b146b3", "Bash", {"command": "touch made1", "description": "run"}),
        ToolResult(
            "toolu_56b3dd4eb1b146b3",
            "touch in '/home/claude/project/made1' was blocked. For security, Claude Code may only create or modify "
            "files in the allowed working directories for this session: '/home/claude/project'.",
            is_error=True,
        ),
        *words("word1 ", "word2 ", "word3"),
        Progress("denied", "1 action was denied: Bash; approval_mode and sandbox_mode say what is allowed"),
        finished(38141, 6, 14, 0.190792, turns=2),
    ],
    "tool_write": [
        RunStarted(OPUS, "1780d5e2-d633-4e1b-87ed-86f245065f03"),
        ToolCall("toolu_c37823eb1ab14336", "Write", {"file_path": "/home/claude/project/w1.txt", "content": "abc"}),
        ToolResult(
            "toolu_c37823eb1ab14336",
            "File created successfully at: /home/claude/project/w1.txt "
            "(file state is current in your context — no need to Read it back)",
        ),
        *words("word1 ", "word2 ", "word3"),
        finished(38143, 6, 14, 0.190802, turns=2),
    ],
    "stream_no_partial": [
        RunStarted(OPUS, "a7312e4b-4675-499b-8578-f76257a455fe"),
        *words("word1 word2 word3"),
        finished(19003, 3, 7, 0.0950585),
    ],
    "drop": [
        RunStarted(OPUS, "d8797275-f945-41c0-826f-4bb791dc579c"),
        *words("word1 ", "word2 ", "word3 word4 word5 word6 word7 word8 word9"),
        finished(19001, 9, 7, 0.0951985),
    ],
    "drop_nofallback": [
        RunStarted(OPUS, "2bf2d768-8a1f-4168-9a41-77624c716ddd"),
        failed(
            "agent_overloaded",
            "API Error: Connection to the API was lost (ECONNRESET). This is usually temporary — try again.",
            Usage(input_tokens=19005, cached_tokens=7),
        ),
    ],
    "midstream": [
        RunStarted(OPUS, "a98ca77d-32c5-41e5-96e9-8ec270309b87"),
        *words("word1 word2 word3 word4 word5"),
        finished(76013, 8, 28, 0.380139),
    ],
    "maxturns": [
        RunStarted(OPUS, "db2239b7-2516-49e6-939c-db629e14768a"),
        ToolCall("toolu_b0e42aaa7fea4c6c", "Bash", {"command": "echo a", "description": "run"}),
        ToolResult("toolu_b0e42aaa7fea4c6c", "a"),
        ToolCall("toolu_83ca0ff420094d7a", "Bash", {"command": "echo a", "description": "run"}),
        ToolResult("toolu_83ca0ff420094d7a", "a"),
        RunFinished("max_turns", Usage(38091, 6, 14), 0.190542, None, 3),
    ],
    "budget": [
        RunStarted(OPUS, "96e65ac4-482e-4b89-9836-952a22ab1223"),
        ToolCall("toolu_e7b0275903b34690", "Bash", {"command": "echo a", "description": "run"}),
        ToolResult("toolu_e7b0275903b34690", "a"),
        ToolCall("toolu_4621d1872a4948c7", "Bash", {"command": "echo a", "description": "run"}),
        ToolResult("toolu_4621d1872a4948c7", "a"),
        ToolCall("toolu_b0251810970648c3", "Bash", {"command": "echo a", "description": "run"}),
        RunFinished("max_budget", Usage(57336, 9, 21), 0.2868105, None, 3),
    ],
    "err400": [
        RunStarted(OPUS, "743749ca-fa0d-4380-9389-987aebed03a2"),
        failed("agent_rejected", "API Error: 400 bad request (fake)"),
    ],
    "err401_retries0": [
        RunStarted(OPUS, "3f92f53f-b37d-4af0-82be-4083ca8fe7d4"),
        failed("agent_unauthenticated", f"{NO_LOGIN}Invalid API key · Fix external API key"),
    ],
    "err429_retries1": [
        RunStarted(OPUS, "29967a28-ec42-4138-a017-e45a5653b5b3"),
        Progress("retry", "the model API answered 429 (rate_limit); retry 1 of 1 in 0.6 s"),
        failed("agent_rate_limited", "API Error: Request rejected (429) · rate limited (fake)"),
    ],
    "err500_retries1": [
        RunStarted(OPUS, "0856efb7-2613-4ba6-8b48-973c1087e9f7"),
        Progress("retry", "the model API answered 500 (server_error); retry 1 of 1 in 0.6 s"),
        failed(
            "agent_overloaded",
            "API Error: 500 internal (fake). This is a server-side issue, usually temporary — try again in a moment. "
            "If it persists, check your inference gateway (127.0.0.1:18099).",
        ),
    ],
    "err500_then_ok": [
        RunStarted(OPUS, "85ad7456-753d-48cc-976f-2d13614afad5"),
        Progress("retry", "the model API answered 500 (server_error); retry 1 of 10 in 0.5 s"),
        Progress("retry", "the model API answered 500 (server_error); retry 2 of 10 in 1.2 s"),
        *words("word1 ", "word2 ", "word3"),
        finished(19009, 3, 7, 0.0950885),
    ],
    "nokey": [
        RunStarted(OPUS, "4784ccb5-9cef-4836-ae19-d7a6fc8e1883"),
        failed("agent_unauthenticated", f"{NO_LOGIN}Not logged in · Please run /login"),
    ],
    "sig_INT": [
        RunStarted(OPUS, "2aea240e-8493-4b0f-90d0-7898be2ed611"),
        *words(*(f"word{number} " for number in range(1, 24))),
        failed("cancelled", "claude was interrupted", Usage(input_tokens=19006, cached_tokens=7)),
    ],
    "sigtool_INT": [
        RunStarted(OPUS, "840a26c3-ad6f-4798-9911-3a1c26945cbf"),
        ToolCall("toolu_d4485421fc9645ea", "Bash", {"command": "sleep 61", "description": "run"}),
        ToolResult(
            "toolu_d4485421fc9645ea",
            "The user doesn't want to proceed with this tool use. The tool use was rejected (eg. if it was a file "
            "edit, the new_string was NOT written to the file). STOP what you are doing and wait for the user to tell "
            "you how to proceed.",
            is_error=True,
        ),
        failed("cancelled", "claude was interrupted", Usage(19010, 2, 7), 0.0950685),
    ],
    "sig_TERM": [
        RunStarted(OPUS, "5792d316-ecda-4cb9-898d-44146c7e48f6"),
        *words(*(f"word{number} " for number in range(1, 31))),
        RunFailed(
            "agent_crashed",
            "claude was killed by signal 15 before it reported a result and printed nothing on stderr",
            143,
            Usage(19006, 0, 7),
        ),
    ],
    "bad_flag": [
        RunFailed(
            "agent_crashed",
            "claude exited with code 1 before it reported a result: error: unknown option '--no-such-flag'",
            1,
        )
    ],
    "empty_stdin": [
        RunFailed(
            "agent_crashed",
            "claude exited with code 1 before it reported a result: Error: Input must be provided either through "
            "stdin or as a prompt argument when using --print",
            1,
        )
    ],
    "resume_other_cwd": [
        RunFailed(
            "session_not_found",
            "claude no longer knows the conversation: "
            "No conversation found with session ID: aaaaaaaa-2222-4333-8444-555555555555",
            1,
        )
    ],
    "unknown_session": [
        failed(
            "session_not_found",
            "claude no longer knows the conversation: "
            "No conversation found with session ID: 00000000-0000-4000-8000-000000000000",
        )
    ],
    "refusal": [
        RunStarted(OPUS, "d1d27a71-8268-47bd-a750-98e71e759309"),
        *words("word1 ", "word2"),
        Progress(
            "warning",
            "API Error: Claude Code is unable to respond to this request, which appears to violate our Usage Policy "
            "(https://www.anthropic.com/legal/aup). Try rephrasing the request in a new session or change your model.",
        ),
        RunFinished("refusal", Usage(14827, 2, 7), 0.0741535, None, 1),
    ],
    "refusal_retried": [
        RunStarted(NEWER, "4a775524-aab1-474c-8ca3-731ea02ce655"),
        *words("word1 ", "word2 ", "word3", "\n\nword1 ", "word2 ", "word3"),
        Progress(
            "warning",
            "API Error: Opus 5.5's safeguards flagged this message (https://www.anthropic.com/legal/aup). This "
            "sometimes happens with safe, normal conversations. Claude Code can't respond to this message with Opus "
            "5.5.\n\nTry rephrasing the request in a new session or change your model.\n\n"
            "Learn more: https://support.claude.com/en/articles/8106465\n\nMessage ID: msg_3bad91f6cda44a7aba56",
        ),
        RunFinished("refusal", Usage(24739, 6, 14), 0.0990228, None, 2),
    ],
    "max_output": [
        RunStarted(NEWER, "53942a34-06f1-46da-9c37-ef304bd6ab11"),
        *words("word1 ", "word2 ", "word3", *["\n\nword1 ", "word2 ", "word3"] * 3),
        Progress(
            "warning",
            "API Error: Claude's response exceeded the 128000 output token maximum. To configure this behavior, set "
            "the CLAUDE_CODE_MAX_OUTPUT_TOKENS environment variable.",
        ),
        RunFinished("max_tokens", Usage(49795, 12, 28), 0.1993136, None, 4),
    ],
    "resumed": [
        RunStarted(NEWER, "827d1e03-b8f2-4f29-8c59-d0f3e09c672d"),
        *words("word1"),
        finished(100, 30, 20, 0.000924),
    ],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_recording_is_decoded_to_the_expected_events(name: str) -> None:
    assert decode(*recorded(name)) == GOLDEN[name]


def test_unknown_slash_command_fails_with_a_hint() -> None:
    ending = decode(*recorded("unknown_command"))[-1]
    assert isinstance(ending, RunFailed)
    assert ending.code == "invalid_request"
    assert "'Unknown command: /nonexistent'" in ending.message
    assert "with a space before its '/'" in ending.message


def test_structured_output_is_emitted_once_and_not_as_a_tool_call() -> None:
    started, text, ending = decode(*recorded("schema"))
    assert isinstance(started, RunStarted)
    assert text == TextDelta('{"a":"b"}')
    assert isinstance(ending, RunFinished)
    assert ending.structured_output == {"a": "b"}


def test_tokens_are_reported_with_each_request_and_each_printed_message_of_subagents() -> None:
    """Claude Code prints the messages of a sub-agent with tool calls, but not the last one."""
    lines, *_ = recorded("subagent")
    channel = Claude().channel(Launch(argv=("claude",)), Host())
    channel.start("run", RunRequest(prompt="x"), None)
    used = [delivery[1] for line in lines for delivery in channel.receive(line) if isinstance(delivery[1], Usage)]
    assert [(usage.input_tokens, usage.output_tokens) for usage in used] == [
        (19005, 0),
        (19005, 1),
        (30296, 2),
        (49447, 2),
        (49447, 3),
    ]


def test_subagent_work_is_one_tool_call() -> None:
    events = decode(*recorded("subagent"))
    calls = [event.name for event in events if isinstance(event, ToolCall)]
    results = [event.output for event in events if isinstance(event, ToolResult)]
    assert calls == ["Task"]
    assert results[0].startswith("word1 word2")
    assert next(event.text for event in events if isinstance(event, TextDelta)).startswith("RESULTS")


def obeys_the_stream_law(events: list[Event]) -> bool:
    *others, ending = events
    return (
        isinstance(ending, RunFinished | RunFailed)
        and not any(isinstance(event, RunFinished | RunFailed) for event in others)
        and all(isinstance(event, RunStarted) == (place == 0) for place, event in enumerate(others))
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_prefix_of_a_recording_obeys_the_stream_law(name: str) -> None:
    lines, code, stderr = recorded(name)
    for count in range(len(lines) + 1):
        assert obeys_the_stream_law(decode(lines[:count], code, stderr))


NOISE = (
    b"",
    b"plain text",
    b"\xff\xfe",
    b"[]",
    b"null",
    b'{"type":"result"',
    b'{"type":"a type of tomorrow","content":5}',
    b'{"type":"system","subtype":"hook_started"}',
    b'{"type":"stream_event","event":{"type":"ping"}}',
    b'{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"new_delta","x":1}}}',
    b'{"type":"assistant","message":{"id":"m","content":"not a list"}}',
    b'{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"unknown","content":"x"}]}}',
    b"[" * 100_000,
)


@pytest.mark.parametrize("name", NAMES)
def test_noise_lines_are_ignored(name: str) -> None:
    lines, code, stderr = recorded(name)
    noisy = [noise for line in lines for noise in (*NOISE, line)]
    assert decode(noisy, code, stderr) == decode(lines, code, stderr)


@pytest.mark.parametrize("name", ["text", "think", "tool_allowed", "drop", "midstream", "err500_then_ok", "subagent"])
def test_text_deltas_add_up_to_the_result(name: str) -> None:
    lines, code, stderr = recorded(name)
    deltas = [event.text for event in decode(lines, code, stderr) if isinstance(event, TextDelta)]
    assert "".join(deltas) == msgspec.json.decode(lines[-1], type=dict[str, object])["result"]


INIT = b'{"type":"system","subtype":"init","session_id":"s","model":"m"}'
RESULT = b'{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"r","stop_reason":"end_turn"}'


CALL = b'{"type":"assistant","message":{"id":"1","content":[{"type":"tool_use","id":"t","name":"Read","input":{}}]}}'


def line(**fields: object) -> bytes:
    return msgspec.json.encode(fields)


def event(**fields: object) -> bytes:
    return line(type="stream_event", event=fields, parent_tool_use_id=None)


def streamed(message: str, *blocks: list[str], cut: bool = False) -> list[bytes]:
    """A message as it is streamed and then told in full, block by block; or the part before a cut."""
    lines = [event(type="message_start", message={"id": message})]
    for index, pieces in enumerate(blocks):
        lines.append(event(type="content_block_start", index=index, content_block={"type": "text", "text": ""}))
        for piece in pieces:
            delta = {"type": "text_delta", "text": piece}
            lines.append(event(type="content_block_delta", index=index, delta=delta))
        if not (cut and index == len(blocks) - 1):
            lines.append(full(message, "".join(pieces)))
    if not cut:
        lines.append(event(type="message_delta", delta={"stop_reason": "end_turn"}))
        lines.append(event(type="message_stop"))
    return lines


def full(message: str, *texts: str) -> bytes:
    content = [{"type": "text", "text": text} for text in texts]
    return line(type="assistant", message={"id": message, "content": content}, parent_tool_use_id=None)


def text(*lines: bytes) -> str:
    return "".join(event.text for event in decode([INIT, *lines, RESULT]) if isinstance(event, TextDelta))


def test_text_blocks_of_a_message_are_concatenated() -> None:
    assert text(*streamed("1", ["one ", "two "], ["three"])) == "one two three"


def thinking(index: int) -> bytes:
    return event(type="content_block_start", index=index, content_block={"type": "thinking", "thinking": ""})


def test_text_before_and_after_thinking_is_separated_by_a_blank_line() -> None:
    start, *first = streamed("1", ["one"])[:-2]
    _, *second = streamed("1", ["two ", "three"])
    assert text(start, *first, thinking(1), *second) == "one\n\ntwo three"
    cut_in_second = [start, *first, thinking(1), *second[:2]]
    assert text(*cut_in_second, start, *first, thinking(1), *second) == "one\n\ntwo three"


def test_messages_are_separated_by_a_blank_line() -> None:
    assert text(*streamed("1", ["one"]), *streamed("2", ["two"])) == "one\n\ntwo"
    assert text(full("1", "one"), full("2", "two")) == "one\n\ntwo"


def test_full_message_adds_text_missing_from_its_deltas() -> None:
    lines = streamed("1", ["one "])
    lines[3] = full("1", "one two")
    assert text(*lines) == "one two"


def test_answer_streamed_again_after_a_cut_is_emitted_once() -> None:
    assert text(*streamed("1", ["one ", "tw"], cut=True), *streamed("2", ["one two", " three"])) == "one two three"


def test_answer_cut_twice_is_emitted_once() -> None:
    cuts = [*streamed("1", ["one ", "two "], cut=True), *streamed("2", ["one "], cut=True)]
    assert text(*cuts, full("3", "one two three")) == "one two three"


def test_answer_cut_after_a_complete_block_is_emitted_once() -> None:
    assert text(*streamed("1", ["one "], ["tw"], cut=True), full("2", "one ", "two")) == "one two"


def test_different_answer_after_a_cut_is_emitted_in_full() -> None:
    assert text(*streamed("1", ["one ", "two "], cut=True), full("2", "one 2 three")) == "one two \n\none 2 three"


def test_message_after_a_repeated_one_is_separate() -> None:
    retold = [*streamed("1", ["one "], cut=True), full("2", "one two")]
    assert text(*retold, *streamed("3", ["one two"])) == "one two\n\none two"


def test_synthetic_message_is_part_of_a_successful_answer() -> None:
    own = line(type="assistant", message={"model": "<synthetic>", "content": [{"type": "text", "text": "Note."}]})
    assert text(*streamed("1", ["one"]), own) == "one\n\nNote."


def test_result_is_the_answer_if_no_text_was_streamed() -> None:
    assert text() == "r"


def test_repeated_tool_call_is_emitted_once() -> None:
    call = {"type": "tool_use", "id": "t", "name": "Read", "input": {"file_path": "/a"}}
    told = line(type="assistant", message={"id": "1", "content": [call]})
    events = decode([INIT, told, told, RESULT])
    assert events[1:-1] == [ToolCall("t", "Read", {"file_path": "/a"}), TextDelta("r")]


def test_denied_call_without_a_result_becomes_an_error_result() -> None:
    denied = line(type="result", subtype="success", num_turns=1, permission_denials=[{"tool_use_id": "t"}])
    assert ToolResult("t", "not permitted", is_error=True) in decode([INIT, CALL, denied])


def test_tool_result_parts_are_joined_with_image_placeholders() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image", "source": "…"}]
    result = {"type": "tool_result", "tool_use_id": "t", "content": parts}
    answered = line(type="user", message={"content": [result]})
    assert ToolResult("t", "a\n[image]") in decode([INIT, CALL, answered, RESULT])


@pytest.mark.parametrize("status", [401, 403])
def test_retry_after_an_authentication_error_ends_the_run(status: int) -> None:
    retry = line(type="system", subtype="api_retry", attempt=1, error_status=status, error="authentication_failed")
    ending = decode([INIT, retry, RESULT])[-1]
    assert isinstance(ending, RunFailed)
    assert ending.code == "agent_unauthenticated"
    assert ending.message == f"{NO_LOGIN}the model API answered {status} (authentication_failed)"


def test_retry_without_a_status_reports_an_unreachable_api() -> None:
    retry = line(type="system", subtype="api_retry", attempt=2, max_retries=3, retry_delay_ms=1500, error_status=None)
    said = decode([INIT, retry, RESULT])[1]
    assert said == Progress("retry", "the model API is out of reach; retry 2 of 3 in 1.5 s")


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("end_turn", "end_turn"),
        ("max_tokens", "max_tokens"),
        ("stop_sequence", "stop_sequence"),
        ("refusal", "refusal"),
        ("a reason of tomorrow", "end_turn"),
        (None, "end_turn"),
    ],
)
def test_stop_reason_is_mapped(told: str | None, reason: str) -> None:
    ending = decode([INIT, line(type="result", subtype="success", num_turns=1, stop_reason=told)])[-1]
    assert isinstance(ending, RunFinished)
    assert ending.stop_reason == reason


def test_refusal_without_details_emits_no_warning() -> None:
    refused = line(type="result", subtype="success", is_error=True, num_turns=1, stop_reason="refusal", result="r")
    assert [type(event) for event in decode([INIT, refused])] == [RunStarted, RunFinished]


def test_interrupt_after_a_refusal_is_reported_as_cancelled() -> None:
    fields = {"is_error": True, "terminal_reason": "aborted_tools", "stop_reason": "refusal"}
    ending = decode([INIT, line(type="result", subtype="error_during_execution", num_turns=1, **fields)])[-1]
    assert isinstance(ending, RunFailed)
    assert ending.code == "cancelled"


def test_result_with_null_fields_ends_the_run() -> None:
    fields = ("usage", "modelUsage", "permission_denials", "errors", "total_cost_usd", "result", "stop_reason")
    ending = decode([INIT, line(type="result", subtype="success", num_turns=1, **dict.fromkeys(fields))])[-1]
    assert ending == RunFinished("end_turn", Usage(), None, None, 1)


OPTIONAL = sorted({*msgspec.json.decode(recorded("text")[0][-1], type=dict[str, object]), "errors"} - {"type"})


@pytest.mark.parametrize("odd", [None, 5, 1.5, "odd", [None], [{"x": 1}], {"x": [1]}], ids=repr)
@pytest.mark.parametrize("field", OPTIONAL)
def test_invalid_field_of_a_result_is_ignored(field: str, odd: object) -> None:
    (*lines, result), code, stderr = recorded("text")
    changed = msgspec.json.encode({**msgspec.json.decode(result, type=dict[str, object]), field: odd})
    *said, ending = decode([*lines, changed], code, stderr)
    *expected, _ = GOLDEN["text"]
    assert said == expected
    assert isinstance(ending, RunFinished)
    assert ending.stop_reason == "end_turn"
    assert ending.cost_usd == 0.0951135 or field == "total_cost_usd"
    assert ending.turns == 1 or field == "num_turns"
    assert ending.usage == Usage(19004, 5, 7)


def test_answer_over_the_output_limit_ends_with_max_tokens() -> None:
    own = {"model": "<synthetic>", "content": [{"type": "text", "text": "too long"}]}
    told = line(type="assistant", error="max_output_tokens", message=own)
    result = {"type": "result", "subtype": "success", "is_error": True, "num_turns": 4, "result": "too long"}
    for lines in ([told, line(**result)], [line(**result, api_error="max_output_tokens")]):
        ending = decode([INIT, *streamed("1", ["one"]), *lines])[-1]
        assert isinstance(ending, RunFinished)
        assert ending.stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({"subtype": "success", "stop_reason": "end_turn"}, "end_turn"),
        ({"subtype": "error_during_execution", "is_error": True}, "agent_failed"),
        ({"subtype": "success", "is_error": True, "terminal_reason": "aborted_streaming"}, "cancelled"),
    ],
)
def test_earlier_output_limit_error_does_not_decide_the_ending(result: dict[str, object], code: str) -> None:
    own = {"model": "<synthetic>", "content": [{"type": "text", "text": "too long"}]}
    told = line(type="assistant", error="max_output_tokens", message=own)
    ending = decode([INIT, *streamed("1", ["one"]), told, line(type="result", num_turns=4, result="x", **result)])[-1]
    assert code == (ending.stop_reason if isinstance(ending, RunFinished) else getattr(ending, "code", ""))


def test_invalid_fields_are_ignored_wherever_the_type_key_is() -> None:
    told = {"errors": 5, "uuid": "u" * 500, "subtype": "success", "is_error": False, "num_turns": 1}
    assert isinstance(decode([INIT, line(**told, type="result")])[-1], RunFinished)


def test_result_of_a_background_turn_does_not_end_the_run() -> None:
    """A background task began the turn; the process's total then includes its usage."""
    counts = {"inputTokens": 10, "outputTokens": 2}
    foreign = line(
        type="result",
        subtype="success",
        num_turns=1,
        result="done",
        total_cost_usd=1.0,
        modelUsage={"m": counts},
        origin={"kind": "task-notification"},
    )
    both = {name: 2 * count for name, count in counts.items()}
    own = line(type="result", subtype="success", num_turns=1, result="r", total_cost_usd=1.5, modelUsage={"m": both})
    events = decode([INIT, foreign, own])
    assert events[1:] == [TextDelta("r"), RunFinished("end_turn", Usage(10, 2), 0.5, None, 1)]


def test_thinking_tokens_are_part_of_output_tokens() -> None:
    counts = {"inputTokens": 10, "outputTokens": 7, "thinkingTokens": 5}
    told = {"a": counts, "b": counts}
    result = line(type="result", subtype="success", num_turns=1, result="r", modelUsage=told)
    *_, ending = decode([INIT, result])
    assert isinstance(ending, RunFinished)
    assert ending.usage == Usage(20, 14, reasoning_tokens=10)


@pytest.mark.parametrize("field", ["errors", "num_turns", "usage", "modelUsage", "total_cost_usd", "stop_reason"])
def test_failure_with_an_invalid_field_is_still_a_failure(field: str) -> None:
    told = {"type": "result", "subtype": "success", "is_error": True, "result": "no", field: [{"x": 1}]}
    assert decode([INIT, line(**told)])[-1] == RunFailed("agent_failed", "no", None, Usage(), None)


@pytest.mark.parametrize("odd", [b'{"type":"assistant","result":"r"}', b'{"result":"r"}', b'["result"]'])
def test_invalid_fields_are_ignored_only_in_results(odd: bytes) -> None:
    assert [type(event) for event in decode([INIT, odd])] == [RunStarted, RunFailed]


def test_usage_sums_all_models_and_counts_cached_tokens_once() -> None:
    counts = {"inputTokens": 10, "cacheReadInputTokens": 5, "cacheCreationInputTokens": 3, "outputTokens": 2}
    usage = {"usage": {"input_tokens": 1}, "modelUsage": {"opus": counts, "haiku": counts}}
    ending = decode([INIT, line(type="result", subtype="success", num_turns=1, **usage)])[-1]
    assert isinstance(ending, RunFinished)
    assert ending.usage == Usage(input_tokens=36, output_tokens=4, cached_tokens=10)


def test_usage_of_an_interrupted_answer_comes_from_the_streams() -> None:
    asked = {"input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": None, "output_tokens": 1}
    streams: list[dict[str, object]] = [
        {"type": "message_start", "message": {"id": "1", "usage": asked}},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 9}},
        {"type": "message_start", "message": {"id": "2", "usage": asked}},
        {"type": "message_delta", "delta": {}, "usage": None},
    ]
    lines = [line(type="stream_event", event=event) for event in streams]
    interrupted = line(
        type="result", subtype="error_during_execution", is_error=True, terminal_reason="aborted_streaming"
    )
    for last in ([interrupted], []):  # now and then it exits before it has told that
        ending = decode([INIT, *lines, *last])[-1]
        assert isinstance(ending, RunFailed)
        assert ending.usage == Usage(input_tokens=16, output_tokens=9, cached_tokens=10)


def test_compaction_without_a_model_call_succeeds() -> None:
    compacted = line(type="system", subtype="compact_boundary", session_id="s")
    events = decode([INIT, compacted, line(type="result", subtype="success", num_turns=0, result="")])
    assert [type(event) for event in events] == [RunStarted, Progress, RunFinished]


def test_repeated_text_is_compared_to_its_end() -> None:
    retold = TextDeduplicator()
    retold.begin(again=False)
    assert retold.piece("abc") == NewText("abc")
    retold.begin(again=True)
    assert [retold.piece(piece) for piece in ("a", "bcd", "e")] == [NewText(""), NewText("d"), NewText("e")]
    retold.begin(again=True)
    assert retold.piece("abX") == NewText("abX", restarts=True)


def test_thinking_block_that_was_not_streamed_is_emitted() -> None:
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "redacted_thinking"}, {"type": "text", "text": "yes"}]
    told = line(type="assistant", message={"id": "1", "content": content})
    assert decode([INIT, told, RESULT])[1:-1] == [ThinkingDelta("hm"), TextDelta("yes")]


def thought(message: str, *pieces: str) -> list[bytes]:
    """Return the stream of a message that contains only thinking."""
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    return [
        event(type="message_start", message={"id": message}),
        event(type="content_block_start", index=0, content_block={"type": "thinking"}),
        *(event(type="content_block_delta", index=0, delta=delta) for delta in deltas),
    ]


WHOLE = event(type="message_delta", delta={"stop_reason": "end_turn"})


def test_thinking_of_separate_messages_is_separated_by_a_blank_line() -> None:
    lines = [*streamed("0", ["hm"]), *thought("1", "fir", "st."), WHOLE, *thought("2", "sec", "ond."), WHOLE]
    told = [event.text for event in decode([INIT, *lines, RESULT]) if isinstance(event, ThinkingDelta)]
    assert told == ["fir", "st.", "\n\nsec", "ond."]


def test_thinking_streamed_again_after_a_cut_is_emitted_once() -> None:
    lines = [*thought("1", "one", " tw"), *thought("2", "one two"), WHOLE, *thought("3", "three"), WHOLE]
    told = [event.text for event in decode([INIT, *lines, RESULT]) if isinstance(event, ThinkingDelta)]
    assert told == ["one", " tw", "o", "\n\nthree"]


def test_complaint_is_the_last_line_of_stderr() -> None:
    channel = Claude().channel(Launch(argv=("claude",)), Host())
    assert channel.stderr_message(b"first\n  API is slow \n\n") == "API is slow"
    assert channel.stderr_message(b"\n") == ""
