"""Observability of a server: metrics, log lines and usage."""

import logging
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from clinvk.api.access.key_file import KeyFile, KeyLimits
from clinvk.api.access.keys import ApiKeys
from clinvk.config.load import home
from clinvk.config.model import LogSettings
from polling import until
from scripted import Scripted
from scripted.steps import Step, claude_reports_limit, claude_says, codex_streams, wait_for
from serving import LiveServer, serving
from shell_backend import FAILED, TEXT, Shell


async def samples(server: LiveServer, key: str = "") -> dict[str, float]:
    """Return the value of each metric, by name and labels."""
    response = await server.client.get("/metrics", headers={"x-api-key": key} if key else {})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = [line.rpartition(" ") for line in response.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def key_of(scripted: Scripted) -> tuple[str, ApiKeys]:
    file = KeyFile(home(scripted.env))
    text = await file.create("ana", KeyLimits())
    return text, ApiKeys((), await file.read())


async def test_metrics_count_a_prompt_with_its_tokens_cost_and_durations(scripted: Scripted) -> None:
    scripted.play(claude_says("hello"))
    async with serving(scripted.env, metrics_enabled=True) as server:
        await server.prompt()
        values = await samples(server)
        while not values.get('clinvk_runs_total{backend="claude",outcome="finished"}'):
            values = await samples(server)
    of_claude = '{backend="claude"}'
    assert values['clinvk_http_requests_total{method="POST",route="/api/v1/prompt",status="200"}'] == 1
    assert values['clinvk_tokens_total{backend="claude",type="cached"}'] == 2
    assert values['clinvk_tokens_total{backend="claude",type="output"}'] == 5
    assert values[f"clinvk_cost_usd_total{of_claude}"] == 0.01
    waited = values[f"clinvk_run_queue_seconds_sum{of_claude}"]
    first_word = values[f"clinvk_time_to_first_token_seconds_sum{of_claude}"]
    assert 0 <= waited < first_word <= waited + values[f"clinvk_run_duration_seconds_sum{of_claude}"]
    assert values["clinvk_store_write_seconds_count"] >= 2
    assert values["clinvk_store_bytes"] > 4096
    assert (values["clinvk_store_sessions"], values["clinvk_store_up"]) == (1, 1)


async def test_metrics_report_running_and_queued_runs_by_backend(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    async with serving(scripted.env, metrics_enabled=True, max_concurrent_runs=1) as server:
        runs = [await server.detached() for _ in range(3)]
        values = await samples(server)
        (tmp_path / "go").touch()
        for run in runs:
            await server.ended(run["run_id"])
        after = await samples(server)
    assert values['clinvk_runs_running{backend="claude"}'] == 1
    assert values['clinvk_runs_queued{backend="claude"}'] == 2
    assert values['clinvk_runs_queued{backend="codex"}'] == 0
    assert (values["clinvk_slots"], values["clinvk_http_requests_active"]) == (1, 1)
    assert after['clinvk_runs_running{backend="claude"}'] == after['clinvk_runs_queued{backend="claude"}'] == 0


async def test_metrics_count_a_failure_by_its_code(tmp_path: Path) -> None:
    async with serving(
        {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, {"shell": Shell()}, metrics_enabled=True
    ) as server:
        await server.prompt(backend="shell", prompt=TEXT + FAILED)
        values = await samples(server)
        while 'clinvk_runs_total{backend="shell",outcome="agent_failed"}' not in values:
            values = await samples(server)
    assert values['clinvk_runs_total{backend="shell",outcome="agent_failed"}'] == 1


async def test_metrics_count_requests_by_route_template_and_unknown_paths_as_one(scripted: Scripted) -> None:
    async with serving(scripted.env, metrics_enabled=True) as server:
        for number in range(3):
            await server.client.get(f"/api/v1/runs/abcd{number}")
            await server.client.get(f"/nothing/{number}")
            await server.client.request("PROPFIND", f"/v1/models/a/{number}")
        values = await samples(server)
    requests = {name.partition("{")[2][:-1]: value for name, value in values.items() if "http_requests_total" in name}
    assert requests == {
        'method="GET",route="/api/v1/runs/{id}",status="404"': 3,
        'method="GET",route="none",status="404"': 3,
        'method="other",route="/v1/models/{id:path}",status="405"': 3,
    }


async def test_metrics_count_a_client_that_disconnects_before_its_answer(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play([wait_for(tmp_path / "never"), *claude_says("x")])
    body = b'{"backend":"claude","prompt":"hi"}'
    head = f"POST /api/v1/prompt HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    async with serving(scripted.env, metrics_enabled=True, allowed_hosts=("x",)) as server:
        _, writer = await server.raw(head.encode() + b"\r\n\r\n" + body)
        await until(lambda: bool(scripted.calls()))
        writer.close()
        await until(lambda: not server.state.active_requests)
        values = await samples(server)
    assert values['clinvk_http_requests_total{method="POST",route="/api/v1/prompt",status="gone"}'] == 1


async def test_metrics_require_a_key_when_keys_are_configured(scripted: Scripted) -> None:
    text, keys = await key_of(scripted)
    async with serving(scripted.env, keys=keys, metrics_enabled=True) as server:
        assert (await server.client.get("/metrics")).status_code == 401
        assert (await samples(server, text))["clinvk_store_up"] == 1


async def test_disabled_metrics_error_names_the_setting(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        response = await server.client.get("/metrics")
        other = await server.client.get("/metricz")
    assert response.status_code == 404
    assert "server.metrics_enabled" in response.json()["detail"]
    assert "server.metrics_enabled" not in other.json()["detail"]


async def test_events_stream_at_once_with_metrics_logs_and_tracing_enabled(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    text = claude_says("one", "two")
    first = next(index for index, step in enumerate(text) if "one" in str(step))
    scripted.play([*text[: first + 1], wait_for(tmp_path / "go"), *text[first + 1 :]])
    async with serving(
        scripted.env, metrics_enabled=True, log=LogSettings(requests=True, format="json"), tracing=True
    ) as server:
        body = {"backend": "claude", "prompt": "hi", "output_format": "stream-json"}
        async with server.client.stream("POST", "/api/v1/prompt", json=body) as response:
            lines = response.aiter_lines()
            while "one" not in await anext(lines):
                pass
            (tmp_path / "go").touch()
            assert "two" in "".join([line async for line in lines])


async def test_log_line_describes_a_run_and_its_request(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    text, keys = await key_of(scripted)
    scripted.play(claude_says("an answer"))
    with (
        caplog.at_level(logging.INFO, "clinvk.api.http.middleware"),
        caplog.at_level(logging.INFO, "clinvk.api.observe.observers"),
    ):
        async with serving(scripted.env, keys=keys) as server:
            headers = {"x-api-key": text, "x-request-id": "q1"}
            body = {"backend": "claude", "prompt": "a secret"}
            answer = (await server.client.post("/api/v1/prompt?token=x", json=body, headers=headers)).json()
    request, run = (fields_of(caplog, name) for name in ("clinvk.api.http.middleware", "clinvk.api.observe.observers"))
    assert (request["method"], request["path"], request["status"]) == ("POST", "/api/v1/prompt", 200)
    assert request["run_id"] == run["run_id"] == answer["run_id"]
    assert request["key"] == run["key"] == "ana"
    assert request["request_id"] == "q1"
    assert (run["outcome"], run["session_id"]) == ("finished", answer["session_id"])
    assert run["model"] == "claude-scripted"
    assert (run["input_tokens"], run["output_tokens"], run["cost_usd"]) == (12, 5, 0.01)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "clinvk.api.http.middleware"]
    assert line.endswith(", by ana, from 127.0.0.1")
    assert "secret" not in caplog.text
    assert "an answer" not in caplog.text
    assert text not in caplog.text


@pytest.mark.parametrize("prompts", [True, False])
async def test_prompts_are_logged_only_when_enabled(
    scripted: Scripted, caplog: pytest.LogCaptureFixture, prompts: bool
) -> None:
    scripted.play(claude_says("x"))
    with caplog.at_level(logging.INFO, "clinvk.api.observe.observers"):
        async with serving(scripted.env, log=LogSettings(prompts=prompts)) as server:
            await server.prompt(prompt="line 1\nline 2")
    assert fields_of(caplog, "clinvk.api.observe.observers").get("prompt") == ("line 1\nline 2" if prompts else None)
    (message,) = [record.getMessage() for record in caplog.records if record.name == "clinvk.api.observe.observers"]
    assert "\n" not in message


def fields_of(caplog: pytest.LogCaptureFixture, name: str) -> dict[str, object]:
    """Return the fields of the only line of a logger."""
    (line,) = [record for record in caplog.records if record.name == name]
    assert isinstance(line.args, dict)
    return {str(key): value for key, value in line.args.items()}


async def test_usage_is_reported_by_day_key_backend_and_model(scripted: Scripted) -> None:
    text, keys = await key_of(scripted)
    scripted.play(claude_says("x"))
    async with serving(scripted.env, keys=keys) as server:
        headers = {"x-api-key": text}
        for backend in ("claude", "claude", "codex"):
            scripted.play(claude_says("x") if backend == "claude" else codex_streams("x"))
            await server.client.post("/api/v1/prompt", json={"backend": backend, "prompt": "hi"}, headers=headers)
        whole = (await server.client.get("/api/v1/usage", headers=headers)).json()
        grouped = (await server.client.get("/api/v1/usage?group_by=key", headers=headers)).json()
        narrowed = (await server.client.get("/api/v1/usage?backend=codex&key=ana", headers=headers)).json()
        others = (await server.client.get("/api/v1/usage?key=ben", headers=headers)).json()
    claude, codex = whole["usage"]
    assert (claude["key"], claude["backend"], claude["model"], claude["runs"]) == (
        "ana",
        "claude",
        "claude-scripted",
        2,
    )
    assert claude["token_usage"] == {"input_tokens": 24, "output_tokens": 10, "cached_tokens": 4, "reasoning_tokens": 0}
    assert (claude["cost_usd"], claude["day"]) == (0.02, whole["until"])
    assert (codex["backend"], codex["runs"]) == ("codex", 1)
    assert whole["total"]["runs"] == 3
    assert [(item["key"], item["day"], item["backend"], item["runs"]) for item in grouped["usage"]] == [
        ("ana", None, None, 3)
    ]
    assert [item["backend"] for item in narrowed["usage"]] == ["codex"]
    assert (others["usage"], others["total"]["runs"]) == ([], 0)


def reporting_limit(resets_at: float) -> list[Step]:
    start, *rest = claude_says("x")
    return [start, claude_reports_limit(resets_at), *rest]


async def test_limits_are_listed_until_they_reset(scripted: Scripted) -> None:
    resets_at = time.time() + 3600
    async with serving(scripted.env) as server:
        assert (await server.client.get("/api/v1/limits")).json() == {"limits": []}
        scripted.play(reporting_limit(resets_at))
        await server.client.post("/api/v1/prompt", json={"backend": "claude", "prompt": "hi"})
        (limit,) = (await server.client.get("/api/v1/limits")).json()["limits"]
        assert (limit["backend"], limit["window"], limit["status"]) == ("claude", "5h", "warning")
        assert limit["used_percent"] == 82
        assert datetime.fromisoformat(limit["resets_at"]).timestamp() == pytest.approx(resets_at, abs=0.001)
        assert datetime.now(UTC) >= datetime.fromisoformat(limit["updated_at"])
        scripted.play(reporting_limit(time.time() - 1))
        await server.client.post("/api/v1/prompt", json={"backend": "claude", "prompt": "hi"})
        assert (await server.client.get("/api/v1/limits")).json() == {"limits": []}


async def test_key_sees_only_the_limits_of_its_backends(scripted: Scripted) -> None:
    file = KeyFile(home(scripted.env))
    ana = await file.create("ana", KeyLimits())
    ben = await file.create("ben", KeyLimits(backends=("codex",)))
    scripted.play(reporting_limit(time.time() + 3600))
    async with serving(scripted.env, keys=ApiKeys((), await file.read())) as server:
        body = {"backend": "claude", "prompt": "hi"}
        await server.client.post("/api/v1/prompt", json=body, headers={"x-api-key": ana})
        seen = [(await server.client.get("/api/v1/limits", headers={"x-api-key": key})).json() for key in (ana, ben)]
    assert [len(answer["limits"]) for answer in seen] == [1, 0]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("since=yesterday", 'since must be a day such as 2026-11-25, got "yesterday"'),
        ("until=2026-02-30", 'until must be a day such as 2026-11-25, got "2026-02-30"'),
        ("since=2026-02-02&until=2026-02-01", "since 2026-02-02 is after until 2026-02-01"),
        ("group_by=day,modle", "group_by has 'modle'; it must be of day, key, backend, model"),
        ("backend=cloud", "unknown backend 'cloud'"),
        ("moddel=x", "unknown parameter 'moddel'; did you mean 'model'?"),
    ],
)
async def test_invalid_usage_query_is_explained(scripted: Scripted, query: str, message: str) -> None:
    async with serving(scripted.env) as server:
        response = await server.client.get(f"/api/v1/usage?{query}")
    assert response.status_code == 400
    assert message in response.json()["detail"]


async def test_usage_until_the_first_possible_day_is_accepted(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        answer = (await server.client.get("/api/v1/usage?until=0001-01-05")).json()
    assert (answer["since"], answer["usage"]) == ("0001-01-01", [])


def started(tmp_path: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Start a server and stop it once it is ready; `stderr` lists its imports."""
    program = subprocess.Popen(
        [sys.executable, "-m", "clinvk", "serve", "--port", "0"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPROFILEIMPORTTIME": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout
    up = program.stdout.readline()
    if up:
        program.send_signal(signal.SIGTERM)
    output, text = program.communicate()
    return subprocess.CompletedProcess(program.args, program.returncode, up + output, text)


def test_disabled_features_are_not_imported(tmp_path: Path) -> None:
    done = started(tmp_path)
    assert done.returncode == 0
    assert "clinvk.api.server.server" in done.stderr
    assert "prometheus_client" not in done.stderr
    assert "opentelemetry" not in done.stderr


def test_tracing_without_opentelemetry_prevents_startup(tmp_path: Path) -> None:
    missing = tmp_path / "modules" / "opentelemetry"
    missing.mkdir(parents=True)
    (missing / "__init__.py").write_text("raise ModuleNotFoundError('no', name='opentelemetry')\n")
    done = started(tmp_path, CLINVK_TRACING__ENABLED="true", PYTHONPATH=str(missing.parent))
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == ("clinvk: tracing.enabled needs a package (no): pip install 'clinvk[otel]'")
