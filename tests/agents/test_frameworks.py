"""Frameworks and SDKs, unmodified: the framework's own loop calls functions of the client through a real agent.

`make clients` installs them into environments of their own, `make conformance` also the heavy ones of `HEAVY`. The
programs are in `clients/`.
"""

import json
import os
import re
from pathlib import Path

import pytest

from agents.machine import INSTALLED, Machine
from agents.test_acp_agents import LIMIT_S, environment
from clients import finished
from clinvk.config.model import BackendSettings
from clinvk.runtime.run import execution
from serving import serving

CLIENTS = Path(__file__).parent / "clients"
PERSON = {"name": "Ann", "age": 5}
PLACE = {"city": "Rome"}
OUTPUT = "42 degrees in Rome"
"""What the function of each client returns."""
OUTPUTS = ("42", "Rome", "Milan")
"""What the functions return that are called in parallel: one returns a number, one a list, one nothing."""

PROGRAMS = {
    "agents_sdk.py": "frameworks",
    "instructor_schemas.py": "instructor",
    "langchain_tools.py": "frameworks",
    "litellm_tools.py": "frameworks",
    "pydantic_ai_agents.py": "frameworks",
    "tool_runner.py": "frameworks",
    "sdks.mjs": "node_modules",
    "google_genai.mjs": "node_modules",
    "vercel.mjs": "node_modules",
    "agent_framework_agents.py": "more_frameworks",
    "dspy_react.py": "more_frameworks",
    "semantic_kernel_loop.py": "more_frameworks",
    "smolagents_loop.py": "more_frameworks",
    "crewai_crew.py": "crewai",
}
"""The environment of each program in `.clients/`."""

HEAVY = ("more_frameworks", "crewai")
"""The environments that only `make conformance` installs."""
SENDS_TEXTS = "smolagents_loop.py"
"""It sends calls and outputs back as texts, so that each step of its loop is a run."""

_ROUTES = "/completions|/responses|/messages|:generateContent|:streamGenerateContent"
ANSWERED = rf'http_requests_total{{method="POST",route="[^"]*(?:{_ROUTES})",status="200"}} (\d+)'
"""The count of answers of a model API in the metrics."""

EVERY_DAY = (("langchain_tools.py", "codex"), ("tool_runner.py", "codex"), ("vercel.mjs", "claude"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("program", "cli"),
    [
        pytest.param(program, cli, marks=() if (program, cli) in EVERY_DAY else pytest.mark.slow)
        for program, folder in PROGRAMS.items()
        if folder not in HEAVY or (INSTALLED / folder).is_dir()
        for cli in ("claude", "codex", "gemini", "opencode")
    ],
)
async def test_framework_calls_its_own_functions(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, program: str, cli: str
) -> None:
    installed = INSTALLED / PROGRAMS[program]
    assert installed.is_dir(), f"no {installed}: run `make clients`"
    folder = machine.home.parent / "client"
    folder.mkdir()
    suffix = Path(program).suffix
    for name in (program, f"functions{suffix}"):
        (folder / name).write_text((CLIENTS / name).read_text())
    if suffix == ".mjs":
        (folder / "node_modules").symlink_to(installed)
    interpreter = "node" if suffix == ".mjs" else str(installed / "bin" / "python")
    monkeypatch.setattr(execution, "START_TIMEOUT_S", LIMIT_S)
    # opencode starts anew for each run, which takes seconds
    loops, backends = (("parallel",), {cli: BackendSettings()}) if cli == "opencode" else ((), {})
    env = environment(machine) if cli == "opencode" else machine.env
    async with serving(env, backends=backends, default_workdir=str(machine.project), metrics_enabled=True) as server:
        done = await finished(
            *(interpreter, str(folder / program), f"http://127.0.0.1:{server.port}", cli, *loops),
            cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            within_s=250,
        )
        runs = (await server.client.get("/api/v1/runs")).json()["total"]
        metrics = (await server.client.get("/metrics")).text
    assert done.returncode == 0, done.stdout + done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers
    for loop, answer in answers.items():
        _check(loop, answer)
    handoffs = sum(loop.endswith("handed_off") for loop in answers)
    objects = sum(not isinstance(answer, str) for answer in answers.values())
    turns = sum(map(int, re.findall(ANSWERED, metrics)))
    assert turns == 2 * len(answers) + handoffs - objects  # one turn has all calls of a prompt
    steps = 2 if program == SENDS_TEXTS else 1
    assert runs == steps * len(answers) + handoffs  # other tools need another run, and nothing else does


def _check(loop: str, answer: object) -> None:
    """Check the answer of a loop: what the functions returned, or the objects that were asked for."""
    match answer:
        case dict():
            assert answer == PERSON, loop
        case list():
            assert answer in ([PERSON, PLACE], [PLACE, PERSON]), loop
        case str() if "parallel" in loop:
            assert not [output for output in OUTPUTS if output not in answer], f"{loop}: {answer}"
            results = json.loads(answer.removeprefix("RESULTS "))
            assert isinstance(results, str) or len(results) == 3, f"{loop}: {answer}"  # of all three functions
        case _:
            assert OUTPUT in str(answer), loop
