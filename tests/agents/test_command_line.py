"""The real CLIs through the installed `clinvk`."""

import json
import signal
import subprocess

import pytest

from acceptance.command import Clinvk, until
from agents.machine import Machine, clinvk

CLIS = ("claude", "codex", "gemini")

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("backend", CLIS)
def test_a_prompt_with_context_is_answered_and_tools_work_in_the_directory(machine: Machine, backend: str) -> None:
    prompt = 'do it [[tool=shell cmd="touch made-by-a-tool" words=3]]'
    done = clinvk(
        machine,
        *("-b", backend, "-o", "text", "--approval-mode", "none", "--sandbox-mode", "full", prompt),
        stdin="the context",
    )
    assert (done.returncode, done.stdout) == (0, "word1 word2 word3\n")
    assert (machine.project / "made-by-a-tool").exists()
    assert "<stdin>\\nthe context\\n</stdin>" in json.dumps(machine.requests("do it")[0])


@pytest.mark.parametrize("backend", CLIS)
def test_a_refusal_of_the_model_api_is_told_in_its_words(machine: Machine, backend: str) -> None:
    done = clinvk(machine, "-b", backend, "hello [[error=429]]")
    result = json.loads(done.stdout)
    assert done.returncode == result["exit_code"] == 1
    assert done.stderr == f"clinvk: {' '.join(result['error'].split())}\n"
    assert result["content"] == ""


@pytest.mark.parametrize("backend", CLIS)
def test_ctrl_c_ends_a_tool_that_runs(machine: Machine, backend: str) -> None:
    arguments = ["-b", backend, "-o", "text", "--approval-mode", "none", "--sandbox-mode", "full"]
    up = machine.project / "up"
    prompt = 'go [[tool=shell cmd="touch up; exec sleep 599" words=1]]'
    process = subprocess.Popen(
        [Clinvk.command, *arguments, "--no-stdin", prompt],
        cwd=machine.project,
        env=machine.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        until(up.exists, 60)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=15)
        assert machine.left() == []
    finally:
        process.kill()
    assert (process.returncode, stderr) == (7, b"clinvk: cancelled\n")
