"""Commands through a running server with the real CLIs use the server's warm agents."""

from collections.abc import Generator

import httpx
import pytest

from acceptance.command import until
from agents.machine import Machine, clinvk, interrupted_in_a_tool, served


@pytest.fixture
def url(machine: Machine) -> Generator[str]:
    """Where a server of the machine's user is, which keeps all CLIs."""
    machine.env["CLINVK_WARM__KEPT_BACKENDS"] = "claude,codex,gemini"
    with served(machine) as url:
        yield url
    assert machine.leftover_processes() == []


def _kept(url: str) -> dict[str, int]:
    return httpx.get(f"{url}/health", timeout=30).json()["warm"]


@pytest.mark.parametrize("command", [("--new",), ("compare", "--backends", "claude", "-q")], ids=["prompt", "compare"])
def test_command_uses_a_warm_agent_of_the_server(machine: Machine, url: str, command: tuple[str, ...]) -> None:
    for _ in range(2):
        done = clinvk(machine, *command, "-o", "text", "hello [[words=3]]")
        assert ("word1 word2 word3" in done.stdout, done.returncode) == (True, 0)
        until(lambda: _kept(url)["ready"] > 0, 60)
    assert _kept(url)["hits"] >= 1


@pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
def test_conversation_resumes_with_and_without_the_server(machine: Machine, url: str, backend: str) -> None:
    for prompt, more in (("first", ("--new",)), ("second", ()), ("third", ("--no-server",)), ("fourth", ())):
        done = clinvk(machine, "-b", backend, "-o", "text", *more, f"{prompt} [[words=2]]")
        assert (done.returncode, done.stdout) == (0, "word1 word2\n"), done.stderr
    said = str(machine.requests("fourth")[-1])
    assert all(prompt in said for prompt in ("first", "second", "third"))


def test_another_agent_continues_a_conversation_through_the_server(machine: Machine, url: str) -> None:
    for prompt, more in (
        ("first", ("--new", "-b", "claude")),
        ("second", ("-c", "--continue-with", "codex")),
        ("third", ("-c", "--continue-with", "claude")),
    ):
        done = clinvk(machine, *more, "-o", "text", f"{prompt} [[words=2]]")
        assert (done.returncode, done.stdout) == (0, "word1 word2\n"), done.stderr
        said = str(machine.requests(prompt)[-1])
        assert "first" in said
    assert "second" in said


@pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
def test_ctrl_c_ends_the_tool_of_a_warm_agent(machine: Machine, url: str, backend: str) -> None:
    freely = ("--approval-mode", "none", "--sandbox-mode", "full")
    assert clinvk(machine, "-b", backend, "-o", "text", "--new", *freely, "hello [[words=1]]").returncode == 0
    assert interrupted_in_a_tool(machine, "-b", backend, "--new") == (7, b"clinvk: cancelled\n")
    assert [left for left in machine.leftover_processes() if "sleep" in left.name()] == []
