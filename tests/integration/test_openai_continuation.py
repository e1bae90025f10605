"""Clients of the Responses API that omit stored parts: earlier answers and system messages."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
from openai import AsyncOpenAI, BadRequestError, InternalServerError
from openai.types.responses import Response, ResponseInputItemParam, ResponseInputParam

from clinvk.config.model import BackendSettings
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import RunQuery
from scripted import Call, Scripted
from scripted.steps import claude_says, claude_thinks, exits, hang, says
from serving import LiveServer, serving

SESSION = "11111111-1111-4111-8111-111111111111"


@asynccontextmanager
async def clients(
    scripted: Scripted, store: MemoryStore | None = None, backends: dict[str, BackendSettings] | None = None
) -> AsyncGenerator[tuple[AsyncOpenAI, LiveServer]]:
    async with (
        serving(scripted.env, store=store, backends=backends) as server,
        AsyncOpenAI(
            base_url=f"http://127.0.0.1:{server.port}/openai/v1", api_key="not-needed", max_retries=0
        ) as client,
    ):
        yield client, server


def user(text: str) -> ResponseInputItemParam:
    return {"role": "user", "content": text}


def developer(text: str) -> ResponseInputItemParam:
    return {"role": "developer", "content": text}


def named(response: Response) -> ResponseInputParam:
    """Name the items of a response, as Vercel's AI SDK does instead of sending them."""
    return [{"type": "item_reference", "id": item.id or ""} for item in response.output]


def sent(response: Response) -> ResponseInputParam:
    """Send them themselves."""
    return json.loads(json.dumps([item.to_dict() for item in response.output]))


def prompt_of(call: Call) -> str:
    """Return the prompt that the agent received."""
    return (call.stdin or b"").decode()


def whole(call: Call) -> str:
    """Return everything that the agent received."""
    return " ".join(call.argv) + prompt_of(call)


async def test_referenced_answer_is_sent_like_an_inline_answer(scripted: Scripted) -> None:
    says = claude_says("hello ", "Ada")
    scripted.play([*says[:2], *claude_thinks("hm"), *says[2:]])
    async with clients(scripted) as (client, _):
        first = await client.responses.create(model="claude", input="I am Ada", reasoning={"summary": "auto"})
        assert [item.type for item in first.output] == ["reasoning", "message"]
        for given in (sent(first), named(first)):
            conversation: ResponseInputParam = [user("I am Ada"), *given, user("who am I?")]
            await client.responses.create(model="claude", input=conversation)
    by_text, by_name = scripted.calls()[1:]
    assert "hello Ada" in prompt_of(by_text)
    assert prompt_of(by_name) == prompt_of(by_text)


