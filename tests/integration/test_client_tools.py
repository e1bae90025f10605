"""Parked runs: calls of client tools, the outputs that come back, and all that can go wrong between the two."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict, Unpack

import httpx
import msgspec
import psutil
import pytest

from clinvk.api.access.key_file import KeyFile, KeyLimits
from clinvk.api.access.key_policy import KeyPolicy
from clinvk.api.access.keys import ApiKeys
from clinvk.config.load import home
from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.dialect import Dialect
from clinvk.dialects.openai.chat import OpenAIChat
from clinvk.dialects.openai.responses import OpenAIResponses
from clinvk.runtime.run import strict_calls
from clinvk.types.errors import ClinvkError, ResourcesExhausted
from clinvk.types.request import RunRequest
from integration.test_http_shutdown import Process
from polling import until, until_told
from scripted import Scripted
from scripted.steps import client_calls, codex_streams, touch, wait_for
from serving import LiveServer, serving
from standin.document import JSON
from timeouts import answering

CHAT = "/openai/v1/chat/completions"
MESSAGES = "/anthropic/v1/messages"
TOOLS: list[JSON] = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
ROME: dict[str, tuple[str, dict[str, JSON]]] = {"call_rome": ("weather", {"city": "Rome"})}
OSLO: dict[str, tuple[str, dict[str, JSON]]] = {"call_oslo": ("weather", {"city": "Oslo"})}
Message = Mapping[str, object]
QUESTION: Message = {"role": "user", "content": "the weather?"}


def output(call_id: str, text: str = "sun") -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


async def send(
    server: LiveServer, messages: Sequence[Message], key: str = "", session: str = "", **body: object
) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", "x-clinvk-session-id": session}
    headers = {name: value for name, value in headers.items() if value not in ("", "Bearer ")}
    return await server.client.post(
        CHAT, json={"model": "codex", "messages": messages, "tools": TOOLS, **body}, headers=headers
    )


def answer(response: httpx.Response) -> Message:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]


def call_ids(message: Message) -> list[str]:
    return [str(call["id"]) for call in msgspec.convert(message.get("tool_calls", ()), list[dict[str, object]])]


async def parked(server: LiveServer) -> int:
    count = (await server.client.get("/health")).json()["parked_runs"]
    return server.parked_runs.count if server.is_cluster else count


async def called(server: LiveServer) -> list[Message]:
    """Send the question; return the conversation up to the calls."""
    return [QUESTION, answer(await send(server, [QUESTION]))]


def play(scripted: Scripted, calls: dict[str, tuple[str, dict[str, JSON]]] = ROME) -> None:
    """Call tools and then answer; an agent that gets a conversation with outputs answers `rebuilt` at once."""
    scripted.play([client_calls(calls), *codex_streams("it is sunny", answers=2)])
    scripted.play(codex_streams("rebuilt"), when="result-of")


class Limits(TypedDict, total=False):
    """Settings of the server."""

    parked_timeout_secs: int
    max_parked_runs: int
    max_concurrent_runs: int
    max_queued_runs: int
    request_timeout_secs: int
    no_progress_timeout_secs: int
    metrics_enabled: bool


@asynccontextmanager
async def run_parked(
    scripted: Scripted, **settings: Unpack[Limits]
) -> AsyncGenerator[tuple[LiveServer, list[Message]]]:
    """Serve with one parked run; yield the conversation up to its call."""
    play(scripted)
    async with serving(scripted.env, **settings) as server:
        yield server, await called(server)


async def test_run_continues_with_the_output(scripted: Scripted) -> None:
    async with run_parked(scripted) as (server, messages):
        assert call_ids(messages[-1]) == ["call_rome"]
        assert await parked(server) == 1
        response = await send(server, [*messages, output("call_rome", "rain")])
        assert answer(response)["content"] == "it is sunny"
        assert await parked(server) == 0
    assert scripted.outputs() == [("call_rome", "rain")]
    assert len(scripted.calls()) == 1


async def test_outputs_of_several_calls_come_together_in_any_order(scripted: Scripted) -> None:
    play(scripted, ROME | OSLO)
    async with serving(scripted.env) as server:
        messages = await called(server)
        response = await send(server, [*messages, output("call_oslo", "snow"), output("call_rome")])
        assert answer(response)["content"] == "it is sunny"
    assert sorted(scripted.outputs()) == [("call_oslo", "snow"), ("call_rome", "sun")]


async def test_answer_to_some_outputs_repeats_the_open_calls(scripted: Scripted) -> None:
    play(scripted, ROME | OSLO)
    async with serving(scripted.env) as server:
        messages = [*await called(server), output("call_oslo")]
        partial = answer(await send(server, messages))
        assert call_ids(partial) == ["call_rome"]
        assert scripted.outputs() == []
        assert call_ids(answer(await send(server, messages))) == ["call_rome"]
        assert answer(await send(server, [*messages, partial, output("call_rome")]))["content"] == "it is sunny"
    assert len(scripted.calls()) == 1


@pytest.mark.parametrize("apart", [True, False])
async def test_outputs_that_come_apart_may_follow_the_answer_itself(scripted: Scripted, apart: bool) -> None:
    """A client with its tools in threads sends each output after the answer, or all outputs so far."""
    play(scripted, ROME | OSLO)
    async with serving(scripted.env) as server:
        messages = await called(server)
        assert call_ids(answer(await send(server, [*messages, output("call_oslo")]))) == ["call_rome"]
        outputs = [output("call_rome")] if apart else [output("call_rome"), output("call_oslo")]
        assert answer(await send(server, [*messages, *outputs]))["content"] == "it is sunny"
    assert len(scripted.calls()) == 1


async def test_repeated_request_gets_the_same_answer(scripted: Scripted) -> None:
    async with run_parked(scripted) as (server, messages):
        messages = [*messages, output("call_rome")]
        first, second = await send(server, messages), await send(server, messages)
        assert first.json() == second.json()
    assert len(scripted.outputs()) == len(scripted.calls()) == 1


async def test_repeated_request_joins_the_answer_that_still_streams(scripted: Scripted, tmp_path: Path) -> None:
    go = tmp_path / "go"
    scripted.play([client_calls(ROME), wait_for(go), *codex_streams("it is ", "sunny", answers=2)])
    async with serving(scripted.env) as server:
        messages = [*await called(server), output("call_rome")]
        first = asyncio.create_task(send(server, messages))
        await until(scripted.outputs)
        second = asyncio.create_task(send(server, messages))
        third = asyncio.create_task(send(server, messages, stream=True))
        await until(lambda: server.state.active_requests == 3)
        first.cancel()
        await until(lambda: server.state.active_requests == 2)
        go.touch()
        assert answer(await second)["content"] == "it is sunny"
        assert '"content":"sunny"' in (await third).text.replace(" ", "")
    assert len(scripted.outputs()) == len(scripted.calls()) == 1


async def test_first_request_sent_twice_starts_two_runs(scripted: Scripted) -> None:
    async with run_parked(scripted) as (server, _):
        await called(server)
        assert await parked(server) == 2
    assert len(scripted.calls()) == 2


@pytest.mark.parametrize("change", ["question", "arguments", "answered", "asked"])
async def test_another_history_starts_a_run_of_its_own(scripted: Scripted, change: str) -> None:
    async with run_parked(scripted) as (server, messages):
        question, asks = messages
        other = {**asks, "tool_calls": json.loads(json.dumps(asks["tool_calls"]).replace("Rome", "Bari"))}
        changed: dict[str, list[Message]] = {
            "question": [{**question, "content": "the time?"}, asks, output("call_rome")],
            "arguments": [question, other, output("call_rome")],
            "answered": [*messages, output("call_rome"), {"role": "assistant", "content": "sunny"}, question],
            "asked": [*messages, question, output("call_rome")],
        }
        assert answer(await send(server, changed[change]))["content"] == "rebuilt"
        assert await parked(server) == 1
        assert answer(await send(server, [*messages, output("call_rome")]))["content"] == "it is sunny"
    assert len(scripted.outputs()) == 1


async def test_run_continues_after_a_proxy_changed_the_text_of_each_answer(scripted: Scripted) -> None:
    scripted.play([client_calls(ROME), client_calls(OSLO, answers=2), *codex_streams("it is sunny", answers=3)])
    async with serving(scripted.env) as server:
        messages: list[Message] = [QUESTION]
        for number, call in enumerate(("call_rome", "call_oslo")):
            asks = answer(await send(server, messages))
            earlier = [{**each, "content": f"added {number}"} if each.get("tool_calls") else each for each in messages]
            messages = [*earlier, {**asks, "content": f"added {number}"}, output(call)]
        assert answer(await send(server, messages))["content"] == "it is sunny"
        assert await parked(server) == 0
    assert len(scripted.calls()) == 1


async def test_answer_after_an_output_is_another_history(scripted: Scripted) -> None:
    """A request that ends with an answer is no repetition of the request without the answer."""
    async with run_parked(scripted) as (server, messages):
        messages = [*messages, output("call_rome")]
        assert answer(await send(server, messages))["content"] == "it is sunny"
        begun: Message = {"role": "assistant", "content": "it is"}
        assert answer(await send(server, [*messages, begun]))["content"] == "rebuilt"


async def test_text_of_the_user_after_an_output_reaches_the_agent(scripted: Scripted) -> None:
    async with run_parked(scripted) as (server, messages):
        also: Message = {"role": "user", "content": "and hurry"}
        assert answer(await send(server, [*messages, output("call_rome"), also]))["content"] == "it is sunny"
    assert scripted.outputs() == [("call_rome", "sunand hurry")]


async def test_outputs_of_calls_that_nobody_made_start_a_run(scripted: Scripted) -> None:
    play(scripted)
    async with serving(scripted.env) as server:
        call = {"id": "call_x", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        asks: Message = {"role": "assistant", "tool_calls": [call]}
        assert answer(await send(server, [QUESTION, asks, output("call_x")]))["content"] == "rebuilt"


RESULT: JSON = {"type": "tool_result", "tool_use_id": "call_x", "content": "sun"}
OUTPUTS_WITHOUT_CALL: dict[str, tuple[str, dict[str, object]]] = {
    "chat": ("/openai/v1/chat/completions", {"messages": [QUESTION, output("call_x")]}),
    "responses": ("/openai/v1/responses", {"input": [{"type": "function_call_output", "call_id": "call_x"}]}),
    "messages": ("/anthropic/v1/messages", {"messages": [{"role": "user", "content": [RESULT]}], "max_tokens": 9}),
}


@pytest.mark.parametrize("session", ["", "new"])
@pytest.mark.parametrize("api", OUTPUTS_WITHOUT_CALL)
async def test_output_without_its_call_is_refused(scripted: Scripted, api: str, session: str) -> None:
    path, body = OUTPUTS_WITHOUT_CALL[api]
    async with run_parked(scripted) as (server, _):
        headers = {"x-clinvk-session-id": session} if session else {}
        response = await server.client.post(path, json={"model": "codex", **body}, headers=headers)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert "no call 'call_x'" in response.json()["error"]["message"]
        assert await parked(server) == 1
    assert len(scripted.calls()) == 1


REQUIRED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize("stream", [False, True])
async def test_answer_without_the_required_call_is_asked_for_once_more(scripted: Scripted, stream: bool) -> None:
    scripted.play(codex_streams("no call"))
    scripted.play([client_calls(ROME), *codex_streams("it is sunny", answers=2)], when="is refused")
    async with serving(scripted.env) as server:
        response = await send(server, [QUESTION], tool_choice=REQUIRED, stream=stream)
        assert response.status_code == 200
        assert "no call" not in response.text
        assert "call_rome" in response.text
        assert await parked(server) == 1
    first, second = [(call.stdin or b"").decode() for call in scripted.calls()]
    assert "Answer with a call of the tool `weather`." in first
    assert "is refused" not in first
    assert "is refused" in second


async def test_request_fails_after_two_answers_without_the_required_call(scripted: Scripted) -> None:
    scripted.play(codex_streams("no call"))
    async with serving(scripted.env) as server:
        response = await send(server, [QUESTION], tool_choice="required")
        assert (response.status_code, response.headers["x-should-retry"]) == (500, "false")
        assert response.json()["error"]["code"] == "tool_call_missing"
    assert len(scripted.calls()) == 2


async def test_required_call_is_also_required_after_an_output(scripted: Scripted) -> None:
    scripted.play([client_calls(ROME), *codex_streams("no call", answers=2)])
    scripted.play([client_calls(OSLO)], when="is refused")
    async with serving(scripted.env) as server:
        messages = [*await called(server), output("call_rome")]
        assert call_ids(answer(await send(server, messages, tool_choice="required"))) == ["call_oslo"]
    assert scripted.outputs() == [("call_rome", "sunAnswer with a call of a tool.")]


async def test_only_the_first_call_is_made_without_parallel_calls(scripted: Scripted) -> None:
    play(scripted, ROME | OSLO)
    async with serving(scripted.env) as server:
        first = await send(server, [QUESTION], parallel_tool_calls=False)
        messages = [QUESTION, answer(first), output("call_rome")]
        assert call_ids(messages[1]) == ["call_rome"]
        assert answer(await send(server, messages, parallel_tool_calls=False))["content"] == "it is sunny"
    outputs = dict(scripted.outputs())
    assert "make one call at a time" in outputs["call_oslo"]
    assert outputs["call_rome"].startswith("sun")


async def test_parked_run_is_stopped_after_its_time(scripted: Scripted) -> None:
    async with run_parked(scripted, parked_timeout_secs=1) as (server, messages):
        await until(lambda: not scripted.alive())
        assert await parked(server) == 0
        assert answer(await send(server, [*messages, output("call_rome")]))["content"] == "rebuilt"


async def test_oldest_parked_run_is_stopped_above_the_limit(scripted: Scripted) -> None:
    play(scripted)
    async with serving(scripted.env, max_parked_runs=2) as server:
        conversations = [await called(server) for _ in range(3)]
        await until(lambda: len(scripted.alive()) == 2)
        assert await parked(server) == 2
        assert not scripted.outputs()
        assert answer(await send(server, [*conversations[2], output("call_rome")]))["content"] == "it is sunny"


async def test_ended_runs_are_dropped_before_parked_runs(scripted: Scripted) -> None:
    play(scripted)
    scripted.play([client_calls(OSLO), *codex_streams("cold", answers=2)], when="Oslo")
    async with serving(scripted.env, max_parked_runs=2) as server:
        oldest = await called(server)
        question: Message = {"role": "user", "content": "Oslo?"}
        for _ in range(3):
            asks = answer(await send(server, [question]))
            assert answer(await send(server, [question, asks, output("call_oslo")]))["content"] == "cold"
        assert await parked(server) == 1
        assert answer(await send(server, [*oldest, output("call_rome")]))["content"] == "it is sunny"


async def test_run_that_answers_is_not_stopped_by_the_limit(scripted: Scripted, tmp_path: Path) -> None:
    go = tmp_path / "go"
    scripted.play([client_calls(ROME), wait_for(go), *codex_streams("it is sunny", answers=2)])
    scripted.play([client_calls(OSLO)], when="Oslo")
    async with serving(scripted.env, max_parked_runs=1) as server:
        messages = await called(server)
        working = asyncio.create_task(send(server, [*messages, output("call_rome")]))
        await until(scripted.outputs)
        for _ in range(2):
            answer(await send(server, [{"role": "user", "content": "Oslo?"}]))
        go.touch()
        assert answer(await working)["content"] == "it is sunny"


async def test_no_run_is_parked_with_a_limit_of_zero(scripted: Scripted) -> None:
    async with run_parked(scripted, max_parked_runs=0) as (server, messages):
        await until(lambda: not scripted.alive())
        assert answer(await send(server, [*messages, output("call_rome")]))["content"] == "rebuilt"


async def test_conversation_of_an_agent_that_died_continues_in_another_run(scripted: Scripted) -> None:
    async with run_parked(scripted) as (server, messages):
        psutil.Process(scripted.calls()[0].pid).kill()
        await until_told(lambda: _is(parked(server), 0))
        assert answer(await send(server, [*messages, output("call_rome")]))["content"] == "rebuilt"


async def _is(value: Awaitable[int], expected: int) -> bool:
    return await value == expected


async def test_conversation_continues_after_a_restart_of_the_server(scripted: Scripted) -> None:
    async with run_parked(scripted) as (_, messages):
        pass
    async with serving(scripted.env) as server:
        assert answer(await send(server, [*messages, output("call_rome")]))["content"] == "rebuilt"


async def test_parked_run_holds_no_slot_and_waits_for_one_to_continue(scripted: Scripted, tmp_path: Path) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    async with run_parked(scripted, max_concurrent_runs=1, max_queued_runs=1) as (server, messages):
        scripted.play([touch(started), wait_for(go), *codex_streams("busy")], when="long")
        busy = asyncio.create_task(send(server, [{"role": "user", "content": "long"}]))
        await until(started.exists)
        following = asyncio.create_task(send(server, [*messages, output("call_rome")]))
        await until(lambda: server.runs.queued == 1)
        oldest = (await server.client.get("/api/v1/runs")).json()["runs"][-1]
        run = server.runs.live(oldest["id"])
        assert run
        assert (oldest["state"], run.slot.position) == ("running", 1)
        assert scripted.outputs() == []
        refused = await send(server, [{"role": "user", "content": "one too many"}])
        assert refused.status_code == 503
        go.touch()
        assert answer(await following)["content"] == "it is sunny"
        assert answer(await busy)["content"] == "busy"
    assert len(scripted.outputs()) == 1


async def test_run_stays_parked_while_the_queue_is_full(scripted: Scripted, tmp_path: Path) -> None:
    go, started = tmp_path / "go", tmp_path / "started"
    async with run_parked(scripted, max_concurrent_runs=1, max_queued_runs=0) as (server, messages):
        scripted.play([touch(started), wait_for(go), *codex_streams("busy")], when="long")
        busy = asyncio.create_task(send(server, [{"role": "user", "content": "long"}]))
        await until(started.exists)
        messages = [*messages, output("call_rome")]
        assert (await send(server, messages)).status_code == 503
        assert await parked(server) == 1
        go.touch()
        assert answer(await busy)["content"] == "busy"
        await until(lambda: not server.runs.busy)
        assert answer(await send(server, messages))["content"] == "it is sunny"
    assert len(scripted.outputs()) == 1


async def test_parked_run_belongs_to_its_key(scripted: Scripted) -> None:
    play(scripted)
    file = KeyFile(home(scripted.env))
    ana, ben = [await file.create(name, KeyLimits()) for name in ("ana", "ben")]
    keys = ApiKeys((), await file.read())
    async with serving(scripted.env, keys=keys) as server:
        messages = [QUESTION, answer(await send(server, [QUESTION], key=ana)), output("call_rome")]
        assert answer(await send(server, messages, key=ben))["content"] == "rebuilt"
        assert answer(await send(server, messages, key=ana))["content"] == "it is sunny"
        assert answer(await send(server, messages, key=ben))["content"] == "rebuilt"
    assert len(scripted.outputs()) == 1


async def test_huge_output_reaches_the_agent_whole(scripted: Scripted) -> None:
    text = "x" * 5_000_000
    async with run_parked(scripted) as (server, messages):
        assert answer(await send(server, [*messages, output("call_rome", text)]))["content"] == "it is sunny"
    assert scripted.outputs() == [("call_rome", text)]


async def test_client_that_leaves_before_the_calls_stops_the_run(scripted: Scripted, tmp_path: Path) -> None:
    started = tmp_path / "started"
    scripted.play([touch(started), wait_for(tmp_path / "never"), client_calls(ROME)])
    async with serving(scripted.env) as server:
        asking = asyncio.create_task(send(server, [QUESTION]))
        await until(started.exists)
        asking.cancel()
        await until(lambda: not scripted.alive())
        assert await parked(server) == 0


async def test_client_that_leaves_before_the_answer_to_its_output_stops_the_run(
    scripted: Scripted, tmp_path: Path
) -> None:
    scripted.play([client_calls(ROME), wait_for(tmp_path / "never")])
    async with serving(scripted.env) as server:
        messages = await called(server)
        asking = asyncio.create_task(send(server, [*messages, output("call_rome")]))
        await until(scripted.outputs)
        asking.cancel()
        await until(lambda: not scripted.alive())


async def test_ended_run_is_forgotten_after_its_time_if_no_request_read_the_end(scripted: Scripted) -> None:
    async with run_parked(scripted, parked_timeout_secs=1) as (server, messages):
        body = {"model": "codex", "messages": [*messages, output("call_rome")], "tools": TOOLS}
        call = OpenAIChat().parse(json.dumps(body).encode(), {})
        assert call.tool_turn
        async with server.parked_runs.answer(call, call.tool_turn) as unread:
            await unread.run.log.result()
        await until(lambda: not (call.tool_turn and server.parked_runs.has(call.tool_turn, "")))


async def test_background_request_with_tools_leaves_the_agent_without_tools(scripted: Scripted) -> None:
    scripted.play(codex_streams("hello"))
    async with serving(scripted.env) as server:
        await respond(server, input="the weather?", background=True)
        await until(lambda: not server.runs.busy)
    assert "shell_tool" in scripted.calls()[0].argv


async def test_cancel_stops_a_parked_run(scripted: Scripted) -> None:
    async with run_parked(scripted) as (server, messages):

        async def running() -> list[dict[str, str]]:
            return (await server.client.get("/api/v1/runs", params={"state": "running"})).json()["runs"]

        await until_told(running)  # a gateway reads the record, which is stored a little later
        [run] = await running()
        assert (await server.client.post(f"/api/v1/runs/{run['id']}/cancel")).status_code == 200
        await until(lambda: not scripted.alive())
        assert await parked(server) == 0
        record = (await server.client.get(f"/api/v1/runs/{run['id']}")).json()
        assert record["state"] == "cancelled"
        assert answer(await send(server, [*messages, output("call_rome")]))["content"] == "rebuilt"


async def test_parked_time_counts_towards_no_timeout(scripted: Scripted) -> None:
    async with run_parked(scripted, request_timeout_secs=2, no_progress_timeout_secs=1) as (server, messages):
        await asyncio.sleep(2.5)  # longer than both limits
        assert answer(await send(server, [*messages, output("call_rome")]))["content"] == "it is sunny"


async def test_each_answer_has_its_own_usage(scripted: Scripted) -> None:
    scripted.play([client_calls(ROME), client_calls(OSLO, answers=2), *codex_streams("it is sunny", answers=3)])
    async with serving(scripted.env) as server:
        messages: list[Message] = [QUESTION]
        used: list[dict[str, int]] = []
        ids: set[str] = set()
        for call in ("call_rome", "call_oslo", ""):
            response = await send(server, messages)
            used.append(response.json()["usage"])
            ids.add(response.json()["id"])
            messages = [*messages, answer(response), output(call)]
        assert [each["prompt_tokens"] for each in used] == [12, 12, 12]
        assert [each["completion_tokens"] for each in used] == [5, 5, 5]
        assert len(ids) == 3
        [run] = (await server.client.get("/api/v1/runs")).json()["runs"]
        usage = (await server.client.get(f"/api/v1/runs/{run['id']}")).json()["token_usage"]
        assert (usage["input_tokens"], usage["output_tokens"]) == (36, 15)


async def test_session_continues_with_the_output(scripted: Scripted) -> None:
    play(scripted)
    async with serving(scripted.env) as server:
        first = await send(server, [QUESTION], session="new")
        messages = [QUESTION, answer(first), output("call_rome")]
        second = await send(server, messages, session=first.headers["x-clinvk-session-id"])
        assert answer(second)["content"] == "it is sunny"
        assert second.headers["x-clinvk-session-id"] == first.headers["x-clinvk-session-id"]
    assert len(scripted.calls()) == 1


async def test_another_request_in_a_session_stops_its_parked_run(scripted: Scripted) -> None:
    """A client that gives up its tool call is not refused because the session is busy."""
    play(scripted)
    scripted.play(codex_streams("never mind"), when="leave it")
    async with serving(scripted.env) as server:
        first = await send(server, [QUESTION], session="new")
        messages = [QUESTION, answer(first), {"role": "user", "content": "leave it"}]
        second = await send(server, messages, session=first.headers["x-clinvk-session-id"])
        assert answer(second)["content"] == "never mind"
        assert await parked(server) == 0


@pytest.mark.one_machine
async def test_metrics_show_parked_runs(scripted: Scripted) -> None:
    async with run_parked(scripted, metrics_enabled=True) as (server, _):
        assert "\nclinvk_parked_runs 1.0\n" in (await server.client.get("/metrics")).text


async def test_tool_choice_none_and_mode_client_leave_the_agent_without_tools(scripted: Scripted) -> None:
    scripted.play(codex_streams("hello"))
    async with serving(scripted.env) as server:
        await send(server, [QUESTION], tool_choice="none")
        await server.client.post(
            CHAT, json={"model": "codex", "messages": [QUESTION]}, headers={"x-clinvk-tools": "client"}
        )
    for call in scripted.calls():
        assert "shell_tool" in call.argv
        assert b'"environments":[]' in (call.stdin or b"")


@pytest.mark.parametrize(("mode", "has_own"), [("client", False), ("agent", True), ("both", True)])
async def test_mode_of_the_server_decides_whose_tools_there_are(scripted: Scripted, mode: str, has_own: bool) -> None:
    scripted.play(codex_streams("hello"))
    async with serving(scripted.env, client_tools=mode) as server:
        await send(server, [QUESTION])
        await send(server, [QUESTION], tool_choice="none")
    offered, none = scripted.calls()
    assert (b"dynamicTools" in (offered.stdin or b"")) == (mode != "agent")
    for call in (offered, none):
        assert ("shell_tool" not in call.argv) == has_own


RESPONSES = "/openai/v1/responses"
FUNCTIONS: list[dict[str, JSON]] = [{"type": "function", "name": "weather", "parameters": {"type": "object"}}]


async def respond(server: LiveServer, **body: object) -> dict[str, object]:
    response = await server.client.post(RESPONSES, json={"model": "codex", "tools": FUNCTIONS, **body})
    assert response.status_code == 200, response.text
    return response.json()


def items(response: dict[str, object]) -> list[dict[str, object]]:
    return msgspec.convert(response["output"], list[dict[str, object]])


OUTPUT: dict[str, JSON] = {"type": "function_call_output", "call_id": "call_rome", "output": "sun"}


async def test_each_response_of_a_run_can_be_retrieved(scripted: Scripted) -> None:
    play(scripted)
    async with serving(scripted.env) as server:
        first = await respond(server, input="the weather?")
        assert (await server.client.get(f"{RESPONSES}/{first['id']}")).json() == first
        second = await respond(server, input=[OUTPUT], previous_response_id=first["id"])
        assert second["id"] == f"{first['id']}-1"
        for each in (first, second):
            stored = (await server.client.get(f"{RESPONSES}/{each['id']}")).json()
            assert (stored["id"], stored["output"], stored["usage"]) == (each["id"], each["output"], each["usage"])
        assert (await server.client.get(f"{RESPONSES}/{first['id']}-2")).status_code == 404
    assert len(scripted.calls()) == 1


async def test_items_of_each_answer_can_be_referenced(scripted: Scripted) -> None:
    play(scripted)
    scripted.play(codex_streams("again"), when="more")
    question: JSON = {"role": "user", "content": "the weather?"}
    async with serving(scripted.env) as server:
        first = await respond(server, input=[question])
        references = [{"type": "item_reference", "id": item["id"]} for item in items(first)]
        conversation = [question, *references, OUTPUT]
        second = await respond(server, input=conversation)
        assert len(scripted.calls()) == 1
        references = [{"type": "item_reference", "id": item["id"]} for item in items(second)]
        await respond(server, input=[*conversation, *references, {"role": "user", "content": "more"}])
    prompt = (scripted.calls()[1].stdin or b"").decode()
    assert prompt.index("Rome") < prompt.index("it is sunny") < prompt.index("more")


async def test_lost_run_continues_by_name_with_its_calls(scripted: Scripted) -> None:
    play(scripted)
    async with serving(scripted.env, parked_timeout_secs=1) as server:
        first = await respond(server, input="the weather?")
        await server.ended(str(first["id"]).removeprefix("resp_"))
        second = await respond(server, input=[OUTPUT], previous_response_id=first["id"])
        assert "rebuilt" in str(second["output"])
    prompt = (scripted.calls()[1].stdin or b"").decode()
    assert prompt.index("the weather?") < prompt.index("Rome") < prompt.index("result-of")


@pytest.mark.parametrize("is_lost", [False, True])
async def test_output_without_its_call_is_refused_by_name(scripted: Scripted, is_lost: bool) -> None:
    """The response that the request names has another call, which the client may still answer."""
    play(scripted)
    async with serving(scripted.env, parked_timeout_secs=1 if is_lost else 600) as server:
        first = await respond(server, input="the weather?")
        if is_lost:
            await server.ended(str(first["id"]).removeprefix("resp_"))
        body = {"model": "codex", "tools": FUNCTIONS, "previous_response_id": first["id"]}
        outputs = [{**OUTPUT, "call_id": "call_x"}, OUTPUT]
        refused = await server.client.post(RESPONSES, json={**body, "input": outputs})
        assert refused.status_code == 400, refused.text
        assert "no call 'call_x'" in refused.json()["error"]["message"]
        assert refused.json()["error"]["param"] == "input"
        second = await respond(server, **{**body, "input": [OUTPUT]})
        assert ("rebuilt" if is_lost else "it is sunny") in str(second["output"])


async def test_output_of_a_finished_response_may_come_again_by_name(scripted: Scripted) -> None:
    play(scripted)
    async with serving(scripted.env) as server:
        first = await respond(server, input="the weather?")
        await respond(server, input=[OUTPUT], previous_response_id=first["id"])
        again = await respond(server, input=[{**OUTPUT, "output": "rain"}], previous_response_id=first["id"])
        assert "rebuilt" in str(again["output"])


async def test_required_call_is_asked_for_again_by_name_after_a_call_of_another_tool(scripted: Scripted) -> None:
    other: dict[str, tuple[str, dict[str, JSON]]] = {"call_other": ("other", {})}
    scripted.play([client_calls(ROME), client_calls(other, answers=2), *codex_streams("no", answers=3)])
    scripted.play([client_calls(OSLO)], when="refused")
    tools = [*FUNCTIONS, {**FUNCTIONS[0], "name": "other"}]
    async with serving(scripted.env) as server:
        first = await respond(server, input="the weather?", tools=tools)
        choice = {"type": "function", "name": "weather"}
        second = await respond(
            server, input=[OUTPUT], previous_response_id=first["id"], tools=tools, tool_choice=choice
        )
        assert "call_oslo" in str(second["output"])


async def test_second_of_two_outputs_by_name_starts_no_run_without_the_conversation(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, both_are_here, admit = tmp_path / "go", asyncio.Barrier(2), KeyPolicy.admit

    async def admit_together(policy: KeyPolicy, request: RunRequest, key_name: str) -> RunRequest:
        await both_are_here.wait()
        return await admit(policy, request, key_name)

    scripted.play([client_calls(ROME), wait_for(go), *codex_streams("it is sunny", answers=2)])
    scripted.play(codex_streams("lost"), when="result-of")
    async with serving(scripted.env) as server:
        first = await respond(server, input="the weather?")
        monkeypatch.setattr(KeyPolicy, "admit", admit_together)
        body: dict[str, JSON] = {"model": "codex", "tools": [*FUNCTIONS], "previous_response_id": str(first["id"])}
        both = [
            asyncio.create_task(server.client.post(RESPONSES, json={**body, "input": [{**OUTPUT, "output": text}]}))
            for text in ("sun", "rain")
        ]
        done, (waiting,) = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        go.touch()
        assert [(await each).status_code for each in (*done, waiting)] == [400, 200]
    assert len(scripted.outputs()) == len(scripted.calls()) == 1


async def test_server_stops_its_parked_runs_at_once(scripted: Scripted) -> None:
    """Nobody waits for a parked run: the grace time for runs does not apply."""
    play(scripted)

    def stop_while_parked() -> float:
        server = Process(scripted, grace_s=60)
        body = {"model": "codex", "messages": [QUESTION], "tools": TOOLS}
        with server.client:
            assert call_ids(answer(server.client.post(CHAT, json=body)))
            began = time.monotonic()
            server.stop()
            assert server.end()[0] == 0
            return time.monotonic() - began

    assert await asyncio.to_thread(stop_while_parked) < 30
    await until(lambda: not scripted.alive())


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_invalid_schema_is_refused_with_its_place(scripted: Scripted, api: str) -> None:
    schema: JSON = {"type": "object", "properties": {"city": {"type": "strin"}}}
    function: JSON = {"name": "town", "parameters": schema}
    valid: JSON = {"name": "weather", "parameters": {"type": "object"}}
    requests: dict[str, tuple[str, dict[str, JSON]]] = {
        "chat": (CHAT, {"tools": [{"type": "function", "function": each} for each in (valid, function)]}),
        "responses": (RESPONSES, {"input": "x", "tools": [{"type": "function", **function}]}),
        "messages": (MESSAGES, {"max_tokens": 9, "tools": [{"name": "town", "input_schema": schema}]}),
    }
    path, body = requests[api]
    play(scripted)
    async with serving(scripted.env) as server:
        response = await server.client.post(path, json={"model": "codex", "messages": [QUESTION], **body})
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert message.startswith("tools: the schema of 'town' is not JSON Schema: 'strin' is not")
    assert message.endswith("(at $.properties.city.type)")
    assert not scripted.calls()


DOUBLING = {str(level): {"allOf": [{"$ref": f"#/$defs/{level + 1}"}] * 2} for level in range(40)} | {"40": {}}
HUGE_SCHEMAS = {
    "nested too deeply": '{"type":"object","properties":{"a":' * 600 + "{}" + "}}" * 600,
    "expands to more than 10000": json.dumps({"$ref": "#/$defs/0", "$defs": DOUBLING}),
}


@pytest.mark.parametrize("reason", HUGE_SCHEMAS)
async def test_schema_that_is_too_large_to_check_is_refused(scripted: Scripted, reason: str) -> None:
    schema = HUGE_SCHEMAS[reason]
    body = f'{{"model":"codex","input":"x","tools":[{{"type":"function","name":"f","parameters":{schema}}}]}}'
    play(scripted)
    async with serving(scripted.env) as server:
        headers = {"content-type": "application/json"}
        response = await server.client.post(RESPONSES, content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert reason in response.text


@pytest.mark.parametrize(
    ("dialect", "body", "pulse"),
    [
        (OpenAIChat(), {"messages": [QUESTION], "tools": TOOLS, "tool_choice": "required"}, b":\n"),
        (OpenAIResponses(), {"input": "x", "tools": FUNCTIONS, "tool_choice": "required"}, b":\n"),
        (
            Anthropic(),
            {
                "max_tokens": 9,
                "messages": [QUESTION],
                "tools": [{"name": "weather", "input_schema": {"type": "object"}}],
                "tool_choice": {"type": "any"},
            },
            b"event: ping\n",
        ),
    ],
)
async def test_stream_is_kept_alive_while_a_required_call_is_awaited(
    scripted: Scripted, tmp_path: Path, dialect: Dialect, body: dict[str, object], pulse: bytes
) -> None:
    go = tmp_path / "go"
    scripted.play([wait_for(go), *codex_streams("no call")])
    scripted.play([client_calls(ROME)], when="is refused")
    async with answering(dialect, scripted.env) as port, httpx.AsyncClient(timeout=60) as client:
        body = {"model": "codex", "stream": True, **body}
        async with client.stream("POST", f"http://127.0.0.1:{port}/", json=body) as response:
            received = b""
            async for data in response.aiter_raw():
                received += data
                if received.count(pulse) == 2:
                    await asyncio.to_thread(go.touch)
    before, _, after = received.partition(b"call_rome")
    assert before.startswith(pulse)
    assert b"no call" not in before
    assert after


async def test_system_texts_after_an_output_reach_the_agent(scripted: Scripted) -> None:
    play(scripted)
    async with serving(scripted.env) as server:
        early: Message = {"role": "system", "content": "be brief"}
        asks = answer(await send(server, [early, QUESTION, early]))
        late: Message = {"role": "system", "content": "and careful"}
        messages = [early, QUESTION, early, asks, output("call_rome"), late]
        assert answer(await send(server, messages))["content"] == "it is sunny"
        changed = [*messages[:2], late, *messages[3:]]
        assert answer(await send(server, changed))["content"] == "rebuilt"
    assert scripted.outputs() == [("call_rome", "sunand careful")]


@pytest.mark.parametrize("change", ["tools", "model", "no tools", "no output"])
async def test_run_that_is_continued_by_name_otherwise_gets_the_conversation(scripted: Scripted, change: str) -> None:
    """The parked run has other tools or another model. The request starts a run, and the parked run is stopped."""
    play(scripted)
    scripted.play(codex_streams("never mind"), when="leave it")
    bodies: dict[str, dict[str, object]] = {
        "tools": {"tools": [*FUNCTIONS, {**FUNCTIONS[0], "name": "time"}]},
        "model": {"model": "codex/gpt-5.5"},
        "no tools": {"tools": []},
        "no output": {"input": "leave it"},
    }
    async with serving(scripted.env) as server:
        first = await respond(server, input="the weather?")
        body = {"input": [OUTPUT], "previous_response_id": first["id"], **bodies[change]}
        second = await respond(server, **body)
        assert ("never mind" if change == "no output" else "rebuilt") in str(second["output"])
        assert await parked(server) == 0
    assert not scripted.outputs()
    assert "the weather?" in (scripted.calls()[1].stdin or b"").decode()


CITY: JSON = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WRONG: dict[str, tuple[str, dict[str, JSON]]] = {"call_wrong": ("weather", {"city": 5})}
STRICT: dict[str, tuple[str, dict[str, JSON]]] = {
    "chat": (
        CHAT,
        {"tools": [{"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}]},
    ),
    "responses": (RESPONSES, {"tools": [{"type": "function", "name": "weather", "parameters": CITY, "strict": True}]}),
    "messages": (MESSAGES, {"tools": [{"name": "weather", "input_schema": CITY, "strict": True}], "max_tokens": 9}),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", STRICT)
async def test_invalid_call_of_a_strict_tool_is_repaired_before_the_client_gets_it(
    scripted: Scripted, api: str, stream: bool
) -> None:
    calls = [client_calls(WRONG | OSLO), client_calls(ROME, answers=2), *codex_streams("it is sunny", answers=3)]
    scripted.play(calls)
    path, body = STRICT[api]
    prompt = "input" if api == "responses" else "messages"
    async with serving(scripted.env) as server:
        response = await server.client.post(path, json={"model": "codex", prompt: [QUESTION], "stream": stream, **body})
        assert response.status_code == 200, response.text
        assert "call_rome" in response.text
        assert "call_wrong" not in response.text
        assert "call_oslo" not in response.text
        assert await parked(server) == 1
    outputs = dict(scripted.outputs())
    assert "do not match its schema: 5 is not of type 'string' (at $.city)" in outputs["call_wrong"]
    assert "The call was not made" in outputs["call_oslo"]


async def test_request_fails_after_two_invalid_calls_of_a_strict_tool(scripted: Scripted) -> None:
    again: dict[str, tuple[str, dict[str, JSON]]] = {"call_again": ("weather", {})}
    scripted.play([client_calls(WRONG), client_calls(again, answers=2)])
    async with serving(scripted.env) as server:
        response = await send(server, [QUESTION], tools=STRICT["chat"][1]["tools"])
        assert response.status_code == 500
        assert "'city' is a required property" in response.json()["error"]["message"]
        await until(lambda: not scripted.alive() and not server.runs.busy)


@pytest.mark.parametrize("failure", [ResourcesExhausted("no memory"), None])
async def test_failed_check_of_a_strict_tool_ends_the_run(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, failure: ClinvkError | None
) -> None:
    """Without a failure the check takes too long."""

    async def check(*_: object) -> str:
        if failure:
            raise failure
        await asyncio.sleep(60)
        return ""

    monkeypatch.setattr(strict_calls, "mismatch", check)
    monkeypatch.setattr(strict_calls, "_TIMEOUT_S", 0.2)
    scripted.play([client_calls(ROME)])
    async with serving(scripted.env) as server:
        response = await send(server, [QUESTION], tools=STRICT["chat"][1]["tools"])
        assert response.status_code == 500
        problem = "no memory" if failure else "it takes more than 0.2 s"
        assert f"the arguments of the calls cannot be checked: {problem}" in response.json()["error"]["message"]
        (run,) = (await server.client.get("/api/v1/runs")).json()["runs"]
        assert run["error_code"] == (failure or ClinvkError).code
        await until(lambda: not scripted.alive() and not server.runs.busy)
    assert scripted.outputs() == []


async def test_responses_after_a_repaired_call_can_be_retrieved(scripted: Scripted) -> None:
    calls = [client_calls(WRONG), client_calls(ROME, answers=2), *codex_streams("it is sunny", answers=3)]
    scripted.play(calls)
    async with serving(scripted.env) as server:
        first = await respond(server, input="the weather?", tools=STRICT["responses"][1]["tools"])
        second = await respond(
            server, input=[OUTPUT], previous_response_id=first["id"], tools=STRICT["responses"][1]["tools"]
        )
        assert second["id"] == f"{first['id']}-1"
        for each in (first, second):
            stored = (await server.client.get(f"{RESPONSES}/{each['id']}")).json()
            assert (stored["output"], stored["usage"]) == (each["output"], each["usage"])
    assert len(scripted.calls()) == 1


async def test_each_answer_of_a_run_may_be_repaired(scripted: Scripted) -> None:
    twice: dict[str, tuple[str, dict[str, JSON]]] = {"call_twice": ("weather", {})}
    calls = [client_calls(WRONG), client_calls(ROME, 2), client_calls(twice, 3), client_calls(OSLO, 4)]
    scripted.play([*calls, *codex_streams("it is sunny", answers=5)])
    async with serving(scripted.env) as server:
        strict = STRICT["chat"][1]["tools"]
        messages = [QUESTION, answer(await send(server, [QUESTION], tools=strict)), output("call_rome")]
        messages += [answer(await send(server, messages, tools=strict)), output("call_oslo")]
        assert answer(await send(server, messages, tools=strict))["content"] == "it is sunny"
