"""The unmodified Anthropic SDK against a real socket, with a scripted agent behind it."""

import asyncio
import json
from pathlib import Path

import anthropic
import httpx2
import pytest
from anthropic.types import MessageParam
from pydantic import BaseModel

from clinvk.backends.claude.decoder import login_message
from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.dialect import Call
from clinvk.types.events import RunFinished, RunStarted, TextDelta
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts
from polling import until
from scripted import Scripted
from scripted.steps import Step, claude_says, exits, hang, line, wait_for
from serving import LiveServer, serving

ASKED: list[MessageParam] = [{"role": "user", "content": "hello"}]


def fails(status: int, message: str) -> list[Step]:
    """Fail as Claude Code does when its model API answers with a status."""
    result: dict[str, object] = {
        "type": "result",
        "subtype": "success",
        "is_error": True,
        "api_error_status": status,
        "result": message,
        "session_id": "s",
        "num_turns": 1,
    }
    return [claude_says("")[0], line(json.dumps(result)), exits(1)]


def thinks(thought: str, message: str) -> list[Step]:
    """Answer as Claude Code does, with some thinking first."""
    plain = claude_says(message)
    deltas: list[dict[str, object]] = [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": thought}},
        {"type": "content_block_stop", "index": 0},
    ]
    frame: dict[str, object] = {"type": "stream_event", "session_id": "s", "parent_tool_use_id": None}
    return [*plain[:2], *(line(json.dumps({**frame, "event": delta})) for delta in deltas), *plain[2:]]


def sdk(server: LiveServer, base: str = "/anthropic", max_retries: int = 2) -> anthropic.AsyncAnthropic:
    """Make a client as a user does: nothing but the address is changed."""
    url = f"http://127.0.0.1:{server.port}{base}"
    return anthropic.AsyncAnthropic(base_url=url, api_key="not-needed", max_retries=max_retries)


async def read(client: anthropic.AsyncAnthropic, seen: list[str]) -> None:
    """Read a stream, noting each piece."""
    async with client.messages.stream(model="claude", max_tokens=1024, messages=ASKED) as stream:
        async for text in stream.text_stream:
            seen.append(text)


@pytest.mark.parametrize("base", ["/anthropic", "/anthropic/", "/anthropic/v1", ""])
async def test_create_message(scripted: Scripted, base: str) -> None:
    scripted.play(claude_says("hello ", "world"))
    async with serving(scripted.env) as server, sdk(server, base) as client:
        message = await client.messages.create(model="claude", max_tokens=1024, messages=ASKED)
    (block,) = message.content
    assert block.type == "text"
    assert block.text == "hello world"
    assert (message.type, message.role, message.model) == ("message", "assistant", "claude")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (10, 2, 5)
    assert message.id.startswith("msg_")
    assert message._request_id  # pyright: ignore[reportPrivateUsage]  # so the SDK names it to its users


async def test_synchronous_client_creates_and_streams_messages(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))

    def ask(port: int) -> tuple[str, list[str]]:
        with anthropic.Anthropic(base_url=f"http://127.0.0.1:{port}/anthropic", api_key="not-needed") as client:
            message = client.messages.create(model="claude", max_tokens=1024, messages=ASKED)
            with client.messages.stream(model="claude", max_tokens=1024, messages=ASKED) as stream:
                pieces = list(stream.text_stream)
        (block,) = message.content
        assert block.type == "text"
        return block.text, pieces

    async with serving(scripted.env) as server:
        assert await asyncio.to_thread(ask, server.port) == ("hello", ["hello"])


async def test_stream_helper_assembles_the_text(scripted: Scripted) -> None:
    scripted.play(claude_says("hello ", "world"))
    async with (
        serving(scripted.env) as server,
        sdk(server) as client,
        client.messages.stream(model="claude/opus", max_tokens=1024, messages=ASKED) as stream,
    ):
        pieces = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
        text = await stream.get_final_text()
    assert (pieces, text) == (["hello ", "world"], "hello world")
    assert (message.model, message.stop_reason) == ("claude/opus", "end_turn")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (10, 2, 5)


