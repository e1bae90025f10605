"""Codex takes the prompt of a Claude Code whose limit is used up, or whose login has expired."""

import json
import time
from collections.abc import Mapping

import pytest

from agents.machine import Machine, clinvk
from clinvk.store.memory import MemoryStore
from clinvk.types.request import RunRequest, fallback_of

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


@pytest.mark.parametrize("may_continue", [True, False])
async def test_next_agent_continues_a_session_at_a_limit_only_if_asked(subscribed: Machine, may_continue: bool) -> None:
    store = MemoryStore()
    async with subscribed.runs(store=store) as runs:
        begin = RunRequest(prompt="alpha [[say=avocado]]", backend="claude", model="opus")
        async with runs.run(subscribed.completed(begin)) as first:
            await first.log.result()
        request = RunRequest(
            prompt=f"beta {LIMITED}",
            backend="claude",
            model="opus",
            session_id=first.session_id,
            fallback=fallback_of(["codex"]),
            continue_with=may_continue,
        )
        async with runs.run(subscribed.completed(request)) as run:
            result = await run.log.result()
        assert run.session_id
        session = await store.session(run.session_id)
        assert session.id == first.session_id
        assert (await store.run(run.id)).prompt == request.prompt
        if may_continue:
            assert (result.error, session.backend) == (None, "codex")
            assert "avocado" in json.dumps(subscribed.requests("beta")[-1])
            assert (await store.run(run.id)).handed_over
        else:
            assert result.error
            assert result.error.code == "agent_rate_limited"
            assert session.backend == "claude"
