"""The Agent Client Protocol: the official SDKs as editors that start `clinvk acp`."""

from conformance.pytest_suite import pytest_suite
from conformance.suite import STANDARDS, locked

_PACKAGE = "@agentclientprotocol/sdk"

SUITES = [
    pytest_suite(
        "acp/python",
        "prompts, permissions, options, MCP servers, lists, login; messages fit the published schema",
        f"agent-client-protocol {locked('requirements.txt', 'agent-client-protocol')}",
        *("agents/test_editors.py", "acceptance/test_editors.py"),
        select="not typescript",
        group=STANDARDS,
    ),
    pytest_suite(
        "acp/typescript",
        "three prompts with each agent: permissions, modes, lists, loading, resuming and closing",
        f"{_PACKAGE} {locked('agents/clients/package.json', _PACKAGE)}",
        "agents/test_editors.py",
        select="typescript",
        group=STANDARDS,
    ),
]
