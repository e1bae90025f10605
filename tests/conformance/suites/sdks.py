"""The official SDKs of OpenAI, Anthropic and Google for Python, and those of MCP."""

from conformance.pytest_suite import pytest_suite
from conformance.suite import FRAMEWORKS, locked

_CHECKS = "answers, streams, usage, errors, conversations and images with each agent"
_VERSIONS = ", ".join(f"{name} {locked('requirements.txt', name)}" for name in ("openai", "anthropic"))
_MCP_VERSIONS = ", ".join(
    f"{name} {locked(lock, name)}"
    for lock, name in (
        ("agents/clients/package.json", "@modelcontextprotocol/sdk"),
        ("requirements.txt", "mcp"),
        ("requirements.txt", "fastmcp"),
    )
)

SUITES = [
    pytest_suite(
        "sdks/python", f"OpenAI and Anthropic SDK: {_CHECKS}", _VERSIONS, "agents/test_vendor_sdks.py", group=FRAMEWORKS
    ),
    pytest_suite(
        "sdks/google",
        "Google Gen AI SDK for Python: answers, streams, chats, functions, schemas, models, tokens, errors, keys",
        f"google-genai {locked('requirements.txt', 'google-genai')}",
        "integration/test_google.py",
        group=FRAMEWORKS,
    ),
    pytest_suite(
        "sdks/mcp",
        "MCP SDKs for TypeScript and Python, fastmcp: tools, progress, cancellation, resources; stdio and HTTP",
        _MCP_VERSIONS,
        "acceptance/test_mcp_sdks.py",
        group=FRAMEWORKS,
    ),
]
