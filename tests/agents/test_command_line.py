"""The real CLIs through the installed `clinvk`."""

import json

import pytest

from agents.machine import Machine, clinvk, interrupted_in_a_tool

CLIS = ("claude", "codex", "gemini")


@pytest.mark.parametrize("backend", CLIS)
def test_prompt_with_stdin_context_is_answered_and_tools_run_in_the_workdir(machine: Machine, backend: str) -> None:
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
def test_ctrl_c_stops_a_running_tool(machine: Machine, backend: str) -> None:
    assert interrupted_in_a_tool(machine, "-b", backend) == (7, b"clinvk: cancelled\n")
    assert machine.leftover_processes() == []
