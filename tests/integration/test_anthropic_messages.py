"""The unmodified Anthropic SDK against a real socket, with a scripted agent behind it."""

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
from scripted import Scripted
from scripted.steps import claude_fails, claude_says, claude_thinks
from serving import LiveServer, serving

ASKED: list[MessageParam] = [{"role": "user", "content": "hello"}]


def sdk(server: LiveServer, max_retries: int = 2) -> anthropic.AsyncAnthropic:
    """Make a client as a user does: nothing but the address is changed."""
    url = f"http://127.0.0.1:{server.port}/anthropic"
    return anthropic.AsyncAnthropic(base_url=url, api_key="not-needed", max_retries=max_retries)


async def test_create_message(scripted: Scripted) -> None:
    scripted.play(claude_says("hello ", "world"))
    async with serving(scripted.env) as server, sdk(server) as client:
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


async def test_requested_thinking_comes_before_the_text(scripted: Scripted) -> None:
    says = claude_says("hello")
    scripted.play([*says[:2], *claude_thinks("Hm."), *says[2:]])
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
    says = claude_says("hello")
    scripted.play([*says[:2], *claude_thinks("Hm."), *says[2:]])
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
    scripted.play(claude_fails(status, "not today"))
    async with serving(scripted.env) as server, sdk(server, max_retries=0) as client:
        with pytest.raises(kind) as raised:
            await client.messages.create(model="claude", max_tokens=1024, messages=ASKED, stream=stream)
    error = raised.value
    message = login_message("not today") if status == 401 else "not today"
    assert (error.status_code, error.type, error.api_message) == (answered, type_, message)
    assert error.request_id


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