async def test_reference_to_an_unstored_answer_is_rejected(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    scripted.play([hang()], when="slow")
    async with clients(scripted) as (client, _):
        not_kept = await client.responses.create(model="claude", input="hi", store=False)
        running = await client.responses.create(model="claude", input="slow", background=True)
        for name in (not_kept.output[0].id or "", f"msg_{running.id.removeprefix('resp_')}_0", f"msg_{'0' * 32}_0"):
            conversation: ResponseInputParam = [user("hi"), {"type": "item_reference", "id": name}, user("go on")]
            with pytest.raises(BadRequestError) as caught:
                await client.responses.create(model="claude", input=conversation)
            assert caught.value.param == "input[1].id"
            assert name in caught.value.message
        await client.responses.cancel(running.id)
    assert len(scripted.calls()) <= 2


async def test_answer_referenced_twice_is_rejected(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with clients(scripted) as (client, _):
        first = await client.responses.create(model="claude", input="hi")
        conversation: ResponseInputParam = [*named(first), user("and?"), *named(first), user("so?")]
        with pytest.raises(BadRequestError, match="is named twice") as caught:
            await client.responses.create(model="claude", input=conversation)
    assert caught.value.param == "input[2].id"


async def test_body_limit_includes_referenced_answers(scripted: Scripted) -> None:
    scripted.play(claude_says("x" * 2000))
    async with serving(scripted.env, max_request_body_bytes=3000) as server:
        names: list[object] = []
        for _ in range(2):
            answer = await server.client.post("/openai/v1/responses", json={"model": "claude", "input": "hi"})
            names.append({"type": "item_reference", "id": answer.json()["output"][0]["id"]})
        one, both = [
            await server.client.post(
                "/openai/v1/responses", json={"model": "claude", "input": [*some, {"role": "user", "content": "and?"}]}
            )
            for some in (names[:1], names)
        ]
    assert (one.status_code, both.status_code) == (200, 413)
    assert "max_request_body_bytes" in both.json()["error"]["message"]
    assert len(scripted.calls()) == 3


async def test_body_with_reference_and_non_utf8_key_is_rejected(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with clients(scripted) as (client, server):
        first = await client.responses.create(model="claude", input="hi")
        body = json.dumps({"model": "claude", "input": named(first)}).encode()
        answer = await server.client.post(
            "/openai/v1/responses",
            content=body.replace(b"{", b'{"\xff": 1, ', 1),
            headers={"content-type": "application/json"},
        )
    assert answer.status_code == 400
    assert "UTF-8" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["msg_of_another_server", "rs_" + "0" * 32 + "_0", "msg_" + "0" * 32, None, 7])
async def test_unknown_reference_is_ignored(scripted: Scripted, name: object) -> None:
    scripted.play(claude_says("hello"))
    async with serving(scripted.env) as server:
        conversation: Sequence[object] = [user("hi"), {"type": "item_reference", "id": name}, user("go on")]
        body = {"model": "claude", "input": conversation}
        assert (await server.client.post("/openai/v1/responses", json=body)).status_code == 200
    assert "go on" in prompt_of(scripted.calls()[0])


async def test_reference_does_not_hide_other_input_errors(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with clients(scripted) as (client, server):
        first = await client.responses.create(model="claude", input="hi")
        item = {"type": "item_reference", "id": first.output[0].id}
        wrong = {"model": "claude", "input": [item, {"role": "critic", "content": "x"}]}
        answer = await server.client.post("/openai/v1/responses", json=wrong)
        cut = await server.client.post(
            "/openai/v1/responses",
            content=json.dumps(wrong).encode()[:-1],
            headers={"content-type": "application/json"},
        )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input[1].role")
    assert cut.status_code == 400


async def system(store: MemoryStore, response: Response) -> object:
    """Return the system prompt that was appended to the agent's own."""
    run = await store.run(response.id.removeprefix("resp_"))
    return run.request.get("system_prompt")


async def test_system_message_in_input_applies_until_replaced(scripted: Scripted) -> None:
    """The field `instructions` applies to one request only, as with the vendor."""
    scripted.play(claude_says("hello", session=SESSION))
    async with clients(scripted, store := MemoryStore()) as (client, _):
        first = await client.responses.create(
            model="claude", instructions="be brief", input=[developer("be kind"), user("hi")]
        )
        second = await client.responses.create(model="claude", input="and?", previous_response_id=first.id)
        third = await client.responses.create(
            model="claude",
            instructions="be long",
            input=[developer("be calm"), user("and?")],
            previous_response_id=second.id,
        )
        fourth = await client.responses.create(model="claude", input="and?", previous_response_id=third.id)
        branch = await client.responses.create(model="claude", input="else?", previous_response_id=second.id)
        assert await store.count() == 2
        await client.responses.create(model="claude", input="so?", previous_response_id=third.id, store=False)
    assert await system(store, first) == "be brief\n\nbe kind"
    assert await system(store, second) == "be kind"
    assert await system(store, third) == "be long\n\nbe calm"
    assert await system(store, fourth) == "be calm"
    assert await system(store, branch) == "be kind"
    assert any("append-system-prompt" in word for word in scripted.calls()[-1].argv)  # its record keeps none
    assert [response.instructions for response in (second, third, fourth)] == [None, "be long", None]


@pytest.mark.parametrize("backend", ["codex", "gemini"])
async def test_system_message_known_to_the_session_is_not_sent_again(scripted: Scripted, backend: str) -> None:
    scripted.play(says(backend, "hello"))
    scripted.play(claude_says("hello", session=SESSION), when="take over")
    own = {backend: BackendSettings(system_prompt="be the default")}
    async with clients(scripted, store := MemoryStore(), own) as (client, _):
        first = await client.responses.create(model=backend, input=[developer("be kind"), user("hi")])
        second = await client.responses.create(model=backend, input="and?", previous_response_id=first.id)
        third = await client.responses.create(
            model=backend, instructions="be long", input="so?", previous_response_id=second.id
        )
        await client.responses.create(model=backend, input="else?", previous_response_id=second.id)
        other = await client.responses.create(model="claude", input="take over", previous_response_id=third.id)
        calm: ResponseInputParam = [developer("be calm"), user("well?")]
        fourth = await client.responses.create(model=backend, input=calm, previous_response_id=third.id)
        fifth = await client.responses.create(model="claude", input="take over", previous_response_id=fourth.id)
        assert await client.responses.retrieve(third.id) == third
    begun, gone_on, instructed, branch, _, changed, _ = map(whole, scripted.calls())
    assert ["be kind" in each for each in (begun, gone_on, instructed, branch, changed)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert "be long" in instructed
    assert "be calm" in changed
    assert "be the default" not in begun + gone_on + instructed + branch + changed
    assert await system(store, other) == "be kind"
    assert await system(store, fifth) == "be calm"


@pytest.mark.parametrize("backend", ["codex", "gemini"])
async def test_system_message_is_sent_again_after_a_failed_turn(scripted: Scripted, backend: str) -> None:
    scripted.play(says(backend, "hello"))
    scripted.play([*says(backend, "well")[:-1], exits(1)], when="break down")
    async with clients(scripted, store := MemoryStore()) as (client, _):
        with pytest.raises(InternalServerError):
            await client.responses.create(model=backend, input=[developer("be kind"), user("break down")])
        failed = f"resp_{(await store.runs(RunQuery())).items[0].id}"
        second = await client.responses.create(model=backend, input="and?", previous_response_id=failed)
        await client.responses.create(model=backend, input="so?", previous_response_id=second.id)
        assert await store.count() == 1
    assert ["be kind" in whole(call) for call in scripted.calls()[-2:]] == [True, False]
