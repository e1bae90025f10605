"""Behaviour that all model API clients share: paths, keys, models, errors, headers and sessions."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from starlette.types import Message, Receive, Scope, Send

import records
from clinvk.api.access.keys import ApiKeys
from clinvk.api.endpoints import continuation
from clinvk.api.endpoints.prompts import PromptEndpoint
from clinvk.backends.base import Backend, Host, Launch
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import BackendSettings, Settings, UnifiedFlags
from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.conversation import AgentPrompt
from clinvk.dialects.dialect import AnsweredChat, Chat, Dialect
from clinvk.dialects.openai.chat import OpenAIChat, OpenAICompletions
from clinvk.dialects.openai.responses import OpenAIResponses
from clinvk.dialects.rest.rest import Rest
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run.task import RunTask
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import SessionQuery
from clinvk.types.errors import ClinvkError, StoreUnavailable
from clinvk.types.events import Logged, TextDelta
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest
from open_responses import events_of
from polling import until
from scripted import Scripted
from scripted.steps import claude_says, codex_streams, wait_for
from serving import LiveServer, services_of, serving
from shell_backend import CALL, DONE, TEXT, Shell
from timeouts import answering

CHAT, MESSAGES = "/openai/v1/chat/completions", "/anthropic/v1/messages"
COMPLETIONS, RESPONSES = "/openai/v1/completions", "/openai/v1/responses"
RUNS = [CHAT, COMPLETIONS, RESPONSES, MESSAGES]
VENDORS = {"openai": "/openai/v1/nothing", "anthropic": "/anthropic/v1/nothing"}
SHELL = {"shell": Shell()}
ENV = {"PATH": os.environ["PATH"], "HOME": "/"}


def asking(path: str, text: str = "hi", model: str = "claude", **more: object) -> dict[str, object]:
    """Return the smallest body that an endpoint accepts."""
    conversation: dict[str, object] = {"messages": [{"role": "user", "content": text}]}
    if path.endswith("/completions") and "chat" not in path:
        conversation = {"prompt": text}
    elif "responses" in path:
        conversation = {"input": text}
    return {"model": model, "max_tokens": 100, **conversation, **more}


def failed(code: str) -> str:
    return f"""echo '{{"type":"run_failed","code":"{code}","message":"no luck"}}'\n"""


def error_of(path: str, response: httpx.Response) -> tuple[str, str]:
    """Return type and message of an error in the vendor's format."""
    body = response.json()
    assert response.headers["content-type"] == "application/json"
    if path.startswith(("/anthropic", MESSAGES)) or "request_id" in body:
        assert set(body) == {"type", "error", "request_id"}
        assert (body["type"], body["request_id"]) == ("error", response.headers["request-id"])
    else:
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]["type"], body["error"]["message"]


# Paths


@pytest.mark.parametrize(
    "path",
    [
        *RUNS,
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/anthropic/v1/v1/messages"),
        *("/v1/v1/messages", "/anthropic/v1/messages?beta=true", "/anthropic//v1/messages"),
        *("//openai/v1//chat/completions", "/openai/v1/chat/completions/"),
    ],
)
async def test_every_path_variant_answers_without_a_redirect(scripted: Scripted, path: str) -> None:
    scripted.play(claude_says("fine"))
    async with serving(scripted.env, store=MemoryStore()) as server:
        url = f"http://127.0.0.1:{server.port}{path}"
        response = await server.client.post(url, json=asking(path), follow_redirects=False)
    assert (response.status_code, "fine" in response.text) == (200, True), response.text


async def test_a_probe_is_answered_without_a_key_and_not_logged(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "clinvk.api.http.middleware")
    async with serving(scripted.env, store=MemoryStore(), keys=ApiKeys(["k"])) as server:
        for base in ("", "/v1", "/openai", "/openai/v1", "/anthropic", "/anthropic/v1"):
            for path in ("", "/", "/api/hello"):
                response = await server.client.head(base + path, follow_redirects=False)
                assert response.status_code == 200, base + path
                assert response.headers["x-request-id"]
    assert caplog.records == []


