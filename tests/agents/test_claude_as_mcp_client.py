"""The real Claude Code as an MCP client of clinvk."""

import json

import pytest

from acceptance.command import Clinvk
from agents.machine import Machine, served
from clients import finished

pytestmark = pytest.mark.slow

COMPARE = {"prompt": "the others [[words=3]]", "backends": ["codex", "gemini"]}
ANSWER = "word1 word2 word3"


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_claude_code_compares_codex_and_gemini(machine: Machine, transport: str) -> None:
    prompt = f"ask the others [[call mcp__clinvk__compare {json.dumps(COMPARE)}]]"
    with served(machine) as url:
        servers = {"stdio": {"command": Clinvk.command, "args": ["mcp"]}, "http": {"type": "http", "url": f"{url}/mcp"}}
        config = json.dumps({"mcpServers": {"clinvk": servers[transport]}})
        flags = ("--mcp-config", config, "--strict-mcp-config", "--allowedTools", "mcp__clinvk__compare")
        done = await finished("claude", "-p", prompt, *flags, cwd=machine.project, env=machine.env, within_s=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(ANSWER) == 2, done.stdout
