"""Answers of the Anthropic dialect: messages, streams byte for byte, errors, lists of models."""

import json

import msgspec
import pytest

from clinvk.dialects import dialect
from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.dialect import Call
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.events import (
    Event,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
    gather,
)
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts

FACTS = RunFacts(run_id="r1", backend="claude", started_at=1_700_000_000.0)
CALL = Call(request=RunRequest(prompt="hi", backend="claude"), model="claude/opus")
THINKS = Call(request=RunRequest(prompt="hi", backend="claude", thinking=True), model="claude/opus")
SHOWS = Call(request=RunRequest(prompt="hi", thinking=True), model="claude/opus", shows_work=True)
WORK = (
    RunStarted("claude-opus-4-8", "b1"),
    ThinkingDelta("Hm"),
    ThinkingDelta("m."),
    ToolCall("t1", "Bash", {"command": "ls"}),
    ToolResult("t1", "a.txt"),
    Progress("retry", "again in 1 s"),
    TextDelta("It is "),
    TextDelta('"a".\n'),
    RunFinished("end_turn", Usage(100, 20, 60, 8), 0.01),
)
OPENING = (
    'event: message_start\ndata: {"type":"message_start","message":{"type":"message","id":"msg_r1","role":"assistant",'
    '"model":"claude/opus","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":0,'
    '"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}\n\n'
)
USAGE: dict[str, object] = {
    "input_tokens": 40,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 60,
    "output_tokens": 20,
    "output_tokens_details": {"thinking_tokens": 8},
}


def stream(call: Call, *events: Event) -> str:
    encoder = Anthropic().encoder(call, FACTS)
    return b"".join(encoder.feed(event, 1_700_000_001.0) for event in events).decode()


def answer(call: Call, *events: Event) -> dict[str, object]:
    return msgspec.json.decode(Anthropic().result(call, gather(events), FACTS), type=dict[str, object])


def block(index: int, start: str, *deltas: str) -> str:
    """Return the events of one block."""
    pieces = [f'event: content_block_start\ndata: {{"type":"content_block_start","index":{index},{start}}}\n\n']
    pieces += [
        f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{index},"delta":{delta}}}\n\n'
        for delta in deltas
    ]
    pieces.append(f'event: content_block_stop\ndata: {{"type":"content_block_stop","index":{index}}}\n\n')
    return "".join(pieces)


def text_block(index: int, *texts: str) -> str:
    deltas = (f'{{"type":"text_delta","text":{msgspec.json.encode(text).decode()}}}' for text in texts)
    return block(index, '"content_block":{"type":"text","text":""}', *deltas)


def thinking_block(index: int, *texts: str) -> str:
    deltas = [f'{{"type":"thinking_delta","thinking":{msgspec.json.encode(text).decode()}}}' for text in texts]
    signed = '{"type":"signature_delta","signature":"clinvk_r1"}'
    return block(index, '"content_block":{"type":"thinking","thinking":"","signature":""}', *deltas, signed)