async def test_get_on_a_probe_path_is_not_found(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        statuses = [(await server.client.get(path)).status_code for path in ("/v1", "/anthropic", "/openai/v1")]
    assert statuses == [404, 404, 404]


# Models


async def test_models_of_usable_backends_are_listed(scripted: Scripted) -> None:
    (scripted.folder / "gemini").unlink()
    off = {"codex": BackendSettings(enabled=False)}
    async with serving(scripted.env, store=MemoryStore(), backends=off) as server:
        openai = (await server.client.get("/openai/v1/models")).json()
        anthropic = (await server.client.get("/anthropic/v1/models")).json()
    ids = ["claude", *(f"claude/{model}" for model in BACKENDS["claude"].models)]
    assert openai == {
        "object": "list",
        "data": [{"id": id_, "object": "model", "created": 0, "owned_by": "claude"} for id_ in ids],
    }
    assert [model["id"] for model in anthropic["data"]] == ids
    assert all(model["type"] == "model" and model["display_name"] for model in anthropic["data"])
    assert (anthropic["has_more"], anthropic["first_id"], anthropic["last_id"]) == (False, ids[0], ids[-1])
    assert scripted.calls() == []


async def test_version_header_selects_the_vendor_on_shared_paths(scripted: Scripted) -> None:
    version = {"anthropic-version": "2023-06-01"}
    async with serving(scripted.env, store=MemoryStore()) as server:
        lists = [(await server.client.get("/v1/models", headers=headers)).json() for headers in ({}, version)]
        ones = [(await server.client.get("/v1/models/claude", headers=headers)).json() for headers in ({}, version)]
        errors = [(await server.client.get("/v1/models/x", headers=headers)).json() for headers in ({}, version)]
    assert ["object" in shape for shape in lists] == [True, False]
    assert ["object" in shape for shape in ones] == [True, False]
    assert ["request_id" in shape for shape in errors] == [False, True]


@pytest.mark.parametrize("base", ["/openai/v1", "/anthropic/v1"])
async def test_model_is_found_by_every_accepted_name(scripted: Scripted, base: str) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        for model in ("claude", "claude/opus", "claude%2Fopus", "claude-opus-4-8", "codex/gpt-5.5"):
            response = await server.client.get(f"{base}/models/{model}")
            assert (response.status_code, response.json()["id"]) == (200, model.replace("%2F", "/"))


@pytest.mark.parametrize("base", ["/openai/v1", "/anthropic/v1"])
async def test_unknown_model_is_not_found(scripted: Scripted, base: str) -> None:
    (scripted.folder / "gemini").unlink()
    async with serving(scripted.env, store=MemoryStore()) as server:
        for model in ("nothing", "qwen/coder", "gemini", "gemini/pro", "gemini-2.5-pro"):
            response = await server.client.get(f"{base}/models/{model}")
            assert response.status_code == 404, model
            assert error_of(base, response)[0] in ("invalid_request_error", "not_found_error")


@pytest.mark.parametrize("model", ["qwen/coder", "gemini/pro"])
async def test_a_model_of_a_backend_that_is_missing_is_not_found(scripted: Scripted, model: str) -> None:
    (scripted.folder / "gemini").unlink()
    async with serving(scripted.env, store=MemoryStore()) as server:
        for path in RUNS:
            response = await server.client.post(path, json=asking(path, model=model))
            assert response.status_code == 404, path
            error_of(path, response)
            if path != MESSAGES:
                error = response.json()["error"]
                assert (error["code"], error["param"]) == ("model_not_found", "model")


# Who may come in


async def test_invalid_key_is_refused_in_the_error_format_of_the_vendor(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=ApiKeys(["k"])) as server:
        for path in (*RUNS, "/openai/v1/models", "/v1/messages", *VENDORS.values()):
            response = await server.client.post(path, json={}, headers={"authorization": "Bearer wrong"})
            assert response.status_code == 401, path
            assert error_of(path, response)[0] == "authentication_error"
            if path.startswith("/openai"):
                assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_one_valid_key_of_two_is_enough(scripted: Scripted, path: str) -> None:
    scripted.play(claude_says("fine"))
    async with serving(scripted.env, store=MemoryStore(), keys=ApiKeys(["k"])) as server:
        for keys in (
            {"authorization": "Bearer k", "x-api-key": "not-needed"},
            {"authorization": "Bearer x", "x-api-key": "k"},
        ):
            assert (await server.client.post(path, json=asking(path), headers=keys)).status_code == 200


# Errors


class Broken(Shell):
    """A backend with a defect."""

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        raise ZeroDivisionError


@pytest.mark.parametrize("path", RUNS)
async def test_errors_before_the_body_is_read_have_the_format_of_the_vendor(scripted: Scripted, path: str) -> None:
    json = {"content-type": "application/json"}
    async with serving(scripted.env, store=MemoryStore(), max_request_body_bytes=1000) as server:
        responses = {
            404: await server.client.post(f"{path}/nothing/here", json={}),
            405: await server.client.put(path, json={}),
            413: await server.client.post(path, content=b" " * 1001, headers=json),
            415: await server.client.post(path, content=b"{}", headers={"content-type": "text/plain"}),
            400: await server.client.post(path, content=b"{", headers=json),
        }
    for status, response in responses.items():
        assert response.status_code == status, response.text
        error_of(path, response)
    assert responses[405].headers["allow"] == "POST"


NOT_OFFERED = {
    "POST /v1/embeddings": "embedding",
    "GET /openai/v1/files": "base64",
    "POST /openai/v1/conversations": "previous_response_id",
    "GET /openai/v1/conversations/conv_1/items": "previous_response_id",
    "POST /openai/v1/responses/compact": "previous_response_id",
    "GET /openai/v1/responses": "WebSocket mode",
    "POST /anthropic/v1/messages/batches": "/api/v1/parallel",
}
"""What an error names in place of some endpoints."""


async def test_error_of_an_endpoint_that_is_not_offered_names_a_replacement(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        for request, instead in NOT_OFFERED.items():
            method, path = request.split()
            response = await server.client.request(method, path, json={"model": "x"})
            assert response.status_code == (405 if request == "GET /openai/v1/responses" else 404), request
            kind, message = error_of(path, response)
            assert kind == ("not_found_error" if path.startswith("/anthropic") else "invalid_request_error")
            assert message.startswith(f"{request}: clinvk does not offer"), request
            assert instead in message, message


async def test_unknown_path_error_names_the_base_url(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        openai = await server.client.post("/openai/chat/completions", json={})
        anthropic = await server.client.post("/anthropic/messages", json={})
        mixed = await server.client.post("/anthropic/v1/chat/completions", json={})
    assert "/openai/v1" in error_of(CHAT, openai)[1]
    assert "/anthropic" in error_of(MESSAGES, anthropic)[1]
    assert "base URL" in error_of(MESSAGES, mixed)[1]


@pytest.mark.parametrize("path", RUNS)
async def test_internal_error_has_the_format_of_the_vendor_and_is_not_retryable(path: str) -> None:
    registry = {"shell": Broken()}
    async with serving(ENV, registry, store=MemoryStore()) as server:
        response = await server.client.post(path, json=asking(path, model="shell"))
    assert (response.status_code, response.headers["x-should-retry"]) == (500, "false")
    assert error_of(path, response)[0] in ("server_error", "api_error")


FAILURES = [
    ("agent_unauthenticated", 401, 401),
    ("agent_rate_limited", 429, 429),
    ("agent_unpaid", 429, 402),
    ("agent_overloaded", 503, 529),
    ("agent_rejected", 400, 400),
    ("agent_failed", 500, 500),
    ("timed_out", 504, 504),
]
HARMLESS = ("agent_unauthenticated", "agent_unpaid", "agent_rate_limited", "agent_overloaded", "agent_rejected")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("code", "openai", "anthropic"), FAILURES)
async def test_immediate_agent_failure_sets_the_response_status(
    code: str, openai: int, anthropic: int, stream: bool
) -> None:
    script = """echo '{"type":"progress","stage":"retry","message":"m"}'\n""" + failed(code)
    async with serving(ENV, SHELL, store=MemoryStore()) as server:
        for path in RUNS:
            response = await server.client.post(path, json=asking(path, script, "shell", stream=stream))
            assert response.status_code == (anthropic if path == MESSAGES else openai), response.text
            assert "no luck" in error_of(path, response)[1]
            assert response.headers.get("x-should-retry") == (None if code in HARMLESS else "false")
            assert len(response.headers["x-clinvk-run-id"]) == 32


@pytest.mark.parametrize("path", RUNS)
async def test_agent_failure_after_a_tool_call_is_not_retryable(path: str) -> None:
    async with serving(ENV, SHELL, store=MemoryStore()) as server:
        response = await server.client.post(path, json=asking(path, CALL + failed("agent_rate_limited"), "shell"))
    assert (response.status_code, response.headers["x-should-retry"]) == (429, "false")


@pytest.mark.parametrize("path", RUNS)
async def test_agent_failure_after_the_first_text_ends_the_stream_with_an_error(path: str) -> None:
    script = TEXT + failed("agent_rate_limited")
    async with serving(ENV, SHELL, store=MemoryStore()) as server:
        response = await server.client.post(path, json=asking(path, script, "shell", stream=True))
    assert response.status_code == 200
    assert "hello" in response.text
    assert "no luck" in response.text.strip().rpartition("\n\n")[2]


class Torn(LocalRuns):
    """Runs whose events cannot be read any more once the agent has spoken."""

    def __init__(self, error: Exception) -> None:
        super().__init__(Settings(), MemoryStore(), ENV, SHELL)
        self._error = error

    @asynccontextmanager
    async def run(self, request: RunRequest, run_id: str = "") -> AsyncGenerator[RunTask]:
        async with super().run(request, run_id) as run:
            read = run.log.batches

            async def torn(after: int = 0) -> AsyncGenerator[list[Logged]]:
                async for batch in read(after):
                    yield batch
                    if any(isinstance(event, TextDelta) for _, _, event in batch):
                        raise self._error

            run.log.batches = torn
            yield run


@pytest.mark.parametrize("error", [ZeroDivisionError(), StoreUnavailable("the disk is full")])
@pytest.mark.parametrize(
    ("dialect", "path", "last"),
    [
        (OpenAIChat(), CHAT, 'data: {"error":{"message":"'),
        (OpenAICompletions(), "/openai/v1/completions", 'data: {"error":{"message":"'),
        (OpenAIResponses(), "/openai/v1/responses", 'event: response.failed\ndata: {"type":"response.failed"'),
        (Anthropic(), MESSAGES, 'event: error\ndata: {"type":"error","error":{"type":"KIND"'),
        (Rest(), "/api/v1/prompt", '{"type":"error","backend":"shell"'),
    ],
)
async def test_internal_error_ends_a_started_stream_with_an_error_event(
    error: Exception, dialect: Dialect, path: str, last: str
) -> None:
    script = TEXT + "exec sleep 60\n"
    requested = asking(path, script, "shell", stream=True)
    if isinstance(dialect, Rest):
        requested = {"backend": "shell", "prompt": script, "output_format": "stream-json"}
    async with Torn(error) as runs, endpoint(dialect, runs, 5, raises=False) as client:
        response = await client.post(path, json=requested)
    text = error.message if isinstance(error, ClinvkError) else "clinvk itself failed"
    final = response.text.strip().rpartition("\n" if isinstance(dialect, Rest) else "\n\n")[2]
    assert response.status_code == 200
    assert "hello" in response.text
    kind = "overloaded_error" if isinstance(error, StoreUnavailable) else "api_error"
    assert final.startswith(last.replace("KIND", kind))
    assert text in final


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_full_queue_is_reported_with_retry_after(scripted: Scripted, path: str) -> None:
    scripted.play([wait_for(scripted.folder / "go"), *claude_says("x")])
    async with serving(scripted.env, store=MemoryStore(), max_concurrent_runs=1, max_queued_runs=0) as server:
        first = asyncio.create_task(server.client.post(path, json=asking(path)))
        await until(lambda: server.runs.busy == 1)
        second = await server.client.post(path, json=asking(path))
        (scripted.folder / "go").touch()
        assert (await first).status_code == 200
    assert second.status_code in (503, 529)
    assert int(second.headers["retry-after"]) > 0
    assert "x-should-retry" not in second.headers
    error_of(path, second)


# What takes long


def endpoint(
    dialect: Dialect, runs: LocalRuns, hold_s: float, raises: bool = True, begun: asyncio.Event | None = None
) -> httpx.AsyncClient:
    """Return a client of an endpoint; `begun` is set once a part of a body was sent."""
    answer = PromptEndpoint(dialect, services_of(runs, registry=SHELL), tick_s=0.03, hold_s=hold_s)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def noted(message: Message) -> None:
            await send(message)
            if begun and message.get("body"):
                begun.set()

        await answer({**scope, "state": {"request_id": "q", "dialect": dialect, "key_name": ""}}, receive, noted)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raises), base_url="http://clinvk")


