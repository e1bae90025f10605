"""The Responses API, driven by the unmodified OpenAI SDK over a real socket, with a scripted agent behind it."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from openai import APIStatusError, AsyncOpenAI, BadRequestError, NotFoundError
from openai.types.responses import Response, ResponseInputImageParam, ResponseInputParam
from pydantic import BaseModel

from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import Page, RunQuery, SessionQuery
from clinvk.types.errors import SessionBusy
from clinvk.types.record import RunRecord, Session
from polling import until
from scripted import Scripted
from scripted.steps import claude_says, claude_thinks, exits, hang, stderr, wait_for
from serving import LiveServer, serving

PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n rest").decode()


class Answer(BaseModel):
    """The parsed structured answer."""

    city: str


@asynccontextmanager
async def clients(scripted: Scripted) -> AsyncGenerator[tuple[AsyncOpenAI, LiveServer]]:
    async with (
        serving(scripted.env) as server,
        AsyncOpenAI(
            base_url=f"http://127.0.0.1:{server.port}/openai/v1", api_key="not-needed", max_retries=0
        ) as client,
    ):
        yield client, server


async def test_response_is_created(scripted: Scripted) -> None:
    scripted.play(claude_says("hello ", "world"))
    async with clients(scripted) as (client, _):
        response = await client.responses.create(model="claude", input="hi", instructions="be brief")
    assert response.output_text == "hello world"
    assert (response.status, response.model, response.instructions) == ("completed", "claude", "be brief")
    assert response.usage
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (12, 5, 17)
    assert response.usage.input_tokens_details.cached_tokens == 2
    assert response._request_id  # pyright: ignore[reportPrivateUsage]  # how the SDK tells it
    Response.model_validate(response.model_dump())


async def test_events_follow_openai_order(scripted: Scripted) -> None:
    scripted.play(claude_says("one", "two"))
    async with clients(scripted) as (client, _):
        stream = await client.responses.create(model="claude", input="hi", stream=True)
        events = [event async for event in stream]
    assert [event.type for event in events] == [
        *("response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"),
        *("response.output_text.delta", "response.output_text.delta", "response.output_text.done"),
        *("response.content_part.done", "response.output_item.done", "response.completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(10))


async def test_structured_answer_is_parsed(scripted: Scripted) -> None:
    scripted.play(claude_says('{"city": "Paris"}'))
    async with clients(scripted) as (client, _):
        response = await client.responses.parse(model="claude", input="the capital of France?", text_format=Answer)
        async with client.responses.stream(model="claude", input="and?", text_format=Answer) as stream:
            final = await stream.get_final_response()
    assert response.output_parsed == final.output_parsed == Answer(city="Paris")


async def test_thinking_becomes_a_reasoning_item_before_the_answer(scripted: Scripted) -> None:
    says = claude_says("hello")
    scripted.play([*says[:2], *claude_thinks("let me ", "think"), *says[2:]])
    async with clients(scripted) as (client, _):
        response = await client.responses.create(model="claude", input="hi", reasoning={"summary": "auto"})
        plain = await client.responses.create(model="claude", input="hi")
        async with client.responses.stream(model="claude", input="hi", reasoning={"summary": "auto"}) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        found = await client.responses.retrieve(response.id)
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].summary[0].text == "let me think"  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]  # a reasoning item
    assert kinds.index("response.reasoning_summary_text.done") < kinds.index("response.output_text.delta")
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert [item.type for item in plain.output] == ["message"]
    assert found == response


async def test_retrieved_response_equals_the_created_one(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with clients(scripted) as (client, _):
        made = await client.responses.create(model="claude", input="hi", metadata={"a": "b"}, temperature=0.5)
        async with client.responses.stream(model="claude", input="hi") as stream:
            streamed = await stream.get_final_response()
        assert await client.responses.retrieve(made.id) == made
        assert (await client.responses.retrieve(streamed.id)).to_dict() == Response.to_dict(streamed) | {
            "output": [item.to_dict() | {"content": [part]} for item in streamed.output for part in _parts(item)]
        }


def _parts(item: BaseModel) -> list[object]:
    parts: list[dict[str, object]] = item.model_dump(mode="json")["content"]
    return [{name: value for name, value in part.items() if name != "parsed"} for part in parts]


@pytest.mark.parametrize("response_id", ["resp_nope", "resp_" + "0" * 32, "0" * 32])
async def test_unknown_response_id_is_not_found(scripted: Scripted, response_id: str) -> None:
    async with clients(scripted) as (client, _):
        with pytest.raises(NotFoundError) as caught:
            await client.responses.retrieve(response_id)
        with pytest.raises(BadRequestError) as refused:
            await client.responses.create(model="claude", input="hi", previous_response_id=response_id)
    assert caught.value.type == "invalid_request_error"
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_unstored_response_is_not_found(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with clients(scripted) as (client, _):
        made = await client.responses.create(model="claude", input="hi", store=False)
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(made.id)
        with pytest.raises(BadRequestError):
            await client.responses.create(model="claude", input="hi", previous_response_id=made.id)


async def test_previous_response_id_resumes_the_session(scripted: Scripted) -> None:
    scripted.play(claude_says("hello", session="11111111-1111-4111-8111-111111111111"))
    async with clients(scripted) as (client, server):
        first = await client.responses.create(model="claude", input="my name is Ada")
        second = await client.responses.create(model="claude", input="my name?", previous_response_id=first.id)
        third = await client.responses.create(model="claude", input="sure?", previous_response_id=second.id)
        listed = (await server.client.get("/api/v1/sessions")).json()
    assert (second.previous_response_id, third.previous_response_id) == (first.id, second.id)
    assert (listed["total"], listed["sessions"][0]["turn_count"]) == (1, 3)
    calls = scripted.calls()
    assert not any("11111111-1111-4111-8111-111111111111" in word for word in calls[0].argv)
    for call in calls[1:]:
        assert any("11111111-1111-4111-8111-111111111111" in word for word in call.argv)
        assert b"Ada" not in (call.stdin or b"")


class Counted(MemoryStore):
    """Counts the runs that are read from its lists."""

    read = 0

    async def runs(self, query: RunQuery) -> Page[RunRecord]:
        page = await super().runs(query)
        self.read += len(page.items)
        return page


async def test_resuming_reads_only_the_newest_turn(scripted: Scripted) -> None:
    scripted.play(claude_says("hello", session="11111111-1111-4111-8111-111111111111"))
    store = Counted()
    last: str | None = None
    async with serving(scripted.env, store=store) as server:
        for _ in range(4):
            store.read = 0
            body = {"model": "claude", "input": "hi", "previous_response_id": last}
            last = (await server.client.post("/openai/v1/responses", json=body)).json()["id"]
        assert (await store.sessions(SessionQuery())).total == 1
    assert store.read == 1


async def test_branching_from_a_continued_response_resends_its_history(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with clients(scripted) as (client, server):
        first = await client.responses.create(model="claude", input="my name is Ada")
        await client.responses.create(model="claude", input="I like tea", previous_response_id=first.id)
        other = await client.responses.create(model="claude", input="my name?", previous_response_id=first.id)
        listed = (await server.client.get("/api/v1/sessions")).json()
    assert other.output_text == "hello"
    assert listed["total"] == 2
    last = scripted.calls()[-1].stdin or b""
    assert b"my name is Ada" in last
    assert b"hello" in last
    assert b"my name?" in last
    assert b"tea" not in last


class Overtaken(MemoryStore):
    """Resumes a session for another request first, once."""

    is_overtaken = False

    async def begin(self, run: RunRecord, session: Session | None, must_exist: bool = False) -> Session | None:
        if must_exist and not self.is_overtaken:
            self.is_overtaken = True
            raise SessionBusy("another run of the session is under way")
        return await super().begin(run, session, must_exist)


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"background": True}])
async def test_overtaken_continuation_resends_the_history(scripted: Scripted, more: dict[str, object]) -> None:
    scripted.play(claude_says("hello"))
    async with serving(scripted.env, store=(store := Overtaken())) as server:
        body = {"model": "claude", "input": "my name is Ada"}
        first = (await server.client.post("/openai/v1/responses", json=body)).json()["id"]
        body = {"model": "claude", "input": "my name?", "previous_response_id": first, **more}
        other = await server.client.post("/openai/v1/responses", json=body)
        await server.ended(other.headers["x-clinvk-run-id"])
        assert await store.count() == 2
    assert (other.status_code, store.is_overtaken) == (200, True), other.text
    assert b"my name is Ada" in (scripted.calls()[-1].stdin or b"")


async def test_overtaken_client_chat_resends_the_history(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    chat = {"x-openwebui-chat-id": "c-1"}
    conversation = [{"role": "user", "content": "my name is Ada"}]
    more = [*conversation, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "my name?"}]
    async with serving(scripted.env, store=(store := Overtaken())) as server:
        for messages in (conversation, more):
            body = {"model": "claude", "messages": messages}
            response = await server.client.post("/openai/v1/chat/completions", json=body, headers=chat)
            assert response.status_code == 200, response.text
        tags = [session.tags for session in (await store.sessions(SessionQuery())).items]
    assert (store.is_overtaken, tags) == (True, [("chat:c-1",)] * 2)
    assert b"my name is Ada" in (scripted.calls()[-1].stdin or b"")


async def test_overtaken_explicit_session_is_busy(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with serving(scripted.env, store=Overtaken()) as server:
        body = {"model": "claude", "input": "hi"}
        first = await server.client.post("/openai/v1/responses", json=body)
        known = {"x-clinvk-session-id": first.headers["x-clinvk-session-id"]}
        busy = await server.client.post("/openai/v1/responses", json=body, headers=known)
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "session_busy")


async def test_concurrent_responses_can_branch_from_one_response(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("hello"))
    scripted.play([wait_for(tmp_path / "go"), *claude_says("hello")], when="branch")
    async with clients(scripted) as (client, server):
        first = await client.responses.create(model="claude", input="my name is Ada")
        requested = (
            client.responses.create(model="claude", input=f"branch {number}", previous_response_id=first.id)
            for number in range(5)
        )
        answering = asyncio.gather(*requested)
        await until(lambda: len(scripted.calls()) == 6)
        (tmp_path / "go").touch()
        assert {response.output_text for response in await answering} == {"hello"}
        assert (await server.client.get("/api/v1/sessions")).json()["total"] == 5


async def test_history_resent_after_a_fork_includes_the_turns_of_its_parent(scripted: Scripted) -> None:
    scripted.play(claude_says("hello", session="11111111-1111-4111-8111-111111111111"))

    async def ask(server: LiveServer, text: str, session: str = "new", **more: object) -> tuple[str, str]:
        headers = {} if more else {"x-clinvk-session-id": session}
        body = {"model": "claude", "input": text, **more}
        response = await server.client.post("/openai/v1/responses", json=body, headers=headers)
        return response.json()["id"], response.headers.get("x-clinvk-session-id", "")

    async def fork(server: LiveServer, session: str) -> str:
        return (await server.client.post(f"/api/v1/sessions/{session}/fork")).json()["id"]

    async with serving(scripted.env) as server:
        _, parent = await ask(server, "my name is Ada")
        child = await fork(server, parent)
        await ask(server, "I like tea", child)
        await ask(server, "not of the fork", parent)
        grandchild = await fork(server, child)
        last, _ = await ask(server, "and cake", grandchild)
        await ask(server, "what do I like?", previous_response_id=last, store=False)
        received = (scripted.calls()[-1].stdin or b"").decode()
        assert (await server.client.delete(f"/api/v1/sessions/{parent}")).status_code < 300
        await ask(server, "what do I like?", previous_response_id=last, store=False)
    places = [received.find(text) for text in ("my name is Ada", "I like tea", "and cake", "what do I like?")]
    assert places == sorted(places)
    assert -1 not in places
    assert "not of the fork" not in received
    assert b"I like tea" in (scripted.calls()[-1].stdin or b"")


async def test_image_in_resent_history_is_not_taken_for_a_new_image(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))

    def seen(text: str) -> ResponseInputParam:
        image: ResponseInputImageParam = {"type": "input_image", "image_url": PNG, "detail": "auto"}
        return [{"role": "user", "content": [{"type": "input_text", "text": text}, image]}]

    async with clients(scripted) as (client, _):
        first = await client.responses.create(model="claude", input=seen("a cat"))
        await client.responses.create(model="claude", input="hm", previous_response_id=first.id)
        await client.responses.create(model="claude", input=seen("a dog"), previous_response_id=first.id)
    blocks = json.loads(scripted.calls()[-1].stdin or b"")["message"]["content"]
    prompt = "".join(block.get("text", "") for block in blocks)
    assert "a cat\n[an image that was not kept]" in prompt
    assert "a dog\n[Image #1]" in prompt
    assert prompt.count("[Image #1]") == 1
    assert sum(block["type"] == "image" for block in blocks) == 1


async def test_another_backend_receives_the_earlier_conversation(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with clients(scripted) as (client, _):
        first = await client.responses.create(model="claude", input="my name is Ada")
        await client.responses.create(model="claude", input="hm", previous_response_id=first.id, store=False)
        with pytest.raises(APIStatusError):  # the scripted agent speaks as Claude Code does
            await client.responses.create(model="gemini", input="my name?", previous_response_id=first.id)
    ephemeral, gemini = scripted.calls()[1:3]
    assert b"my name is Ada" in (ephemeral.stdin or b"")
    assert gemini.name == "gemini"
    assert b"my name is Ada" in (gemini.stdin or b"")


async def test_background_response_can_be_polled_until_complete(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("hello")
    scripted.play([*says[:2], wait_for(tmp_path / "go"), *says[2:]])
    async with clients(scripted) as (client, server):
        first = await client.responses.create(model="claude", input="hi", background=True)
        assert (first.status in ("queued", "in_progress"), first.background, first.output) == (True, True, [])
        await until(lambda: bool(scripted.calls()))
        assert (await client.responses.retrieve(first.id)).status in ("queued", "in_progress")
        with pytest.raises(BadRequestError, match="not complete"):
            await client.responses.create(model="claude", input="hi", previous_response_id=first.id)
        (tmp_path / "go").touch()
        await server.ended(first.id.removeprefix("resp_"))
        ended = await client.responses.retrieve(first.id)
    assert (ended.status, ended.output_text, ended.background) == ("completed", "hello", True)


async def test_queued_response_keeps_its_creation_time(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(claude_says("hello"))
    scripted.play([wait_for(tmp_path / "go"), *claude_says("slow")], when="slow")
    async with serving(scripted.env, store=(store := MemoryStore()), max_concurrent_runs=1) as server:
        body = {"model": "claude", "input": "hi", "background": True}
        slow = (await server.client.post("/openai/v1/responses", json={**body, "input": "slow"})).json()
        first = (await server.client.post("/openai/v1/responses", json=body)).json()
        assert first["status"] == "queued"
        await until(lambda: time.time() >= first["created_at"] + 2)
        (tmp_path / "go").touch()
        for each in (slow, first):
            await server.ended(each["id"].removeprefix("resp_"))
        ended = (await server.client.get(f"/openai/v1/responses/{first['id']}")).json()
        run = await store.run(first["id"].removeprefix("resp_"))
    assert int(run.started_at or 0) > first["created_at"] == ended["created_at"]
    assert ended["status"] == "completed"


async def test_metadata_contains_only_what_the_client_sent(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with clients(scripted) as (client, server):
        instructions = "I" * 10_000
        made = await client.responses.create(
            model="claude", input="hi", instructions=instructions, metadata={"a": "b"}, previous_response_id=None
        )
        sessions = await server.client.get("/api/v1/sessions")
        run = await server.client.get(f"/api/v1/runs/{made.id.removeprefix('resp_')}")
        found = await client.responses.retrieve(made.id)
    assert sessions.json()["sessions"][0]["metadata"] == {"a": "b"}
    assert instructions not in sessions.text
    assert run.json()["request"]["metadata"] == {"a": "b"}
    assert run.text.count(instructions) == 1
    assert (found, found.instructions) == (made, instructions)


async def test_background_response_can_be_cancelled(scripted: Scripted) -> None:
    scripted.play([*claude_says("hello")[:4], hang()])
    async with clients(scripted) as (client, _):
        first = await client.responses.create(model="claude", input="hi", background=True)
        await until(lambda: bool(scripted.calls()))
        cancelled = await client.responses.cancel(first.id)
        again = await client.responses.cancel(first.id)
    assert (cancelled.status, again) == ("cancelled", cancelled)


async def test_agent_failure_mid_stream_ends_it_with_response_failed(scripted: Scripted) -> None:
    scripted.play([*claude_says("hal")[:4], stderr("boom"), exits(9)])
    async with clients(scripted) as (client, _):
        stream = await client.responses.create(model="claude", input="hi", stream=True)
        events = [event async for event in stream]
        last = events[-1]
        assert last.type == "response.failed"
        found = await client.responses.retrieve(last.response.id)
    assert last.response.error
    assert (last.response.error.code, last.response.output_text) == ("invalid_prompt", "hal")
    assert found == last.response


async def test_sdk_errors_name_the_invalid_field(scripted: Scripted) -> None:
    async with clients(scripted) as (client, server):
        with pytest.raises(BadRequestError) as caught:
            await client.responses.create(model="claude", input=[])
        assert (caught.value.param, caught.value.type) == ("input", "invalid_request_error")
        with pytest.raises(NotFoundError) as missing:
            await client.responses.create(model="qwen/coder", input="hi")
        assert missing.value.code == "model_not_found"
        wrong = await server.client.put("/openai/v1/responses", json={})
        assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "invalid_request_error")
        streamed = await server.client.get(f"/openai/v1/responses/resp_{'0' * 32}", params={"stream": "yes"})
        assert (streamed.status_code, streamed.json()["error"]["param"]) == (400, "stream")
    assert scripted.calls() == []
