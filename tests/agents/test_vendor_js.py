"""The SDKs of OpenAI and Anthropic for JavaScript, unmodified, with the real CLIs behind the server."""

import json
import shutil
from pathlib import Path

import pytest

from agents.machine import Machine
from clients import finished
from serving import serving
from standin.document import Record

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent / "js"
CLIS = ("claude", "codex", "gemini")
TOKENS = {"claude": (100, 30, 0), "codex": (100, 30, 10), "gemini": (110, 35, 10)}
"""Tokens read, written and of thinking: Claude Code tells none of these, Gemini first asks which model to take."""


async def printed(machine: Machine, agent_path: str, name: str, model: str) -> Record:
    """Run a script in the folder of `node_modules`, like a project's script; return its output."""
    folder = machine.home.parent / "client"
    folder.mkdir()
    (folder / "node_modules").symlink_to(Path(agent_path.partition(":")[0]).parent)
    shutil.copy(SCRIPTS / name, folder)
    async with serving(machine.env, default_workdir=str(machine.project)) as server:
        done = await finished(
            *("node", name, f"http://127.0.0.1:{server.port}", model),
            cwd=folder,
            env={"PATH": machine.env["PATH"], "HOME": str(folder)},
            within_s=100,
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    reported: Record = json.loads(done.stdout)
    return reported


def refusals(key: str, unauthenticated: str, limited: str) -> list[Record]:
    """Return the SDK's view of errors for models that answer 401 and 429."""
    return [
        {"name": "AuthenticationError", "status": 401, key: unauthenticated, "named": True},
        {"name": "RateLimitError", "status": 429, key: limited, "named": True},
    ]


@pytest.mark.parametrize("backend", CLIS)
async def test_openai_js_sdk_receives_expected_results(machine: Machine, agent_path: str, backend: str) -> None:
    reported = await printed(machine, agent_path, "openai.mjs", backend)
    read, written, thought = TOKENS[backend]
    assert reported["chat"] == {
        "text": "word1 word2 word3",
        "reason": "stop",
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": 20},
            "completion_tokens_details": {"reasoning_tokens": thought},
        },
    }
    assert reported["pieces"] == ["word1 ", "word2 ", "word3"]
    assert reported["helper"] == {"text": "word1 word2 word3", "tokens": read + written}
    assert reported["response"] == {
        "kinds": [
            *("response.created", "response.in_progress"),
            *("response.output_item.added", "response.content_part.added"),
            *["response.output_text.delta"] * 3,
            *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
            "response.completed",
        ],
        "text": "word1 word2 word3",
        "tokens": read + written,
    }
    assert reported["errors"] == refusals("code", "agent_unauthenticated", "rate_limit_exceeded")
    assert isinstance(reported["models"], list)
    assert {*CLIS, "claude/opus"} <= {*map(str, reported["models"])}


@pytest.mark.parametrize("backend", CLIS)
async def test_anthropic_js_sdk_receives_expected_results(machine: Machine, agent_path: str, backend: str) -> None:
    reported = await printed(machine, agent_path, "anthropic.mjs", backend)
    read, written, thought = TOKENS[backend]
    usage: Record = {
        "input_tokens": read - 20,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 20,
        "output_tokens": written,
    }
    assert reported["message"] == {
        "content": [{"type": "text", "text": "word1 word2 word3"}],
        "stop_reason": "end_turn",
        "usage": {**usage, "output_tokens_details": {"thinking_tokens": thought}} if thought else usage,
    }
    assert reported["helper"] == {
        "pieces": ["word1 ", "word2 ", "word3"],
        "text": "word1 word2 word3",
        "tokens": written,
    }
    assert reported["kinds"] == [
        *("message_start", "content_block_start"),
        *["content_block_delta"] * 3,
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert reported["errors"] == refusals("type", "authentication_error", "rate_limit_error")
    assert reported["count"] == 100
    assert isinstance(reported["models"], list)
    assert {*CLIS, "claude/opus"} <= {*map(str, reported["models"])}