@pytest.mark.parametrize(
    ("dialect", "path", "pulse", "last"),
    [
        (OpenAIChat(), CHAT, ":\n\n", 'data: {"error"'),
        (OpenAIResponses(), RESPONSES, "event: response.created\n", "event: response.failed\n"),
        (Anthropic(), MESSAGES, "event: ping\n", "event: error\n"),
    ],
)
async def test_status_waits_for_the_agent_only_until_its_limit(
    tmp_path: Path, dialect: Dialect, path: str, pulse: str, last: str
) -> None:
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done\n" + failed("agent_overloaded")
    started = asyncio.Event()
    async with (
        LocalRuns(Settings(), MemoryStore(), ENV, SHELL) as runs,
        endpoint(dialect, runs, 0.05, begun=started) as client,
    ):
        pending = asyncio.create_task(client.post(path, json=asking(path, script, "shell", stream=True)))
        async with asyncio.timeout(30):
            await started.wait()
        (tmp_path / "go").touch()
        response = await pending
    assert response.status_code == 200
    assert response.text.startswith(pulse)
    assert response.text.strip().rpartition("\n\n")[2].startswith(last)


@pytest.mark.parametrize(
    ("accept", "pulse"), [("application/json", ":"), ("text/event-stream", "event: response.in_progress")]
)
async def test_quiet_response_is_kept_alive_in_the_way_that_the_client_notices(
    tmp_path: Path, accept: str, pulse: str
) -> None:
    """Codex, which accepts only an event stream, does not notice comments."""
    waits = f"while [ ! -e {tmp_path}/%s ]; do sleep 0.02; done\n"
    body = asking("/responses", waits % "one" + TEXT + waits % "two" + TEXT + DONE, "shell", stream=True)
    lines: list[str] = []
    async with (
        answering(OpenAIResponses(), ENV, SHELL) as port,
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST", f"http://127.0.0.1:{port}/responses", json=body, headers={"accept": accept}) as response,
    ):
        async for line in response.aiter_lines():
            lines.append(line)
            for count, name in ((3, "one"), (6, "two")):
                if lines.count(pulse) == count:
                    (tmp_path / name).touch()
    events = events_of(line for line in lines if line != ":")
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert (events[-1]["type"], events[-1]["response"]["output"][0]["content"][0]["text"]) == (
        "response.completed",
        "hellohello",
    )
    numbers = [event["sequence_number"] for event in events]
    assert (numbers == sorted(numbers), sorted(set(numbers))) == (True, list(range(numbers[-1] + 1)))
    assert (len(numbers) > numbers[-1] + 1) == (pulse != ":")


