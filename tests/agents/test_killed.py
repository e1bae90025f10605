"""`kill -9` of clinvk while a tool of a real CLI is at work."""

import json
import subprocess
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from acceptance.command import Clinvk, until
from agents.machine import Machine, clinvk

# The second time it does nothing: Gemini CLI keeps no more of what was cut short than what it was asked, and asks the
# stand-in both at once.
HIDES = "test -e up && exit; env -i setsid sh -c '(sleep 599 &)'; touch up; exec sleep 599"


@pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
def test_killing_clinvk_ends_tools_and_conversation_can_be_resumed(machine: Machine, backend: str) -> None:
    with _started(machine, "-b", backend, f'go [[tool=shell cmd="{HIDES}" words=1]]') as process:
        until((machine.project / "up").exists, 60)
        until(lambda: _has_conversation(machine))
        assert len(machine.leftover_processes()) > 2
        process.kill()
        process.communicate(timeout=30)
    until(lambda: machine.leftover_processes() == [])
    with _started(machine, "resume", "--last", "and then? [[words=2]]") as process:
        stdout, stderr = process.communicate(timeout=90)
        assert process.returncode == 0, stderr
    assert json.loads(stdout)["content"] == "word1 word2"
    assert "sleep 599" in json.dumps(machine.requests("and then?")[0]), "the agent knows what it was asked before"


def _has_conversation(machine: Machine) -> bool:
    """Return whether the conversation of the agent is stored; a tool may start a moment earlier."""
    listed = json.loads(clinvk(machine, "sessions", "list", "--json").stdout)
    return bool(listed["sessions"][0]["backend_session_id"])


@contextmanager
def _started(machine: Machine, *arguments: str) -> Generator["subprocess.Popen[bytes]"]:
    freely = ("--no-stdin", "-o", "json", "--approval-mode", "none", "--sandbox-mode", "full")
    with subprocess.Popen(
        [Clinvk.command, *arguments, *freely],
        cwd=machine.project,
        env=machine.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
