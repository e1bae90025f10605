"""Traces, as a collector gets them over HTTP from a real server."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path

import pytest

from clinvk.api.access.key_file import KeyFile, KeyLimits
from clinvk.api.access.keys import ApiKeys
from clinvk.backends.registry import BACKENDS
from clinvk.config.load import home
from collector import Collector, attributes_of
from scripted import Scripted
from scripted.steps import claude_says
from serving import LiveServer, serving
from shell_backend import CALL, DONE, FAILED, TEXT, Shell

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
BROKEN_TOOL = """echo '{"type":"tool_result","id":"1","output":"no","is_error":true}'\n"""
OK, ERROR = 0, 2
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
CONVENTIONS = vars(import_module("opentelemetry.semconv._incubating.attributes.gen_ai_attributes"))
REGISTRY = {value for value in CONVENTIONS.values() if isinstance(value, str)}
"""The attributes of the published conventions for generative AI."""


def registered(values: str) -> set[object]:
    """Return the values of an attribute that the conventions define; reading the class itself warns."""
    return {value.value for value in CONVENTIONS[values]}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Generator[Collector]:
    """A collector. The published conventions have each attribute and each operation of the spans that come."""
    with Collector().running() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running
    attributes = [attributes_of(span.attributes) for span in running.spans]
    assert {name for each in attributes for name in each if name.startswith("gen_ai.")} <= REGISTRY
    operations = {str(each["gen_ai.operation.name"]) for each in attributes if "gen_ai.operation.name" in each}
    assert operations <= registered("GenAiOperationNameValues")


def test_each_vendor_is_a_provider_of_the_conventions() -> None:
    assert {backend.vendor for backend in BACKENDS.values()} <= registered("GenAiProviderNameValues")


@asynccontextmanager
async def shell(tmp_path: Path) -> AsyncGenerator[LiveServer]:
    """Serve a shell with tracing; the exit sends all spans to the collector."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    async with serving(env, {"shell": Shell()}, tracing=True) as server:
        yield server


async def test_prompt_creates_request_and_run_spans_below_the_callers_span(
    scripted: Scripted, collector: Collector
) -> None:
    scripted.play(claude_says("hello"))
    async with serving(scripted.env, tracing=True) as server:
        answer = (
            await server.client.post(
                "/api/v1/prompt",
                json={"backend": "claude", "prompt": "a secret", "model": "opus"},
                headers={"traceparent": TRACEPARENT, "tracestate": "a=1", "x-request-id": "q1"},
            )
        ).json()
    request, run = collector.named("POST /api/v1/prompt"), collector.named("invoke_agent claude")
    assert {span.trace_id.hex() for span in (request, run)} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert run.parent_span_id == request.span_id
    assert request.start_time_unix_nano <= run.start_time_unix_nano < run.end_time_unix_nano
    reported = attributes_of(request.attributes)
    assert (reported["http.route"], reported["http.request.method"]) == ("/api/v1/prompt", "POST")
    assert (reported["http.response.status_code"], reported["clinvk.request.id"]) == (200, "q1")
    attributes = attributes_of(run.attributes)
    assert attributes.pop("gen_ai.response.time_to_first_chunk")
    assert attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.agent.name": "claude",
        "gen_ai.request.model": "opus",
        "gen_ai.response.model": "claude-scripted",
        "gen_ai.response.finish_reasons": ["end_turn"],
        "gen_ai.conversation.id": answer["session_id"],
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "clinvk.cost_usd": 0.01,
        "clinvk.run.id": answer["run_id"],
    }
    assert [event.name for event in run.events] == ["agent started", "first word"]
    [call] = scripted.calls()
    assert call.env["TRACEPARENT"] == f"00-{TRACE}-{run.span_id.hex()}-01"
    assert call.env["TRACESTATE"] == "a=1"
    assert collector.resource["service.name"] == "clinvk"
    assert b"secret" not in b"".join(span.SerializeToString() for span in collector.spans)


async def test_tool_span_is_a_child_of_its_run(tmp_path: Path, collector: Collector) -> None:
    async with shell(tmp_path) as server:
        await server.client.post(
            "/api/v1/prompt", json={"backend": "shell", "prompt": CALL + BROKEN_TOOL + TEXT + DONE}
        )
    tool, run = collector.named("execute_tool Bash"), collector.named("invoke_agent shell")
    assert tool.parent_span_id == run.span_id
    assert run.start_time_unix_nano <= tool.start_time_unix_nano <= tool.end_time_unix_nano <= run.end_time_unix_nano
    assert attributes_of(tool.attributes) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "Bash",
        "gen_ai.tool.call.id": "1",
        "gen_ai.tool.type": "extension",
        "error.type": "tool_error",
    }
    assert (tool.status.code, run.status.code) == (ERROR, OK)


