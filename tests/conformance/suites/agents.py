"""Coding agents as clients, set up as docs/agents-as-clients.md and docs/mcp.md say."""

from conformance.pytest_suite import pytest_suite
from conformance.suite import AGENTS, locked

_FILES = tuple(f"agents/test_{name}.py" for name in ("agents_as_clients", "agents_as_mcp_clients"))
_CLIS, _CLIENTS = "agents/clis/package.json", "agents/clients/package.json"

SUITES = [
    pytest_suite(
        "agents/claude_code",
        "Claude Code: its own tools through the Anthropic API, sub-agents, errors; MCP by stdio and HTTP",
        locked(_CLIS, "@anthropic-ai/claude-code"),
        *(*_FILES, "agents/test_claude_as_client.py"),
        select="(Code- and not opencode) or claude_code or test_claude_as_client",
        group=AGENTS,
    ),
    pytest_suite(
        "agents/codex",
        "Codex: its own tools through the OpenAI responses API, errors; MCP by stdio and HTTP",
        locked(_CLIS, "@openai/codex"),
        *(*_FILES, "agents/test_codex_as_client.py"),
        select="Codex- or codex_lists or that_codex_sends or test_codex_as_client",
        group=AGENTS,
    ),
    pytest_suite(
        "agents/gemini_cli",
        "Gemini CLI: its own tools through Google's API, errors; MCP by stdio and HTTP",
        locked(_CLIS, "@google/gemini-cli"),
        *(*_FILES, "agents/test_gemini_as_client.py"),
        select="CLI- or gemini_lists or test_gemini_as_client",
        group=AGENTS,
    ),
    pytest_suite(
        "agents/opencode",
        "opencode: its own tools through the OpenAI chat completions API",
        locked(_CLIENTS, "opencode-ai"),
        *_FILES,
        select="opencode-",
        group=AGENTS,
    ),
    pytest_suite(
        "agents/cline",
        "Cline: its own tools through the OpenAI chat completions API",
        locked(_CLIENTS, "cline"),
        *_FILES,
        select="Cline-",
        group=AGENTS,
    ),
]
