"""OpenAI's own Python SDK, unmodified, against the server on a real socket with a scripted agent behind it."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pydantic
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from scripted import Scripted
from scripted.steps import claude_fails, claude_says, wait_for
from serving import LiveServer, serving

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def client(server: LiveServer, key: str = "not-needed") -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"http://127.0.0.1:{server.port}/openai/v1", api_key=key, max_retries=0, timeout=15
    ) as sdk:
        yield sdk


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


class Point(pydantic.BaseModel):
    x: int


async def test_sdk_parse_helper_reads_a_structured_answer(scripted: Scripted) -> None:
    scripted.play(claude_says('{"x": 5}'))
    async with serving(scripted.env) as server, client(server) as sdk:
        completion = await sdk.chat.completions.parse(model="claude", messages=HI, response_format=Point)
    assert completion.choices[0].message.parsed == Point(x=5)


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
    ("status", "error", "code", "stream"),
    [
        (401, openai.AuthenticationError, "agent_unauthenticated", True),
        (402, openai.RateLimitError, "insufficient_quota", False),
        (429, openai.RateLimitError, "rate_limit_exceeded", True),
    ],
)
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
