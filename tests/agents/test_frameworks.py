"""Frameworks and SDKs, unmodified: the framework's own loop calls a function of the client through a real agent.

`make clients` installs them into environments of their own. The programs are in `clients/`.
"""

import json
import os
from pathlib import Path

import pytest

from agents.machine import Machine
from clients import finished
from serving import serving

CLIENTS = Path(__file__).parent / "clients"
INSTALLED = Path(__file__).parents[2] / ".clients"
PERSON = {"name": "Ann", "age": 5}
OUTPUT = "42 degrees in Rome"
"""What the function of each client returns."""

PROGRAMS = {
    "agents_sdk.py": "frameworks",
    "instructor_schemas.py": "instructor",
    "langchain_tools.py": "frameworks",
    "litellm_tools.py": "frameworks",
    "pydantic_ai_agents.py": "frameworks",
    "tool_runner.py": "frameworks",
    "sdks.mjs": "node_modules",
    "vercel.mjs": "node_modules",
}
"""The environment of each program in `.clients/`."""

EVERY_DAY = (("langchain_tools.py", "codex"), ("tool_runner.py", "codex"), ("vercel.mjs", "claude"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("program", "cli"),
    [
        pytest.param(program, cli, marks=() if (program, cli) in EVERY_DAY else pytest.mark.slow)
        for program in PROGRAMS
        for cli in ("claude", "codex")
    ],
)
async def test_framework_calls_its_own_function(machine: Machine, program: str, cli: str) -> None:
    environment = INSTALLED / PROGRAMS[program]
    assert environment.is_dir(), f"no {environment}: run `make clients`"
    folder = machine.home.parent / "client"
    folder.mkdir()
    copied = folder / program
    copied.write_text((CLIENTS / program).read_text())
    if program.endswith(".mjs"):
        (folder / "node_modules").symlink_to(environment)
        command = ("node", str(copied))
    else:
        command = (str(environment / "bin" / "python"), str(copied))
    async with serving(machine.env, default_workdir=str(machine.project)) as server:
        done = await finished(
            *(*command, f"http://127.0.0.1:{server.port}", cli),
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            within_s=200,
        )
        runs = (await server.client.get("/api/v1/runs")).json()["total"]
    assert done.returncode == 0, done.stdout + done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers
    for loop, answer in answers.items():
        if loop.endswith("structured"):
            assert answer == PERSON, loop
        else:
            assert OUTPUT in answer, loop
    handoffs = sum(loop.endswith("handed_off") for loop in answers)
    assert runs == len(answers) + handoffs  # other tools need another run, and nothing else does
