"""The real Gemini CLI as a client of `clinvk serve`, with another agent in place of the model."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.machine import GEMINI_SETTINGS, Machine
from clients import finished
from serving import LiveServer, serving
from standin.document import JSON


@dataclass(frozen=True)
class Client:
    """Gemini CLI in a separate home, with its default settings for retries."""

    machine: Machine
    home: Path

    async def ask(self, server: LiveServer, prompt: str, model: str, *flags: str) -> "subprocess.CompletedProcess[str]":
        """Run one prompt without stdin."""
        folder = self.home / ".gemini"
        folder.mkdir(parents=True, exist_ok=True)
        general = {
            name: GEMINI_SETTINGS["general"][name] for name in ("enableAutoUpdate", "enableAutoUpdateNotification")
        }
        (folder / "settings.json").write_text(json.dumps({**GEMINI_SETTINGS, "general": general}))
        env = {
            "PATH": self.machine.env["PATH"],
            "HOME": str(self.home),
            "GOOGLE_GEMINI_BASE_URL": f"http://127.0.0.1:{server.port}/gemini",
            "GEMINI_API_KEY": "not-needed",
            "GEMINI_CLI_CUSTOM_HEADERS": "x-clinvk-tools: client",
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
        }
        arguments = ("--model", model, "--output-format", "json", *flags, "--prompt", prompt)
        return await finished("gemini", *arguments, cwd=self.machine.project, env=env, within_s=100)


@pytest.fixture
def client(machine: Machine) -> Client:
    """Gemini CLI as a client of the server of a test."""
    return Client(machine, machine.home.parent / "client")


@pytest.mark.parametrize("model", ["claude", pytest.param("codex", marks=pytest.mark.slow)])
async def test_gemini_cli_writes_and_reads_a_file_with_its_own_tools(
    client: Client, machine: Machine, model: str
) -> None:
    client.home.mkdir()
    calls = client.home / "calls.json"
    made = machine.project / "made.txt"
    steps: list[list[JSON]] = [
        [["write_file", {"file_path": str(made), "content": "by the client\n"}]],
        [["read_file", {"file_path": str(made)}], ["list_directory", {"dir_path": str(machine.project)}]],
    ]
    calls.write_text(json.dumps(steps))
    async with serving(machine.env, default_workdir=str(machine.outside)) as server:
        done = await client.ask(server, f"[[script {calls}]]", model, "--approval-mode", "yolo")
        assert done.returncode == 0, done.stdout + done.stderr
        runs = (await server.client.get("/api/v1/runs")).json()["total"]
    assert made.read_text() == "by the client\n"
    assert "RESULTS" in done.stdout, done.stdout + done.stderr
    assert "by the client" in json.dumps(machine.requests()[-1])
    assert runs == 1
    assert not list(machine.outside.iterdir())
