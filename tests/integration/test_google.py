"""Google's API over HTTP, by the official SDK unmodified and by requests as Google's documentation has them."""

# pyright: reportUnknownMemberType=false
# The signatures of the SDK name types of packages that are not installed.

import json
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

from clinvk.api.access.keys import ApiKeys
from clinvk.store.memory import MemoryStore
from scripted import Scripted
from scripted.steps import claude_fails, claude_says, claude_thinks, client_calls, codex_streams, exits, stderr
from serving import LiveServer, serving
from shell_backend import CALL, Shell
from standin.document import JSON

BASE = "/gemini/v1beta"
ROME: dict[str, tuple[str, dict[str, JSON]]] = {"call_rome": ("get_weather", {"city": "Rome"})}
OSLO: dict[str, tuple[str, dict[str, JSON]]] = {"call_oslo": ("get_weather", {"city": "Oslo"})}
BOTH = ROME | OSLO
FAILED = """echo '{"type":"run_failed","code":"agent_rate_limited","message":"no luck"}'\n"""
WEATHER: JSON = [
    {
        "functionDeclarations": [
            {
                "name": "get_weather",
                "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}, "required": ["city"]},
            }
        ]
    }
]


def client(server: LiveServer, key: str = "not-needed") -> genai.Client:
    """Return the SDK with only the address changed."""
    options = types.HttpOptions(base_url=f"http://127.0.0.1:{server.port}/gemini")
    return genai.Client(api_key=key, http_options=options, vertexai=False)


@asynccontextmanager
async def sdk(scripted: Scripted) -> AsyncGenerator[genai.client.AsyncClient]:
    async with serving(scripted.env, store=MemoryStore()) as server, client(server).aio as aio:
        yield aio


async def test_sdk_generates_content_whole_and_in_pieces(scripted: Scripted) -> None:
    says = claude_says("one ", "two")
    scripted.play([*says[:2], *claude_thinks("Hm"), *says[2:]])
    config = types.GenerateContentConfig(
        system_instruction="be brief", thinking_config=types.ThinkingConfig(include_thoughts=True)
    )
    async with sdk(scripted) as aio:
        whole = await aio.models.generate_content(model="claude", contents="hello", config=config)
        stream = await aio.models.generate_content_stream(model="claude", contents="hello", config=config)
        pieces = [piece async for piece in stream]
    assert whole.text == "".join(piece.text or "" for piece in pieces) == "one two"
    for last in (whole, pieces[-1]):
        assert last.candidates
        assert last.candidates[0].finish_reason == types.FinishReason.STOP
        assert last.usage_metadata
        counts = last.usage_metadata
        assert (counts.prompt_token_count, counts.candidates_token_count, counts.total_token_count) == (12, 5, 17)
        assert counts.cached_content_token_count == 2
    assert whole.model_version == "claude"
    assert whole.parts
    assert [(part.thought, part.text) for part in whole.parts] == [(True, "Hm"), (None, "one two")]
    assert len(pieces) == 4


async def test_sdk_lists_models_counts_tokens_and_reports_errors(scripted: Scripted) -> None:
    async with sdk(scripted) as aio:
        names = [model.name async for model in await aio.models.list()]
        model = await aio.models.get(model="claude/opus")
        counted = await aio.models.count_tokens(model="claude", contents="hello world!")
        with pytest.raises(errors.ClientError) as unknown:
            await aio.models.get(model="qwen/coder")
        with pytest.raises(errors.ClientError) as refused:
            await aio.models.generate_content(
                model="claude", contents="x", config=types.GenerateContentConfig(candidate_count=2)
            )
    assert {"models/claude", "models/codex", "models/gemini"} <= {*names}
    assert (model.name, model.display_name) == ("models/claude/opus", "claude/opus")
    assert counted.total_tokens == 3
    assert (unknown.value.code, unknown.value.status) == (404, "NOT_FOUND")
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    assert "generationConfig.candidateCount" in str(refused.value.message)


async def test_sdk_continues_a_chat(scripted: Scripted) -> None:
    scripted.play(claude_says("one ", "two"))
    async with sdk(scripted) as aio:
        chat = aio.chats.create(model="claude")
        pieces = [piece.text async for piece in await chat.send_message_stream("first")]
        answer = await chat.send_message("second")
    assert pieces == ["one ", "two", ""]
    assert answer.text == "one two"
    prompt = (scripted.calls()[-1].stdin or b"").decode()
    assert "first" in prompt
    assert "one two" in prompt


