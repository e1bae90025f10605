"""Google's dialect: bodies, schemas, answers and streams."""

import base64
import json
import re

import pytest

from agents.machine import PNG
from clinvk.dialects.client_tools import ToolChoice
from clinvk.dialects.conversation import ToolCallMade, Turn
from clinvk.dialects.dialect import Call
from clinvk.dialects.google import Google
from clinvk.dialects.google.body import signature_of
from clinvk.dialects.google.schema import client_text, json_schema
from clinvk.types import errors
from clinvk.types.errors import ClinvkError, InvalidRequest
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
    Usage,
    gather,
)
from clinvk.types.request import RunRequest, ToolOutput
from clinvk.types.run import RunFacts
from standin.document import JSON

FACTS = RunFacts(run_id="r1", backend="claude", started_at=1_700_000_000.0)
HELLO: list[JSON] = [{"role": "user", "parts": [{"text": "hello"}]}]
DECLARED: JSON = {"functionDeclarations": [{"name": "f"}, {"name": "g"}]}


def parsed(body: dict[str, JSON], stream: bool = False) -> Call:
    dialect = Google(stream).of_path({"id": "claude/opus"}, b"")
    return dialect.parse(json.dumps({"contents": HELLO, **body}).encode(), {})


def config(**fields: JSON) -> RunRequest:
    return parsed({"generationConfig": fields}).request


def test_body_becomes_a_request() -> None:
    call = parsed(
        {
            "systemInstruction": {"parts": [{"text": "be brief"}]},
            "generationConfig": {"stopSequences": ["END"], "maxOutputTokens": 9, "temperature": 0.5, "future": {}},
            "safetySettings": [{"category": "x"}],
            "future": [1],
        },
        stream=True,
    )
    request = call.request
    assert (call.model, call.stream, request.prompt, request.model) == ("claude/opus", True, "hello", "claude/opus")
    assert (request.system_prompt, request.stop, request.max_tokens) == ("be brief", ("END",), 9)


@pytest.mark.parametrize(
    "body",
    [
        {"contents": {"parts": {"text": "hello"}}, "system_instruction": {"parts": {"text": "be brief"}}},
        {"contents": HELLO, "systemInstruction": "be brief", "generation_config": {"max_output_tokens": "9"}},
        {"contents": HELLO, "systemInstruction": "be brief", "generationConfig": None, "tools": None},
    ],
)
def test_json_may_have_the_forms_that_google_accepts(body: dict[str, JSON]) -> None:
    request = parsed(body).request
    assert (request.prompt, request.system_prompt) == ("hello", "be brief")
    assert request.max_tokens == (9 if "generation_config" in body else None)