@pytest.mark.parametrize(("code", "status"), [("agent_rate_limited", 429), ("agent_crashed", 200)])
@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_event_stream_client_gets_status_200_only_for_non_retryable_failures(
    code: str, status: int, accept: str
) -> None:
    async with (
        LocalRuns(Settings(), MemoryStore(), ENV, SHELL) as runs,
        endpoint(OpenAIResponses(), runs, 10) as client,
    ):
        body = asking(RESPONSES, failed(code), "shell", stream=True)
        response = await client.post(RESPONSES, json=body, headers={"accept": accept})
    if accept == "application/json" and code == "agent_crashed":
        assert (response.status_code, response.headers["x-should-retry"]) == (500, "false")
        return
    assert (response.status_code, "x-should-retry" in response.headers) == (status, False)
    assert ("event: response.failed" in response.text) == (status == 200)


@pytest.mark.parametrize(("dialect", "path"), [(OpenAIChat(), CHAT), (Anthropic(), MESSAGES)])
async def test_answer_without_streaming_waits_for_its_final_status(dialect: Dialect, path: str) -> None:
    script = "sleep 0.4\n" + failed("agent_overloaded")
    async with LocalRuns(Settings(), MemoryStore(), ENV, SHELL) as runs, endpoint(dialect, runs, 0.05) as client:
        response = await client.post(path, json=asking(path, script, "shell"))
    assert response.status_code in (503, 529)
    assert response.json()["error"]["message"] == "no luck"


