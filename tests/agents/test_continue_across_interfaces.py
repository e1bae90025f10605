"""A conversation begun over HTTP goes on from the command line in another folder, and the other way round."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agents.machine import Machine
from serving import serving

pytestmark = pytest.mark.slow

BACKENDS = pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])


def clinvk(machine: Machine, folder: Path, *argv: str) -> dict[str, object]:
    """Run the command in a folder; return its JSON output."""
    command = [str(Path(sys.executable).parent / "clinvk"), *argv]
    done = subprocess.run(
        command, cwd=folder, env=machine.env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def earlier(machine: Machine, latest: str) -> str:
    """Return the body in which the model API was asked for the latest turn, as text."""
    (body,) = machine.requests(latest)
    return json.dumps(body)


@BACKENDS
async def test_conversation_started_over_http_resumes_from_another_folder(machine: Machine, backend: str) -> None:
    async with serving(machine.env) as server:
        first = await server.prompt(
            backend=backend, prompt="my cat is called Mimi [[words=2]]", workdir=str(machine.project)
        )
    session = first.json()["session_id"]
    answer = clinvk(machine, machine.outside, "resume", session[:8], "what is it called? [[words=3]]", "-o", "json")
    assert (answer["content"], answer["session_id"]) == ("word1 word2 word3", session)
    reported = earlier(machine, "what is it called?")
    assert "my cat is called Mimi" in reported
    assert "word1 word2" in reported
    shown = clinvk(machine, machine.outside, "sessions", "show", session, "--json")
    assert (shown["turn_count"], shown["working_dir"]) == (2, str(machine.project))


@BACKENDS
async def test_conversation_started_on_the_command_line_resumes_over_http(machine: Machine, backend: str) -> None:
    first = clinvk(machine, machine.project, "-b", backend, "my dog is called Rex [[words=2]]", "-o", "json")
    async with serving(machine.env) as server:
        second = (
            await server.prompt(backend=backend, prompt="and now? [[words=3]]", session_id=first["session_id"])
        ).json()
    assert (second["output"], second["session_id"], second["exit_code"]) == (
        "word1 word2 word3",
        first["session_id"],
        0,
    )
    assert "my dog is called Rex" in earlier(machine, "and now?")
    assert 0 < second["token_usage"]["output_tokens"] <= 10
