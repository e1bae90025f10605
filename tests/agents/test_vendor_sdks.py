"""The official Python SDKs of OpenAI and Anthropic, unmodified, with the real CLIs behind the server."""

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message, MessageParam
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from agents.machine import Machine
from serving import LiveServer, serving
from standin.document import Record

CLIS = ("claude", "codex", "gemini")


@dataclass(frozen=True)
class Clients:
    """Both SDKs as clients of one server, with only the address changed."""

    server: LiveServer
    openai: AsyncOpenAI
    anthropic: AsyncAnthropic

    async def runs(self) -> int:
        """Return the number of runs."""
        return (await self.server.client.get("/api/v1/runs")).json()["total"]


@asynccontextmanager
async def clients(machine: Machine, max_retries: int = 0) -> AsyncGenerator[Clients]:
    async with serving(machine.env, default_workdir=str(machine.project)) as server:
        base = f"http://127.0.0.1:{server.port}"
        async with (
            AsyncOpenAI(base_url=f"{base}/openai/v1", api_key="not-needed", max_retries=max_retries) as first,
            AsyncAnthropic(base_url=f"{base}/anthropic", api_key="not-needed", max_retries=max_retries) as second,
        ):
            yield Clients(server, first, second)


def to_chat(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def to_claude(text: str) -> list[MessageParam]:
    return [{"role": "user", "content": text}]


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def picture() -> str:
    """A PNG of one red pixel, in base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head, pixel = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0), zlib.compress(b"\0\xff\0\0")
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


def requests_to_model(machine: Machine, text: str) -> str:
    """Return the model's request that contains this text, as JSON."""
    found: list[Record] = machine.requests(text)
    assert found, f"nothing with {text!r} reached the model"
    return json.dumps(found)


@pytest.mark.parametrize(
    ("backend", "read", "written", "thought"),
    [("claude", 100, 30, 0), ("codex", 100, 30, 10), ("gemini", 110, 35, 10)],
    ids=CLIS,
)
async def test_sdks_return_the_complete_answer_with_usage(
    machine: Machine, backend: str, read: int, written: int, thought: int
) -> None:
    """Claude Code tells no tokens of thinking; Gemini asks beforehand which model to take (10 and 5 tokens)."""
    prompt = "[[words=3 usage=100,20,30,10]]"
    async with clients(machine) as sdk:
        chat, response, message = await asyncio.gather(
            sdk.openai.chat.completions.create(model=backend, messages=to_chat(prompt)),
            sdk.openai.responses.create(model=backend, input=prompt),
            sdk.anthropic.messages.create(model=backend, max_tokens=1024, messages=to_claude(prompt)),
        )
    assert chat.choices[0].message.content == response.output_text == text_of(message) == "word1 word2 word3"
    assert (chat.choices[0].finish_reason, response.status, message.stop_reason) == ("stop", "completed", "end_turn")
    assert chat.model == response.model == message.model == backend
    used, spent = chat.usage, response.usage
    assert used
    assert used.prompt_tokens_details
    assert used.completion_tokens_details
    assert spent
    assert (used.prompt_tokens, used.completion_tokens, used.total_tokens) == (read, written, read + written)
    assert (spent.input_tokens, spent.output_tokens, spent.total_tokens) == (read, written, read + written)
    assert used.prompt_tokens_details.cached_tokens == spent.input_tokens_details.cached_tokens == 20
    assert used.completion_tokens_details.reasoning_tokens == spent.output_tokens_details.reasoning_tokens == thought
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (read - 20, 20, written)


@pytest.mark.parametrize("backend", CLIS)
async def test_model_api_error_raises_the_sdk_error_of_its_status(machine: Machine, backend: str) -> None:
    async def failed(sdk: Clients, status: int) -> list[type[BaseException]]:
        prompt = f"[[error={status}]]"
        errors = await asyncio.gather(
            sdk.openai.chat.completions.create(model=backend, messages=to_chat(prompt)),
            sdk.anthropic.messages.create(model=backend, max_tokens=9, messages=to_claude(prompt)),
            return_exceptions=True,
        )
        return [type(error) for error in errors if isinstance(error, BaseException)]

    async with clients(machine) as sdk:
        got = await asyncio.gather(*(failed(sdk, status) for status in (401, 429, 500)))
    assert got == [
        [openai.AuthenticationError, anthropic.AuthenticationError],
        [openai.RateLimitError, anthropic.RateLimitError],
        [openai.InternalServerError, anthropic.OverloadedError],
    ]


async def test_streamed_model_api_error_raises_the_sdk_error_of_its_status(machine: Machine) -> None:
    """Codex reports the error soon, and the status of a stream waits a limited time for an error."""
    prompt = "[[error=401]]"
    async with clients(machine) as sdk:
        with pytest.raises(openai.AuthenticationError):
            await sdk.openai.chat.completions.create(model="codex", messages=to_chat(prompt), stream=True)
        with pytest.raises(openai.AuthenticationError):
            await sdk.openai.responses.create(model="codex", input=prompt, stream=True)
        with pytest.raises(anthropic.AuthenticationError):
            await sdk.anthropic.messages.create(model="codex", max_tokens=9, messages=to_claude(prompt), stream=True)


@pytest.mark.parametrize("backend", CLIS)
async def test_conversation_turns_and_images_reach_the_model(machine: Machine, backend: str) -> None:
    data = picture()
    async with clients(machine) as sdk:
        await asyncio.gather(
            sdk.openai.chat.completions.create(
                model=backend,
                messages=[
                    {"role": "developer", "content": "be brief"},
                    {"role": "user", "content": "one"},
                    {"role": "assistant", "content": "two"},
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "a chat [[words=2]]"},
                            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
                        ],
                    },
                ],
            ),
            sdk.openai.responses.create(
                model=backend,
                instructions="be brief",
                input=[
                    {"role": "user", "content": "one"},
                    {"role": "assistant", "content": "two"},
                    {
                        "role": "user",
                        "content": [
                            {"type": "input_text", "text": "a response [[words=2]]"},
                            {"type": "input_image", "image_url": f"data:image/png;base64,{data}", "detail": "auto"},
                        ],
                    },
                ],
            ),
            sdk.anthropic.messages.create(
                model=backend,
                max_tokens=100,
                system="be brief",
                messages=[
                    {"role": "user", "content": "one"},
                    {"role": "assistant", "content": "two"},
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "a message [[words=2]]"},
                            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
                        ],
                    },
                ],
            ),
        )
    for text in ("a chat", "a response", "a message"):
        reached = requests_to_model(machine, text)
        assert "be brief" in reached
        assert data in reached
        assert reached.index("\\none\\n") < reached.index("\\ntwo\\n") < reached.index(f"{text} [[")