@pytest.mark.parametrize(
    ("thinking", "effort", "shows"),
    [
        ({"includeThoughts": True}, None, True),
        ({"thinkingBudget": "-1"}, None, False),
        ({"thinkingBudget": 2e4}, "high", False),
        ({"thinkingLevel": "HIGH"}, "high", False),
        ({"thinkingLevel": "THINKING_LEVEL_UNSPECIFIED", "thinkingBudget": 100}, "low", False),
        ({"thinkingBudget": 0}, "none", False),
        ({"thinkingBudget": -1}, None, False),
        ({"thinkingBudget": 20000, "includeThoughts": False}, "high", False),
    ],
)
def test_thinking_sets_the_effort_and_is_shown_if_asked_for(thinking: JSON, effort: str | None, shows: bool) -> None:
    request = config(thinkingConfig=thinking)
    assert (request.effort, request.thinking) == (effort, shows)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"contents": [{"role": "user"}]}, "contents: nothing is asked"),
        ({"contents": [{"role": "system"}]}, "contents[0].role"),
        ({"generationConfig": {"candidateCount": 2}}, "generationConfig.candidateCount must be 1"),
        ({"generationConfig": {"responseModalities": ["IMAGE"]}}, "agents answer with text"),
        ({"generationConfig": {"responseMimeType": "image/png"}}, "generationConfig.responseMimeType"),
        ({"generationConfig": {"thinkingConfig": {"includeThoughts": 1}}}, "includeThoughts must be true or false"),
        (
            {"generationConfig": {"thinkingConfig": {"includeThoughts": "true"}}},
            "thinkingConfig.includeThoughts must be",
        ),
        ({"generationConfig": {"thinkingConfig": {"thinkingBudget": "many"}}}, "thinkingConfig.thinkingBudget must be"),
        ({"generationConfig": {"responseSchema": {"type": "STRING", "nullable": "true"}}}, "nullable must be"),
        ({"cachedContent": "cachedContents/1"}, "no content is kept here"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "SOME"}}}, "toolConfig.functionCallingConfig.mode"),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "https://a.b/c.png"}}]}]}, "no address is fetched"),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "audio/wav", "data": "/w=="}}]}]}, "no text in UTF-8"),
        ({"contents": [{"parts": [{"functionResponse": {"name": "f"}}]}]}, "no call 'f'"),
        ({"systemInstruction": {"parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}]}}, "is an image"),
        ({"generationConfig": {"responseSchema": {"type": "OBJECT", "properties": 5}}}, "properties must be"),
    ],
)
def test_invalid_body_is_refused(body: dict[str, JSON], words: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(words)):
        parsed(body)


@pytest.mark.parametrize("field", ["a", "generationConfig"])
def test_deep_body_is_refused(field: str) -> None:
    inside = '{"items":' * 900 + "{}" + "}" * 900
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        Google().parse(f'{{"contents":[{{"parts":[{{"text":"x"}}]}}],"{field}":{inside}}}'.encode(), {})


def test_deep_schema_is_refused() -> None:
    schema: dict[str, object] = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        json_schema(schema)


@pytest.mark.parametrize("name", ["", " ", "x" * 1001])
def test_model_without_a_usable_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="id"):
        Google().of_path({"id": name}, b"")


def test_images_and_texts_are_taken_from_both_forms_of_base64() -> None:
    text = base64.urlsafe_b64encode("ÿ?ÿ~>>".encode()).decode()
    request = parsed(
        {
            "contents": [
                {
                    "parts": [
                        {"inlineData": {"mimeType": "image/png", "data": PNG.replace("+", "-").replace("/", "_")}},
                        {"fileData": {"fileUri": f"data:image/png;base64,{PNG}"}},
                        {"inlineData": {"mimeType": "text/plain", "data": text}},
                    ]
                }
            ]
        }
    ).request
    assert [image.data for image in request.images] == [base64.b64decode(PNG)] * 2
    assert request.prompt == "[Image #1]\n[Image #2]\nÿ?ÿ~>>"


def test_pieces_of_an_answer_are_one_turn() -> None:
    pieces: list[JSON] = [{"text": "think", "thought": True}, {"text": "one "}, {"text": "two"}, {"text": ""}]
    contents: list[JSON] = [*HELLO, *({"role": "model", "parts": [piece]} for piece in pieces), *HELLO]
    call = parsed({"contents": contents, "tools": [DECLARED]})
    assert "one two" in call.request.prompt
    assert "think" not in call.request.prompt
    assert call.tool_turn
    assert [turn.role for turn in call.tool_turn.turns] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("call", "signature", "output", "id_"),
    [
        ("call_1", None, "call_1", "call_1"),
        ("call_1", None, None, "call_1"),
        (None, "call_1", None, "call_1"),
        ("f__call_1", "call_1", "f__call_1", "call_1"),
        ("call_1", "of another server", None, "call_1"),
        (None, None, None, "contents[1].parts[0]"),
    ],
)
def test_call_has_the_id_of_its_signature(
    call: str | None, signature: str | None, output: str | None, id_: str
) -> None:
    signed = signature and (signature_of(signature) if signature == "call_1" else signature)
    contents: JSON = [
        *HELLO,
        {"role": "model", "parts": [{"functionCall": {"id": call, "name": "f"}, "thoughtSignature": signed}]},
        {"role": "tool", "parts": [{"functionResponse": {"id": output, "name": "f", "response": {"result": 5}}}]},
    ]
    turn = parsed({"contents": contents, "tools": DECLARED}).tool_turn
    assert turn
    assert turn.turns[1:] == (
        Turn("assistant", calls=(ToolCallMade(id_, "f", "{}"),)),
        Turn("user", outcomes=(ToolOutput(id_, ("5",)),)),
    )


