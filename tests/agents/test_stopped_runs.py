"""A run that is stopped costs the same, and leaves the same conversation, whichever process carried it."""

import json
import time
from typing import Any

import pytest
from msgspec.structs import replace

from agents.machine import Machine
from clinvk.events import RunFailed, ToolCall, Usage
from clinvk.request import RunRequest
from clinvk.result import RunResult
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.marks import kill_tools
from clinvk.runtime.process import Process
from clinvk.store.memory import MemoryStore

pytestmark = pytest.mark.timeout(120)

AT_WORK = 'x [[tool=shell cmd="sleep 600" before="Wait. " usage=100,20,30,10]]'


async def cancelled_and_gone_on(machine: Machine, warm: bool) -> tuple[RunResult, str]:
    asked = RunRequest(prompt=AT_WORK, backend="codex", approval_mode="none", sandbox_mode="full", warm=warm)
    async with LocalRuns(machine.settings, MemoryStore(), machine.env, keeps_warm=True) as runs:
        async with runs.run(machine.completed(asked)) as run:
            async for logged in run.follow():
                if isinstance(logged.event, ToolCall):
                    await runs.cancel(run.id)
            first, session = await run.result(), run.session_id
        later = replace(asked, prompt=f"then warm={warm} [[words=1]]", session_id=session)
        async with runs.run(machine.completed(later)) as run:
            await run.result()
    return first, json.dumps(machine.requests(f"then warm={warm}")[-1])


@pytest.mark.parametrize("warm", [False, True])
async def test_a_cancelled_turn_of_codex_is_counted_and_written_down(machine: Machine, warm: bool) -> None:
    result, sent = await cancelled_and_gone_on(machine, warm)
    assert isinstance(result.ending, RunFailed)
    assert result.ending.code == "cancelled"
    assert result.usage == Usage(100, 30, 20, 10)
    assert "turn_aborted" in sent


def kill_tools_late(*which: Any) -> None:
    kill_tools(*which)
    time.sleep(0.5)


@pytest.mark.parametrize("warm", [False, True])
async def test_codex_does_not_ask_its_model_again_between_the_end_of_its_tool_and_its_own(
    machine: Machine, warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinvk.runtime.process.kill_tools", kill_tools_late)
    result, _ = await cancelled_and_gone_on(machine, warm)
    assert (result.text.strip(), result.usage) == ("Wait.", Usage(100, 30, 20, 10))


def goes_on(process: Process) -> None:
    """Does not hold it."""


@pytest.mark.parametrize("warm", [False, True])
async def test_a_turn_of_codex_that_ends_by_itself_as_it_is_stopped_is_counted(
    machine: Machine, warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinvk.runtime.process.kill_tools", kill_tools_late)
    monkeypatch.setattr(Process, "hold", goes_on)
    result, _ = await cancelled_and_gone_on(machine, warm)
    assert result.usage == Usage(200, 60, 40, 20)