async def test_text_delta_is_sent_before_the_agent_continues(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("one", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    seen: list[str] = []
    async with (
        serving(scripted.env) as server,
        sdk(server) as client,
        client.messages.stream(model="claude", max_tokens=1024, messages=ASKED) as stream,
    ):
        async for text in stream.text_stream:
            seen.append(text)
            (tmp_path / "go").touch()
    assert seen == ["one", "two"]


async def test_requested_thinking_comes_before_the_text(scripted: Scripted) -> None:
    scripted.play(thinks("Hm.", "hello"))
    async with serving(scripted.env) as server, sdk(server) as client:
        silent = await client.messages.create(model="claude", max_tokens=1024, messages=ASKED)
        whole = await client.messages.create(
            model="claude", max_tokens=4096, messages=ASKED, thinking={"type": "enabled", "budget_tokens": 2048}
        )
        async with client.messages.stream(
            model="claude", max_tokens=4096, messages=ASKED, thinking={"type": "adaptive"}
        ) as stream:
            streamed = await stream.get_final_message()
    assert [block.type for block in silent.content] == ["text"]
    for message in (whole, streamed):
        thinking, text = message.content
        assert thinking.type == "thinking"
        assert text.type == "text"
        assert (thinking.thinking, text.text) == ("Hm.", "hello")
        assert thinking.signature


async def test_earlier_answer_can_be_sent_back_unchanged(scripted: Scripted) -> None:
    scripted.play(thinks("Hm.", "hello"))
    async with serving(scripted.env) as server, sdk(server) as client:
        first = await client.messages.create(
            model="claude", max_tokens=4096, messages=ASKED, thinking={"type": "adaptive"}
        )
        conversation: list[MessageParam] = [*ASKED, first.to_param(), {"role": "user", "content": "and more"}]
        await client.messages.create(model="claude", max_tokens=4096, messages=conversation)
    received = (scripted.calls()[-1].stdin or b"").decode()
    assert "and more" in received
    assert "Hm." not in received


class Weather(BaseModel):
    """The parsed answer."""

    city: str
    degrees: int


async def test_sdk_parses_structured_output(scripted: Scripted) -> None:
    scripted.play(claude_says('{"city": "Oslo", "degrees": 3}'))
    async with serving(scripted.env) as server, sdk(server) as client:
        message = await client.messages.parse(model="claude", max_tokens=1024, messages=ASKED, output_format=Weather)
    assert message.parsed_output == Weather(city="Oslo", degrees=3)


async def test_stop_sequence_truncates_the_answer(scripted: Scripted) -> None:
    scripted.play([*claude_says("one ", "two ST", "OP three")[:-1], hang()])
    async with (
        serving(scripted.env) as server,
        sdk(server) as client,
        client.messages.stream(model="claude", max_tokens=1024, messages=ASKED, stop_sequences=["STOP"]) as stream,
    ):
        message = await stream.get_final_message()
    (block,) = message.content
    assert block.type == "text"
    assert (block.text, message.stop_reason, message.stop_sequence) == ("one two ", "stop_sequence", "STOP")


async def test_error_for_an_invalid_schema_names_the_field(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, sdk(server) as client:
        with pytest.raises(anthropic.BadRequestError) as raised:
            await client.messages.create(
                model="claude",
                max_tokens=1024,
                messages=ASKED,
                output_config={"format": {"type": "json_schema", "schema": {"type": 5}}},
            )
    assert raised.value.api_message
    assert "output_config.format.schema" in raised.value.api_message
    assert not scripted.calls()


@pytest.mark.parametrize(
    ("status", "answered", "kind", "type_", "stream"),
    [
        (401, 401, anthropic.AuthenticationError, "authentication_error", False),
        (402, 402, anthropic.PaymentRequiredError, "billing_error", True),
        (503, 529, anthropic.OverloadedError, "overloaded_error", False),
    ],
)
async def test_model_error_of_the_agent_is_returned_with_its_status(
    scripted: Scripted, status: int, answered: int, kind: type[anthropic.APIStatusError], type_: str, stream: bool
) -> None:
    scripted.play(fails(status, "not today"))
    async with serving(scripted.env) as server, sdk(server, max_retries=0) as client:
        with pytest.raises(kind) as raised:
            await client.messages.create(model="claude", max_tokens=1024, messages=ASKED, stream=stream)
    error = raised.value
    message = login_message("not today") if status == 401 else "not today"
    assert (error.status_code, error.type, error.api_message) == (answered, type_, message)
    assert error.request_id


async def test_sdk_retries_a_run_without_side_effects(scripted: Scripted) -> None:
    scripted.play(fails(429, "not today"))
    async with serving(scripted.env) as server, sdk(server, max_retries=1) as client:
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(model="claude", max_tokens=1024, messages=ASKED)
    assert len(scripted.calls()) == 2


async def test_sdk_does_not_retry_a_run_with_possible_side_effects(scripted: Scripted) -> None:
    scripted.play([*claude_says("half")[:4], exits(3)])
    async with serving(scripted.env) as server, sdk(server, max_retries=2) as client:
        with pytest.raises(anthropic.InternalServerError) as raised:
            await client.messages.create(model="claude", max_tokens=1024, messages=ASKED)
    assert (raised.value.status_code, raised.value.type) == (500, "api_error")
    assert len(scripted.calls()) == 1


async def test_run_that_times_out_raises_a_timeout_error(scripted: Scripted) -> None:
    scripted.play([claude_says("x")[0], hang()])
    async with serving(scripted.env, request_timeout_secs=1) as server, sdk(server, max_retries=0) as client:
        with pytest.raises(anthropic.InternalServerError) as raised:
            await client.messages.create(model="claude", max_tokens=1024, messages=ASKED)
    assert (raised.value.status_code, raised.value.type) == (504, "timeout_error")


async def test_run_that_fails_mid_stream_ends_the_stream_with_an_error(scripted: Scripted) -> None:
    scripted.play([*claude_says("half")[:4], exits(3)])
    seen: list[str] = []
    async with serving(scripted.env) as server, sdk(server) as client:
        with pytest.raises(anthropic.APIStatusError) as raised:
            await read(client, seen)
    assert seen == ["half"]
    assert (raised.value.type, raised.value.error_code) == ("api_error", "agent_crashed")


async def test_error_for_an_invalid_body_names_the_field(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, sdk(server) as client:
        with pytest.raises(anthropic.BadRequestError) as raised:
            await client.messages.create(model="claude", max_tokens=1024, messages=[])
    assert raised.value.api_message
    assert "messages" in raised.value.api_message
    assert not scripted.calls()


async def test_tokens_are_counted_without_starting_an_agent(scripted: Scripted) -> None:
    async with serving(scripted.env) as server, sdk(server) as client:
        count = await client.messages.count_tokens(model="claude", messages=[{"role": "user", "content": "x" * 400}])
    assert count.input_tokens == 100
    assert not scripted.calls()


async def test_sdk_ignores_keepalives_anywhere_in_the_stream() -> None:
    dialect = Anthropic()
    call = Call(request=RunRequest(prompt="hello"), model="claude", stream=True)
    encoder = dialect.encoder(call, RunFacts(run_id="r1", backend="claude"))
    events = (RunStarted(), TextDelta("hello "), TextDelta("world"), RunFinished())
    frames = b"".join(encoder.feed(event, 1.0) for event in events).split(b"\n\n")[:-1]
    data = dialect.pulse + b"".join(frame + b"\n\n" + dialect.pulse for frame in frames)
    headers = {"content-type": dialect.stream_type}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=data))
    async with (
        httpx2.AsyncClient(transport=transport) as http,
        anthropic.AsyncAnthropic(base_url="http://clinvk", api_key="not-needed", http_client=http) as client,
        client.messages.stream(model="claude", max_tokens=1024, messages=ASKED) as stream,
    ):
        assert await stream.get_final_text() == "hello world"


async def test_client_disconnect_ends_the_agent(scripted: Scripted) -> None:
    scripted.play([*claude_says("one")[:4], hang()])
    async with serving(scripted.env) as server, sdk(server) as client:
        async with client.messages.stream(model="claude", max_tokens=1024, messages=ASKED) as stream:
            async for _ in stream.text_stream:
                break
        await until(lambda: not scripted.alive())