def test_calls_with_the_same_signature_have_different_ids() -> None:
    """Some clients copy the signature of one call to each parallel call."""
    signature = signature_of("call_1")
    made: list[JSON] = [
        {"functionCall": {"id": id_, "name": "f"}, "thoughtSignature": signature} for id_ in ("x", "y", None)
    ]
    outputs: list[JSON] = [{"functionResponse": {"id": id_, "response": {"output": id_}}} for id_ in ("x", "y")]
    contents: JSON = [*HELLO, {"role": "model", "parts": made}, {"role": "user", "parts": outputs}]
    turn = parsed({"contents": contents, "tools": DECLARED}).tool_turn
    assert turn
    assert [call.id for call in turn.turns[1].calls] == ["call_1", "y", "contents[1].parts[2]"]
    assert turn.turns[-1].outcomes == (ToolOutput("call_1", ("x",)), ToolOutput("y", ("y",)))


def test_outputs_without_ids_belong_to_the_calls_of_their_functions_in_order() -> None:
    made: list[JSON] = [{"functionCall": {"id": id_, "name": id_[0]}} for id_ in ("f1", "g1", "f2")]
    responses: list[tuple[str, JSON]] = [("f", {"output": "a"}), ("f", {"error": "b"}), ("g", {"x": [1], "output": 2})]
    outputs: list[JSON] = [{"functionResponse": {"name": name, "response": response}} for name, response in responses]
    contents: JSON = [*HELLO, {"role": "model", "parts": made}, {"role": "user", "parts": outputs}]
    turn = parsed({"contents": contents, "tools": DECLARED}).tool_turn
    assert turn
    assert turn.turns[-1].outcomes == (
        ToolOutput("f1", ("a",)),
        ToolOutput("f2", ("b",), is_error=True),
        ToolOutput("g1", ('{"x":[1],"output":2}',)),
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, ToolChoice()),
        ({"mode": "AUTO"}, ToolChoice()),
        ({"mode": "ANY", "allowedFunctionNames": ["g"]}, ToolChoice("required", ("g",))),
        ({"mode": "VALIDATED", "allowed_function_names": ["g"]}, ToolChoice("auto", ("g",))),
    ],
)
def test_tool_choice(choice: JSON, expected: ToolChoice) -> None:
    body: dict[str, JSON] = {"tools": [DECLARED, {"googleSearch": {}}]}
    call = parsed({**body, "toolConfig": {"functionCallingConfig": choice}})
    assert call.tool_turn
    assert call.tool_turn.choice == expected
    assert call.ignored == ("tools",)
    assert all(tool.is_strict == ("VALIDATED" in str(choice)) for tool in call.request.client_tools)


def test_model_that_must_call_no_function_gets_none() -> None:
    call = parsed({"tools": [DECLARED], "toolConfig": {"functionCallingConfig": {"mode": "NONE"}}})
    assert (call.has_tools, call.request.client_tools) == (True, ())


def test_functions_have_schemas_in_both_forms() -> None:
    strict: dict[str, JSON] = {"type": "object", "properties": {"any_of": {"type": ["string", "null"]}}}
    declarations: JSON = [
        {
            "name": "f",
            "description": "d",
            "parameters": {"type": "OBJECT", "properties": {"any_of": {"type": "STRING"}}},
        },
        {"name": "g", "parametersJsonSchema": strict},
    ]
    f, g = parsed({"tools": [{"functionDeclarations": declarations}]}).request.client_tools
    assert f.schema == {"type": "object", "properties": {"any_of": {"type": "string"}}}
    assert g.schema == strict


