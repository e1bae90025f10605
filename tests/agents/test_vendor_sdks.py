"""The official Python SDKs of OpenAI and Anthropic, unmodified, with the real CLIs behind the server."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message, MessageParam
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from agents.machine import PNG, Machine
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
async def test_conversation_turns_and_images_reach_the_model(machine: Machine, backend: str) -> None:
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
                            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
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
                            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "auto"},
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
                            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                        ],
                    },
                ],
            ),
        )
    for text in ("a chat", "a response", "a message"):
        reached = requests_to_model(machine, text)
        assert "be brief" in reached
        assert PNG in reached
        assert reached.index("\\none\\n") < reached.index("\\ntwo\\n") < reached.index(f"{text} [[")
