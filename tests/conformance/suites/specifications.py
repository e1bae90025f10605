"""Tests that compare clinvk with published specifications: libraries that check requests, answers and names."""

from conformance.pytest_suite import pytest_suite
from conformance.suite import STANDARDS, locked


def _version(package: str) -> str:
    return f"{package} {locked('requirements.txt', package)}"


SUITES = [
    pytest_suite(
        "specifications/schemathesis",
        "requests derived from the OpenAPI document, valid and invalid, and the answers",
        _version("schemathesis"),
        *("integration/test_rest_document.py", "integration/test_vendor_document.py"),
        group=STANDARDS,
    ),
    pytest_suite(
        "specifications/opentelemetry",
        "names of spans and attributes, W3C trace context through Claude Code and Codex",
        _version("opentelemetry-semantic-conventions"),
        *("integration/test_tracing.py", "agents/test_traces.py"),
        group=STANDARDS,
    ),
    pytest_suite(
        "specifications/mcp",
        "the MCP SDK for Python as the client, by stdio and HTTP, in both handshakes",
        _version("mcp"),
        *("acceptance/test_mcp.py", "integration/test_http_mcp.py"),
        group=STANDARDS,
    ),
]