@pytest.mark.parametrize(
    ("schema", "converted"),
    [
        ({"type": "STRING", "nullable": True}, {"type": ["string", "null"]}),
        (
            {"type": "STRING", "enum": ["a"], "nullable": True},
            {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]},
        ),
        (
            {"type": "ARRAY", "minItems": "2", "items": {"type": "INTEGER"}},
            {"type": "array", "minItems": 2, "items": {"type": "integer"}},
        ),
        ({"any_of": [{"type": "NUMBER"}, {"type": "NULL"}]}, {"anyOf": [{"type": "number"}, {"type": "null"}]}),
        ({"type": "TYPE_UNSPECIFIED", "title": "t"}, {"title": "t"}),
        (
            {"type": "OBJECT", "additional_properties": {"type": "STRING"}},
            {"type": "object", "additionalProperties": {"type": "string"}},
        ),
        (
            {"ref": "#/$defs/x", "defs": {"x": {"type": "STRING"}}},
            {"$ref": "#/$defs/x", "$defs": {"x": {"type": "string"}}},
        ),
        ({"type": ["object", "null"], "const": None, "pattern": "5"}, {"type": ["object", "null"], "pattern": "5"}),
    ],
)
def test_schema_of_google_becomes_json_schema(schema: dict[str, object], converted: dict[str, object]) -> None:
    assert json_schema(schema) == converted


def test_properties_have_the_order_that_the_schema_asks_for() -> None:
    properties = {"a": {"type": "STRING"}, "b": {"type": "STRING"}, "c": {"type": "STRING"}}
    found = json_schema({"type": "OBJECT", "properties": properties, "propertyOrdering": ["c", "a", "gone"]})
    assert isinstance(found["properties"], dict)
    assert [*found["properties"]] == ["c", "a", "b"]
    assert "propertyOrdering" not in found