# Headers


@pytest.mark.parametrize("path", RUNS)
async def test_stream_headers_forbid_buffering_and_transformation(scripted: Scripted, path: str) -> None:
    scripted.play(claude_says("a", "b"))
    async with serving(scripted.env, store=MemoryStore()) as server:
        response = await server.client.post(path, json=asking(path, stream=True), headers={"x-request-id": "mine"})
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert (response.headers["x-request-id"], response.headers["request-id"]) == ("mine", "mine")
    assert len(response.headers["x-clinvk-run-id"]) == 32


@pytest.mark.parametrize(
    ("path", "tool"), [(CHAT, "web_search"), (RESPONSES, "web_search"), (MESSAGES, "web_search_20250305")]
)
async def test_hosted_tools_are_reported_as_ignored(scripted: Scripted, path: str, tool: str) -> None:
    scripted.play(claude_says("fine"))
    async with serving(scripted.env, store=MemoryStore()) as server:
        response = await server.client.post(path, json=asking(path, tools=[{"type": tool, "name": "web_search"}]))
        without = await server.client.post(path, json=asking(path))
    assert (response.status_code, response.headers["x-clinvk-ignored"]) == (200, "tools")
    assert "x-clinvk-ignored" not in without.headers


# Where the agent works


@pytest.mark.parametrize("path", RUNS)
async def test_headers_set_workdir_and_permissions_under_the_policy_of_the_server(
    scripted: Scripted, tmp_path: Path, path: str
) -> None:
    scripted.play(claude_says("fine"))
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    async with serving(scripted.env, store=MemoryStore(), allowed_workdir_prefixes=(str(tmp_path / "in"),)) as server:

        async def ask(**headers: str) -> httpx.Response:
            named = {f"x-clinvk-{name.replace('_', '-')}": value for name, value in headers.items()}
            return await server.client.post(path, json=asking(path), headers=named)

        allowed = await ask(workdir=str(tmp_path / "in"), approval_mode="auto", sandbox_mode="read-only")
        outside = await ask(workdir=str(tmp_path / "out"))
        wrong = await ask(workdir=str(tmp_path / "in"), sandbox_mode="none")
    assert [response.status_code for response in (allowed, outside, wrong)] == [200, 403, 400]
    assert error_of(path, outside)[0] == "permission_error"
    assert "x-clinvk-sandbox-mode" in error_of(path, wrong)[1]
    (call,) = scripted.calls()
    assert call.cwd == str(tmp_path / "in")
    assert "--permission-mode=" in " ".join(call.argv)


