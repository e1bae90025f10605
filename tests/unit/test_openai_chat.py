"""Chat completions: what is read of a body, and the bytes of the answers."""

import base64
import json

import pytest

from clinvk.dialects.dialect import Call, renamed
from clinvk.dialects.openai.chat import OpenAIChat
from clinvk.types.errors import InvalidRequest, Unsupported
from clinvk.types.events import (
    Event,
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
from clinvk.types.request import ClientTool, Image, RunRequest
from clinvk.types.run import RunFacts

PNG = b"\x89PNG\r\n\x1a\n rest"
PNG_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
SCHEMA: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION: dict[str, object] = {
    "type": "function",
    "function": {"name": "f", "description": "Gets.", "parameters": SCHEMA},
}
CHOICE = {"type": "function", "function": {"name": "f"}}
OLDER_CALL = {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}
FACTS = RunFacts(run_id="r1", backend="claude", started_at=1_700_000_000.9)
ANSWER: list[Event] = [
    RunStarted("m"),
    ThinkingDelta("hmm"),
    TextDelta("Hi "),
    Progress("retry", "again"),
    ToolCall("t1", "Bash", {"command": "ls"}),
    ToolResult("t1", "a b"),
    TextDelta('"you"\n'),
    RunFinished("end_turn", Usage(10, 5, 4, 3)),
]


def body(**fields: object) -> dict[str, object]:
    return {"model": "claude", "messages": [{"role": "user", "content": "hi"}], **fields}


def parse(asked: dict[str, object], headers: dict[str, str] | None = None) -> Call:
    return OpenAIChat().parse(json.dumps(asked).encode(), headers or {})


def mistake(**fields: object) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as told:
        parse(body(**fields))
    return told.value.message, told.value.field


def of_user(*parts: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": parts}]


def stream(call: Call, events: list[Event]) -> bytes:
    encoder = OpenAIChat().encoder(call, FACTS)
    return b"".join(encoder.feed(event, 0.0) for event in events)


def chunk(choice: str, tail: str = "") -> str:
    head = '{"id":"chatcmpl-r1","object":"chat.completion.chunk","created":1700000000,"model":"claude","choices":['
    return f"data: {head}{choice}]{tail}}}\n\n"


def delta(said: str, reason: str = "null", tail: str = "") -> str:
    return chunk(f'{{"index":0,"delta":{said},"logprobs":null,"finish_reason":{reason}}}', tail)


def test_single_message_is_the_literal_prompt_of_an_ephemeral_run() -> None:
    expected = RunRequest(prompt="/help @x <turn>", model="claude", literal=True, ephemeral=True)
    call = parse(body(messages=[{"role": "user", "content": "/help @x <turn>"}]))
    assert call == Call(request=expected, model="claude")


def test_every_field_reaches_the_request() -> None:
    call = parse(
        body(
            stream=True,
            stream_options={"include_usage": True},
            stop=["a", "b"],
            n=1,
            max_tokens=5,
            max_completion_tokens=7,
            reasoning_effort="high",
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
            metadata={"k": "v"},
        ),
        {
            "x-clinvk-session-id": "abc",
            "x-clinvk-workdir": "/w",
            "x-clinvk-approval-mode": "auto",
            "x-clinvk-sandbox-mode": "read-only",
            "x-clinvk-events": "true",
        },
    )
    request = RunRequest(
        prompt="hi",
        model="claude",
        literal=True,
        stop=("a", "b"),
        max_tokens=7,
        effort="high",
        thinking=True,
        output_schema={"type": "object"},
        metadata={"k": "v"},
        session_id="abc",
        workdir="/w",
        approval_mode="auto",
        sandbox_mode="read-only",
    )
    assert call == Call(
        request=request, model="claude", stream=True, include_usage=True, shows_work=True, ignored=("stop",)
    )


def test_unknown_fields_are_ignored_at_every_level() -> None:
    messages = [
        {"role": "system", "content": "s", "future": 1},
        {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"x": 1}}]},
    ]
    assert parse(body(messages=messages, verbosity="low", user=5, logit_bias={"1": 2})).request == RunRequest(
        prompt="hi", model="claude", system_prompt="s", literal=True, ephemeral=True
    )


