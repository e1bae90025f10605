"""The agents' own spans are below the span of the run, if the telemetry of the agents is on."""

import pytest

from agents.machine import Machine
from collector import Collector
from serving import serving

CODEX_TRACES = """
[otel]
log_user_prompt = false
trace_exporter = {{ otlp-http = {{ endpoint = "{url}/v1/traces", protocol = "binary" }} }}
"""
OF_CLAUDE = {
    "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
    "CLAUDE_CODE_ENHANCED_TELEMETRY_BETA": "1",
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
}
TURNS = {"claude": "claude_code.interaction", "codex": "turn/start"}
"""The span of each agent for a turn."""


@pytest.mark.parametrize("cli", ["claude", "codex"])
async def test_spans_of_an_agent_are_below_the_span_of_its_run(
    machine: Machine, cli: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collector().running() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        machine.env.update({**OF_CLAUDE, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
        with (machine.home / ".codex" / "config.toml").open("a") as config:
            config.write(CODEX_TRACES.format(url=collector.url))
        async with serving(machine.env, tracing=True, default_workdir=str(machine.project)) as server:
            answer = await server.prompt(backend=cli, prompt="hello [[words=2]]")
            assert answer.json()["output"] == "word1 word2", answer.text
    run = collector.named(f"invoke_agent {cli}")
    assert TURNS[cli] in [span.name for span in collector.spans if span.parent_span_id == run.span_id]