# Sessions


def history(*texts: str) -> dict[str, object]:
    """Return a conversation that the user began, with the turns in order."""
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return {"model": "claude", "max_tokens": 100, "messages": messages}


async def sessions_of(store: MemoryStore) -> list[tuple[tuple[str, ...], int]]:
    return [(session.tags, session.turn_count) for session in (await store.sessions(SessionQuery())).items]


@pytest.mark.parametrize("path", [CHAT, "/openai/v1/completions", MESSAGES])
async def test_request_without_a_session_stores_only_the_record_of_the_run(scripted: Scripted, path: str) -> None:
    scripted.play(claude_says("fine"))
    store = MemoryStore()
    async with serving(scripted.env, store=store) as server:
        response = await server.client.post(path, json=asking(path, "a secret"))
        run = await store.run(response.headers["x-clinvk-run-id"])
    assert "x-clinvk-session-id" not in response.headers
    assert (run.state, run.prompt, run.output, run.session_id) == ("finished", "", "", None)
    assert await store.count() == 0


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_session_starts_with_new_and_continues_with_only_the_last_turn(scripted: Scripted, path: str) -> None:
    scripted.play(claude_says("fine"))
    header = "x-clinvk-session-id"
    store = MemoryStore()
    async with serving(scripted.env, store=store) as server:
        first = await server.client.post(path, json=history("one"), headers={header: "new"})
        session = first.headers[header]
        second = await server.client.post(path, json=history("one", "fine", "two"), headers={header: session})
        missing = await server.client.post(path, json=history("one"), headers={header: "0" * 32})
    assert (second.headers[header], missing.status_code) == (session, 404)
    prompts = [call.stdin or b"" for call in scripted.calls()]
    assert [b"one" in prompt for prompt in prompts] == [True, False]
    assert b"two" in prompts[1]
    assert any("11111111-1111-4111-8111-111111111111" in word for word in scripted.calls()[1].argv)
    assert await sessions_of(store) == [((), 2)]


async def test_session_keeps_its_backend_for_an_unknown_model(scripted: Scripted) -> None:
    scripted.play(codex_streams("fine"))
    header = "x-clinvk-session-id"
    async with serving(scripted.env, store=MemoryStore()) as server:
        first = await server.client.post(CHAT, json=asking(CHAT, model="codex"), headers={header: "new"})
        known = {header: first.headers[header]}
        second = await server.client.post(CHAT, json=asking(CHAT, model="any"), headers=known)
        other = await server.client.post(CHAT, json=asking(CHAT, model="claude"), headers=known)
    assert [response.status_code for response in (first, second, other)] == [200, 200, 400]
    assert [call.name for call in scripted.calls()] == ["codex", "codex"]


class Chatting:
    """A client that names its conversation, and sends the whole conversation each time."""

    def __init__(self, server: LiveServer, chat: str) -> None:
        self._served = server
        self._headers = {"x-openwebui-chat-id": chat}

    async def say(self, *texts: str, model: str = "claude") -> Mapping[str, str]:
        body = {**history(*texts), "model": model}
        response = await self._served.client.post(CHAT, json=body, headers=self._headers)
        assert response.status_code == 200, response.text
        return response.headers