async def test_failed_run_has_an_error_span_and_its_request_does_not(tmp_path: Path, collector: Collector) -> None:
    async with shell(tmp_path) as server:
        response = await server.client.post("/api/v1/prompt", json={"backend": "shell", "prompt": FAILED})
    assert response.status_code == 200
    run, request = collector.named("invoke_agent shell"), collector.named("POST /api/v1/prompt")
    assert (run.status.code, request.status.code) == (ERROR, OK)
    assert attributes_of(run.attributes)["error.type"] == "agent_failed"


async def test_runs_of_several_agents_are_children_of_one_request(tmp_path: Path, collector: Collector) -> None:
    tasks = [{"backend": "shell", "prompt": TEXT + DONE}] * 2
    async with shell(tmp_path) as server:
        whole = (await server.client.post("/api/v1/parallel", json={"tasks": tasks})).json()
    request = collector.named("POST /api/v1/parallel")
    runs = [span for span in collector.spans if span.name == "invoke_agent shell"]
    assert [run.parent_span_id for run in runs] == [request.span_id] * 2
    assert [attributes_of(run.attributes)["clinvk.run.parent_id"] for run in runs] == [whole["run_id"]] * 2


async def test_a_detached_run_belongs_to_the_trace_of_its_request(tmp_path: Path, collector: Collector) -> None:
    async with shell(tmp_path) as server:
        run = await server.detached(backend="shell", prompt=TEXT + DONE)
        await server.ended(run["run_id"])
    assert collector.named("invoke_agent shell").trace_id == collector.named("POST /api/v1/prompt").trace_id


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        ({"traceparent": TRACEPARENT, "tracestate": "a=1"}, (TRACEPARENT, "a=1")),
        ({"traceparent": f"00-{TRACE}-{PARENT}-03", "tracestate": "\xe9"}, (TRACEPARENT, None)),
        ({"traceparent": f"00-{'0' * 32}-{PARENT}-01", "tracestate": "a=1"}, (None, None)),
        ({"tracestate": "a=1"}, (None, None)),
    ],
    ids=["valid", "unknown-flag-invalid-state", "invalid-parent", "no-parent"],
)
async def test_agent_continues_a_valid_trace_of_the_caller_without_tracing(
    scripted: Scripted, sent: dict[str, str], got: tuple[str | None, str | None]
) -> None:
    scripted.play(claude_says("hello"))
    of_server = {"TRACEPARENT": f"00-{'1' * 32}-{PARENT}-01", "TRACESTATE": "b=2"}
    async with serving({**scripted.env, **of_server}) as server:
        headers = {name.encode(): value.encode("latin-1") for name, value in sent.items()}
        body = {"backend": "claude", "prompt": "hi"}
        assert (await server.client.post("/api/v1/prompt", json=body, headers=headers)).is_success
    [call] = scripted.calls()
    assert (call.env.get("TRACEPARENT"), call.env.get("TRACESTATE")) == got


async def test_run_of_an_mcp_call_is_a_child_of_the_span_that_the_call_names(
    tmp_path: Path, collector: Collector
) -> None:
    arguments = {"backend": "shell", "prompt": 'printf \'{"type":"text_delta","text":"%s"}\\n\' $TRACEPARENT\n' + DONE}
    meta = {"traceparent": TRACEPARENT, "progressToken": 1}
    params = {"name": "run_agent", "arguments": arguments, "_meta": meta}
    async with shell(tmp_path) as server:
        answer = await server.client.post(
            "/mcp",
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
            headers={"accept": "application/json, text/event-stream"},
        )
    run = collector.named("invoke_agent shell")
    assert (run.trace_id.hex(), run.parent_span_id.hex()) == (TRACE, PARENT)
    assert f"00-{TRACE}-{run.span_id.hex()}-01" in answer.text


async def test_spans_name_the_path_template_and_the_key(scripted: Scripted, collector: Collector) -> None:
    file = KeyFile(home(scripted.env))
    text = await file.create("ana", KeyLimits())
    keys = ApiKeys((), await file.read())
    async with serving(scripted.env, keys=keys, tracing=True) as server:
        await server.client.get("/api/v1/runs/abcdef", headers={"x-api-key": text})
        await server.client.get("/nothing/of/the/kind", headers={"x-api-key": text})
        await server.client.get("/health")
    assert {span.name for span in collector.spans} == {"GET /api/v1/runs/{id}", "GET"}
    assert attributes_of(collector.named("GET /api/v1/runs/{id}").attributes)["clinvk.key.name"] == "ana"
    assert text.encode() not in b"".join(span.SerializeToString() for span in collector.spans)