async def test_sdk_calls_functions_by_itself(scripted: Scripted) -> None:
    """The SDK sends the outputs without ids, in the order of the calls."""
    scripted.play([client_calls(BOTH), *codex_streams("it is sunny", answers=2)])

    async def get_weather(city: str) -> list[str | int]:
        """Return the weather of a city."""
        return [city, 42]

    async with sdk(scripted) as aio:
        answer = await aio.models.generate_content(
            model="codex", contents="the weather?", config=types.GenerateContentConfig(tools=[get_weather])
        )
    assert answer.text == "it is sunny"
    assert scripted.outputs() == [("call_rome", '["Rome",42]'), ("call_oslo", '["Oslo",42]')]
    assert len(scripted.calls()) == 1


class Person(BaseModel):
    """The form of an answer."""

    name: str
    age: int | None = None


@pytest.mark.parametrize(
    ("schema", "mime", "said", "parsed"),
    [
        (Person, "application/json", '{"name": "Ann", "age": 5}', Person(name="Ann", age=5)),
        (list[Person], "application/json", '{"answer": [{"name": "Ann"}]}', [Person(name="Ann")]),
        (Literal["red", "blue"], "text/x.enum", '{"answer": "red"}', None),
    ],
    ids=["object", "list", "choice"],
)
async def test_sdk_parses_an_answer_with_a_schema(
    scripted: Scripted, schema: type, mime: str, said: str, parsed: object
) -> None:
    scripted.play(codex_streams(said))
    config = types.GenerateContentConfig(response_mime_type=mime, response_schema=schema)
    async with sdk(scripted) as aio:
        answer = await aio.models.generate_content(model="codex", contents="who?", config=config)
        stream = await aio.models.generate_content_stream(model="codex", contents="who?", config=config)
        assert "".join([piece.text or "" async for piece in stream]) == answer.text
    if parsed:
        assert answer.parsed == parsed
    else:
        assert answer.text == "red"


async def test_run_is_found_by_the_signature_if_the_client_changes_the_id(scripted: Scripted) -> None:
    """Gemini CLI changes the ids; others drop them. With neither id nor signature another run starts."""
    scripted.play([client_calls(BOTH), *codex_streams("it is sunny", answers=2)])
    scripted.play(codex_streams("rebuilt"), when="result-of")
    question: JSON = {"role": "user", "parts": {"text": "the weather?"}}
    url = f"{BASE}/models/codex:generateContent"

    async with serving(scripted.env) as server:
        for form in ("renamed", "no id", "no signature", "neither"):
            response = await server.client.post(url, json={"contents": question, "tools": WEATHER})
            answer = response.json()["candidates"][0]["content"]
            outputs: list[JSON] = []
            for part in answer["parts"]:
                call = part["functionCall"]
                if form == "renamed":
                    call["id"] = f"get_weather__{call['id']}"
                if form in ("no id", "neither"):
                    del call["id"]
                if form in ("no signature", "neither"):
                    del part["thoughtSignature"]
                id_ = {"id": call["id"]} if "id" in call else {}
                output: JSON = {"name": "get_weather", "response": {"output": call["args"]["city"]}, **id_}
                outputs.append({"function_response": output})
            contents: list[JSON] = [question, answer, {"role": "user", "parts": outputs}]
            response = await server.client.post(url, json={"contents": contents, "tools": WEATHER})
            text = response.json()["candidates"][0]["content"]["parts"][0]["text"]
            assert text == ("rebuilt" if form == "neither" else "it is sunny"), form
    assert scripted.outputs() == [("call_rome", "Rome"), ("call_oslo", "Oslo")] * 3


async def test_run_is_not_found_with_another_key(scripted: Scripted) -> None:
    scripted.play([client_calls(ROME), *codex_streams("it is sunny", answers=2)])
    scripted.play(codex_streams("rebuilt"), when="result-of")
    question: JSON = {"parts": [{"text": "the weather?"}]}
    url = f"{BASE}/models/codex:generateContent"
    async with serving(scripted.env, keys=ApiKeys(("k1", "k2"))) as server:
        response = await server.client.post(f"{url}?key=k1", json={"contents": question, "tools": WEATHER})
        answer = response.json()["candidates"][0]["content"]
        output: JSON = {"functionResponse": {"name": "get_weather", "response": {"result": None}}}
        contents: list[JSON] = [question, answer, {"parts": output}]
        said = [
            (await server.client.post(url, params={"key": key}, json={"contents": contents, "tools": WEATHER})).json()
            for key in ("k2", "k1")
        ]
    texts = [each["candidates"][0]["content"]["parts"][0]["text"] for each in said]
    assert texts == ["rebuilt", "it is sunny"]
    assert scripted.outputs() == [("call_rome", "null")]


