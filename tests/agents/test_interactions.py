"""Agents ask for approval, and act on the answer. The agents are real, the model is a stand-in."""

import asyncio

import pytest

from agents.machine import Machine
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run.task import RunTask
from clinvk.types.events import InteractionRequested, InteractionResolved, RunFailed, RunFinished
from clinvk.types.interaction import Interaction, InteractionAnswer
from clinvk.types.request import RunRequest

LIMIT_S = 60


async def asked(run: RunTask) -> Interaction:
    """Return the first interaction of a run."""
    async with asyncio.timeout(LIMIT_S):
        async for logged in run.follow():
            if isinstance(logged.event, InteractionRequested):
                return logged.event.interaction
    raise AssertionError(f"nothing was asked: {run.entries}")


def writes(machine: Machine, backend: str) -> RunRequest:
    """Return a request whose agent writes the file `asked.txt`."""
    path = machine.project / "asked.txt"
    prompt = f"[[tool=write path={path} content=x say=Done.]]"
    return machine.completed(RunRequest(prompt=prompt, backend=backend, approval_mode="ask", warm=True))


async def answered(runs: LocalRuns, run: RunTask, answer: InteractionAnswer) -> list[object]:
    """Answer the first interaction of a run, and return the events until the end."""
    interaction = await asked(run)
    assert run.state == "waiting"
    assert runs.busy == 0
    await runs.interactions.answer(interaction.id, answer)
    async with asyncio.timeout(LIMIT_S):
        return [logged.event async for logged in run.follow()]


@pytest.mark.parametrize("way", ["alone", "kept"], indirect=True)
async def test_allowed_write_is_done(machine: Machine) -> None:
    async with machine.runs() as runs, runs.run(writes(machine, "claude")) as run:
        events = await answered(runs, run, InteractionAnswer(choice="allow"))
    assert isinstance(events[-1], RunFinished)
    assert [event.interaction.status for event in events if isinstance(event, InteractionResolved)] == ["answered"]
    assert (machine.project / "asked.txt").read_text() == "x"


@pytest.mark.parametrize("way", ["alone", "kept"], indirect=True)
async def test_denied_write_is_not_done(machine: Machine) -> None:
    async with machine.runs() as runs, runs.run(writes(machine, "claude")) as run:
        events = await answered(runs, run, InteractionAnswer(choice="deny", reason="not now"))
    assert isinstance(events[-1], RunFinished)
    assert not (machine.project / "asked.txt").exists()


@pytest.mark.parametrize("way", ["alone", "kept"], indirect=True)
async def test_deny_and_stop_cancels_the_run(machine: Machine) -> None:
    async with machine.runs() as runs, runs.run(writes(machine, "claude")) as run:
        events = await answered(runs, run, InteractionAnswer(choice="deny_and_stop"))
    assert isinstance(events[-1], RunFailed)
    assert run.state == "cancelled"
    assert not (machine.project / "asked.txt").exists()
