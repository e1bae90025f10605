"""Frameworks and SDKs, unmodified: the framework's own loop calls functions of the client through each agent."""

from conformance.pytest_suite import pytest_suite
from conformance.suite import FRAMEWORKS, locked

PROGRAMS = {
    "agents_sdk.py": ("OpenAI Agents SDK", "frameworks.txt", ("openai-agents",)),
    "instructor_schemas.py": ("instructor", "instructor.txt", ("instructor",)),
    "langchain_tools.py": (
        "LangChain and LangGraph",
        "frameworks.txt",
        ("langchain", "langgraph", "langchain-openai", "langchain-anthropic"),
    ),
    "litellm_tools.py": ("LiteLLM", "frameworks.txt", ("litellm",)),
    "pydantic_ai_agents.py": ("pydantic-ai", "frameworks.txt", ("pydantic-ai-slim",)),
    "google_genai.mjs": ("Google Gen AI SDK for JavaScript", "package.json", ("@google/genai",)),
    "sdks.mjs": ("OpenAI and Anthropic SDK for JavaScript", "package.json", ("openai", "@anthropic-ai/sdk")),
    "tool_runner.py": ("Tool runner of Anthropic's SDK", "frameworks.txt", ("anthropic",)),
    "agent_framework_agents.py": (
        "Microsoft agent-framework",
        "more_frameworks.txt",
        ("agent-framework-core", "agent-framework-openai"),
    ),
    "crewai_crew.py": ("CrewAI", "crewai.txt", ("crewai",)),
    "dspy_react.py": ("DSPy", "more_frameworks.txt", ("dspy",)),
    "semantic_kernel_loop.py": ("Semantic Kernel", "more_frameworks.txt", ("semantic-kernel",)),
    "smolagents_loop.py": ("smolagents", "more_frameworks.txt", ("smolagents",)),
    "vercel.mjs": ("Vercel AI SDK", "package.json", ("ai", "@ai-sdk/openai", "@ai-sdk/anthropic")),
}
"""Each program of `tests/agents/clients/`: the name of the framework, the lock file, the packages in the lock file."""


def _versions(lock: str, packages: tuple[str, ...]) -> str:
    return ", ".join(f"{package} {locked(f'agents/clients/{lock}', package)}" for package in packages)


SUITES = [
    pytest_suite(
        f"frameworks/{program.partition('.')[0]}",
        title,
        _versions(lock, packages),
        "agents/test_frameworks.py",
        select=program,
        group=FRAMEWORKS,
    )
    for program, (title, lock, packages) in PROGRAMS.items()
]
