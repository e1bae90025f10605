"""Codex takes the prompt of a Claude Code whose limit is used up, or whose login has expired."""

import json
import time
from collections.abc import Mapping

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from agents.machine import Machine, clinvk, served
from clinvk.store.sqlite.sqlite import SqliteStore

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


def test_known_limit_keeps_the_agent_from_being_started(subscribed: Machine) -> None:
    first = clinvk(subscribed, "-b", "claude", "--new", "--fallback", "codex", "-o", "text", f"one {LIMITED}")
    assert first.stdout == "word1 word2 word3\n", first.stderr
    second = clinvk(subscribed, "-b", "claude", "--new", "--fallback", "codex", "-o", "text", "two [[words=2]]")
    assert second.stdout == "word1 word2\n"
    assert "the limit of 5h is used up until" in second.stderr
    assert not [each for each in subscribed.exchanges("two") if "/v1/messages" in str(each["path"])]


async def test_limit_is_stored_as_used_up(subscribed: Machine) -> None:
    clinvk(subscribed, "-b", "claude", f"one {LIMITED}")
    async with SqliteStore(subscribed.home / ".clinvk") as store:
        [window] = await store.limits()
    assert (window.window, window.status, window.resets_at) == ("5h", "rejected", RESETS_AT)


def test_server_falls_back_in_the_stream_and_for_the_openai_sdk(subscribed: Machine) -> None:
    with served(subscribed) as url:
        for command in ((), ("--no-server",)):
            done = clinvk(
                subscribed, "--new", "--fallback", "codex", "-o", "stream-json", *command, f"one {LOGGED_OUT}"
            )
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            assert {line["backend"] for line in lines} == {"codex"}
            stages = [line["content"]["stage"] for line in lines if line["type"] == "progress"]
            assert stages[0] == "fallback"
        with OpenAI(base_url=f"{url}/openai/v1", api_key="not-needed", max_retries=0) as client:
            asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": f"two {LOGGED_OUT}"}]
            create = client.chat.completions.with_raw_response.create
            raw = create(model="claude>codex", messages=asked)
            assert raw.headers["x-clinvk-fallback"] == "claude=agent_unauthenticated"
            assert raw.parse().choices[0].message.content == "word1 word2 word3"
            chunks = client.chat.completions.create(model="claude>codex", messages=asked, stream=True)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "word1 word2 word3"
            with pytest.raises(openai.AuthenticationError):
                create(model="claude", messages=asked)


def test_detached_run_waits_for_the_reset(subscribed: Machine) -> None:
    with served(subscribed):
        prompt = f"one {LIMITED}"
        run_id = clinvk(subscribed, "--new", "--detach", "--on-limit", "wait", "-o", "text", prompt).stdout.strip()
        until = time.monotonic() + 60
        while not (shown := json.loads(clinvk(subscribed, "runs", "show", run_id, "--json").stdout))["waits_until"]:
            assert time.monotonic() < until, shown
        assert shown["state"] == "queued"
        assert "queued until" in clinvk(subscribed, "runs", "show", run_id).stdout
        cancelled = clinvk(subscribed, "runs", "cancel", run_id)
        assert cancelled.returncode == 0, cancelled.stderr
    refused = clinvk(subscribed, "--on-limit", "wait", "hi")
    assert "--on-limit wait needs --detach" in refused.stderr
