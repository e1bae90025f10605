"""Coding agents as clients, set up as docs/agents-as-clients.md says: their tools run on the client's side."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from agents.machine import INSTALLED, Machine
from clients import finished
from serving import serving
from standin.document import Record, records

PAGE = Path(__file__).parents[2] / "docs" / "agents-as-clients.md"
PROMPT = '"Which files are here?"'
MODEL = re.compile(r'(ANTHROPIC_MODEL=|gemini --model |model = "|clinvk/|"models": {"|-m )(?:claude|codex)')
OWN_TOOLS = {"claude": {"Bash", "Write"}, "codex": {"exec_command", "apply_patch"}}
"""Tools of each agent behind the server, which no request may offer."""


@dataclass(frozen=True)
class Client:
    """A client: its heading in the page, and its shell tool with the arguments for a command."""

    heading: str
    tool: str
    command: str

    def call(self, backend: str, command: str) -> list[object]:
        """Return a call of the shell tool, by the name that the model behind the server sees."""
        name = f"client_{self.tool}" if backend == "codex" and self.tool == "exec_command" else self.tool
        return [name, json.loads(self.command.replace("%s", command))]


CLAUDE_CODE = Client("Claude Code", "Bash", '{"command": "%s", "description": "d"}')
CODEX = Client("Codex", "exec_command", '{"cmd": "%s"}')
CODEX_SCRIPTS = Client("Codex", "functions__exec", '{"input": "text(await tools.exec_command({cmd: \'%s\'}));"}')
GEMINI_CLI = Client("Gemini CLI", "run_shell_command", '{"command": "%s", "description": "d"}')
OPENCODE = Client("opencode", "bash", '{"command": "%s", "description": "d"}')
CLINE = Client("Cline", "run_commands", '{"commands": ["%s"]}')


def sample(heading: str) -> str:
    """Return the commands below a heading of the page."""
    section = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return section.split("```sh\n")[1].split("```")[0]


def offered(body: Record) -> set[str]:
    return {str(tool.get("name")) for tool in records(body, "tools")}


@pytest.mark.parametrize(
    ("client", "backend"),
    [
        (CLAUDE_CODE, "codex"),
        (CODEX, "claude"),
        pytest.param(CLAUDE_CODE, "claude", marks=pytest.mark.slow),
        pytest.param(CODEX, "codex", marks=pytest.mark.slow),
        *(
            pytest.param(client, backend, marks=pytest.mark.slow)
            for client in (GEMINI_CLI, OPENCODE, CLINE)
            for backend in ("claude", "codex")
        ),
    ],
    ids=lambda value: value.heading if isinstance(value, Client) else value,
)
async def test_tools_of_an_agent_run_on_its_side(machine: Machine, client: Client, backend: str) -> None:
    runs = await run_sample(machine, client, backend, backend)
    assert runs == (2 if client is OPENCODE else 1)  # opencode also asks for a title


@pytest.mark.slow
async def test_tools_that_codex_sends_in_the_conversation_run_on_its_side(machine: Machine) -> None:
    """Codex offers newer models a JavaScript interpreter, in a namespace and not in `tools`."""
    await run_sample(machine, CODEX_SCRIPTS, "codex", "gpt-6-sol")


async def run_sample(machine: Machine, client: Client, backend: str, model: str) -> int:
    """Run the commands of the page, with a prompt that makes the model call a tool of the client; return the runs."""
    home, folder = machine.home.parent / "client", machine.home.parent / "client-project"
    for place in (home, folder):
        place.mkdir()
    calls = home / "calls.json"
    calls.write_text(json.dumps([[client.call(backend, "echo ran > made.txt")]]))
    commands = MODEL.sub(rf"\g<1>{model}", sample(client.heading)).replace(PROMPT, f'"[[script {calls}]]"')
    async with serving(machine.env, default_workdir=str(machine.project)) as server:
        done = await finished(
            *("bash", "-euo", "pipefail", "-c", commands.replace(":8080", f":{server.port}")),
            cwd=folder,
            env={
                "PATH": f"{INSTALLED / 'node_modules' / '.bin'}:{machine.env['PATH']}",
                "HOME": str(home),
                "OPENCODE_DISABLE_MODELS_FETCH": "1",
                "OPENCODE_DISABLE_AUTOUPDATE": "1",
            },
            within_s=100,
        )
        runs = (await server.client.get("/api/v1/runs")).json()["total"]
    for process in machine.leftover_processes():  # Cline leaves one
        with suppress(psutil.Error):
            if process.environ().get("HOME") == str(home):
                process.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RESULTS" in done.stdout
    assert (folder / "made.txt").read_text() == "ran\n", done.stdout + done.stderr
    assert not list(machine.project.iterdir())
    own = OWN_TOOLS[backend] - (OWN_TOOLS["claude"] if client.heading == "Claude Code" else set())
    assert not any(offered(body) & own for body in machine.requests())
    return runs
