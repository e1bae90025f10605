"""Requests of programs that speak OpenAI's API themselves, and the fields that they read from answers.

The requests are those of Open WebUI and of Continue's editor extension as their sources make them, and those that the
command lines of Continue (1.5.47) and Cline (3.0.65) were seen to send.
"""

import json
from collections.abc import Mapping

import httpx
import pytest

from clinvk.api.access.keys import ApiKeys
from scripted import Scripted
from scripted.steps import claude_says, exits
from serving import LiveServer, serving
from standin.document import JSON

KEY = "sk-of-some-length"
WEBUI = {
    "Authorization": f"Bearer {KEY}",
    "Content-Type": "application/json",
    "X-OpenWebUI-User-Name": "Ann%20Lee",
    "X-OpenWebUI-User-Id": "1f0c",
    "X-OpenWebUI-User-Email": "ann@example.com",
    "X-OpenWebUI-User-Role": "admin",
    "X-OpenWebUI-Chat-Id": "0b9e6c2a-5f7d-4c39-9a11-6f3f8d7b2c10",
}
CONTINUE = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", "api-key": KEY, "x-api-key": KEY}
CLINE = {
    "Authorization": f"Bearer {KEY}",
    "Content-Type": "application/json",
    "User-Agent": "ai-sdk/openai-compatible/3.0.37 ai-sdk/provider-utils/5.0.30 runtime/bun/1.3.13",
}

TOOLS: JSON = [
    {
        "type": "function",
        "function": {
            "name": "read_file",
            "description": "Read a file",
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        },
    }
]


async def post(server: LiveServer, path: str, headers: Mapping[str, str], body: JSON) -> httpx.Response:
    return await server.client.post(f"/openai/v1/{path}", content=json.dumps(body).encode(), headers={**headers})