def test_stop_is_reported_as_ignored_with_a_schema() -> None:
    assert parse(body(stop="x", response_format={"type": "json_object"})).ignored == ("stop",)
    assert parse(body(stop="x")).ignored == parse(body(response_format={"type": "json_object"})).ignored == ()


def test_null_equals_a_missing_field() -> None:
    optional = ("stream", "stream_options", "stop", "n", "max_tokens", "reasoning_effort", "response_format", "tools")
    assert parse(body(**dict.fromkeys(optional), tool_choice=None, metadata=None, seed=None)) == parse(body())


def test_all_system_and_developer_messages_are_kept() -> None:
    messages = [
        {"role": "system", "content": "one"},
        {"role": "user", "content": "hi"},
        {"role": "developer", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}]},
    ]
    request = parse(body(messages=messages)).request
    assert (request.prompt, request.system_prompt) == ("hi", "one\n\ntwo\n\nthree")


def test_conversation_is_rendered_by_turn_with_tool_calls() -> None:
    messages = [
        {"role": "user", "content": "weather?", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
        {"role": "assistant", "content": "Sunny.", "refusal": None},
        {"role": "user", "content": "thanks"},
    ]
    prompt = parse(body(messages=messages)).request.prompt
    _, *turns = prompt.split("\n\n")
    assert turns == [
        '<turn role="user" name="ann">\nweather?\n</turn>',
        '<turn role="assistant" calls="get" id="c1">\n{"a":1}\n</turn>',
        '<turn role="tool" result-of="c1">\nsunny\n</turn>',
        '<turn role="assistant">\nSunny.\n</turn>',
        '<turn role="user">\nthanks\n</turn>',
    ]


def test_empty_message_is_not_a_turn() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "r"},
    ]
    assert parse(body(messages=messages)).request.prompt.count("<turn role=") == 3


def test_image_is_attached_and_marked_in_the_prompt() -> None:
    content = ({"type": "text", "text": "what is"}, {"type": "image_url", "image_url": {"url": PNG_URL}})
    request = parse(body(messages=of_user(*content, {"type": "text", "text": "this?"}))).request
    assert (request.prompt, request.images) == ("what is\n[Image #1]\nthis?", (Image("image/png", PNG),))
    assert parse(body(messages=of_user({"type": "image_url", "image_url": PNG_URL}))).request.images


def test_text_file_is_included_in_the_prompt() -> None:
    data = "data:text/plain;base64," + base64.b64encode("größe".encode()).decode()
    part = {"type": "file", "file": {"file_data": data, "filename": "a.txt"}}
    assert parse(body(messages=of_user(part))).request.prompt == "a.txt:\ngröße"


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, False),
        ({"reasoning_effort": "low"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"thinking": {"type": "enabled"}}, True),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}, False),
    ],
)
def test_effort_or_thinking_field_requests_thinking(fields: dict[str, object], thinking: bool) -> None:
    assert parse(body(**fields)).request.thinking is thinking


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [FUNCTION]},
        {"tools": [FUNCTION], "tool_choice": "auto"},
        {"tools": [FUNCTION], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
    ],
)
def test_functions_are_offered_without_an_instruction(fields: dict[str, object]) -> None:
    call = parse(body(**fields))
    assert call.request.client_tools == (ClientTool("f", "Gets.", SCHEMA),)
    assert (call.request.prompt, call.ignored, call.tools_mode) == ("hi", (), None)
    assert call.tool_turn


@pytest.mark.parametrize(
    ("fields", "instruction"),
    [
        ({"tool_choice": "required"}, "Answer with a call of a tool."),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "Answer with a call of the tool `f`."),
        ({"parallel_tool_calls": False}, "Make at most one call at a time."),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CHOICE]}}},
            "Call no other tool than `f`.",
        ),
    ],
)
def test_tool_choice_is_an_instruction_to_the_model(fields: dict[str, object], instruction: str) -> None:
    call = parse(body(tools=[FUNCTION], **fields))
    assert call.tool_turn
    assert call.tool_turn.choice.instruction == instruction


