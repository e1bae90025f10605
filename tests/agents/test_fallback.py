"""Codex takes the prompt of a Claude Code whose limit is used up, or whose login has expired."""

import json
import time
from collections.abc import Mapping

import pytest

from agents.machine import Machine, clinvk

pytestmark = pytest.mark.slow
RESETS_AT = int(time.time()) + 7200
LIMIT: Mapping[str, object] = {
    "status": "rejected",
    "reset": RESETS_AT,
    "representative-claim": "five_hour",
    "5h-utilization": 1.0,
    "5h-reset": RESETS_AT,
    "5h-status": "rejected",
}
HEADERS = ", ".join(f"anthropic-ratelimit-unified-{name}: {value}" for name, value in LIMIT.items())
LIMITED = f'[[error=429 only=/v1/messages words=3 headers="{HEADERS}"]]'
LOGGED_OUT = "[[error=401 only=/v1/messages words=3]]"


@pytest.fixture
def subscribed(machine: Machine) -> Machine:
    """A machine on which Claude Code has the token of a subscription, which has limits."""
    del machine.env["ANTHROPIC_API_KEY"]
    machine.env["CLAUDE_CODE_OAUTH_TOKEN"] = f"sk-ant-oat01-{'a' * 80}"
    return machine


@pytest.mark.parametrize(("failure", "code"), [(LIMITED, "agent_rate_limited"), (LOGGED_OUT, "agent_unauthenticated")])
def test_command_line_falls_back_and_says_why(subscribed: Machine, failure: str, code: str) -> None:
    done = clinvk(
        subscribed, "-b", "claude", "-m", "opus", "--fallback", "codex,gemini", "-o", "json", f"one {failure}"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["backend"], answer["content"]) == ("codex", "word1 word2 word3")
    assert [(each["backend"], each["error_code"]) for each in answer["fallback"]] == [("claude", code)]
    assert "claude could not take the prompt: " in done.stderr
    shown = json.loads(clinvk(subscribed, "runs", "show", answer["run_id"], "--json").stdout)
    assert (shown["backend"], shown["fallback"]) == ("codex", answer["fallback"])