def events(response: httpx.Response) -> list[JSON]:
    """Read a stream as these clients do: line by line, to `[DONE]`, leaving out what begins with a colon."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n") if line and not line.startswith(":")]
    assert {line[:6] for line in lines} == {"data: "}
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def text_of(chunks: list[JSON]) -> str:
    """Return the output of a client."""
    text = ""
    for chunk in chunks:
        match chunk:
            case {"choices": [{"delta": {"content": str(piece)}}]} | {"choices": [{"text": str(piece)}]}:
                text += piece
            case _:
                continue
    return text


def used(chunks: list[JSON]) -> list[tuple[JSON, JSON]]:
    """Return each count of tokens in a stream."""
    found: list[tuple[JSON, JSON]] = []
    for chunk in chunks:
        match chunk:
            case {"usage": {"prompt_tokens": read, "completion_tokens": written}}:
                found.append((read, written))
            case _:
                continue
    return found


@pytest.mark.parametrize("headers", [WEBUI, CONTINUE, CLINE], ids=["open-webui", "continue", "cline"])
async def test_client_lists_models_with_its_key_and_gets_an_error_for_a_wrong_key(
    scripted: Scripted, headers: dict[str, str]
) -> None:
    """Open WebUI checks a connection by `data[].id`, and reads `error` from any status except 200."""
    async with serving(scripted.env, keys=ApiKeys((KEY,))) as server:
        listed = await server.client.get("/openai/v1/models", headers=headers)
        wrong = {name: value.replace(KEY, "wrong") for name, value in headers.items()}
        refused = await server.client.get("/openai/v1/models", headers=wrong)
    assert listed.status_code == 200
    assert {"claude", "codex", "gemini"} <= {model["id"] for model in listed.json()["data"]}
    assert all(model.get("name", "") is not None for model in listed.json()["data"])
    assert refused.status_code == 401
    assert refused.json()["error"]["message"]


async def test_open_webui_streams_a_chat_and_requests_its_title(scripted: Scripted) -> None:
    scripted.play(claude_says("Hello ", "Ann"))
    scripted.play(claude_says('{"title": "Greetings"}'), when="### Task:")
    chat: JSON = {
        "stream": True,
        "model": "claude",
        "messages": [
            {"role": "system", "content": "You are at Ann's."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "hello"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                ],
            },
        ],
        "params": {},
        "features": {"web_search": False, "memory": False},
        "variables": {"{{USER_NAME}}": "Ann Lee"},
        "stream_options": {"include_usage": True},
        "logit_bias": {},
    }
    title: JSON = {
        "model": "claude",
        "messages": [{"role": "user", "content": "### Task:\nGenerate a concise, 3-5 word title with an emoji"}],
        "stream": False,
        "max_completion_tokens": 1000,
    }
    async with serving(scripted.env, keys=ApiKeys((KEY,))) as server:
        streamed = await post(server, "chat/completions", WEBUI, chat)
        titled = await post(server, "chat/completions", WEBUI, title)
        sessions = (await server.client.get("/api/v1/sessions", headers=WEBUI)).json()
    assert text_of(events(streamed)) == "Hello Ann"
    assert used(events(streamed)) == [(12, 5)]
    assert titled.json()["choices"][0]["message"]["content"] == '{"title": "Greetings"}'
    assert [session["turn_count"] for session in sessions["sessions"]] == [1]


async def test_open_webui_shows_the_error_of_an_agent(scripted: Scripted) -> None:
    scripted.play([exits(3)])
    body: JSON = {"stream": True, "model": "claude", "messages": [{"role": "user", "content": "hello"}]}
    async with serving(scripted.env) as server:
        failed = await post(server, "chat/completions", WEBUI, body)
    assert failed.status_code == 500
    assert "claude" in failed.json()["error"]["message"]


async def test_continue_chats_with_both_key_headers(scripted: Scripted) -> None:
    scripted.play(claude_says("Use a ", "map."))
    body: JSON = {
        "messages": [
            {"role": "system", "content": "You are in an editor."},
            {"role": "user", "content": [{"type": "text", "text": "faster?"}]},
            {"role": "assistant", "content": " "},
            {"role": "user", "content": "again, please"},
        ],
        "model": "claude",
        "max_tokens": 4096,
        "stream": True,
        "stream_options": {"include_usage": True},
        "stop": ["<|im_end|>", "<|endoftext|>", "\n\n\n", "/src/", "#- coding: utf-8", "```"],
    }
    async with serving(scripted.env, keys=ApiKeys((KEY,))) as server:
        answered = [
            await post(server, "chat/completions", {**CONTINUE, name: "not-needed"}, body)
            for name in ("x-api-key", "Authorization")
        ]
    for response in answered:
        assert text_of(events(response)) == "Use a map."
        assert used(events(response)) == [(12, 5)]


async def test_continue_cli_gets_no_calls_if_the_agent_has_its_own_tools(scripted: Scripted) -> None:
    scripted.play(claude_says("Use a ", "map."))
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "User-Agent": "ls/JS 5.23.2"}
    headers["x-clinvk-tools"] = "agent"
    body: JSON = {
        "model": "claude",
        "messages": [
            {"role": "system", "content": "You are an agent in the Continue CLI."},
            {"role": "user", "content": "faster?"},
        ],
        "stream": True,
        "tools": TOOLS,
        "stream_options": {"include_usage": True},
    }
    async with serving(scripted.env) as server:
        response = await post(server, "chat/completions", headers, body)
    assert text_of(events(response)) == "Use a map."
    assert response.headers["x-clinvk-ignored"] == "tools"


async def test_continue_completes_code_with_the_legacy_api(scripted: Scripted) -> None:
    """Its stop texts are more than OpenAI takes."""
    scripted.play(claude_says("return a", " + b\n\n\ndef"))
    body: JSON = {
        "prompt": "def add(a, b):\n",
        "model": "claude",
        "max_tokens": 256,
        "temperature": 0.01,
        "stream": True,
        "stop": ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>", "<|endoftext|>", "\n\n\n"],
    }
    async with serving(scripted.env) as server:
        response = await post(server, "completions", CONTINUE, body)
        fim = await post(server, "fim/completions", CONTINUE, {**body, "suffix": "\n"})
    assert text_of(events(response)) == "return a + b"
    assert (fim.status_code, fim.json()["error"]["code"]) == (404, "unknown_url")


async def test_cline_streams_with_usage_at_the_end(scripted: Scripted) -> None:
    scripted.play(claude_says("It is ", "done."))
    body: JSON = {
        "model": "claude",
        "messages": [
            {"role": "system", "content": "You are Cline, a highly skilled software engineer."},
            {"role": "user", "content": '<user_input mode="act">hello</user_input>'},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "read_file", "arguments": '{"path":"a"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "what is in a"},
        ],
        "tools": TOOLS,
        "tool_choice": "auto",
        "reasoning_effort": "medium",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with serving(scripted.env) as server:
        response = await post(server, "chat/completions", {**CLINE, "x-clinvk-tools": "agent"}, body)
    chunks = events(response)
    assert text_of(chunks) == "It is done."
    assert used(chunks) == [(12, 5)]
    assert response.headers["x-clinvk-ignored"] == "tools"
    received = (scripted.calls()[0].stdin or b"").decode()
    assert received.index("hello") < received.index("read_file") < received.index("what is in a")