def closing(stop: str, usage: str) -> str:
    return (
        f'event: message_delta\ndata: {{"type":"message_delta","delta":{stop},"usage":{usage}}}\n\n'
        'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )


CLOSING = closing('{"stop_reason":"end_turn","stop_sequence":null}', msgspec.json.encode(USAGE).decode())
ZEROS = '{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}'


def test_stream_contains_only_text_by_default() -> None:
    assert stream(CALL, *WORK) == OPENING + text_block(0, "It is ", '"a".\n') + CLOSING


def test_thinking_is_a_separate_block_with_a_signature() -> None:
    assert (
        stream(THINKS, *WORK) == OPENING + thinking_block(0, "Hm", "m.") + text_block(1, "It is ", '"a".\n') + CLOSING
    )


def test_tool_calls_appear_as_thinking_when_requested() -> None:
    shown = thinking_block(0, "Hm", "m.", '\n[Bash] {"command":"ls"}\n', "[result] a.txt\n")
    assert stream(SHOWS, *WORK) == OPENING + shown + text_block(1, "It is ", '"a".\n') + CLOSING


def test_blocks_keep_the_order_of_events() -> None:
    events = (RunStarted(), TextDelta("a"), ThinkingDelta("b"), TextDelta("c"), RunFinished())
    blocks = text_block(0, "a") + thinking_block(1, "b") + text_block(2, "c")
    end = closing('{"stop_reason":"end_turn","stop_sequence":null}', ZEROS)
    assert stream(THINKS, *events) == OPENING + blocks + end
    assert answer(THINKS, *events)["content"] == [
        {"type": "text", "text": "a"},
        {"type": "thinking", "thinking": "b", "signature": "clinvk_r1"},
        {"type": "text", "text": "c"},
    ]


def test_answer_without_text_has_an_empty_text_block() -> None:
    events = (RunStarted(), ThinkingDelta("b"), RunFinished())
    end = closing('{"stop_reason":"end_turn","stop_sequence":null}', ZEROS)
    assert stream(CALL, *events) == OPENING + text_block(0) + end
    assert stream(THINKS, *events) == OPENING + thinking_block(0, "b") + text_block(1) + end
    assert answer(CALL, *events)["content"] == [{"type": "text", "text": ""}]


def test_each_event_is_encoded_immediately() -> None:
    encoder = Anthropic().encoder(CALL, FACTS)
    assert encoder.feed(RunStarted(), 1.0)
    assert encoder.feed(TextDelta("a"), 1.0)
    assert encoder.feed(TextDelta("b"), 1.0)


def test_failed_stream_ends_with_the_error() -> None:
    events = (RunStarted(), TextDelta("a"), RunFailed("agent_overloaded", "busy", 1))
    open_block = text_block(0, "a").partition("event: content_block_stop")[0]
    error = (
        '{"type":"error","error":{"type":"overloaded_error","message":"busy",'
        '"details":{"error_code":"agent_overloaded"}}}'
    )
    assert stream(CALL, *events) == OPENING + open_block + f"event: error\ndata: {error}\n\n"


def test_stream_that_fails_before_start_begins_with_message_start() -> None:
    told = stream(CALL, RunFailed("timed_out", "too long"))
    assert told.startswith(OPENING + "event: error\n")
    assert '"timeout_error"' in told


def test_answer_of_a_failed_run_is_the_error() -> None:
    told = answer(CALL, RunStarted(), TextDelta("a"), RunFailed("agent_crashed", "gone", 1))
    assert told == {
        "type": "error",
        "error": {"type": "api_error", "message": "gone", "details": {"error_code": "agent_crashed"}},
    }


def test_answer_has_the_same_content_as_the_stream() -> None:
    assert answer(SHOWS, *WORK) == {
        "type": "message",
        "id": "msg_r1",
        "role": "assistant",
        "model": "claude/opus",
        "content": [
            {
                "type": "thinking",
                "thinking": 'Hmm.\n[Bash] {"command":"ls"}\n[result] a.txt\n',
                "signature": "clinvk_r1",
            },
            {"type": "text", "text": 'It is "a".\n'},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }
    assert answer(CALL, *WORK)["content"] == [{"type": "text", "text": 'It is "a".\n'}]


@pytest.mark.parametrize(
    ("ending", "reason", "sequence"),
    [
        (RunFinished("end_turn"), "end_turn", None),
        (RunFinished("max_tokens"), "max_tokens", None),
        (RunFinished("max_turns"), "max_tokens", None),
        (RunFinished("max_budget"), "max_tokens", None),
        (RunFinished("refusal"), "refusal", None),
        (RunFinished("stop_sequence", stop_sequence="END"), "stop_sequence", "END"),
    ],
)
def test_stop_reason_is_mapped_to_the_api(ending: RunFinished, reason: str, sequence: str | None) -> None:
    told = answer(CALL, RunStarted(), ending)
    assert (told["stop_reason"], told["stop_sequence"]) == (reason, sequence)
    delta = msgspec.json.encode({"stop_reason": reason, "stop_sequence": sequence}).decode()
    assert f'"delta":{delta}' in stream(CALL, RunStarted(), ending)


@pytest.mark.parametrize(
    ("error", "status", "type_"),
    [
        (ClinvkError("x"), 500, "api_error"),
        (InvalidRequest("x"), 400, "invalid_request_error"),
        (errors.Unsupported("x"), 400, "invalid_request_error"),
        (errors.ModelNotFound("x"), 404, "not_found_error"),
        (errors.BackendUnavailable("x"), 404, "not_found_error"),
        (errors.SessionNotFound("x"), 404, "not_found_error"),
        (errors.SessionBusy("x"), 409, "conflict_error"),
        (errors.NotResumable("x"), 400, "invalid_request_error"),
        (errors.AmbiguousId("x"), 400, "invalid_request_error"),
        (errors.QueueFull("x", retry_after_s=1), 503, "overloaded_error"),
        (errors.ShuttingDown("x"), 503, "overloaded_error"),
        (errors.StoreUnavailable("x"), 503, "overloaded_error"),
        (errors.TimedOut("x"), 504, "timeout_error"),
        (errors.Cancelled("x"), 500, "api_error"),
        (errors.AgentFailed("x"), 500, "api_error"),
        (errors.AgentCrashed("x"), 500, "api_error"),
        (errors.AgentUnauthenticated("x"), 401, "authentication_error"),
        (errors.AgentRateLimited("x"), 429, "rate_limit_error"),
        (errors.AgentUnpaid("x"), 402, "billing_error"),
        (errors.AgentOverloaded("x"), 529, "overloaded_error"),
        (errors.AgentRejected("x"), 400, "invalid_request_error"),
        (errors.KeyRefused("x"), 401, "authentication_error"),
        (errors.ForeignOrigin("x"), 403, "permission_error"),
        (errors.DirectoryNotAllowed("x"), 403, "permission_error"),
        (errors.NoSuchPath("x"), 404, "not_found_error"),
        (errors.MethodNotAllowed("x"), 405, "invalid_request_error"),
        (errors.BodyTooSlow("x"), 408, "timeout_error"),
        (errors.BodyTooLarge("x"), 413, "request_too_large"),
        (errors.WrongMediaType("x"), 415, "invalid_request_error"),
    ],
)
def test_error_has_the_status_and_type_of_the_api(error: ClinvkError, status: int, type_: str) -> None:
    told, body = Anthropic().error(error, "req_1")
    assert told == status
    assert msgspec.json.decode(body) == {
        "type": "error",
        "error": {"type": type_, "message": "x", "details": {"error_code": error.code}},
        "request_id": "req_1",
    }


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InvalidRequest("claude has no effort 'x'", "effort"), "output_config.effort: claude has no effort 'x'"),
        (InvalidRequest("messages[0].role is missing", "messages[0].role"), "messages[0].role is missing"),
        (InvalidRequest("no such directory", "workdir"), "x-clinvk-workdir: no such directory"),
    ],
)
def test_error_message_uses_the_field_names_of_the_api(error: InvalidRequest, message: str) -> None:
    _, body = Anthropic().error(dialect.renamed(error, Anthropic.fields), "req_1")
    assert msgspec.json.decode(body)["error"]["message"] == message