@pytest.mark.parametrize("backend", CLIS)
async def test_session_receives_only_new_turns(machine: Machine, backend: str) -> None:
    async with clients(machine) as sdk:
        first = await sdk.anthropic.messages.with_raw_response.create(
            model=backend,
            max_tokens=9,
            messages=to_claude("one [[words=1]]"),
            extra_headers={"x-clinvk-session-id": "new"},
        )
        session = first.headers["x-clinvk-session-id"]
        more: list[ChatCompletionMessageParam] = [
            *to_chat("one [[words=1]]"),
            {"role": "assistant", "content": "word1"},
            *to_chat("two [[words=2]]"),
        ]
        second = await sdk.openai.chat.completions.create(
            model=backend, messages=more, extra_headers={"x-clinvk-session-id": session}
        )
        response = await sdk.openai.responses.create(model=backend, input="three [[words=3]]")
        last = await sdk.openai.responses.create(
            model=backend, input="four [[words=4]]", previous_response_id=response.id
        )
    assert second.choices[0].message.content == "word1 word2"
    assert last.output_text == "word1 word2 word3 word4"
    assert requests_to_model(machine, "two [[").count("one [[") == 1
    assert requests_to_model(machine, "four [[").count("three [[") == 1


async def test_dropped_model_stream_ends_sdk_streams_with_an_error(machine: Machine) -> None:
    prompt = "[[drop=2 words=5]]"
    seen: list[str] = []
    async with clients(machine) as sdk:
        with pytest.raises(openai.APIError) as of_chat:
            async with sdk.openai.chat.completions.stream(model="codex", messages=to_chat(prompt)) as chat_stream:
                seen += [event.delta async for event in chat_stream if event.type == "content.delta"]
        with pytest.raises(anthropic.APIStatusError) as of_message:
            async with sdk.anthropic.messages.stream(
                model="codex", max_tokens=99, messages=to_claude(prompt)
            ) as message_stream:
                seen += [text async for text in message_stream.text_stream]
        async with sdk.openai.responses.stream(model="codex", input=prompt) as response_stream:
            events = [event async for event in response_stream]
    assert of_chat.value.code == of_message.value.error_code == "agent_overloaded"
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.output_text == "word1 word2 "
    assert last.response.error


@pytest.mark.parametrize("backend", ["claude", "codex"])
async def test_thinking_is_returned_on_request(machine: Machine, backend: str) -> None:
    """Gemini CLI does not print thinking."""
    prompt = "[[think=3 words=2]]"
    async with clients(machine) as sdk:
        chat, response, message, silent = await asyncio.gather(
            sdk.openai.chat.completions.create(model=backend, messages=to_chat(prompt), reasoning_effort="high"),
            sdk.openai.responses.create(model=backend, input=prompt, reasoning={"effort": "high", "summary": "auto"}),
            sdk.anthropic.messages.create(
                model=backend,
                max_tokens=4096,
                messages=to_claude(prompt),
                thinking={"type": "enabled", "budget_tokens": 2000},
            ),
            sdk.anthropic.messages.create(model=backend, max_tokens=4096, messages=to_claude(prompt)),
        )
    thought = "think1 think2 think3 "
    assert (chat.choices[0].message.model_extra or {})["reasoning_content"] == thought
    reasoning = response.output[0]
    assert reasoning.type == "reasoning"
    assert reasoning.summary[0].text == thought
    block = message.content[0]
    assert block.type == "thinking"
    assert block.thinking == thought
    assert [block.type for block in silent.content] == ["text"]
