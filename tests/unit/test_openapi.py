"""The OpenAPI document is complete, consistent, and true of the server."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeAlias

import jsonschema_rs
import msgspec
import pytest

from clinvk.api.openapi.document import document
from clinvk.backends.registry import BACKENDS
from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.dialect import Dialect
from clinvk.dialects.google import Google
from clinvk.dialects.openai.chat import OpenAIChat, OpenAICompletions
from clinvk.dialects.openai.responses import OpenAIResponses
from clinvk.dialects.rest.rest import STATUSES, Rest
from clinvk.types.errors import InvalidRequest
from clinvk.types.record import TAG_PATTERN, TITLE_PATTERN, valid_tag, valid_title

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


@cache
def whole() -> Json:
    """Read the document, once: to make it takes long."""
    return msgspec.json.decode(document(BACKENDS))


def at(*path: str) -> Json:
    here = whole()
    for part in path:
        assert isinstance(here, dict)
        here = here[part]
    return here


def keys(*path: str) -> list[str]:
    here = at(*path)
    assert isinstance(here, dict)
    return list(here)


def values_of(key: str, here: Json) -> Iterator[Json]:
    if isinstance(here, dict):
        for name, value in here.items():
            if name == key:
                yield value
            yield from values_of(key, value)
    elif isinstance(here, list):
        for value in here:
            yield from values_of(key, value)


def operations() -> list[tuple[str, str]]:
    return [(path, method) for path in keys("paths") for method in keys("paths", path)]


def test_every_reference_resolves_to_a_schema() -> None:
    schemas = {f"#/components/schemas/{name}" for name in keys("components", "schemas")}
    found = {ref for ref in values_of("$ref", at()) if isinstance(ref, str)}
    assert found
    assert found <= schemas


def test_schema_names_are_unique_without_their_modules() -> None:
    assert [name for name in keys("components", "schemas") if name.count(".") > 1] == []


def test_every_schema_has_a_description() -> None:
    for name in keys("components", "schemas"):
        if name != "Usage":
            assert at("components", "schemas", name, "description"), name


def schemas(here: Json = None) -> Iterator[dict[str, Json]]:
    """Yield the schemas of the document, and all objects within."""
    for each in here.values() if isinstance(here, dict) else here if isinstance(here, list) else ():
        if isinstance(each, dict):
            yield each
        yield from schemas(each)


def all_schemas() -> list[dict[str, Json]]:
    parameters = [each for path in keys("paths") for each in values_of("schema", at("paths", path))]
    return [*schemas(at("components", "schemas")), *schemas([*parameters])]


def test_schemas_have_no_titles_which_name_the_types_of_generated_clients() -> None:
    assert [each for each in all_schemas() if isinstance(each.get("title"), str)] == []


def test_every_array_has_items() -> None:
    assert [each for each in all_schemas() if each.get("type") == "array" and "items" not in each] == []


def test_single_value_is_a_const() -> None:
    enums = [each["enum"] for each in all_schemas() if "enum" in each]
    assert [enum for enum in enums if isinstance(enum, list) and len(enum) == 1] == []


def test_no_field_has_null_as_its_only_type() -> None:
    fields = [each["properties"] for each in all_schemas() if isinstance(each.get("properties"), dict)]
    assert [each for each in fields if isinstance(each, dict) and {"type": "null"} in each.values()] == []


def test_every_default_is_a_value_of_its_schema() -> None:
    wrong = [
        each
        for each in all_schemas()
        if "default" in each and not jsonschema_rs.is_valid({**each, "components": at("components")}, each["default"])
    ]
    assert wrong == []


def test_schema_with_fields_is_no_union() -> None:
    unions = [
        name for name in keys("components", "schemas") if {"anyOf", "oneOf"} & {*keys("components", "schemas", name)}
    ]
    assert [name for name in unions if "properties" in keys("components", "schemas", name)] == []


KEYED: dict[str, Json] = {"prompt": "hi", "backend": "claude"}


@pytest.mark.parametrize(
    ("name", "body", "is_valid"),
    [
        ("LoginBody", {}, False),
        ("LoginBody", {"key": None}, False),
        ("LoginBody", {"key": "k", "token": "t"}, False),
        ("LoginBody", {"key": "k", "token": None}, True),
        ("LoginBody", {"token": "t"}, True),
        ("PromptBody", {"prompt": "hi"}, False),
        ("PromptBody", {"prompt": "hi", "backend": "", "session_id": ""}, False),
        ("PromptBody", {"prompt": "hi", "backend": None, "session_id": "a"}, True),
        ("PromptBody", KEYED, True),
        ("PromptBody", {**KEYED, "on_limit": "wait"}, False),
        ("PromptBody", {**KEYED, "on_limit": "wait", "detach": True}, True),
        ("ParallelBody", {"tasks": [{**KEYED, "detach": True}]}, False),
        ("ParallelBody", {"tasks": [{**KEYED, "detach": None, "on_limit": "fail"}]}, True),
        ("ChainBody", {}, False),
        ("ChainBody", {"steps": None}, False),
        ("ChainBody", {"steps": [KEYED]}, True),
        ("ChainBody", {"steps": [{**KEYED, "node": "a"}]}, False),
        ("ChainBody", {"resume_from": "a"}, True),
        ("ChainBody", {"resume_from": "a", "steps": [KEYED]}, False),
    ],
)
def test_document_knows_which_fields_of_a_body_go_together(name: str, body: Json, is_valid: bool) -> None:
    schema: Json = {"$ref": f"#/components/schemas/{name}", "components": at("components")}
    assert jsonschema_rs.is_valid(schema, body) is is_valid


def test_every_operation_has_a_unique_id_a_summary_and_a_success_response() -> None:
    names = [at("paths", path, method, "operationId") for path, method in operations()]
    assert len(set(map(str, names))) == len(names)
    for path, method in operations():
        assert at("paths", path, method, "summary")
        responses = keys("paths", path, method, "responses")
        success = next(status for status in responses if status.startswith("2"))
        assert at("paths", path, method, "responses", success, "description")


def test_prompt_examples_are_valid() -> None:
    content = ("paths", "/api/v1/prompt", "post", "requestBody", "content", "application/json", "examples")
    assert len(keys(*content)) >= 2
    for name in keys(*content):
        call = Rest().parse(msgspec.json.encode(at(*content, name, "value")), {})
        assert call.request.backend == "claude"


def test_prompt_documents_every_error_status() -> None:
    reported = set(keys("paths", "/api/v1/prompt", "post", "responses"))
    assert reported == {"200", "202"} | {str(status) for status in STATUSES.values() if status not in (405, 410, 504)}


@pytest.mark.parametrize("status", ["400", "404", "413", "415", "422", "500", "503"])
def test_errors_are_problem_documents(status: str) -> None:
    content = at("paths", "/api/v1/prompt", "post", "responses", status, "content")
    assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


@pytest.mark.parametrize("kind", ["parallel", "chain", "compare"])
def test_run_id_header_of_orchestrated_runs_is_documented(kind: str) -> None:
    assert "x-clinvk-run-id" in keys("paths", f"/api/v1/{kind}", "post", "responses", "200", "headers")


MODEL_APIS = {
    "/openai/v1/chat/completions": OpenAIChat(),
    "/openai/v1/completions": OpenAICompletions(),
    "/openai/v1/responses": OpenAIResponses(),
    "/anthropic/v1/messages": Anthropic(),
}
GENERATE = "/gemini/v1beta/models/{id}:generateContent"


@pytest.mark.parametrize(("path", "dialect"), [*MODEL_APIS.items(), (GENERATE, Google(model="claude"))])
def test_model_api_examples_are_valid_requests(path: str, dialect: Dialect) -> None:
    content = ("paths", path, "post", "requestBody", "content", "application/json", "examples")
    for name in keys(*content):
        assert dialect.parse(msgspec.json.encode(at(*content, name, "value")), {}).model == "claude"


def test_model_api_schemas_allow_additional_fields() -> None:
    vendors = [name for name in keys("components", "schemas") if name.startswith(("OpenAI.", "Anthropic.", "Google."))]
    assert len(vendors) > 20
    for name in vendors:
        assert "additionalProperties" not in keys("components", "schemas", name), name


@pytest.mark.parametrize(
    ("path", "schema", "statuses"),
    [
        ("/openai/v1/chat/completions", "OpenAI.ErrorAnswer", "400 401 403 404 408 409 413 415 429 500 503 504"),
        ("/anthropic/v1/messages", "Anthropic.ErrorAnswer", "400 401 402 403 404 408 409 413 415 429 500 503 504 529"),
        (
            GENERATE,
            "Google.ErrorAnswer",
            "400 401 403 404 408 409 413 415 429 500 503 504",
        ),
    ],
)
def test_model_api_errors_have_the_vendors_schema(path: str, schema: str, statuses: str) -> None:
    reported = keys("paths", path, "post", "responses")
    assert reported == ["200", *statuses.split()]
    for status in reported[1:]:
        content = at("paths", path, "post", "responses", status, "content")
        assert content == {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def parameter(path: str, name: str) -> Json:
    parameters = at("paths", path, "get", "parameters")
    assert isinstance(parameters, list)
    (found,) = (each for each in parameters if isinstance(each, dict) and each["name"] == name)
    return found["schema"]


@pytest.mark.parametrize("path", ["/api/v1/sessions", "/api/v1/runs", "/api/v1/usage"])
def test_list_filters_enumerate_the_backends(path: str) -> None:
    schema = parameter(path, "backend")
    assert isinstance(schema, dict)
    assert schema["enum"] == [*BACKENDS]


def test_last_event_id_has_digits_only() -> None:
    assert parameter("/api/v1/runs/{id}/events", "last-event-id") == {"type": "string", "pattern": "^[0-9]*$"}


def test_each_id_in_a_path_is_described() -> None:
    for path, method in operations():
        described = any(place == "path" for place in values_of("in", at("paths", path, method, "parameters")))
        assert described == ("{" in path), (method, path)


@pytest.mark.parametrize("path", ["/api/v1/runs/{id}/events", "/api/v1/parallel"])
def test_server_sent_events_carry_json_as_data(path: str) -> None:
    method = "get" if "{id}" in path else "post"
    stream = ("paths", path, method, "responses", "200", "content")
    envelope = (*stream, "text/event-stream", "schema")
    assert at(*envelope, "required") == ["data"]
    assert at(*envelope, "properties", "id", "type") == "string"
    assert at(*envelope, "properties", "data", "contentSchema") == at(*stream, "application/x-ndjson", "schema")


@pytest.mark.parametrize(
    ("pattern", "read"), [(TAG_PATTERN, valid_tag), (TITLE_PATTERN, valid_title)], ids=["tag", "title"]
)
@pytest.mark.parametrize("text", ["a", " a b ", "a\tb", "\ta\n", "a\nb", "a\x1bb", "a\u2028b", "é\u200d", "\x00", " "])
def test_pattern_agrees_with_the_server(pattern: str, read: Callable[[str], str], text: str) -> None:
    try:
        read(text)
    except InvalidRequest:
        assert not re.search(pattern, text)
    else:
        assert re.search(pattern, text)


CHAT, COMPLETIONS, RESPONSES, MESSAGES = MODEL_APIS
REQUIRED: dict[str, dict[str, Json]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"prompt": "hi"},
    RESPONSES: {"input": "hi"},
    MESSAGES: {"messages": [{"role": "user", "content": "hi"}]},
}


def verdicts(path: str, fields: dict[str, Json]) -> tuple[bool, bool]:
    """Return whether the document allows a body, and whether the server accepts the body."""
    body: dict[str, Json] = {"model": "claude", **REQUIRED[path], **fields}
    reference = at("paths", path, "post", "requestBody", "content", "application/json", "schema", "$ref")
    schema = {"$ref": reference, "components": at("components")}
    allows = jsonschema_rs.is_valid(schema, body)
    try:
        MODEL_APIS[path].parse(msgspec.json.encode(body), {})
    except InvalidRequest:
        return allows, False
    return allows, True


def chat(*before: Json, **message: Json) -> dict[str, Json]:
    return {"messages": [*before, message, {"role": "user", "content": "hi"}]}


def messages(*blocks: Json, role: str = "user") -> dict[str, Json]:
    return {"messages": [{"role": role, "content": [*blocks]}, {"role": "user", "content": "hi"}]}


def given(*before: Json, **item: Json) -> dict[str, Json]:
    return {"input": [*before, item, {"role": "user", "content": "hi"}]}


PNG = "iVBORw0KGgo="
TEXT: Json = {"type": "text", "text": "a"}
IMAGE: Json = {"type": "image", "source": {"type": "base64", "data": PNG}}
USE: Json = {"type": "tool_use", "id": "t", "name": "n"}
CALL: Json = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}
CALL_ITEM: Json = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"n": 1, "modalities": ["text"], "tool_choice": "none", "stop": "a", "function_call": None}),
        (CHAT, {"n": None, "modalities": [], "tool_choice": None, "stop": ["a"], "response_format": {"type": "text"}}),
        (CHAT, {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}),
        (CHAT, {"tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False}),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
        (CHAT, chat(role="developer", content=[TEXT])),
        (CHAT, chat(CALL, role="tool", tool_call_id="c", content="out")),
        (COMPLETIONS, {"prompt": ["hi"], "n": 1, "best_of": None, "suffix": ""}),
        (RESPONSES, {"conversation": None, "prompt": None, "tool_choice": "auto"}),
        (RESPONSES, {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}),
        (RESPONSES, {"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}], "tool_choice": "required"}),
        (RESPONSES, {"tool_choice": {"type": "custom", "name": "f"}}),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "schema": {}}}}),
        (RESPONSES, given(type="message", role="developer", content=[{"type": "output_text", "text": "a"}])),
        (RESPONSES, given(CALL_ITEM, type="function_call_output", call_id="c", output="out")),
        (RESPONSES, given(type="of_next_month", any=[1])),
        (MESSAGES, {"tool_choice": {"type": "auto"}, "stop_sequences": ["a"], "system": "s"}),
        (
            MESSAGES,
            {
                "tools": [{"name": "f", "input_schema": {"type": "object"}}],
                "tool_choice": {"type": "tool", "name": "f"},
            },
        ),
        (MESSAGES, {"output_format": {"type": "json_schema", "schema": {}}}),
        (MESSAGES, messages(TEXT, IMAGE, USE, {"type": "tool_result", "tool_use_id": "t", "content": [TEXT]})),
        (MESSAGES, messages({"type": "document", "source": {"type": "content", "content": [TEXT, IMAGE]}})),
        (MESSAGES, messages({"type": "of_next_month", "any": [1]})),
        (MESSAGES, {"system": [TEXT, {"type": "document", "source": {"type": "text", "data": "d"}}]}),
    ],
)
def test_document_allows_what_a_model_api_accepts(path: str, fields: dict[str, Json]) -> None:
    assert verdicts(path, fields) == (True, True)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        *((path, {"model": wrong}) for path in MODEL_APIS for wrong in ("", " ", "m" * 1001, None)),
        *((path, {"stop": wrong}) for path in (CHAT, COMPLETIONS) for wrong in ("", [""], ["a"] * 17, "a" * 101)),
        (CHAT, {"messages": []}),
        (MESSAGES, {"messages": []}),
        (RESPONSES, {"input": ""}),
        (RESPONSES, {"input": []}),
        (MESSAGES, {"stop_sequences": [""]}),
        (MESSAGES, {"stop_sequences": ["a"] * 17}),
        (CHAT, {"n": 2}),
        (CHAT, {"modalities": ["audio"]}),
        *((CHAT, {name: "always"}) for name in ("tool_choice", "function_call")),
        (CHAT, {"tool_choice": {"type": "function", "function": {}}}),
        (CHAT, {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "always"}}}),
        (CHAT, {"tools": [{"type": "function", "function": {"description": "nameless"}}]}),
        (CHAT, {"tools": [{"function": {"name": "f"}}]}),
        (CHAT, {"response_format": {"type": "json_schema"}}),
        (CHAT, chat(role="wizard", content="a")),
        (CHAT, chat(role="user")),
        (CHAT, chat(role="tool", content="out")),
        (CHAT, {"functions": [{"name": "f"}]}),
        (CHAT, chat(role="assistant", function_call={"name": "f"})),
        (CHAT, chat(role="function", name="f", content="out")),
        (CHAT, chat(role="user", content=[{"type": "video"}])),
        (CHAT, chat(role="user", content=[{"type": "input_audio"}])),
        (CHAT, chat(role="user", content=[{"type": "file", "file": {"file_id": "f"}}])),
        (COMPLETIONS, {"prompt": ""}),
        (COMPLETIONS, {"prompt": []}),
        (COMPLETIONS, {"prompt": ["a", "b"]}),
        (COMPLETIONS, {"prompt": [5]}),
        (COMPLETIONS, {"prompt": [[5, 6]]}),
        (COMPLETIONS, {"best_of": 2}),
        (COMPLETIONS, {"suffix": "end"}),
        (RESPONSES, {"conversation": "c"}),
        (RESPONSES, {"prompt": {"id": "p"}}),
        (RESPONSES, {"tool_choice": "always"}),
        (RESPONSES, {"tool_choice": {"type": "function"}}),
        (RESPONSES, {"tool_choice": {"type": "allowed_tools", "mode": "always"}}),
        (RESPONSES, {"tools": [{"name": "f"}]}),
        (RESPONSES, {"text": {"format": {"type": "json_schema"}}}),
        (RESPONSES, given(role="wizard", content="a")),
        (RESPONSES, given(content="a")),
        (RESPONSES, given(role="user", content=[{"type": "video"}])),
        (RESPONSES, given(role="user", content=[{"type": "input_text"}])),
        (RESPONSES, given(role="user", content=[{"type": "input_image"}])),
        (RESPONSES, given(type="function_call", name=1)),
        (MESSAGES, {"tool_choice": {"type": "required"}}),
        (MESSAGES, {"tools": [{"input_schema": {"type": "object"}}]}),
        (MESSAGES, {"output_format": {"type": "text"}}),
        (MESSAGES, {"output_format": {"type": "json_schema"}}),
        (MESSAGES, {"output_config": {"format": {"type": "text"}}}),
        (MESSAGES, messages(TEXT, role="wizard")),
        (MESSAGES, messages({"text": "a"})),
        (MESSAGES, messages({"type": "text"})),
        (MESSAGES, messages({"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}})),
        (MESSAGES, messages({"type": "image", "source": {"type": "base64"}})),
        (MESSAGES, messages({"type": "document", "source": {"type": "base64", "data": "d"}})),
        (MESSAGES, messages({"type": "document", "source": {"type": "content", "content": [USE]}})),
        (MESSAGES, messages({"type": "tool_use", "id": "t"})),
        (MESSAGES, messages({"type": "tool_result", "tool_use_id": "t", "content": [USE]})),
        (MESSAGES, {"system": [IMAGE]}),
        (MESSAGES, {"system": [USE]}),
    ],
)
def test_document_forbids_what_a_model_api_refuses(path: str, fields: dict[str, Json]) -> None:
    assert verdicts(path, fields) == (False, False)


@pytest.mark.parametrize("path", MODEL_APIS)
def test_model_api_headers_list_their_values(path: str) -> None:
    parameters = at("paths", path, "post", "parameters")
    assert isinstance(parameters, list)
    schemas = [each["schema"] for each in parameters if isinstance(each, dict)]
    limited = [schema for schema in schemas if isinstance(schema, dict) and {"enum", "pattern"} & set(schema)]
    assert len(limited) == len(schemas) - 1