async def test_client_conversation_maps_to_one_session(scripted: Scripted) -> None:
    for answer in ("a1", "a2", "a3"):
        scripted.play(claude_says(answer), when=f"u{answer[1]}")
    store = MemoryStore()
    async with serving(scripted.env, store=store) as server:
        client = Chatting(server, "c-1")
        ids = {(await client.say(*texts))["x-clinvk-session-id"] for texts in (["u1"], ["u1", "a1", "u2"])}
        ids.add((await client.say("u1", "a1", "u2", "<details>thought</details>\na2", "u3"))["x-clinvk-session-id"])
        other = (await Chatting(server, "c-2").say("u1"))["x-clinvk-session-id"]
    assert len(ids) == 1
    assert other not in ids
    assert [b"u1" in (call.stdin or b"") for call in scripted.calls()] == [True, False, False, True]
    assert sorted(await sessions_of(store)) == [(("chat:c-1",), 3), (("chat:c-2",), 1)]


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
async def test_lookup_data_of_a_conversation_is_not_shown_with_its_session(scripted: Scripted, path: str) -> None:
    scripted.play(claude_says("a1"))
    body, headers = asking(path, metadata={"a": "b"}), {"x-openwebui-chat-id": "c-1"}
    async with serving(scripted.env, store=MemoryStore()) as server:
        session = (await server.client.post(path, json=body, headers=headers)).headers["x-clinvk-session-id"]
        shown = (await server.client.get(f"/api/v1/sessions/{session}")).json()
    assert (shown["metadata"], shown["tags"]) == ({"a": "b"}, ["chat:c-1"])


async def test_conversation_is_found_by_records_of_earlier_versions() -> None:
    answered = AnsweredChat(digest="d1", answer="a parser", latest=AgentPrompt("u2", None, ()))
    chat, store = Chat(name="c-1", digest="d2", answered=answered), MemoryStore()
    session = records.session(tags=("chat:c-1",))
    await records.turn(store, session, request={"metadata": {"clinvk_chat": "d1"}})
    request = await continuation.find_session(store, RunRequest(prompt="all", backend="claude"), chat)
    assert (request.session_id, request.prompt) == (session.id, "u2")


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


def with_images(count: int, *texts: str) -> dict[str, object]:
    """Return a conversation with this number of images in each turn of the user."""
    conversation = [
        [{"type": "text", "text": text}, *[PICTURE] * count] if at % 2 == 0 else text for at, text in enumerate(texts)
    ]
    messages = [{"role": ("user", "assistant")[at % 2], "content": content} for at, content in enumerate(conversation)]
    return {"model": "claude", "messages": messages}


async def test_images_already_in_the_session_do_not_count(scripted: Scripted) -> None:
    """A client repeats its whole conversation, so the number of images grows."""
    scripted.play(claude_says("a1"), when="u1")
    scripted.play(claude_says("a2"), when="u2")
    headers, store = {"x-openwebui-chat-id": "c-1"}, MemoryStore()
    async with serving(scripted.env, store=store) as server:
        first = await server.client.post(CHAT, json=with_images(60, "u1"), headers=headers)
        second = await server.client.post(CHAT, json=with_images(60, "u1", "a1", "u2"), headers=headers)
        anew = await server.client.post(CHAT, json=with_images(60, "u1", "other", "u2"), headers=headers)
        many = await server.client.post(CHAT, json=with_images(101, "u1", "a1", "u2"), headers=headers)
    assert [response.status_code for response in (first, second, anew, many)] == [200, 200, 400, 400]
    assert await sessions_of(store) == [(("chat:c-1",), 2)]
    assert len(scripted.calls()) == 2


async def test_side_request_about_a_conversation_leaves_it_unchanged(scripted: Scripted) -> None:
    scripted.play(claude_says("a1"), when="u1")
    scripted.play(claude_says("a title"), when="Suggest a title")
    scripted.play(claude_says("a2"), when="u2")
    store = MemoryStore()
    async with serving(scripted.env, store=store) as server:
        client = Chatting(server, "c-1")
        first = (await client.say("u1"))["x-clinvk-session-id"]
        assert "x-clinvk-session-id" not in await client.say("Suggest a title")
        assert (await client.say("u1", "a1", "u2"))["x-clinvk-session-id"] == first
    assert await sessions_of(store) == [(("chat:c-1",), 2)]


async def test_temporary_chat_is_not_stored(scripted: Scripted) -> None:
    scripted.play(claude_says("a1"))
    store = MemoryStore()
    async with serving(scripted.env, store=store) as server:
        for name in ("local:fGq1", ""):
            assert "x-clinvk-session-id" not in await Chatting(server, name).say("u1")
    assert await store.count() == 0


