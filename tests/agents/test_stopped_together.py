"""Runs that share a process, and are stopped at once."""

import asyncio
import threading
import time
from itertools import count
from typing import Any

import pytest

from agents.machine import Machine
from clinvk.backends.registry import BACKENDS
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process.process_tags import kill_tools
from clinvk.runtime.run import execution
from clinvk.runtime.run.task import RunTask
from clinvk.store.memory import MemoryStore
from clinvk.types.events import ToolCall
from clinvk.types.request import RunRequest

PROMPTS = ("one", "two")


async def at_work(runs: LocalRuns, machine: Machine, prompt: str) -> RunTask:
    """Start a run, and wait until its tool is at work."""
    asked = f'{prompt} [[tool=shell cmd="sleep 600"]]'
    request = RunRequest(prompt=asked, backend="codex", approval_mode="none", sandbox_mode="full")
    run = await runs.start(machine.completed(request))
    async for logged in run.log.follow():
        if isinstance(logged.event, ToolCall):
            break
    return run


async def test_cancelling_two_codex_turns_together_sends_no_more_model_requests(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, ended = count(), threading.Barrier(2)
    asked: list[int] = []

    def kill_tools_in_turn(*which: Any) -> None:
        turn = next(number)
        kill_tools(*which)
        if turn < len(PROMPTS):
            ended.wait(30)
        if turn == 1:  # the other is interrupted by now
            time.sleep(1.0)
            asked.extend(len(machine.requests(prompt)) for prompt in PROMPTS)

    monkeypatch.setattr("clinvk.runtime.process.spawn.kill_tools", kill_tools_in_turn)
    monkeypatch.setattr(execution, "INTERRUPTED_TIMEOUT_S", 30.0)
    async with LocalRuns(machine.settings, MemoryStore(), machine.env, BACKENDS, keeps_warm=True) as runs:
        going = [await at_work(runs, machine, prompt) for prompt in PROMPTS]
        assert runs.warm_stats
        assert runs.warm_stats.processes == 1
        await asyncio.gather(*(runs.cancel(run.id) for run in going))
    assert asked == [1, 1]
