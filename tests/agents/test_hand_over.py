"""Another agent continues a session: what the model API received is the proof."""

import json
from typing import Any

import pytest

from agents.machine import Machine, clinvk

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def answer(machine: Machine, *words: str) -> dict[str, Any]:
    done = clinvk(machine, "-o", "json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def session(machine: Machine, session_id: str) -> dict[str, object]:
    return json.loads(clinvk(machine, "sessions", "show", session_id, "--json").stdout)


def test_codex_continues_a_session_of_claude_and_hands_it_back(machine: Machine) -> None:
    first = answer(machine, "--new", "-b", "claude", "alpha [[say=avocado usage=100,20,30,10]]")
    done = clinvk(machine, "-o", "json", "-c", "--continue-with", "codex", "beta [[say=banana usage=200,40,50,20]]")
    assert done.returncode == 0, done.stderr
    second = json.loads(done.stdout)
    assert (second["backend"], second["session_id"]) == ("codex", first["session_id"])
    assert "handover: codex continues the conversation of claude from 2 messages" in done.stderr
    sent = json.dumps(machine.requests("beta")[-1])
    assert sent.index("alpha") < sent.index("avocado") < sent.index("beta")

    third = answer(machine, "-c", "gamma [[say=cherry usage=300,60,70,30]]")
    assert third["backend"] == "codex"
    back = answer(machine, "resume", first["session_id"], "--continue-with", "claude", "delta [[say=date]]")
    assert (back["backend"], back["session_id"]) == ("claude", first["session_id"])
    sent = json.dumps(machine.requests("delta")[-1])
    for words in ("avocado", "banana", "cherry"):
        assert words in sent
    assert sent.count("avocado") == json.dumps(machine.requests("alpha")[-1]).count("avocado") + 1

    again = answer(machine, "-c", "--continue-with", "codex", "epsilon [[say=elder usage=400,80,90,40]]")
    assert again["usage"]["output_tokens"] == 90
    assert "banana" in json.dumps(machine.requests("epsilon")[-1])
    shown = session(machine, first["session_id"])
    assert shown["backend"] == "codex"
    turns = clinvk(machine, "sessions", "export", first["session_id"]).stdout
    assert "older messages" not in turns
    assert "another agent" not in turns


def test_session_stays_with_its_agent_if_the_other_one_fails_at_once(machine: Machine) -> None:
    first = answer(machine, "--new", "-b", "claude", "alpha [[say=avocado]]")
    failed = clinvk(machine, "-c", "--continue-with", "codex", "beta [[error=401 words=1]]")
    assert failed.returncode != 0
    assert session(machine, first["session_id"])["backend"] == "claude"
    assert answer(machine, "-c", "gamma [[say=cherry]]")["backend"] == "claude"
    assert "avocado" in json.dumps(machine.requests("gamma")[-1])


def test_modes_carry_over_or_the_prompt_is_refused(machine: Machine) -> None:
    made = machine.project / "made"
    first = answer(machine, "--new", "-b", "claude", "--sandbox-mode", "read-only", "alpha [[say=avocado]]")
    answer(machine, "-c", "--continue-with", "codex", f"beta [[tool=write path={made} content=hi]]")
    assert not made.exists()
    config = machine.home / ".clinvk" / "config.yaml"
    config.write_text("backends:\n  echo:\n    command: [cat]\n")
    refused = clinvk(machine, "-c", "--continue-with", "echo", "gamma")
    assert refused.returncode != 0
    assert session(machine, first["session_id"])["backend"] == "codex"