def test_tool_choice_none_offers_no_tools_of_anyone() -> None:
    call = parse(body(tools=[FUNCTION], tool_choice="none"))
    assert (call.request.client_tools, call.has_tools, call.tool_turn, call.ignored) == ((), True, None, ())


def test_custom_tool_takes_one_text_and_shows_its_grammar() -> None:
    custom = {"name": "patch", "description": "Patches.", "format": {"type": "text"}}
    (tool,) = parse(body(tools=[{"type": "custom", "custom": custom}])).request.client_tools
    assert tool.description == 'Patches.\n\nThe input must match this grammar: {"type":"text"}'
    assert tool.schema["required"] == ["input"]


def test_hosted_tools_are_reported_as_ignored() -> None:
    call = parse(body(tools=[FUNCTION, {"type": "web_search"}]))
    assert ([tool.name for tool in call.request.client_tools], call.ignored) == (["f"], ("tools",))
    assert parse(body(tools=[], tool_choice="auto")).ignored == ()


@pytest.mark.parametrize(
    ("fields", "place", "said"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "assistant", "content": "s"}]}, "messages", "nothing is asked"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "nothing is asked"),
        ({"messages": [{"role": "wizard", "content": "s"}]}, "messages[0].role", 'got "wizard"'),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "is missing"),
        ({"functions": [FUNCTION["function"]]}, "functions", "use tools"),
        ({"messages": [OLDER_CALL]}, "messages[0].function_call", "use tools"),
        ({"messages": [{"role": "function", "name": "f"}]}, "messages[0].role", 'tool, got "function"'),
        ({"messages": of_user("x")}, "messages[0].content[0]", "must be a JSON object"),
        ({"messages": of_user({"type": "video"})}, "messages[0].content[0].type", 'got "video"'),
        (
            {"messages": of_user({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}})},
            "messages[0].content[0].image_url.url",
            "no address is fetched",
        ),
        (
            {"messages": of_user({"type": "file", "file": {"file_id": "f"}})},
            "messages[0].content[0].file.file_data",
            "nothing is uploaded here",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": PNG_URL}]}]},
            "messages[0].content[0].type",
            "cannot have images",
        ),
        ({"model": " "}, "model", "not blank"),
        ({"n": 2}, "n", "must be 1"),
        ({"stop": ["a", ""]}, "stop[1]", "1 to 100 characters"),
        ({"modalities": ["audio"]}, "modalities[0]", "agents only write"),
        ({"tool_choice": "always"}, "tool_choice", "must be one of auto, none, required"),
        ({"tools": [FUNCTION, FUNCTION]}, "tools", "two tools have the name 'f'"),
        ({"tools": [{"type": "function", "function": {"strict": True}}]}, "tools[0].function.name", "is missing"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters",
            "must describe an object, got the type 'array'",
        ),
    ],
)
def test_invalid_field_is_named_in_the_error(fields: dict[str, object], place: str, said: str) -> None:
    message, field = mistake(**fields)
    assert field == place
    assert said in message


def test_answer_matches_the_golden_bytes() -> None:
    call = parse(body())
    assert OpenAIChat().result(call, gather(ANSWER), FACTS).decode() == (
        '{"id":"chatcmpl-r1","object":"chat.completion","created":1700000000,"model":"claude","choices":[{"index":0,'
        '"message":{"role":"assistant","content":"Hi \\"you\\"\\n","refusal":null},"logprobs":null,'
        '"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,'
        '"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}}'
    )


def test_stream_matches_the_golden_bytes() -> None:
    expected = [
        delta('{"role":"assistant","content":"","refusal":null}'),
        delta('{"content":"Hi "}'),
        delta('{"content":"\\"you\\"\\n"}'),
        delta("{}", '"stop"'),
        "data: [DONE]\n\n",
    ]
    assert stream(parse(body(stream=True)), ANSWER).decode() == "".join(expected)


