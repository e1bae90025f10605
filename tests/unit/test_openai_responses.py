"""The Responses dialect: the stream, the object, and the object from the stored record."""

import json
from collections.abc import Sequence

import msgspec
import pytest
from msgspec.structs import replace
from openai.types.responses import Response as SdkResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from clinvk.dialects.dialect import Call, Encoder, renamed
from clinvk.dialects.openai.responses import OpenAIResponses, stored
from clinvk.types.choices import RunState
from clinvk.types.errors import AgentRateLimited, InvalidRequest, KeyRefused, PreviousNotFound, Unsupported
from clinvk.types.events import (
    Ending,
    Event,
    Logged,
    Progress,
    RunFailed,
    RunFinished,
    RunStarted,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
    gather,
)
from clinvk.types.record import RunRecord
from clinvk.types.run import RunFacts
from open_responses import check_event, check_response

RUN = "0123456789abcdef0123456789abcdef"
START, END = 1_700_000_000.25, 1_700_000_009.75
FACTS = RunFacts(run_id=RUN, backend="claude", session_id="s", created_at=START, started_at=START + 7, ended_at=END)
DIALECT = OpenAIResponses()
USAGE = Usage(10, 5, 2, 1)
SAYS: tuple[Event, ...] = (RunStarted(), TextDelta("he"), TextDelta("llo"), RunFinished(usage=USAGE))
THINKS: tuple[Event, ...] = (RunStarted(), ThinkingDelta("hm"), TextDelta("a"), RunFinished())

HEAD = (
    '"id":"resp_0123456789abcdef0123456789abcdef","object":"response","created_at":1700000000,"completed_at":%s,'
    '"status":"%s","background":false,"error":null,"frequency_penalty":0,"incomplete_details":null,"instructions":null,'
    '"max_output_tokens":null,"max_tool_calls":null,"metadata":{},"model":"claude/opus","output":%s,'
    '"parallel_tool_calls":true,"presence_penalty":0,"previous_response_id":null,"prompt_cache_key":null,'
    '"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"service_tier":"default","store":true,'
    '"temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,'
    '"truncation":"disabled","usage":%s,"user":null'
)
BEGUN = HEAD % ("null", "in_progress", "[]", "null")
TOKENS = (
    '{"input_tokens":10,"input_tokens_details":{"cached_tokens":2,"cache_write_tokens":0},"output_tokens":5,'
    '"output_tokens_details":{"reasoning_tokens":1},"total_tokens":15}'
)
MESSAGE_ID = "msg_0123456789abcdef0123456789abcdef_0"
MESSAGE = (
    f'{{"type":"message","id":"{MESSAGE_ID}","status":"completed","role":"assistant","content":[{{'
    '"type":"output_text","text":"hello","annotations":[],"logprobs":[]}]}'
)
PLACE = f'"item_id":"{MESSAGE_ID}","output_index":0,"content_index":0'
GOLDEN = f"""\
event: response.created
data: {{"type":"response.created","sequence_number":0,"response":{{{BEGUN}}}}}

event: response.in_progress
data: {{"type":"response.in_progress","sequence_number":1,"response":{{{BEGUN}}}}}

event: response.output_item.added
data: {{"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":\
{{"type":"message","id":"{MESSAGE_ID}","status":"in_progress","role":"assistant","content":[]}}}}

event: response.content_part.added
data: {{"type":"response.content_part.added","sequence_number":3,{PLACE},"part":\
{{"type":"output_text","text":"","annotations":[],"logprobs":[]}}}}

event: response.output_text.delta
data: {{"type":"response.output_text.delta","sequence_number":4,{PLACE},"delta":"he","logprobs":[]}}

event: response.output_text.delta
data: {{"type":"response.output_text.delta","sequence_number":5,{PLACE},"delta":"llo","logprobs":[]}}

event: response.output_text.done
data: {{"type":"response.output_text.done","sequence_number":6,{PLACE},"text":"hello","logprobs":[]}}

event: response.content_part.done
data: {{"type":"response.content_part.done","sequence_number":7,{PLACE},"part":\
{{"type":"output_text","text":"hello","annotations":[],"logprobs":[]}}}}

event: response.output_item.done
data: {{"type":"response.output_item.done","sequence_number":8,"output_index":0,"item":{MESSAGE}}}

event: response.completed
data: {{"type":"response.completed","sequence_number":9,"response":\
{{{HEAD % (int(END), "completed", f"[{MESSAGE}]", TOKENS)}}}}}

"""

