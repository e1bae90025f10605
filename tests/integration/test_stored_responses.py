"""Stored responses through the unmodified OpenAI SDK: streamed again, deleted, and their input."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from openai import APIError, AsyncOpenAI, BadRequestError, NotFoundError, Omit, PermissionDeniedError, omit
from openai.types.responses import ResponseInputParam, ResponseStreamEvent
from openresponses_types import FunctionCall, FunctionCallOutput, Message
from pydantic import TypeAdapter

from clinvk.api.access.key_file import KeyFile, KeyLimits
from clinvk.api.access.keys import ApiKeys
from clinvk.config.load import home
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import StoreUnavailable
from clinvk.types.events import Logged
from open_responses import Json, check_event, events_of
from polling import until
from scripted import Scripted
from scripted.steps import claude_says, client_calls, codex_streams, hang, wait_for
from serving import LiveServer, serving

RESPONSES = "/openai/v1/responses"
TOOL: Json = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
ITEM: TypeAdapter[object] = TypeAdapter(Message | FunctionCall | FunctionCallOutput)


@asynccontextmanager
async def clients(
    scripted: Scripted, keys: ApiKeys | None = None, store: MemoryStore | None = None
) -> AsyncGenerator[tuple[AsyncOpenAI, LiveServer]]:
    async with (
        serving(scripted.env, store=store or MemoryStore(), keys=keys) as server,
        AsyncOpenAI(
            base_url=f"http://127.0.0.1:{server.port}/openai/v1", api_key="not-needed", max_retries=0
        ) as client,
    ):
        yield client, server


async def replayed(client: AsyncOpenAI, response_id: str, after: int | Omit = omit) -> list[ResponseStreamEvent]:
    """Return the checked events of a stored response."""
    stream = await client.responses.retrieve(response_id, stream=True, starting_after=after)
    events = [event async for event in stream]
    for event in events:
        check_event(event.to_dict())
    return events


async def input_of(client: AsyncOpenAI, response_id: str) -> list[Json]:
    """Return the checked input of a response, oldest first, without ids."""
    items = [item.to_dict() async for item in client.responses.input_items.list(response_id, order="asc")]
    for item in items:
        ITEM.validate_python(item)
        assert item.pop("status") == "completed"
    assert len({str(item.pop("id")) for item in items}) == len(items)
    return items


def said(role: str, text: str) -> Json:
    """Return a message of the input."""
    part: Json = {"type": "input_text", "text": text}
    if role == "assistant":
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "role": role, "content": [part]}


async def test_broken_off_stream_continues_after_its_last_event(scripted: Scripted, tmp_path: Path) -> None:
    says = claude_says("one ", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    async with clients(scripted) as (client, server):
        seen: list[ResponseStreamEvent] = []
        async with await client.responses.create(model="claude", input="hi", background=True, stream=True) as stream:
            async for event in stream:
                seen.append(event)
                if event.type == "response.output_text.delta":
                    break
        assert seen[0].type == "response.created"
        response_id = seen[0].response.id
        follows = await client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
        (tmp_path / "go").touch()
        seen += [event async for event in follows]
        await server.ended(response_id.removeprefix("resp_"))
        assert await replayed(client, response_id) == seen
        assert await replayed(client, response_id, 4) == seen[5:]
        assert await replayed(client, response_id, len(seen) - 1) == []
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"
    assert seen[-1].response.output_text == "one two"


class FailingStore(MemoryStore):
    """A store that returns some events of a run in the second read, and fails in the third."""

    reads = 0

    async def events(self, run_id: str, after: int = 0, limit: int | None = None) -> list[Logged]:
        self.reads += 1
        if self.reads == 3:
            raise StoreUnavailable("the disk is full")
        return await super().events(run_id, after, 3 if self.reads == 2 else limit)


async def test_stream_that_a_failure_of_the_store_ends_says_so_and_continues_later(scripted: Scripted) -> None:
    scripted.play(claude_says("one ", "two"))
    store = FailingStore()
    async with clients(scripted, store=store) as (client, server):
        response_id = (await client.responses.create(model="claude", input="hi")).id
        await server.ended(response_id.removeprefix("resp_"))
        store.reads = 0
        path = f"{RESPONSES}/{response_id}?stream=true"
        *seen, error = events_of((await server.client.get(path)).text.splitlines())
        follows = await server.client.get(f"{path}&starting_after={error['sequence_number']}")
        later = events_of(follows.text.splitlines())
        whole = events_of((await server.client.get(path)).text.splitlines())
        store.reads = 0
        with pytest.raises(APIError, match="the disk is full"):
            await replayed(client, response_id)
    said_of = {"code": "store_unavailable", "message": "the disk is full", "param": None}
    assert error == {**error, **said_of, "error": {**said_of, "type": "server_error"}}
    assert seen
    assert later
    assert seen + later == whole


async def test_number_of_no_event_is_refused(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with clients(scripted) as (client, _):
        response_id = (await client.responses.create(model="claude", input="hi")).id
        last = len(await replayed(client, response_id)) - 1
        assert await replayed(client, response_id, last) == []
        with pytest.raises(BadRequestError, match=f"must be at most {last}, the number of the last event") as refused:
            await replayed(client, response_id, last + 1)
    assert refused.value.param == "starting_after"


async def test_each_response_of_a_run_is_streamed_again(scripted: Scripted) -> None:
    scripted.play([client_calls({"call_1": ("weather", {"city": "Rome"})}), *codex_streams("sunny", answers=2)])
    async with clients(scripted) as (_, server):
        asked: Json = {"model": "codex", "input": "weather?", "tools": [TOOL], "stream": True}
        streams = [await server.client.post(RESPONSES, json=asked)]
        first = events_of(streams[0].text.splitlines())[-1]["response"]
        path = f"{RESPONSES}/{first['id']}"
        parked = await server.client.get(path, params={"stream": "true"})
        output: Json = {"type": "function_call_output", "call_id": "call_1", "output": "42"}
        more = {**asked, "previous_response_id": first["id"], "input": [output]}
        streams.append(await server.client.post(RESPONSES, json=more))
        await server.ended(first["id"].removeprefix("resp_"))
        again = [await server.client.get(f"{path}{end}", params={"stream": "true"}) for end in ("", "-1")]
        none = [
            await server.client.get(f"{path}-2", params={"stream": "true"}),
            await server.client.get(f"{path}-2/input_items"),
            await server.client.delete(f"{path}-2"),
        ]
    assert parked.text == streams[0].text
    told = [events_of(each.text.splitlines()) for each in again]
    assert [each[-1]["response"]["output"] for each in told] == [
        events_of(each.text.splitlines())[-1]["response"]["output"] for each in streams
    ]
    assert [each.status_code for each in none] == [404, 404, 404]


async def test_input_lists_the_messages_calls_and_outputs_of_each_response(scripted: Scripted) -> None:
    scripted.play([client_calls({"call_1": ("weather", {"city": "Rome"})}), *codex_streams("sunny", answers=2)])
    scripted.play(claude_says("hello"), when="Ada")
    early: list[Json] = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": 'I am <Ada> & "co"\n</turn>'},
        {"role": "assistant", "content": "Hello Ada"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": "<b>"}'},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
    ]
    async with clients(scripted) as (client, _):
        lone = await client.responses.create(model="claude", input="Ada\nsays hi", instructions="be brief")
        given: ResponseInputParam = [*early]  # pyright: ignore[reportAssignmentType]  # items as JSON
        whole = await client.responses.create(model="claude", input=given)
        asks = await client.responses.create(model="codex", input="weather?", tools=[TOOL])  # pyright: ignore[reportArgumentType, reportCallIssue]  # a tool as JSON
        output: ResponseInputParam = [{"type": "function_call_output", "call_id": "call_1", "output": "42"}]
        answers = await client.responses.create(
            model="codex",
            input=output,
            tools=[TOOL],  # pyright: ignore[reportArgumentType]  # a tool as JSON
            previous_response_id=asks.id,
        )
        assert await input_of(client, lone.id) == [said("user", "Ada\nsays hi")]
        assert await input_of(client, whole.id) == [
            said("system", "be kind"),
            said("user", 'I am <Ada> & "co"\n</turn>'),
            said("assistant", "Hello Ada"),
            *early[3:],
        ]
        assert await input_of(client, asks.id) == [said("user", "weather?")]
        assert await input_of(client, answers.id) == [*output]


@pytest.mark.parametrize("parallel", [True, False])
async def test_stored_response_has_only_the_calls_that_the_client_got(scripted: Scripted, parallel: bool) -> None:
    calls = client_calls({f"call_{number}": ("weather", {"city": "Rome"}) for number in (1, 2)})
    scripted.play([calls, *codex_streams("sunny", answers=2)])
    async with clients(scripted) as (_, server):
        asked: Json = {"model": "codex", "tools": [TOOL], "parallel_tool_calls": parallel}
        first = (await server.client.post(RESPONSES, json={**asked, "input": "weather?"})).json()
        outputs = [
            {"type": "function_call_output", "call_id": call["call_id"], "output": "42"} for call in first["output"]
        ]
        more = {**asked, "input": outputs, "previous_response_id": first["id"]}
        second = (await server.client.post(RESPONSES, json=more)).json()
        await server.ended(first["id"].removeprefix("resp_"))
        found = (await server.client.get(f"{RESPONSES}/{first['id']}")).json()
        given = (await server.client.get(f"{RESPONSES}/{second['id']}/input_items")).json()["data"]
    assert found == first
    assert len(outputs) == len(given) == (2 if parallel else 1)


async def test_input_is_listed_in_pages(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    given: ResponseInputParam = [{"role": "user", "content": f"text {number}"} for number in range(5)]
    async with clients(scripted) as (client, _):
        items = client.responses.input_items
        response = await client.responses.create(model="claude", input=given)
        page = await items.list(response.id, limit=2)
        assert [item.to_dict() | {"id": ""} for item in page.data] == [
            said("user", f"text {number}") | {"id": "", "status": "completed"} for number in (4, 3)
        ]
        assert page.has_more
        every = [item.id async for item in page]
        upwards = [item.id async for item in items.list(response.id, order="asc", limit=2)]
        assert (len(every), upwards) == (5, every[::-1])
        last = await items.list(response.id, after=every[-1])
        assert (last.data, last.has_more) == ([], False)
        with pytest.raises(BadRequestError) as caught:
            await items.list(response.id, after="msg_1")
        assert caught.value.param == "after"


async def test_session_is_deleted_with_the_last_of_its_responses(scripted: Scripted) -> None:
    scripted.play(claude_says("hello", session="11111111-1111-4111-8111-111111111111"))
    async with clients(scripted) as (client, server):
        first = await client.responses.create(model="claude", input="one")
        second = await client.responses.create(model="claude", input="two", previous_response_id=first.id)
        deleted = await server.client.delete(f"{RESPONSES}/{first.id}")
        assert deleted.json() == {"id": first.id, "object": "response", "deleted": True}
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(first.id)
        with pytest.raises(BadRequestError, match="deleted"):
            await client.responses.create(model="claude", input="three", previous_response_id=first.id)
        assert await client.responses.retrieve(second.id) == second
        assert (await server.client.get("/api/v1/sessions")).json()["total"] == 1
        await client.responses.delete(second.id)
        assert (await server.client.get("/api/v1/sessions")).json()["total"] == 0


async def test_session_that_was_continued_otherwise_outlives_its_response(scripted: Scripted) -> None:
    scripted.play(claude_says("hello", session="11111111-1111-4111-8111-111111111111"))
    async with clients(scripted) as (client, server):
        response = await client.responses.create(model="claude", input="one")
        session_id = (await server.client.get("/api/v1/sessions")).json()["sessions"][0]["id"]
        more = await server.client.post("/api/v1/prompt", json={"session_id": session_id, "prompt": "two"})
        assert more.status_code == 200, more.text
        await client.responses.delete(response.id)
        messages = (await server.client.get(f"/api/v1/sessions/{session_id}/messages")).json()["messages"]
    assert [message["text"] for message in messages if message["role"] == "user"] == ["one", "two"]


async def test_deletion_cancels_the_run(scripted: Scripted) -> None:
    scripted.play([*claude_says("hello")[:4], hang()])
    async with clients(scripted) as (client, server):
        response = await client.responses.create(model="claude", input="hi", background=True)
        await until(lambda: bool(scripted.calls()))
        await client.responses.delete(response.id)
        assert server.runs.busy == 0
        assert (await server.client.get("/api/v1/sessions")).json()["total"] == 0


async def test_key_may_not_delete_responses_of_agents_that_it_may_not_run(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    file = KeyFile(home(scripted.env))
    keys = [await file.create("any", KeyLimits()), await file.create("codex", KeyLimits(backends=("codex",)))]
    async with clients(scripted, ApiKeys((), await file.read())) as (client, _):
        owner, other = (client.with_options(api_key=key) for key in keys)
        response = await owner.responses.create(model="claude", input="hi")
        with pytest.raises(PermissionDeniedError) as caught:
            await other.responses.delete(response.id)
        assert caught.value.code == "backend_not_allowed"
        await owner.responses.delete(response.id)


async def test_input_tokens_are_estimated(scripted: Scripted) -> None:
    async with clients(scripted) as (client, server):
        count = client.responses.input_tokens.count
        short = await count(input="hello world!")
        longer = await count(
            model="claude", input=[{"role": "user", "content": "hello world!"}], instructions="be brief"
        )
        wrong = await server.client.post(f"{RESPONSES}/input_tokens", json={"model": "claude"})
        null = await server.client.post(f"{RESPONSES}/input_tokens", json={"model": None, "input": "hello world!"})
    assert (short.object, short.input_tokens, longer.input_tokens) == ("response.input_tokens", 3, 5)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "input")
    assert (null.status_code, null.json()["input_tokens"]) == (200, 3)
    assert scripted.calls() == []


@pytest.mark.parametrize("response_id", ["resp_nope", "resp_" + "0" * 32, "0" * 32])
async def test_unknown_response_has_no_stream_no_input_and_cannot_be_deleted(
    scripted: Scripted, response_id: str
) -> None:
    async with clients(scripted) as (client, _):
        with pytest.raises(NotFoundError):
            await client.responses.retrieve(response_id, stream=True)
        with pytest.raises(NotFoundError):
            await client.responses.input_items.list(response_id)
        with pytest.raises(NotFoundError):
            await client.responses.delete(response_id)
