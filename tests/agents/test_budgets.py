"""Runs of the real agents that reach their limit of tokens or cost."""

import asyncio
import re

import pytest

from agents.machine import Machine
from clinvk.types.errors import Unsupported
from clinvk.types.events import InteractionRequested, RunFinished
from clinvk.types.interaction import Choice, InteractionAnswer
from clinvk.types.request import RunRequest

PROMPT = 'hello [[tool=shell cmd="echo a" calls=9 before="I look. " usage=1000,0,10]]'


def ask(backend: str, **limits: object) -> RunRequest:
    return RunRequest(prompt=PROMPT, backend=backend, approval_mode="none", sandbox_mode="full", **limits)  # pyright: ignore[reportArgumentType]


@pytest.mark.first(2)
@pytest.mark.parametrize("way", ["alone", "kept"], indirect=True)
@pytest.mark.parametrize("backend", ["claude", "codex"])
async def test_run_ends_at_its_token_limit(machine: Machine, backend: str) -> None:
    result = await machine.run(ask(backend, max_total_tokens=2000))
    assert isinstance(result.ending, RunFinished)
    assert (result.ending.stop_reason, result.usage is not None) == ("max_budget", True)
    assert result.text.startswith("I look. ")
    assert len(machine.requests("hello")) in (2, 3), "a request may begin until the interrupt has arrived"


@pytest.mark.parametrize("way", ["alone", "kept"], indirect=True)
async def test_claude_ends_at_its_cost_limit(machine: Machine) -> None:
    result = await machine.run(ask("claude", max_cost_usd=0.003))
    assert isinstance(result.ending, RunFinished)
    assert result.ending.stop_reason == "max_budget"
    assert result.ending.cost_usd is not None
    assert result.ending.cost_usd >= 0.003
    assert 1 <= len(machine.requests("hello")) < 9


@pytest.mark.parametrize("backend", ["codex", "gemini"])
async def test_agent_without_reported_cost_refuses_a_cost_limit(machine: Machine, backend: str) -> None:
    with pytest.raises(Unsupported, match="does not report its cost; limit the tokens with max_total_tokens"):
        await machine.run(ask(backend, max_cost_usd=1))


@pytest.mark.first(4)
@pytest.mark.parametrize("way", ["alone", "kept"], indirect=True)
@pytest.mark.parametrize(
    ("backend", "limits"), [("claude", {"max_total_tokens": 2000}), ("codex", {"max_total_tokens": 2000})]
)
@pytest.mark.parametrize("choices", [("deny",), ("allow", "deny")], ids="-".join)
async def test_run_at_its_limit_asks_whether_to_continue(
    machine: Machine, backend: str, limits: dict[str, object], choices: tuple[Choice, ...]
) -> None:
    request = machine.completed(ask(backend, **limits, on_budget="ask"))
    left: list[Choice] = [*choices]
    async with asyncio.timeout(60), machine.runs() as runs, runs.run(request) as run:
        async for logged in run.log.follow():
            if isinstance(logged.event, InteractionRequested):
                interaction = logged.event.interaction
                assert (interaction.kind, interaction.tool, runs.busy) == ("budget", "", 0)
                assert re.match(r"The run has used \d+,\d{3} tokens; its budget is [24],000\. ", interaction.title)
                await runs.interactions.answer(interaction.id, InteractionAnswer(choice=left.pop(0)))
        ending = run.log.ending
    assert isinstance(ending, RunFinished)
    assert not left or ending.stop_reason == "end_turn"
    assert ending.stop_reason in ("max_budget", "end_turn")
    assert ending.usage is not None
    assert ending.usage.total_tokens >= 2000