Json = dict[str, object]

_sdk: TypeAdapter[object] = TypeAdapter(ResponseStreamEvent)


def call(headers: dict[str, str] | None = None, **body: object) -> Call:
    return DIALECT.parse(json.dumps({"model": "claude/opus", "input": "hi", **body}).encode(), headers or {})


def streamed(call: Call, events: Sequence[Event]) -> str:
    encoder = DIALECT.encoder(call, FACTS)
    return b"".join(encoder.feed(event, END) for event in events).decode()


def frames(call: Call, events: Sequence[Event]) -> list[Json]:
    """Return the events of a stream, checked against the types of the SDK and numbered without a gap.

    The events of a request with functions as its only tools are also checked against the types of Open Responses.
    """
    told = [json.loads(line[6:]) for line in streamed(call, events).splitlines() if line.startswith("data: ")]
    for number, frame in enumerate(told):
        _sdk.validate_python(frame)
        assert frame["sequence_number"] == number
        if all(tool["type"] == "function" for tool in told[0]["response"]["tools"]):
            check_event(frame)
    return told


def kinds(call: Call, events: Sequence[Event]) -> list[str]:
    return [str(frame["type"]).removeprefix("response.") for frame in frames(call, events)]


def result(call: Call, events: Sequence[Event], is_open: bool = True) -> Json:
    """Return the response, checked against the types of the SDK and, with `is_open`, of Open Responses."""
    body = DIALECT.result(call, gather(events), FACTS)
    SdkResponse.model_validate_json(body)
    return check_response(json.loads(body)) if is_open else json.loads(body)


def logged(events: Sequence[Event]) -> list[Logged]:
    return [Logged(number, END, event) for number, event in enumerate(events, 1)]


def record(call: Call, state: RunState = "finished") -> RunRecord:
    asked = call.request
    request: Json = {
        "metadata": asked.metadata,
        "thinking": asked.thinking,
        "system_prompt": asked.system_prompt,
        "answer_as": asked.answer_as,
    }
    return RunRecord(
        id=RUN,
        backend="claude",
        prompt="hi",
        state=state,
        created_at=FACTS.created_at,
        started_at=FACTS.started_at,
        session_id="s",
        request=json.loads(json.dumps(request)),
    )


def test_text_stream_matches_the_golden_bytes() -> None:
    assert streamed(call(stream=True), SAYS) == GOLDEN


def test_response_equals_the_last_response_of_the_stream() -> None:
    assert result(call(), SAYS) == frames(call(), SAYS)[-1]["response"]


