"""The real Claude Code, Codex and Gemini CLI as MCP clients of clinvk."""

import json

import pytest

from acceptance.command import Clinvk
from agents.machine import Machine, served
from clients import finished

pytestmark = pytest.mark.slow

COMPARE = {"prompt": "the others [[words=3]]", "backends": ["codex", "gemini"]}
ANSWER = "word1 word2 word3"
TRANSPORTS = pytest.mark.parametrize("transport", ["stdio", "http"])


@TRANSPORTS
async def test_claude_code_compares_codex_and_gemini(machine: Machine, transport: str) -> None:
    prompt = f"ask the others [[call mcp__clinvk__compare {json.dumps(COMPARE)}]]"
    with served(machine) as url:
        servers = {"stdio": {"command": Clinvk.command, "args": ["mcp"]}, "http": {"type": "http", "url": f"{url}/mcp"}}
        config = json.dumps({"mcpServers": {"clinvk": servers[transport]}})
        flags = ("--mcp-config", config, "--strict-mcp-config", "--allowedTools", "mcp__clinvk__compare")
        done = await finished("claude", "-p", prompt, *flags, cwd=machine.project, env=machine.env, within_s=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(ANSWER) == 2, done.stdout


@TRANSPORTS
async def test_codex_lists_the_agents(machine: Machine, transport: str) -> None:
    calls = machine.home / "calls.json"
    calls.write_text(json.dumps([[["list_agents", {}, "mcp__clinvk"]]]))
    with served(machine) as url:
        server = {"stdio": [f'command="{Clinvk.command}"', 'args=["mcp"]'], "http": [f'url="{url}/mcp"']}[transport]
        patience = "startup_timeout_sec=90"  # Codex goes on without a server that takes 10 s to start
        flags = [word for setting in (*server, patience) for word in ("-c", f"mcp_servers.clinvk.{setting}")]
        options = ("--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", *flags)
        words = ("exec", *options, f"which agents? [[script {calls}]]")
        done = await finished("codex", *words, cwd=machine.project, env=machine.env, within_s=100)
    assert done.returncode == 0, done.stdout + done.stderr
    [call] = [
        event["item"]
        for event in map(json.loads, done.stdout.splitlines())
        if event["type"] == "item.completed" and event["item"]["type"] == "mcp_tool_call"
    ]
    assert (call["status"], call["error"]) == ("completed", None), call
    assert [agent["name"] for agent in call["result"]["structured_content"]["backends"]] == [
        "claude",
        "codex",
        "gemini",
    ]


@TRANSPORTS
async def test_gemini_lists_the_agents(machine: Machine, transport: str) -> None:
    servers = {"stdio": {"command": Clinvk.command, "args": ["mcp"]}}
    with served(machine) as url:
        servers["http"] = {"httpUrl": f"{url}/mcp"}
        settings = machine.home / ".gemini" / "settings.json"
        config = {**json.loads(settings.read_text()), "mcpServers": {"clinvk": {**servers[transport], "trust": True}}}
        settings.write_text(json.dumps(config))
        prompt = "which agents? [[call mcp_clinvk_list_agents {}]]"
        words = ("--output-format", "stream-json", "--approval-mode", "yolo", "--skip-trust", "-p", prompt)
        done = await finished("gemini", *words, cwd=machine.project, env=machine.env, within_s=100)
    assert done.returncode == 0, done.stdout + done.stderr
    [result] = [line for line in done.stdout.splitlines() if '"tool_result"' in line]
    assert json.loads(result)["status"] == "success", done.stdout