@pytest.mark.parametrize("changed", [("v1", "a1", "u2", "a2"), ("u1", "b1", "u2", "a2"), ("u1", "a1", "v2", "a2")])
async def test_conversation_edited_before_the_same_answer_is_sent_again(
    scripted: Scripted, changed: tuple[str, ...]
) -> None:
    scripted.play(claude_says("a1"), when="u1")
    scripted.play(claude_says("a2"), when="u2")
    scripted.play(claude_says("a3"), when="u3")
    store = MemoryStore()
    async with serving(scripted.env, store=store) as server:
        client = Chatting(server, "c-1")
        await client.say("u1")
        first = (await client.say("u1", "a1", "u2"))["x-clinvk-session-id"]
        second = (await client.say(*changed, "u3"))["x-clinvk-session-id"]
    assert first != second
    assert await store.count() == 2
    for text in changed:
        assert text.encode() in (scripted.calls()[2].stdin or b"")


async def test_another_backend_receives_the_whole_conversation(scripted: Scripted) -> None:
    scripted.play(claude_says("a1"))
    store = MemoryStore()
    async with serving(scripted.env, store=store) as server:
        client = Chatting(server, "c-1")
        first = (await client.say("u1"))["x-clinvk-session-id"]
        scripted.play(codex_streams("a2"))
        second = (await client.say("u1", "a1", "u2", model="codex"))["x-clinvk-session-id"]
    assert first != second
    assert [call.name for call in scripted.calls()] == ["claude", "codex"]
    assert b"u1" in (scripted.calls()[1].stdin or b"")


async def test_conversation_name_that_is_not_a_valid_tag_is_accepted(scripted: Scripted) -> None:
    scripted.play(claude_says("a1"))
    async with serving(scripted.env, store=MemoryStore()) as server:
        client = Chatting(server, "a chat of " + "x" * 150)
        first = (await client.say("u1"))["x-clinvk-session-id"]
        assert (await client.say("u1", "a1", "u2"))["x-clinvk-session-id"] == first


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", RUNS)
async def test_dry_run_server_shows_commands(scripted: Scripted, path: str, stream: bool) -> None:
    dry = UnifiedFlags(dry_run=True)
    async with serving(scripted.env, store=MemoryStore(), unified_flags=dry) as server:
        response = await server.client.post(path, json=asking(path, stream=stream))
    assert response.status_code == 200
    assert "claude -p" in response.text
    assert scripted.calls() == []


async def test_stream_held_for_its_status_loses_nothing(scripted: Scripted) -> None:
    """What is held for the status is not lost: the beginning of the stream, and each word once."""
    script = """echo '{"type":"run_started","model":"m"}'\nsleep 0.2\n""" + TEXT * 3 + DONE
    async with serving(ENV, SHELL, store=MemoryStore()) as server:
        response = await server.client.post(CHAT, json=asking(CHAT, script, "shell", stream=True))
    assert response.text.count('"hello"') == 3
    assert response.text.count('"role":"assistant"') == 1
    assert response.text.endswith("data: [DONE]\n\n")


# The vendors' own libraries


def openai_client(server: LiveServer, max_retries: int = 2) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url=f"http://127.0.0.1:{server.port}/openai/v1", api_key="not-needed", max_retries=max_retries
    )


def anthropic_client(server: LiveServer, base: str = "/anthropic") -> AsyncAnthropic:
    return AsyncAnthropic(base_url=f"http://127.0.0.1:{server.port}{base}", api_key="not-needed")


@pytest.mark.parametrize("base", ["/anthropic", "/v1"])
async def test_anthropic_sdk_paginates_and_retrieves_models(scripted: Scripted, base: str) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server, anthropic_client(server, base) as client:
        ids = [model.id async for model in client.models.list(limit=3)]
        found = [(await client.models.retrieve(id_)).id for id_ in ids]
        with pytest.raises(anthropic.NotFoundError) as raised:
            await client.models.retrieve("qwen/coder")
    assert found == ids
    assert ids == [name for backend in BACKENDS.values() for name in (backend.name, *_known(backend))]
    assert raised.value.request_id


def _known(backend: Backend) -> list[str]:
    return [f"{backend.name}/{model}" for model in backend.models]


@pytest.mark.parametrize(
    ("script", "times"), [(failed("agent_overloaded"), 2), (CALL + failed("agent_overloaded"), 1), ("exit 3\n", 1)]
)
async def test_sdks_retry_only_when_nothing_was_done(tmp_path: Path, script: str, times: int) -> None:
    script = f"echo >> {tmp_path}/asked\n{script}"
    conversation = [{"role": "user", "content": script}]
    async with serving(ENV, SHELL, store=MemoryStore()) as server, openai_client(server, 1) as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="shell", messages=conversation)  # pyright: ignore[reportArgumentType, reportCallIssue]  # a dict is what users write
    assert (tmp_path / "asked").read_text().count("\n") == times