def test_thinking_is_a_separate_first_item() -> None:
    asked = call(reasoning={"effort": "high", "summary": "auto"})
    assert kinds(asked, THINKS) == [
        *("created", "in_progress", "output_item.added", "reasoning_summary_part.added"),
        *("reasoning_summary_text.delta", "reasoning_summary_text.done", "reasoning_summary_part.done"),
        *("output_item.done", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    output = result(asked, THINKS)["output"]
    assert isinstance(output, list)
    assert output[0] == {"type": "reasoning", "id": f"rs_{RUN}_0", "summary": [{"type": "summary_text", "text": "hm"}]}
    assert (output[1]["id"], output[1]["content"][0]["text"]) == (f"msg_{RUN}_1", "a")


def test_unrequested_thinking_is_omitted() -> None:
    for reasoning in (None, {"effort": "high"}, {"summary": "none"}):
        assert not any("reasoning" in kind for kind in kinds(call(reasoning=reasoning), THINKS))


def test_events_header_reports_tool_use_as_thinking() -> None:
    does = (
        RunStarted(),
        TextDelta("I look"),
        ToolCall("t1", "Bash", {"command": "ls"}),
        ToolResult("t1", "a.txt"),
        TextDelta("\n\none file"),
        RunFinished(),
    )
    asked = call({"x-clinvk-events": "true"})
    output = result(asked, does)["output"]
    assert isinstance(output, list)
    assert [output[index]["type"] for index in range(3)] == ["message", "reasoning", "message"]
    assert "ls" in output[1]["summary"][0]["text"]
    assert "a.txt" in output[1]["summary"][0]["text"]
    assert result(asked, does) == frames(asked, does)[-1]["response"]
    assert "reasoning" not in "".join(kinds(call(), does))


def test_answer_without_text_has_an_empty_message() -> None:
    answer = result(call(), (RunStarted(), RunFinished()))
    assert SdkResponse.model_validate(answer).output_text == ""
    assert kinds(call(), (RunStarted(), RunFinished()))[2:] == [
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


def test_other_events_add_nothing_to_the_stream() -> None:
    more = (RunStarted(), Progress("retry", "429"), TextDelta(""), *SAYS[1:])
    assert streamed(call(), more) == GOLDEN


@pytest.mark.parametrize(
    ("reason", "status", "details"),
    [
        ("end_turn", "completed", None),
        ("stop_sequence", "completed", None),
        ("max_tokens", "incomplete", {"reason": "max_output_tokens"}),
        ("max_turns", "incomplete", {"reason": "max_output_tokens"}),
        ("max_budget", "incomplete", {"reason": "max_output_tokens"}),
        ("refusal", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_stop_reason_maps_to_the_vendors_status(reason: StopReason, status: str, details: Json | None) -> None:
    events = (RunStarted(), TextDelta("a"), RunFinished(reason))
    assert kinds(call(), events)[-1] == status
    answer = result(call(), events)
    assert (answer["status"], answer["incomplete_details"]) == (status, details)
    assert isinstance(answer["output"], list)
    assert answer["output"][-1]["status"] == status


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("agent_crashed", "failed", "invalid_prompt"),
        ("agent_rate_limited", "failed", "invalid_prompt"),
        ("agent_rejected", "failed", "invalid_prompt"),
        ("cancelled", "cancelled", "invalid_prompt"),
    ],
)
def test_failed_run_ends_the_stream_with_response_failed(code: str, status: str, told: str) -> None:
    last = frames(call(), (RunStarted(), TextDelta("ha"), RunFailed(code, "it broke", usage=USAGE)))[-1]
    answer = SdkResponse.model_validate(last["response"])
    assert (last["type"], answer.status) == ("response.failed", status)
    assert answer.error
    assert (answer.error.code, answer.error.message) == (told, "it broke")
    assert answer.output_text == "ha"
    assert answer.usage
    assert answer.usage.total_tokens == 15


def test_stream_that_fails_immediately_still_starts() -> None:
    assert kinds(call(), (RunFailed("agent_crashed", "x"),)) == ["created", "in_progress", "failed"]


@pytest.mark.parametrize(
    ("code", "done", "told"),
    [
        ("agent_rate_limited", (), "rate_limit_exceeded"),
        ("agent_overloaded", (), "server_error"),
        ("agent_rejected", (), "invalid_prompt"),
        ("agent_crashed", (), "invalid_prompt"),
        ("agent_overloaded", (ToolCall("t", "Bash", {}),), "invalid_prompt"),
        ("agent_rate_limited", (ThinkingDelta("hm"),), "invalid_prompt"),
    ],
)
def test_codex_may_retry_only_failures_without_agent_activity(code: str, done: tuple[Event, ...], told: str) -> None:
    last = frames(call(), (RunStarted(), Progress("retry", "429"), *done, RunFailed(code, "x")))[-1]
    answer = SdkResponse.model_validate(last["response"])
    assert answer.error
    assert answer.error.code == told


def test_only_a_client_that_accepts_only_sse_gets_early_failures_as_events() -> None:
    assert call({"accept": "text/event-stream"}, stream=True).fails_in_stream
    assert call({"accept": "Text/Event-Stream; q=1"}, stream=True).fails_in_stream
    assert not call({"accept": "text/event-stream"}).fails_in_stream
    for accept in ("application/json", "*/*", "", "application/json, text/event-stream"):
        assert not call({"accept": accept}, stream=True).fails_in_stream


def pulses(encoder: Encoder, *events: Event) -> list[Json]:
    data = b"".join(encoder.feed(event, END) for event in events) if events else DIALECT.kept_alive(encoder)
    return [json.loads(line[6:]) for line in data.decode().splitlines() if line.startswith("data: ")]


def idle_stream(headers: dict[str, str]) -> tuple[list[str], list[object]]:
    """Return the kinds and numbers of the events of a stream that is idle three times."""
    encoder = DIALECT.encoder(call(headers, stream=True), FACTS)
    told = [
        *pulses(encoder),
        *pulses(encoder),
        *pulses(encoder, RunStarted(), TextDelta("a")),
        *pulses(encoder),
        *pulses(encoder, RunFinished()),
        *pulses(encoder),
    ]
    for frame in told:
        check_event(frame)
    return [str(frame["type"]).removeprefix("response.") for frame in told], [e["sequence_number"] for e in told]


def test_idle_stream_begins_and_sends_comments() -> None:
    asked = call(stream=True)
    kinds_sent, numbers = idle_stream({})
    assert kinds_sent == kinds(asked, (RunStarted(), TextDelta("a"), RunFinished()))
    assert numbers == list(range(9))
    encoder = DIALECT.encoder(asked, FACTS)
    encoder.feed(RunStarted(), START)
    assert DIALECT.kept_alive(encoder) == b":\n\n"


def test_client_that_ignores_comments_gets_the_last_number_again_in_an_idle_stream() -> None:
    """Codex is such a client. The events that keep the stream alive do not count."""
    assert idle_stream({"accept": "text/event-stream"}) == (
        [
            *("created", "in_progress", "in_progress", "output_item.added", "content_part.added"),
            *("output_text.delta", "in_progress", "output_text.done", "content_part.done", "output_item.done"),
            "completed",
        ],
        [0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8],
    )


def test_background_run_returns_its_response() -> None:
    asked = call(background=True)
    assert (asked.detach, asked.respond_async) == (True, True)
    for state, status in (("queued", "queued"), ("running", "in_progress")):
        told = SdkResponse.model_validate_json(DIALECT.accepted(asked, replace(FACTS, state=state)))
        assert (told.id, told.status, told.background, told.output) == (f"resp_{RUN}", status, True, [])


def test_background_stream_does_not_respond_async() -> None:
    asked = call(background=True, stream=True)
    assert (asked.detach, asked.respond_async, asked.stream) == (True, False, True)


def test_response_echoes_the_request() -> None:
    said: Json = {
        "instructions": "be brief",
        "max_output_tokens": 99,
        "max_tool_calls": 3,
        "metadata": {"topic": "x"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "reasoning": {"effort": "low", "summary": "detailed"},
        "safety_identifier": "s",
        "temperature": 0.5,
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "tool_choice": "none",
        "top_p": 0.9,
        "truncation": "auto",
        "user": "u",
        "store": False,
        "previous_response_id": f"resp_{RUN}",
    }
    answer = result(call(None, **said), SAYS)
    assert {name: answer[name] for name in said} == said


def test_response_rebuilt_from_the_record_is_identical() -> None:
    cases: list[tuple[Call, Sequence[Event]]] = [
        (call(), SAYS),
        (call(reasoning={"summary": "auto"}, instructions="x", metadata={"a": "b"}), THINKS),
        (call({"x-clinvk-events": "1"}), (RunStarted(), ToolCall("t", "Bash", {}), TextDelta("x"), RunFinished())),
    ]
    for asked, events in cases:
        run = record(asked)
        found = stored.stored_request(run)
        assert found
        rebuilt = stored.rebuilt(run, found, logged(events))
        assert json.loads(msgspec.json.encode(rebuilt)) == result(asked, events)


def test_response_has_the_creation_time_of_its_run() -> None:
    begun = record(call(background=True), "running")
    for run in (begun, replace(begun, state="queued", started_at=None)):
        found = stored.stored_request(run)
        assert found
        assert stored.rebuilt(run, found, ()).created_at == 1_700_000_000


def test_response_data_is_stored_outside_the_clients_metadata() -> None:
    request = call(metadata={"a": "b"}, instructions="be brief").request
    assert request.metadata == {"a": "b"}
    assert "be brief" not in json.dumps(request.answer_as)
    assert call(store=False, metadata={"a": "b"}).request.answer_as == {}


@pytest.mark.parametrize(
    ("instructions", "items"),
    [
        ("be brief", [{"role": "developer", "content": "and kind"}]),
        (" ", [{"role": "developer", "content": "kind"}]),
        ("", []),
        (None, [{"role": "developer", "content": "kind"}]),
        ("naïve 🙂\n", []),
    ],
)
def test_instructions_are_rebuilt_unchanged(instructions: str | None, items: list[Json]) -> None:
    asked = call(instructions=instructions, input=[*items, {"role": "user", "content": "hi"}])
    run = record(asked)
    found = stored.stored_request(run)
    assert found
    assert json.loads(msgspec.json.encode(stored.rebuilt(run, found, logged(SAYS)))) == result(asked, SAYS)


def test_response_stored_in_metadata_by_older_versions_is_readable() -> None:
    old: Json = {"model": "claude", "instructions": "x", "reasoning": {}, "text": {}, "metadata": {"a": "b"}}
    metadata: Json = {"a": "b", "openai_response": {"response": old, "shows_work": True}}
    run = replace(record(call()), request={"metadata": metadata, "system_prompt": "x"})
    found = stored.stored_request(run)
    assert found
    assert found.shows_work
    assert (found.response.instructions, found.response.metadata) == ("x", {"a": "b"})


def test_unfinished_and_failed_runs_have_a_response() -> None:
    run = record(call(background=True), "running")
    found = stored.stored_request(run)
    assert found
    for state in ("running", "waiting"):
        assert stored.rebuilt(replace(run, state=state), found, ()).status == "in_progress"
    assert stored.rebuilt(replace(run, state="queued"), found, ()).status == "queued"
    events = logged((RunStarted(), RunFailed("agent_crashed", "x")))
    failed = stored.rebuilt(replace(run, state="failed"), found, events)
    assert (failed.status, failed.error and failed.error.message) == ("failed", "x")


def test_runs_without_a_stored_response_return_none() -> None:
    assert stored.stored_request(record(call(store=False))) is None
    assert stored.stored_request(replace(record(call()), request={})) is None
    assert stored.stored_request(replace(record(call()), request={"metadata": {"openai_response": {"a": 1}}})) is None
    assert stored.stored_request(replace(record(call()), session_id=None)) is None


@pytest.mark.parametrize("text", ["", "resp_", RUN, f"resp_{RUN[:-1]}", f"resp_{RUN}0", f"resp_{RUN[:-1]}Z", "resp_é"])
def test_run_id_accepts_only_response_ids(text: str) -> None:
    assert stored.run_id(text) is None
    assert stored.run_id(f"resp_{RUN}") == RUN


def test_errors_have_the_vendors_format_and_the_clients_field() -> None:
    def error_of(error: InvalidRequest | AgentRateLimited) -> tuple[int, Json]:
        status, body = DIALECT.error(renamed(error, DIALECT.fields), "r")
        return status, json.loads(body)["error"]

    status, error = error_of(Unsupported("no such effort", "effort"))
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", "reasoning.effort")
    status, error = error_of(PreviousNotFound("gone", "previous_response_id"))
    assert (status, error["code"]) == (400, "previous_response_not_found")
    assert error_of(KeyRefused("no"))[0] == 401
    assert error_of(AgentRateLimited("slow down"))[1]["code"] == "rate_limit_exceeded"


def test_calls_of_a_tool_of_a_namespace_name_the_namespace() -> None:
    parameters: Json = {"type": "object"}
    function: Json = {"type": "function", "name": "f", "parameters": parameters, "strict": False}
    tools: list[Json] = [function, {"type": "custom", "name": "exec"}]
    made = call(tools=[{"type": "namespace", "name": "functions", "description": "d", "tools": tools}, function])
    events = [
        ToolCall(f"call_{name}", name, {"input": "1"}, for_client=True)
        for name in ("functions__f", "functions__exec", "f")
    ]
    done = [frame for frame in frames(made, [RunStarted(), *events]) if frame["type"] == "response.output_item.done"]
    items = [msgspec.convert(frame["item"], Json) for frame in done]
    assert [(item["type"], item["name"], item.get("namespace")) for item in items] == [
        ("function_call", "f", "functions"),
        ("custom_tool_call", "exec", "functions"),
        ("function_call", "f", None),
    ]


@pytest.mark.parametrize("given", [{"strict": True, "description": "d"}, {}])
def test_echoed_function_has_all_fields(given: Json) -> None:
    function: Json = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    whole: Json = {"description": None, "strict": None, **function, **given}
    assert result(call(tools=[function | given]), SAYS)["tools"] == [whole]
    namespace: Json = {"type": "namespace", "name": "n", "description": "d", "tools": [function | given]}
    assert result(call(tools=[namespace]), SAYS, is_open=False)["tools"] == [namespace | {"tools": [whole]}]


def test_echoed_schema_has_all_fields() -> None:
    schema: Json = {"type": "object"}
    answer = result(call(text={"format": {"type": "json_schema", "schema": schema}}), SAYS)
    form = {"type": "json_schema", "name": "", "description": None, "schema": schema, "strict": False}
    assert answer["text"] == {"format": form}


def test_only_a_completed_response_has_the_time_of_its_end() -> None:
    assert [result(call(), (RunStarted(), ending))["completed_at"] for ending in ENDINGS] == [int(END), None, None]
    assert '"completed_at":null' in streamed(call(), SAYS[:2])


ENDINGS: tuple[Ending, ...] = (RunFinished(), RunFinished("max_tokens"), RunFailed("agent_crashed", "x"))
PIECES = (ToolCallDelta("c1", "f", '{"a":'), ToolCallDelta("c1", "f", "1}"))
FUNCTION: Json = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}


def output(frame: Json) -> list[Json]:
    return msgspec.convert(msgspec.convert(frame["response"], Json)["output"], list[Json])


def test_arguments_of_a_call_stream_in_pieces() -> None:
    events = [RunStarted(), *PIECES, ToolCall("c1", "f", {"a": 1}, for_client=True), RunFinished("tool_use")]
    streamed = frames(call(tools=[FUNCTION]), events)[2:]
    assert [(str(frame["type"]).removeprefix("response."), frame.get("delta")) for frame in streamed] == [
        ("output_item.added", None),
        ("function_call_arguments.delta", '{"a":'),
        ("function_call_arguments.delta", "1}"),
        ("function_call_arguments.done", None),
        ("output_item.done", None),
        ("completed", None),
    ]
    assert streamed[3]["arguments"] == '{"a":1}'
    assert [streamed[-2]["item"]] == output(streamed[-1])


@pytest.mark.parametrize("ending", [RunFinished("max_tokens"), RunFailed("agent_crashed", "gone")])
def test_answer_that_ends_within_a_call_has_an_incomplete_call(ending: Ending) -> None:
    last = frames(call(tools=[FUNCTION]), [RunStarted(), *PIECES, ending])[-1]
    assert [item["status"] for item in output(last) if item["type"] == "function_call"] == ["incomplete"]


@pytest.mark.parametrize("tool", [{"type": "custom", "name": "f"}, {"type": "shell"}])
def test_calls_without_arguments_of_their_own_are_sent_whole(tool: Json) -> None:
    name = str(tool.get("name", "shell"))
    events = [ToolCallDelta("c1", name, '{"input":'), ToolCall("c1", name, {"input": "x", "commands": ["ls"]}, True)]
    whole = frames(call(tools=[tool]), [RunStarted(), events[1]])
    assert frames(call(tools=[tool]), [RunStarted(), *events]) == whole
