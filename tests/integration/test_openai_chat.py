"""OpenAI's own Python SDK, unmodified, against the server on a real socket with a scripted agent behind it."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pydantic
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam

from clinvk.api.access.keys import ApiKeys
from scripted import Scripted
from scripted.steps import Step, claude_says, codex_streams, exits, line, wait_for
from serving import LiveServer, serving

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def client(server: LiveServer, key: str = "not-needed") -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"http://127.0.0.1:{server.port}/openai/v1", api_key=key, max_retries=0, timeout=15
    ) as sdk:
        yield sdk


def claude_fails(status: int, message: str = "it said no") -> list[Step]:
    """Fail as Claude Code does when its model API answers with this status."""
    result = json.loads(str(claude_says("x")[-1]["line"]))
    failed = {**result, "subtype": "success", "is_error": True, "api_error_status": status, "result": message}
    return [claude_says("x")[0], line(json.dumps(failed)), exits(1)]


def prompts(scripted: Scripted) -> list[str]:
    """Return the prompts that Claude Code has received."""
    messages = [json.loads((call.stdin or b"").splitlines()[-1])["message"]["content"] for call in scripted.calls()]
    return [next(block["text"] for block in blocks if block["type"] == "text") for blocks in messages]


async def test_chat_completion_is_answered(scripted: Scripted) -> None:
    scripted.play(claude_says("Hello ", "you"))
    async with serving(scripted.env) as server, client(server) as sdk:
        got = await sdk.chat.completions.create(model="claude", messages=HI)
        again = await sdk.chat.completions.create(model="claude", messages=HI)
    assert got.choices[0].message.content == "Hello you"
    assert (got.choices[0].finish_reason, got.choices[0].index, got.model) == ("stop", 0, "claude")
    assert (got.object, got.system_fingerprint) == ("chat.completion", None)
    assert got.usage
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (12, 5, 17)
    assert got.usage.prompt_tokens_details
    assert got.usage.prompt_tokens_details.cached_tokens == 2
    assert got.id.startswith("chatcmpl-")
    assert got.id != again.id
    assert again.created >= got.created > 1_700_000_000


async def test_blocking_client_works(scripted: Scripted) -> None:
    scripted.play(claude_says("Hello"))

    def ask(port: int) -> str | None:
        with OpenAI(base_url=f"http://127.0.0.1:{port}/openai/v1", api_key="x", max_retries=0) as sdk:
            streamed = sdk.chat.completions.create(model="claude", messages=HI, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
            return text + (sdk.chat.completions.create(model="claude", messages=HI).choices[0].message.content or "")

    async with serving(scripted.env) as server:
        assert await asyncio.to_thread(ask, server.port) == "HelloHello"


async def test_chunks_arrive_while_the_agent_runs(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("one", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    async with serving(scripted.env) as server, client(server) as sdk:
        chunks = await sdk.chat.completions.create(model="claude", messages=HI, stream=True)
        messages: list[str | None] = []
        async for chunk in chunks:
            messages.append(chunk.choices[0].delta.content)
            if messages[-1] == "one":
                (tmp_path / "go").touch()
    assert messages == ["", "one", "two", None]


async def test_stream_chunks_follow_openai_order(scripted: Scripted) -> None:
    scripted.play(claude_says("one"))
    async with serving(scripted.env) as server, client(server) as sdk:
        chunks = [
            chunk
            async for chunk in await sdk.chat.completions.create(
                model="opus", messages=HI, stream=True, stream_options={"include_usage": True}
            )
        ]
    assert [len(chunk.choices) for chunk in chunks] == [1, 1, 1, 0]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:3]] == [None, None, "stop"]
    assert [chunk.usage is None for chunk in chunks] == [True, True, True, False]
    assert {chunk.model for chunk in chunks} == {"opus"}
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1


async def test_sdk_stream_helper_collects_the_answer(scripted: Scripted) -> None:
    scripted.play(claude_says("Hello ", "you"))
    async with serving(scripted.env) as server, client(server) as sdk:
        async with sdk.chat.completions.stream(
            model="claude", messages=HI, stream_options={"include_usage": True}
        ) as stream:
            deltas = [event.delta async for event in stream if event.type == "content.delta"]
        completion = await stream.get_final_completion()
    assert "".join(deltas) == "Hello you"
    assert completion.choices[0].message.content == "Hello you"
    assert completion.usage
    assert completion.usage.total_tokens == 17


class Point(pydantic.BaseModel):
    x: int


async def test_sdk_parse_helper_reads_a_structured_answer(scripted: Scripted) -> None:
    scripted.play(claude_says('{"x": 5}'))
    async with serving(scripted.env) as server, client(server) as sdk:
        completion = await sdk.chat.completions.parse(model="claude", messages=HI, response_format=Point)
    assert completion.choices[0].message.parsed == Point(x=5)


async def test_a_conversation_reaches_the_agent_as_one_prompt(scripted: Scripted) -> None:
    scripted.play(claude_says("ok"))
    messages: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "text", "text": "three </turn>"}]},
    ]
    async with serving(scripted.env) as server, client(server) as sdk:
        await sdk.chat.completions.create(model="claude", messages=messages)
    prompt = prompts(scripted)[0]
    assert '<turn-2 role="user">\none\n</turn-2>\n\n<turn-2 role="assistant">\ntwo\n</turn-2>' in prompt
    assert prompt.endswith('<turn-2 role="user">\nthree </turn>\n</turn-2>')
    assert "be brief" not in prompt


async def test_images_and_file_texts_reach_the_agent(scripted: Scripted) -> None:
    scripted.play(claude_says("ok"))
    image = base64.b64encode(b"\x89PNG\r\n\x1a\n rest").decode()
    text = base64.b64encode(b"in the file").decode()
    content: list[ChatCompletionContentPartParam] = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
        {"type": "file", "file": {"filename": "a.txt", "file_data": f"data:text/plain;base64,{text}"}},
    ]
    async with serving(scripted.env) as server, client(server) as sdk:
        await sdk.chat.completions.create(model="claude", messages=[{"role": "user", "content": content}])
    assert prompts(scripted) == ["look\n[Image #1]\na.txt:\nin the file"]
    blocks = json.loads(scripted.calls()[0].stdin or b"")["message"]["content"]
    assert [block["source"] for block in blocks if block["type"] == "image"] == [
        {"type": "base64", "media_type": "image/png", "data": image}
    ]


async def test_models_are_listed_and_retrieved(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, client(server) as sdk:
        ids = [model.id async for model in sdk.models.list()]
        one = await sdk.models.retrieve("claude/opus")
        with pytest.raises(openai.NotFoundError) as raised:
            await sdk.models.retrieve("nobody/x")
    assert {"claude", "codex", "gemini", "claude/opus"} <= set(ids)
    assert (one.id, one.object, one.owned_by) == ("claude/opus", "model", "claude")
    assert raised.value.code == "model_not_found"


async def test_legacy_completions_answer_a_text_prompt(scripted: Scripted) -> None:
    scripted.play(claude_says("Hello"))
    async with serving(scripted.env) as server, client(server) as sdk:
        got = await sdk.completions.create(model="claude", prompt="say hello", echo=True)
        chunks = [chunk async for chunk in await sdk.completions.create(model="claude", prompt="say", stream=True)]
    assert (got.choices[0].text, got.choices[0].finish_reason, got.object) == (
        "say helloHello",
        "stop",
        "text_completion",
    )
    assert [(chunk.choices[0].text, chunk.choices[0].finish_reason) for chunk in chunks] == [
        ("Hello", None),
        ("", "stop"),
    ]


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (400, openai.BadRequestError, "agent_rejected"),
        (401, openai.AuthenticationError, "agent_unauthenticated"),
        (402, openai.RateLimitError, "insufficient_quota"),
        (429, openai.RateLimitError, "rate_limit_exceeded"),
        (529, openai.InternalServerError, "agent_overloaded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_immediate_agent_failure_raises_the_error_of_its_status(
    scripted: Scripted, status: int, error: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    scripted.play(claude_fails(status))
    async with serving(scripted.env) as server, client(server) as sdk:
        with pytest.raises(error, match="it said no") as raised:
            await sdk.chat.completions.create(model="claude", messages=HI, stream=stream)
    assert raised.value.code == code
    assert raised.value.request_id


async def test_later_agent_failure_ends_the_stream_with_an_error(scripted: Scripted) -> None:
    scripted.play([*claude_says("one")[:4], *claude_fails(529)[1:]])
    messages: list[str | None] = []
    async with serving(scripted.env) as server, client(server) as sdk:
        chunks = await sdk.chat.completions.create(model="claude", messages=HI, stream=True)
        with pytest.raises(openai.APIError, match="it said no") as failed:
            messages.extend([chunk.choices[0].delta.content async for chunk in chunks])
    assert failed.value.code == "agent_overloaded"


@pytest.mark.parametrize(
    ("model", "messages", "error", "param", "code"),
    [
        ("nobody/x", HI, openai.NotFoundError, "model", "model_not_found"),
        ("claude", [], openai.BadRequestError, "messages", None),
        ("claude", [{"role": "wizard", "content": "x"}], openai.BadRequestError, "messages[0].role", None),
    ],
)
async def test_invalid_request_raises_the_same_error_as_openai(
    scripted: Scripted,
    model: str,
    messages: list[ChatCompletionMessageParam],
    error: type[openai.APIStatusError],
    param: str,
    code: str | None,
) -> None:
    async with serving(scripted.env) as server, client(server) as sdk:
        with pytest.raises(error) as raised:
            await sdk.chat.completions.create(model=model, messages=messages)
    assert (raised.value.param, raised.value.code, raised.value.type) == (param, code, "invalid_request_error")


async def test_invalid_key_raises_authentication_error(scripted: Scripted) -> None:
    async with (
        serving(scripted.env, keys=ApiKeys(("secret-key-of-some-length",))) as server,
        client(server, "no") as sdk,
    ):
        with pytest.raises(openai.AuthenticationError) as raised:
            await sdk.chat.completions.create(model="claude", messages=HI)
    assert raised.value.code == "invalid_api_key"


async def test_hosted_tools_are_reported_as_ignored_in_a_header(scripted: Scripted) -> None:
    scripted.play(claude_says("ok"))
    async with serving(scripted.env) as server, client(server) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(
            model="claude", messages=HI, extra_body={"tools": [{"type": "web_search"}]}
        )
    assert raw.headers["x-clinvk-ignored"] == "tools"
    assert raw.parse().choices[0].message.tool_calls is None


async def test_session_resumes_with_only_the_new_message(scripted: Scripted) -> None:
    scripted.play(claude_says("ok"))
    async with serving(scripted.env) as server, client(server) as sdk:
        raw = await sdk.chat.completions.with_raw_response.create(
            model="claude", messages=HI, extra_headers={"x-clinvk-session-id": "new"}
        )
        session = raw.headers["x-clinvk-session-id"]
        more: list[ChatCompletionMessageParam] = [
            *HI,
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": "and now?"},
        ]
        await sdk.chat.completions.create(model="claude", messages=more, extra_headers={"x-clinvk-session-id": session})
        kept = (await server.client.get(f"/api/v1/sessions/{session}")).json()
    assert prompts(scripted) == ["hi", "and now?"]
    assert kept["turn_count"] == 2


async def test_no_session_is_stored_without_a_session_header(scripted: Scripted) -> None:
    scripted.play(claude_says("ok"))
    async with serving(scripted.env) as server, client(server) as sdk:
        await sdk.chat.completions.create(model="claude", messages=HI)
        assert (await server.client.get("/api/v1/sessions")).json()["total"] == 0


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("claude", claude_says),
        ("claude/opus", claude_says),
        ("sonnet", claude_says),
        ("unknown-model-9", claude_says),
        ("codex", codex_streams),
        ("gpt-5.5", codex_streams),
    ],
)
async def test_model_selects_the_agent_and_is_returned_as_sent(
    scripted: Scripted, model: str, says: Callable[..., list[Step]]
) -> None:
    scripted.play(says("ok"))
    async with serving(scripted.env) as server, client(server) as sdk:
        got = await sdk.chat.completions.create(model=model, messages=HI)
    assert got.model == model
    assert got.choices[0].message.content == "ok"
    assert "unknown-model-9" not in " ".join(scripted.calls()[0].argv)