def test_arguments_of_a_call_stream_in_pieces_as_one_block() -> None:
    events = [ToolCallDelta("t1", "f", '{"a":'), ToolCallDelta("t1", "f", "1}"), ToolCall("t1", "f", {"a": 1}, True)]
    whole = ToolCall("t2", "g", {}, True)
    streamed = stream(CALL, RunStarted(), TextDelta("Well"), *events, whole, RunFinished("tool_use"))
    start = '"content_block":{"type":"tool_use","id":"%s","name":"%s","input":{}}'
    pieces = map(json.dumps, ('{"a":', "1}", "{}"))
    deltas = [f'{{"type":"input_json_delta","partial_json":{piece}}}' for piece in pieces]
    blocks = (
        text_block(0, "Well") + block(1, start % ("t1", "f"), *deltas[:2]) + block(2, start % ("t2", "g"), deltas[2])
    )
    assert streamed.startswith(OPENING + blocks + "event: message_delta\n")


def test_pieces_of_arguments_appear_in_no_whole_message() -> None:
    events = [ToolCallDelta("t1", "f", "{}"), ToolCall("t1", "f", {}, True), RunFinished("tool_use")]
    assert answer(CALL, *events)["content"] == [{"type": "tool_use", "id": "t1", "name": "f", "input": {}}]
