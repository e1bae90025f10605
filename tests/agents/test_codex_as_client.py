"""The real Codex as a client of `clinvk serve`, with another agent in place of the model."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from agents.machine import Machine
from clients import finished
from clinvk.dialects.openai.responses import OpenAIResponses
from scripted import Scripted
from scripted.steps import Step, claude_says, exits, pause, stderr
from serving import serving
from timeouts import answering

CONFIG = """\
model = "{model}"
model_provider = "clinvk"
check_for_update_on_startup = false

[model_providers.clinvk]
name = "clinvk"
base_url = "http://127.0.0.1:{port}/openai/v1"
wire_api = "responses"
env_key = "CLINVK_KEY"
requires_openai_auth = false
supports_websockets = false
{retries}

[analytics]
enabled = false

[feedback]
enabled = false

[features]
plugins = false
"""

NO_RETRIES = "request_max_retries = 0\nstream_max_retries = 0"


@dataclass(frozen=True)
class Client:
    """Codex in a separate home."""

    machine: Machine
    home: Path

    async def ask(
        self, prompt: str, port: int, model: str, *more: str, retries: str = NO_RETRIES
    ) -> subprocess.CompletedProcess[str]:
        """Run one prompt; `more` is put before the prompt, `retries` is the provider's retry setting."""
        folder = self.home / ".codex"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(CONFIG.format(model=model, port=port, retries=retries))
        return await finished(
            *("codex", "exec", "--json", "--skip-git-repo-check", "--sandbox=read-only", *more, prompt),
            cwd=self.machine.project,
            env={"PATH": self.machine.env["PATH"], "HOME": str(self.home), "CLINVK_KEY": "not-needed"},
            within_s=100,
        )


@pytest.fixture
def client(machine: Machine) -> Client:
    """Codex as a client of the server of a test."""
    return Client(machine, machine.home.parent / "client")


class Usage(msgspec.Struct):
    """The tokens of a turn."""

    input_tokens: int
    output_tokens: int


class Item(msgspec.Struct):
    """An item of a turn."""

    type: str
    text: str = ""


class Printed(msgspec.Struct):
    """A line of Codex's output."""

    type: str
    item: Item | None = None
    usage: Usage | None = None


def printed(done: subprocess.CompletedProcess[str]) -> list[Printed]:
    """Return the output of Codex for a completed turn."""
    assert done.returncode == 0, done.stdout + done.stderr
    return [msgspec.json.decode(text, type=Printed) for text in done.stdout.splitlines()]


def items(done: subprocess.CompletedProcess[str]) -> list[Item]:
    """Return the events of a turn without the warnings of Codex."""
    return [line.item for line in printed(done) if line.item and line.item.type != "error"]


@pytest.mark.parametrize("model", ["claude", "gemini", "codex"])
async def test_codex_completes_a_turn(client: Client, machine: Machine, model: str) -> None:
    async with serving(machine.env) as server:
        done = await client.ask("as a client [[words=3]]", server.port, model)
    assert items(done) == [Item("agent_message", "word1 word2 word3")]
    last = printed(done)[-1]
    assert last.type == "turn.completed"
    assert last.usage
    assert min(last.usage.input_tokens, last.usage.output_tokens) > 0
    assert machine.requests("as a client")


async def test_codex_reports_why_the_agent_failed(client: Client, machine: Machine) -> None:
    async with serving(machine.env) as server:
        done = await client.ask("as a client [[error=429]]", server.port, "claude")
    assert done.returncode != 0
    assert "turn.failed" in done.stdout
    assert "429" in done.stdout


@pytest.mark.parametrize("says", [claude_says("one ", "two")[:4], claude_says()[:1]], ids=["has spoken", "at once"])
async def test_codex_does_not_retry_a_crashed_agent(client: Client, scripted: Scripted, says: list[Step]) -> None:
    scripted.play([*says, stderr("the disk is on fire"), exits(3)])
    async with serving(scripted.env, client_tools="agent") as server:
        done = await client.ask("hello", server.port, "claude", retries="")
    assert done.returncode != 0
    failed = done.stdout.splitlines()[-1]
    assert "turn.failed" in failed
    assert "the disk is on fire" in failed
    assert len(scripted.calls()) == 1


@pytest.mark.slow
async def test_codex_waits_for_a_silent_agent(client: Client, scripted: Scripted) -> None:
    says = claude_says("one ", "two")
    scripted.play([pause(6), *says[:4], pause(6), *says[4:]])
    agent_tools = 'model_providers.clinvk.http_headers={"x-clinvk-tools"="agent"}'
    impatient = f"{NO_RETRIES}\nstream_idle_timeout_ms = 4000"
    async with answering(OpenAIResponses(), scripted.env) as port:
        done = await client.ask("hello", port, "claude", "-c", agent_tools, retries=impatient)
    assert items(done) == [Item("agent_message", "one two")]
    assert len(scripted.calls()) == 1