def test_answer_that_is_no_object_is_put_into_one() -> None:
    schema = config(
        responseJsonSchema={"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {}}}
    ).output_schema
    assert schema
    assert schema["properties"] == {"answer": {"type": "array", "items": {"$ref": "#/$defs/x"}}}
    assert schema["$defs"] == {"x": {}}
    assert client_text({"answer": [1]}, schema) == "[1]"
    plain = config(responseSchema={"type": "OBJECT", "properties": {"answer": {"type": "STRING"}}}).output_schema
    assert client_text({"answer": "x"}, plain) is None
    alike: dict[str, JSON] = {"description": str(schema["description"]), "additionalProperties": False}
    alike |= {"type": "object", "properties": {"answer": {}, "why": {}}}
    client_schema = config(responseJsonSchema=alike).output_schema
    assert client_text({"answer": "x", "why": "y"}, client_schema) is None
    assert config(responseMimeType="text/plain").output_schema is None
    assert client_text({"answer": {}}, config(responseMimeType="application/json").output_schema) == "{}"
    choice = config(responseMimeType="text/x.enum", responseSchema={"type": "STRING", "enum": ["red"]}).output_schema
    assert client_text({"answer": "red"}, choice) == "red"


def test_tokens_are_estimated_for_contents_and_for_a_whole_request() -> None:
    dialect = Google().of_path({"id": "claude"}, b"")
    alone, whole = (
        dialect.count(json.dumps(body).encode(), {}).total_tokens
        for body in (
            {"contents": HELLO},
            {"generateContentRequest": {"model": "x", "contents": HELLO, "systemInstruction": "be brief"}},
        )
    )
    assert (alone, whole) == (2, 4)


CALL = Call(request=RunRequest(prompt="hi", thinking=True), model="claude")
WORK = (RunStarted(), ThinkingDelta("Hm"), ThinkingDelta("m"), TextDelta("It "), TextDelta("is"))
CALLED = ToolCall("call_1", "f", {"x": 1}, for_client=True)
USAGE = Usage(100, 20, 60, 8)
COUNTS = {
    "promptTokenCount": 100,
    "candidatesTokenCount": 12,
    "totalTokenCount": 120,
    "cachedContentTokenCount": 60,
    "thoughtsTokenCount": 8,
}


def stream(*events: Event, is_sse: bool = True) -> str:
    encoder = Google(True, "claude", is_sse).encoder(CALL, FACTS)
    return b"".join(encoder.feed(event, 0.0) for event in events).decode()


def candidate(parts: JSON, finish: str = "") -> JSON:
    return {"content": {"parts": parts, "role": "model"}, **({"finishReason": finish} if finish else {})}


def test_answer_has_thinking_text_and_calls() -> None:
    body = Google().result(CALL, gather((*WORK, CALLED, RunFinished("tool_use", USAGE))), FACTS)
    parts: JSON = [
        {"text": "Hmm", "thought": True},
        {"text": "It is"},
        {
            "functionCall": {"id": "call_1", "name": "f", "args": {"x": 1}},
            "thoughtSignature": signature_of("call_1"),
        },
    ]
    assert json.loads(body) == {
        "candidates": [candidate(parts, "STOP")],
        "usageMetadata": COUNTS,
        "modelVersion": "claude",
        "responseId": "r1",
    }


def test_empty_answer_has_a_text() -> None:
    body = json.loads(Google().result(CALL, gather((RunStarted(), RunFinished())), FACTS))
    assert body["candidates"] == [candidate([{"text": ""}], "STOP")]


@pytest.mark.parametrize(
    ("stop", "finish"),
    [("end_turn", "STOP"), ("stop_sequence", "STOP"), ("max_turns", "MAX_TOKENS"), ("refusal", "SAFETY")],
)
def test_finish_reason_is_one_of_google(stop: StopReason, finish: str) -> None:
    body = json.loads(Google().result(CALL, gather((*WORK, RunFinished(stop))), FACTS))
    assert body["candidates"][0]["finishReason"] == finish


@pytest.mark.parametrize("is_sse", [True, False])
def test_stream_has_a_piece_for_each_event(is_sse: bool) -> None:
    fallback = Progress("fallback", "codex takes over")
    text = stream(fallback, *WORK, CALLED, RunFinished("tool_use", USAGE), is_sse=is_sse)
    assert text.startswith("\n\n")  # SDKs of Google take a comment for JSON
    pieces = [json.loads(line[6:]) for line in text.split("\n\n") if line] if is_sse else json.loads(text)
    texts = [piece["candidates"][0]["content"]["parts"][0].get("text") for piece in pieces]
    assert texts == ["Hm", "m", "It ", "is", None, ""]
    assert "usageMetadata" not in pieces[0]
    assert pieces[-1]["usageMetadata"] == COUNTS


@pytest.mark.parametrize(
    ("code", "events", "status"),
    [
        (errors.AgentRateLimited.code, (), "RESOURCE_EXHAUSTED"),
        (errors.AgentRateLimited.code, WORK, "ABORTED"),
        (errors.AgentRateLimited.code, (RunStarted(), Progress("retry", "m")), "RESOURCE_EXHAUSTED"),
        (errors.AgentRateLimited.code, (RunStarted(), ToolCall("a", "Bash", {})), "ABORTED"),
        (errors.AgentCrashed.code, (), "ABORTED"),
        (errors.TimedOut.code, WORK, "ABORTED"),
    ],
)
def test_stream_says_whether_a_failure_may_be_retried(code: str, events: tuple[Event, ...], status: str) -> None:
    last = stream(*events, RunFailed(code, "no")).split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["status"] == status


@pytest.mark.parametrize(
    ("error", "status", "name", "reason"),
    [
        (InvalidRequest("contents is missing", "contents"), 400, "INVALID_ARGUMENT", "INVALID_REQUEST"),
        (errors.KeyRefused("no"), 400, "INVALID_ARGUMENT", "API_KEY_INVALID"),
        (errors.AgentUnpaid("no"), 403, "PERMISSION_DENIED", "AGENT_UNPAID"),
        (errors.BackendUnavailable("no"), 404, "NOT_FOUND", "BACKEND_UNAVAILABLE"),
        (errors.RateLimited("no", retry_after_s=3), 429, "RESOURCE_EXHAUSTED", "RATE_LIMITED"),
        (errors.AgentOverloaded("no"), 503, "UNAVAILABLE", "AGENT_OVERLOADED"),
        (errors.TimedOut("no"), 504, "DEADLINE_EXCEEDED", "TIMED_OUT"),
    ],
)
def test_error_has_the_status_and_the_details_of_google(
    error: ClinvkError, status: int, name: str, reason: str
) -> None:
    code, body = Google().error(error, "q1")
    found = json.loads(body)["error"]
    assert (code, found["code"], found["status"]) == (status, status, name)
    assert found["details"][0]["reason"] == reason
    assert ("RetryInfo" in str(found["details"])) == (status == 429)
    assert ("fieldViolations" in str(found["details"])) == (reason == "INVALID_REQUEST")
