"""The official SDKs of OpenAI and Anthropic for Python, in the environment of the tests."""

from conformance.pytest_suite import pytest_suite
from conformance.suite import FRAMEWORKS, locked

_CHECKS = "answers, streams, usage, errors, conversations and images with each agent"
_VERSIONS = ", ".join(f"{name} {locked('requirements.txt', name)}" for name in ("openai", "anthropic"))

SUITES = [
    pytest_suite(
        "sdks/python", f"OpenAI and Anthropic SDK: {_CHECKS}", _VERSIONS, "agents/test_vendor_sdks.py", group=FRAMEWORKS
    )
]