def test_usage_is_the_last_chunk_only_if_requested() -> None:
    call = parse(body(stream=True, stream_options={"include_usage": True}))
    usage = (
        '{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{"cached_tokens":4},'
        '"completion_tokens_details":{"reasoning_tokens":3}}'
    )
    said = stream(call, [ANSWER[0], ANSWER[-1]]).decode()
    assert said == "".join(
        [
            delta('{"role":"assistant","content":"","refusal":null}', tail=',"usage":null'),
            delta("{}", '"stop"', tail=',"usage":null'),
            chunk("", f',"usage":{usage}'),
            "data: [DONE]\n\n",
        ]
    )


def test_requested_thinking_is_reported() -> None:
    call = parse(body(reasoning_effort="high"))
    assert delta('{"reasoning_content":"hmm"}') in stream(call, ANSWER).decode()
    message = json.loads(OpenAIChat().result(call, gather(ANSWER), FACTS))["choices"][0]["message"]
    assert message["reasoning_content"] == "hmm"
    assert "tool_calls" not in message


def test_events_header_reports_tool_use_as_thinking() -> None:
    call = parse(body(), {"x-clinvk-events": "1"})
    worked = 'hmm\n[Bash] {"command":"ls"}\n[result] a b\n'
    message = json.loads(OpenAIChat().result(call, gather(ANSWER), FACTS))["choices"][0]["message"]
    assert message["reasoning_content"] == worked
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in stream(call, ANSWER).decode().split("\n\n")[:-2]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == worked
    assert "".join(delta.get("content", "") for delta in deltas) == 'Hi "you"\n'


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("max_turns", "length"),
        ("max_budget", "length"),
        ("refusal", "content_filter"),
    ],
)
def test_finish_reason_is_always_valid_for_openai(reason: StopReason, told: str) -> None:
    events: list[Event] = [RunStarted(), RunFinished(reason)]
    answer = json.loads(OpenAIChat().result(parse(body()), gather(events), FACTS))
    assert answer["choices"][0]["finish_reason"] == told
    assert answer["usage"]["total_tokens"] == 0
    assert delta("{}", f'"{told}"') in stream(parse(body()), events).decode()


def test_failure_in_the_stream_is_a_final_error() -> None:
    said = stream(parse(body()), [RunStarted(), TextDelta("x"), RunFailed("agent_overloaded", "busy")]).decode()
    assert said.endswith(
        delta('{"content":"x"}')
        + 'data: {"error":{"message":"busy","type":"server_error","param":null,"code":"agent_overloaded"}}\n\n'
    )


def test_error_names_the_field_of_the_client() -> None:
    error = renamed(Unsupported("output_schema is too much", "output_schema"), OpenAIChat.fields)
    status, said = OpenAIChat().error(error, "req")
    assert (status, said.decode()) == (
        400,
        '{"error":{"message":"response_format.json_schema.schema is too much","type":"invalid_request_error",'
        '"param":"response_format.json_schema.schema","code":"unsupported_option"}}',
    )


PIECES: list[Event] = [
    ToolCallDelta("c1", "f", '{"city":'),
    ToolCallDelta("c1", "f", '"Rome"}'),
    ToolCall("c1", "f", {"city": "Rome"}, for_client=True),
]


def deltas(call: Call, events: list[Event]) -> list[object]:
    lines = stream(call, events).decode().split("\n\n")
    return [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines if "{" in line]


def test_arguments_of_a_call_stream_in_pieces() -> None:
    head = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city":'}}
    rest = {"index": 0, "function": {"arguments": '"Rome"}'}}
    whole = {"index": 1, "id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    made = parse(body(tools=[FUNCTION]))
    assert deltas(made, [*PIECES, ToolCall("c2", "f", {}, for_client=True)]) == [
        {"tool_calls": [call]} for call in (head, rest, whole)
    ]


def test_text_of_a_custom_tool_is_sent_whole() -> None:
    made = parse(body(tools=[{"type": "custom", "custom": {"name": "f"}}]))
    call = {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "f", "input": "Rome"}}
    events: list[Event] = [ToolCallDelta("c1", "f", "{"), ToolCall("c1", "f", {"input": "Rome"}, for_client=True)]
    assert deltas(made, events) == [{"tool_calls": [call]}]