@pytest.mark.parametrize(
    ("query", "headers", "is_valid"),
    [
        ("?key=k1", {}, True),
        ("?alt=sse&key=k1", {"x-goog-api-key": "wrong"}, True),
        ("?key=wrong", {"x-goog-api-key": "k1", "x-goog-api-client": "genai"}, True),
        ("", {"authorization": "Bearer k1"}, True),
        ("?key=wrong", {}, False),
        ("", {"x-goog-api-key": "wrong"}, False),
        ("", {}, False),
    ],
)
async def test_key_may_be_in_the_query_and_in_headers(
    scripted: Scripted, query: str, headers: dict[str, str], is_valid: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(scripted.env, keys=ApiKeys(("k1",))) as server:
        response = await server.client.get(f"{BASE}/models{query}", headers=headers)
        elsewhere = await server.client.get(f"/api/v1/backends{query}")
    assert elsewhere.status_code == 401
    of_server = [record.getMessage() for record in caplog.records if record.name.startswith("clinvk")]
    assert of_server
    assert not [message for message in of_server if "key=" in message]
    if is_valid:
        assert response.status_code == 200, response.text
        return
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["status"] == "INVALID_ARGUMENT"
    assert "x-goog-api-key" in error["message"]
    assert error["details"][0] == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
    }


async def test_stream_without_sse_is_an_array_of_json(scripted: Scripted) -> None:
    scripted.play(claude_says("one ", "two"))
    body: JSON = {"contents": {"parts": {"text": "hello"}}, "system_instruction": {"parts": {"text": "be brief"}}}
    async with serving(scripted.env, store=MemoryStore()) as server:
        response = await server.client.post(f"{BASE}/v1beta/models/claude:streamGenerateContent", json=body)
    assert response.headers["content-type"] == "application/json"
    texts = [item["candidates"][0]["content"]["parts"][0]["text"] for item in json.loads(response.text)]
    assert texts == ["one ", "two", ""]


@pytest.mark.parametrize("alt", ["?alt=sse", ""])
async def test_stream_of_a_crashed_agent_ends_with_an_error_that_clients_do_not_retry(
    scripted: Scripted, alt: str
) -> None:
    scripted.play([*claude_says("one ", "two")[:4], stderr("the disk is on fire"), exits(3)])
    body: JSON = {"contents": {"parts": {"text": "hello"}}}
    async with serving(scripted.env, store=MemoryStore()) as server:
        response = await server.client.post(f"{BASE}/models/claude:streamGenerateContent{alt}", json=body)
    assert response.status_code == 200
    items = [json.loads(text[6:]) for text in response.text.split("\n\n") if text] if alt else response.json()
    assert items[0]["candidates"][0]["content"]["parts"] == [{"text": "one "}]
    error = items[-1]["error"]
    assert (error["code"], error["status"]) == (409, "ABORTED")
    assert "the disk is on fire" in error["message"]


async def test_stream_has_the_status_of_a_failure_that_clients_may_retry(scripted: Scripted) -> None:
    scripted.play(claude_fails(429))
    async with sdk(scripted) as aio:
        with pytest.raises(errors.ClientError) as raised:
            [piece async for piece in await aio.models.generate_content_stream(model="claude", contents="hello")]
    assert (raised.value.code, raised.value.status) == (429, "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("script", "code", "status"),
    [
        (FAILED, 429, "RESOURCE_EXHAUSTED"),
        (CALL + FAILED, 409, "ABORTED"),
        (FAILED.replace("agent_rate_limited", "timed_out"), 409, "ABORTED"),
    ],
)
async def test_failure_has_a_status_that_clients_retry_only_if_the_agent_has_not_acted(
    script: str, code: int, status: str, is_stream: bool
) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": "/"}
    body: JSON = {"contents": {"parts": {"text": script}}}
    action = "streamGenerateContent" if is_stream else "generateContent"
    async with serving(env, {"shell": Shell()}, store=MemoryStore()) as server:
        response = await server.client.post(f"{BASE}/models/shell:{action}", json=body)
    last = json.loads(response.text)[-1] if is_stream and code == 409 else response.json()
    assert response.status_code == (200 if is_stream and code == 409 else code)
    assert (last["error"]["code"], last["error"]["status"]) == (code, status)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("models/claude:embedContent", "embeddings"),
        ("models/claude:nope", "countTokens"),
        ("models/claude:batchGenerateContent", "generateContent"),
        ("cachedContents", "stored content"),
        ("files", "files"),
        ("nothing", "GET /docs"),
    ],
)
async def test_path_that_is_not_offered_has_an_error_of_google(scripted: Scripted, path: str, words: str) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        response = await server.client.post(f"{BASE}/{path}", json={})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["status"]) == (404, 404, "NOT_FOUND")
    assert words in error["message"]
