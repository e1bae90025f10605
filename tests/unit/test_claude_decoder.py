"""Recordings of Claude Code 2.1.197 and 2.1.332 as events."""

from collections.abc import Iterable

import msgspec
import pytest

from clinvk.backends.base import Host, Launch
from clinvk.backends.claude import Claude
from clinvk.backends.shared import NewText, TextDeduplicator
from clinvk.types.events import (
    Event,
    PlanStep,
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
from recordings import decoded, expected_events, recorded

NO_LOGIN = "claude is not logged in, or not allowed (run claude and /login, or set ANTHROPIC_API_KEY): "
EXPECTED = expected_events("claude")


def decode(lines: Iterable[bytes], exit_code: int = 0, stderr: bytes = b"") -> list[Event]:
    return decoded(Claude().channel(Launch(argv=("claude",)), Host()), lines, exit_code, stderr)


@pytest.mark.parametrize("name", EXPECTED)
def test_recording_is_decoded_to_the_expected_events(name: str) -> None:
    assert decode(*recorded("claude", name)) == EXPECTED[name]


def test_tokens_are_reported_with_each_request_and_each_printed_message_of_subagents() -> None:
    """Claude Code prints the messages of a sub-agent with tool calls, but not the last one."""
    lines, *_ = recorded("claude", "subagent")
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


def test_todo_list_is_the_plan() -> None:
    todos = [{"content": "one", "status": "completed"}, {"content": "two", "status": "pending"}]
    block = {"type": "tool_use", "id": "t", "name": "TodoWrite", "input": {"todos": todos}}
    line = {"type": "assistant", "message": {"id": "m", "content": [block]}}
    planned = Progress("plan", "1/2 done; next: two", (PlanStep("one", "completed"), PlanStep("two")))
    assert planned in decode([msgspec.json.encode(line)])
    todos.append({"content": "no status"})
    assert not any(isinstance(event, Progress) for event in decode([msgspec.json.encode(line)]))


def test_commands_are_those_that_ask_the_model() -> None:
    """Claude Code lists commands of the user, then skills, then the commands of the program."""
    listed = {"slash_commands": ["release", "verify", "clear", "compact", "config"], "skills": ["verify"]}
    line = {"type": "system", "subtype": "init", "session_id": "s", "model": "m", **listed}
    started, *_ = decode([msgspec.json.encode(line)])
    assert started == RunStarted("m", "s", ("release", "verify", "compact"))


def obeys_the_stream_law(events: list[Event]) -> bool:
    *others, ending = events
    return (
        isinstance(ending, RunFinished | RunFailed)
        and not any(isinstance(event, RunFinished | RunFailed) for event in others)
        and all(isinstance(event, RunStarted) == (place == 0) for place, event in enumerate(others))
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_every_prefix_of_a_recording_obeys_the_stream_law(name: str) -> None:
    lines, code, stderr = recorded("claude", name)
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


@pytest.mark.parametrize("name", EXPECTED)
def test_noise_lines_are_ignored(name: str) -> None:
    lines, code, stderr = recorded("claude", name)
    noisy = [noise for line in lines for noise in (*NOISE, line)]
    assert decode(noisy, code, stderr) == decode(lines, code, stderr)


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


OPTIONAL = sorted(
    {*msgspec.json.decode(recorded("claude", "text")[0][-1], type=dict[str, object]), "errors"} - {"type"}
)


@pytest.mark.parametrize("odd", [None, 5, 1.5, "odd", [None], [{"x": 1}], {"x": [1]}], ids=repr)
@pytest.mark.parametrize("field", OPTIONAL)
def test_invalid_field_of_a_result_is_ignored(field: str, odd: object) -> None:
    (*lines, result), code, stderr = recorded("claude", "text")
    changed = msgspec.json.encode({**msgspec.json.decode(result, type=dict[str, object]), field: odd})
    *said, ending = decode([*lines, changed], code, stderr)
    *expected, _ = EXPECTED["text"]
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
