"""Recordings of Claude Code 2.1.197 and 2.1.332 become the events that they tell."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from clinvk.backends.base import Host, Launch
from clinvk.backends.claude import Claude
from clinvk.backends.shared import News, Retold
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
    return [delivery[1] for delivery in deliveries if not isinstance(delivery, bytes)]


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
        failed("agent_failed", "Reached maximum budget ($0.2)", Usage(57336, 9, 21), 0.2868105),
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
            "claude was killed by signal 15 before it reported a result and said nothing on stderr",
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
            "claude does not know the conversation any more: "
            "No conversation found with session ID: aaaaaaaa-2222-4333-8444-555555555555",
            1,
        )
    ],
    "unknown_session": [
        failed(
            "session_not_found",
            "claude does not know the conversation any more: "
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
def test_a_recording_becomes_its_events(name: str) -> None:
    assert decode(*recorded(name)) == GOLDEN[name]


def test_a_prompt_that_claude_takes_for_its_own_command_fails_and_says_how_to_avoid_it() -> None:
    ending = decode(*recorded("unknown_command"))[-1]
    assert isinstance(ending, RunFailed)
    assert ending.code == "invalid_request"
    assert "'Unknown command: /nonexistent'" in ending.message
    assert "with a space before its '/'" in ending.message


def test_the_answer_to_a_schema_is_given_once_and_its_tool_is_no_tool_call() -> None:
    started, text, ending = decode(*recorded("schema"))
    assert isinstance(started, RunStarted)
    assert text == TextDelta('{"a":"b"}')
    assert isinstance(ending, RunFinished)
    assert ending.structured_output == {"a": "b"}


def test_what_a_sub_agent_does_is_one_tool_call_of_the_agent() -> None:
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
def test_each_recording_and_each_beginning_of_one_obeys_the_stream_law(name: str) -> None:
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
def test_noise_between_the_lines_changes_nothing(name: str) -> None:
    lines, code, stderr = recorded(name)
    noisy = [noise for line in lines for noise in (*NOISE, line)]
    assert decode(noisy, code, stderr) == decode(lines, code, stderr)


@pytest.mark.parametrize("name", ["text", "think", "tool_allowed", "drop", "midstream", "err500_then_ok", "subagent"])
def test_the_deltas_add_up_to_what_claude_calls_its_result(name: str) -> None:
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


def test_several_text_blocks_of_a_message_follow_each_other() -> None:
    assert text(*streamed("1", ["one ", "two "], ["three"])) == "one two three"


def test_separate_messages_are_a_blank_line_apart() -> None:
    assert text(*streamed("1", ["one"]), *streamed("2", ["two"])) == "one\n\ntwo"
    assert text(full("1", "one"), full("2", "two")) == "one\n\ntwo"


def test_a_full_message_adds_what_its_pieces_lacked() -> None:
    lines = streamed("1", ["one "])
    lines[3] = full("1", "one two")
    assert text(*lines) == "one two"


def test_an_answer_that_is_streamed_again_after_a_cut_is_given_once() -> None:
    assert text(*streamed("1", ["one ", "tw"], cut=True), *streamed("2", ["one two", " three"])) == "one two three"


def test_an_answer_that_is_cut_twice_is_given_once() -> None:
    cuts = [*streamed("1", ["one ", "two "], cut=True), *streamed("2", ["one "], cut=True)]
    assert text(*cuts, full("3", "one two three")) == "one two three"


def test_an_answer_cut_after_a_whole_block_is_given_once() -> None:
    assert text(*streamed("1", ["one "], ["tw"], cut=True), full("2", "one ", "two")) == "one two"


def test_an_answer_that_differs_after_a_cut_follows_the_broken_one_in_full() -> None:
    assert text(*streamed("1", ["one ", "two "], cut=True), full("2", "one 2 three")) == "one two \n\none 2 three"


def test_a_message_after_a_retold_one_is_a_message_of_its_own() -> None:
    retold = [*streamed("1", ["one "], cut=True), full("2", "one two")]
    assert text(*retold, *streamed("3", ["one two"])) == "one two\n\none two"


def test_what_claude_says_itself_is_part_of_a_successful_answer() -> None:
    own = line(type="assistant", message={"model": "<synthetic>", "content": [{"type": "text", "text": "Note."}]})
    assert text(*streamed("1", ["one"]), own) == "one\n\nNote."


def test_the_result_is_the_answer_where_nothing_else_was_said() -> None:
    assert text() == "r"


def test_a_tool_call_is_given_once_however_often_it_is_told() -> None:
    call = {"type": "tool_use", "id": "t", "name": "Read", "input": {"file_path": "/a"}}
    told = line(type="assistant", message={"id": "1", "content": [call]})
    events = decode([INIT, told, told, RESULT])
    assert events[1:-1] == [ToolCall("t", "Read", {"file_path": "/a"}), TextDelta("r")]


def test_a_denied_call_that_got_no_answer_shows_as_an_error() -> None:
    denied = line(type="result", subtype="success", num_turns=1, permission_denials=[{"tool_use_id": "t"}])
    assert ToolResult("t", "not permitted", is_error=True) in decode([INIT, CALL, denied])


def test_parts_of_a_tool_result_are_joined_and_images_named() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image", "source": "…"}]
    result = {"type": "tool_result", "tool_use_id": "t", "content": parts}
    answered = line(type="user", message={"content": [result]})
    assert ToolResult("t", "a\n[image]") in decode([INIT, CALL, answered, RESULT])


@pytest.mark.parametrize("status", [401, 403])
def test_a_retry_after_a_refused_login_ends_the_run_at_once(status: int) -> None:
    retry = line(type="system", subtype="api_retry", attempt=1, error_status=status, error="authentication_failed")
    ending = decode([INIT, retry, RESULT])[-1]
    assert isinstance(ending, RunFailed)
    assert ending.code == "agent_unauthenticated"
    assert ending.message == f"{NO_LOGIN}the model API answered {status} (authentication_failed)"


def test_a_retry_without_an_answer_says_that_the_model_api_is_out_of_reach() -> None:
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
def test_a_stop_reason_has_its_word(told: str | None, reason: str) -> None:
    ending = decode([INIT, line(type="result", subtype="success", num_turns=1, stop_reason=told)])[-1]
    assert isinstance(ending, RunFinished)
    assert ending.stop_reason == reason


def test_a_refusal_of_which_claude_says_nothing_more_has_no_warning() -> None:
    refused = line(type="result", subtype="success", is_error=True, num_turns=1, stop_reason="refusal", result="r")
    assert [type(event) for event in decode([INIT, refused])] == [RunStarted, RunFinished]


def test_an_interruption_after_a_refusal_is_an_interruption() -> None:
    fields = {"is_error": True, "terminal_reason": "aborted_tools", "stop_reason": "refusal"}
    ending = decode([INIT, line(type="result", subtype="error_during_execution", num_turns=1, **fields)])[-1]
    assert isinstance(ending, RunFailed)
    assert ending.code == "cancelled"


def test_a_result_of_nulls_is_still_an_ending() -> None:
    fields = ("usage", "modelUsage", "permission_denials", "errors", "total_cost_usd", "result", "stop_reason")
    ending = decode([INIT, line(type="result", subtype="success", num_turns=1, **dict.fromkeys(fields))])[-1]
    assert ending == RunFinished("end_turn", Usage(), None, None, 1)


OPTIONAL = sorted({*msgspec.json.decode(recorded("text")[0][-1], type=dict[str, object]), "errors"} - {"type"})


@pytest.mark.parametrize("odd", [None, 5, 1.5, "odd", [None], [{"x": 1}], {"x": [1]}], ids=repr)
@pytest.mark.parametrize("field", OPTIONAL)
def test_a_result_with_an_odd_field_is_the_same_ending_without_it(field: str, odd: object) -> None:
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


def test_an_answer_longer_than_the_model_may_give_ends_at_its_limit_in_each_way_of_telling() -> None:
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
def test_an_answer_that_was_too_long_once_does_not_say_how_the_run_ended(result: dict[str, object], code: str) -> None:
    own = {"model": "<synthetic>", "content": [{"type": "text", "text": "too long"}]}
    told = line(type="assistant", error="max_output_tokens", message=own)
    ending = decode([INIT, *streamed("1", ["one"]), told, line(type="result", num_turns=4, result="x", **result)])[-1]
    assert code == (ending.stop_reason if isinstance(ending, RunFinished) else getattr(ending, "code", ""))


def test_a_result_is_read_without_its_odd_fields_wherever_its_type_stands() -> None:
    told = {"errors": 5, "uuid": "u" * 500, "subtype": "success", "is_error": False, "num_turns": 1}
    assert isinstance(decode([INIT, line(**told, type="result")])[-1], RunFinished)


def test_the_result_of_a_turn_that_nobody_asked_for_ends_no_run() -> None:
    """Something in the background began it; what the process counts from its start then includes it."""
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


def test_tokens_of_thinking_are_told_as_a_part_of_the_output() -> None:
    counts = {"inputTokens": 10, "outputTokens": 7, "thinkingTokens": 5}
    told = {"a": counts, "b": counts}
    result = line(type="result", subtype="success", num_turns=1, result="r", modelUsage=told)
    *_, ending = decode([INIT, result])
    assert isinstance(ending, RunFinished)
    assert ending.usage == Usage(20, 14, reasoning_tokens=10)


@pytest.mark.parametrize("field", ["errors", "num_turns", "usage", "modelUsage", "total_cost_usd", "stop_reason"])
def test_a_failure_with_an_odd_field_is_a_failure(field: str) -> None:
    told = {"type": "result", "subtype": "success", "is_error": True, "result": "no", field: [{"x": 1}]}
    assert decode([INIT, line(**told)])[-1] == RunFailed("agent_failed", "no", None, Usage(), None)


@pytest.mark.parametrize("odd", [b'{"type":"assistant","result":"r"}', b'{"result":"r"}', b'["result"]'])
def test_only_a_result_is_read_without_its_odd_fields(odd: bytes) -> None:
    assert [type(event) for event in decode([INIT, odd])] == [RunStarted, RunFailed]


def test_tokens_of_all_models_count_and_cached_ones_once() -> None:
    counts = {"inputTokens": 10, "cacheReadInputTokens": 5, "cacheCreationInputTokens": 3, "outputTokens": 2}
    usage = {"usage": {"input_tokens": 1}, "modelUsage": {"opus": counts, "haiku": counts}}
    ending = decode([INIT, line(type="result", subtype="success", num_turns=1, **usage)])[-1]
    assert isinstance(ending, RunFinished)
    assert ending.usage == Usage(input_tokens=36, output_tokens=4, cached_tokens=10)


def test_of_an_answer_that_was_interrupted_the_tokens_of_the_streams_count() -> None:
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


def test_a_compacted_conversation_is_a_success_though_no_model_was_asked() -> None:
    compacted = line(type="system", subtype="compact_boundary", session_id="s")
    events = decode([INIT, compacted, line(type="result", subtype="success", num_turns=0, result="")])
    assert [type(event) for event in events] == [RunStarted, Progress, RunFinished]


def test_a_text_that_is_told_again_is_compared_to_its_end() -> None:
    retold = Retold()
    retold.begin(again=False)
    assert retold.piece("abc") == News("abc")
    retold.begin(again=True)
    assert [retold.piece(piece) for piece in ("a", "bcd", "e")] == [News(""), News("d"), News("e")]
    retold.begin(again=True)
    assert retold.piece("abX") == News("abX", restarts=True)


def test_a_block_of_thinking_that_was_not_streamed_is_not_lost() -> None:
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "redacted_thinking"}, {"type": "text", "text": "yes"}]
    told = line(type="assistant", message={"id": "1", "content": content})
    assert decode([INIT, told, RESULT])[1:-1] == [ThinkingDelta("hm"), TextDelta("yes")]


def thought(message: str, *pieces: str) -> list[bytes]:
    """A message that is thinking alone, as it is streamed."""
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    return [
        event(type="message_start", message={"id": message}),
        event(type="content_block_start", index=0, content_block={"type": "thinking"}),
        *(event(type="content_block_delta", index=0, delta=delta) for delta in deltas),
    ]


WHOLE = event(type="message_delta", delta={"stop_reason": "end_turn"})


def test_the_thinking_of_separate_messages_is_a_blank_line_apart() -> None:
    lines = [*streamed("0", ["hm"]), *thought("1", "fir", "st."), WHOLE, *thought("2", "sec", "ond."), WHOLE]
    told = [event.text for event in decode([INIT, *lines, RESULT]) if isinstance(event, ThinkingDelta)]
    assert told == ["fir", "st.", "\n\nsec", "ond."]


def test_thinking_that_is_streamed_again_after_a_cut_is_given_once() -> None:
    lines = [*thought("1", "one", " tw"), *thought("2", "one two"), WHOLE, *thought("3", "three"), WHOLE]
    told = [event.text for event in decode([INIT, *lines, RESULT]) if isinstance(event, ThinkingDelta)]
    assert told == ["one", " tw", "o", "\n\nthree"]


def test_the_complaint_is_the_last_line_of_stderr() -> None:
    channel = Claude().channel(Launch(argv=("claude",)), Host())
    assert channel.complaint(b"first\n  API is slow \n\n") == "API is slow"
    assert channel.complaint(b"\n") == ""
