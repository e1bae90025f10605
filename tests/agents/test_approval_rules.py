"""Rules decide what agents ask, and nobody is asked. The agents are real, the model is a stand-in."""

import json

import pytest

from agents.machine import Machine
from clinvk.config.model import ApprovalSettings, Settings, WarmSettings
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import InteractionQuery
from clinvk.types.choices import ApprovalMode
from clinvk.types.events import InteractionRequested, Progress, RunFinished
from clinvk.types.interaction import ApprovalRule
from clinvk.types.request import RunRequest

each_agent = pytest.mark.parametrize("backend", ["claude", "codex"])
each_mode = pytest.mark.parametrize("mode", ["ask", "default"])


def settings(**rules: ApprovalRule) -> Settings:
    return Settings(warm=WarmSettings(kept_backends=("claude", "codex")), approvals=ApprovalSettings(rules=rules))


TOUCH = ApprovalRule(effect="allow", command="touch asked.txt")
REFUSAL = ApprovalRule(effect="deny", command="touch", reason="not on a Friday")


def touches(machine: Machine, backend: str, mode: ApprovalMode) -> RunRequest:
    """Return a request whose agent runs a command that needs approval."""
    prompt = '[[tool=shell cmd="touch asked.txt" say=Done.]]'
    if backend == "codex":
        call = {"cmd": "touch asked.txt", "sandbox_permissions": "require_escalated", "justification": "j"}
        prompt = f"[[call exec_command {json.dumps(call)}]] [[say=Done.]]"
    return machine.completed(RunRequest(prompt=prompt, backend=backend, approval_mode=mode, warm=True))


async def outcome(machine: Machine, request: RunRequest, rules: Settings) -> tuple[list[str | None], str]:
    """Run a request that nobody answers; return who has answered, and the messages of denials."""
    async with MemoryStore() as store:
        async with machine.runs(rules, store) as runs, runs.run(request) as run:
            events = [logged.event async for logged in run.log.follow()]
        stored = await store.interactions(InteractionQuery(run_id=run.id))
        assert (await store.run(run.id)).request["approval_mode"] == request.approval_mode
    assert isinstance(events[-1], RunFinished)
    assert not any(isinstance(event, InteractionRequested) for event in events)
    denials = [event.message for event in events if isinstance(event, Progress) and event.stage == "denied"]
    return [each.answered_by for each in stored], "\n".join(denials)


@each_mode
@each_agent
async def test_rule_allows_a_command_that_needs_approval(machine: Machine, backend: str, mode: ApprovalMode) -> None:
    answered_by, denials = await outcome(machine, touches(machine, backend, mode), settings(touch=TOUCH))
    assert (answered_by, denials) == (["rule touch"], "")
    assert (machine.project / "asked.txt").exists()


@each_mode
@each_agent
async def test_stricter_rule_denies_the_command(machine: Machine, backend: str, mode: ApprovalMode) -> None:
    rules = settings(touch=TOUCH, friday=REFUSAL)
    answered_by, denials = await outcome(machine, touches(machine, backend, mode), rules)
    assert answered_by == ["rule friday"]
    assert "not on a Friday" in denials
    assert not (machine.project / "asked.txt").exists()
    if backend == "claude":  # the other agents have no place for a reason
        assert "not on a Friday" in json.dumps(machine.requests())


@each_agent
async def test_mode_default_denies_at_once_what_no_rule_allows(machine: Machine, backend: str) -> None:
    rules = settings(tests=ApprovalRule(effect="allow", command="npm test"))
    answered_by, denials = await outcome(machine, touches(machine, backend, "default"), rules)
    assert answered_by == ["no rule"]
    assert "touch asked.txt" in denials
    assert not (machine.project / "asked.txt").exists()
