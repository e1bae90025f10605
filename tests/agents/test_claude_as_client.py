"""The real Claude Code as a client of `clinvk serve`, with another agent in place of the model."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.machine import Machine
from clients import finished
from scripted import Scripted
from scripted.steps import claude_says, exits, stderr
from serving import LiveServer, serving
from standin.document import JSON


@dataclass(frozen=True)
class Client:
    """Claude Code in a separate home."""

    machine: Machine
    home: Path

    async def ask(self, server: LiveServer, prompt: str, *flags: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run one prompt without stdin; `env` extends the environment."""
        self.home.mkdir(exist_ok=True)
        own = {
            "PATH": self.machine.env["PATH"],
            "HOME": str(self.home),
            "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.port}/anthropic",
            "ANTHROPIC_API_KEY": "not-needed",
            "CLAUDE_CODE_MAX_RETRIES": "1",
        }
        return await finished("claude", "-p", *flags, prompt, cwd=self.machine.project, env=own | env, within_s=100)


@pytest.fixture
def client(machine: Machine) -> Client:
    """Claude Code as a client of the server of a test."""
    return Client(machine, machine.home.parent / "client")


async def test_claude_code_streams_the_answer_and_the_thinking(client: Client, machine: Machine) -> None:
    flags = ("--output-format=stream-json", "--verbose", "--include-partial-messages")
    async with serving(machine.env) as server:
        done = await client.ask(server, "as a client [[think=3 words=5]]", "--model=opus", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    deltas = [
        line["event"]["delta"]
        for line in lines
        if line["type"] == "stream_event" and line["event"]["type"] == "content_block_delta"
    ]
    kinds = [delta["type"] for delta in deltas]
    assert kinds.count("text_delta") > 1
    assert kinds.index("thinking_delta") < kinds.index("signature_delta") < kinds.index("text_delta")
    assert "".join(delta.get("text", "") for delta in deltas) == "word1 word2 word3 word4 word5"


@pytest.mark.slow
async def test_claude_code_reports_why_the_agent_failed(client: Client, machine: Machine) -> None:
    async with serving(machine.env) as server:
        done = await client.ask(server, "as a client [[error=400]]", "--model=opus")
    assert done.returncode != 0
    assert "400" in done.stdout


async def test_claude_code_does_not_retry_a_crashed_agent(client: Client, scripted: Scripted) -> None:
    """With the documented settings; without them Claude Code retries once without streaming."""
    scripted.play([*claude_says("one ", "two")[:4], stderr("the disk is on fire"), exits(3)])
    async with serving(scripted.env, client_tools="agent") as server:
        alone = {"CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1"}
        done = await client.ask(server, "hello", "--model=claude", **alone)
    assert done.returncode != 0
    assert "the disk is on fire" in done.stdout
    assert len(scripted.calls()) == 1


def script(client: Client, name: str, *calls: tuple[str, dict[str, JSON]]) -> str:
    """Return a prompt with which the model makes calls, one after the other."""
    client.home.mkdir(exist_ok=True)
    path = client.home / name
    path.write_text(json.dumps([[call] for call in calls]))
    return f"[[script {path}]]"


async def runs(server: LiveServer) -> int:
    return (await server.client.get("/api/v1/runs")).json()["total"]


TASK: dict[str, JSON] = {
    "description": "d",
    "prompt": "of the sub-agent [[words=2]]",
    "subagent_type": "general-purpose",
    "run_in_background": False,
}
ECHO: dict[str, JSON] = {"command": "echo ran", "description": "d"}


async def test_parked_run_continues_after_the_sub_agents_of_claude_code(client: Client, machine: Machine) -> None:
    """The client has system messages in the conversation, of the agent and of the sub-agent."""
    prompt = script(client, "calls", ("Agent", TASK), ("Bash", ECHO), ("Bash", ECHO))
    async with serving(machine.env, client_tools="client") as server:
        done = await client.ask(server, prompt, "--model=codex", "--allowedTools=Bash,Agent")
        assert "RESULTS" in done.stdout, done.stdout + done.stderr
        assert "word1 word2" in done.stdout
        assert await runs(server) == 2


async def test_second_prompt_of_claude_code_has_its_tools(client: Client, machine: Machine) -> None:
    first, second = [script(client, name, ("Bash", ECHO), ("Bash", ECHO)) for name in ("first", "second")]
    async with serving(machine.env, client_tools="client") as server:
        await client.ask(server, first, "--model=codex", "--allowedTools=Bash")
        done = await client.ask(server, second, "--model=codex", "--allowedTools=Bash", "--continue")
        assert "RESULTS" in done.stdout, done.stdout + done.stderr
        assert await runs(server) == 2
    bodies = json.dumps(machine.requests()[-1])
    assert "first" in bodies
