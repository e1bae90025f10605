"""A stopped run has the same cost and leaves the same conversation in a warm and in a dedicated process."""

import json
import time
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from acceptance.command import until as wait_until
from agents.machine import Machine
from clinvk.backends.base import Delivery
from clinvk.backends.codex.app_server import AppServerChannel
from clinvk.backends.registry import BACKENDS
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process.process import Process
from clinvk.runtime.process.process_tags import kill_tools
from clinvk.runtime.run import execution
from clinvk.store.memory import MemoryStore
from clinvk.types.events import RunFailed, RunResult, ToolCall, Usage
from clinvk.types.request import RunRequest
from polling import until

AT_WORK = 'x [[tool=shell cmd="sleep 600" before="Wait. " usage=100,20,30,10]]'
ONE_REQUEST = Usage(100, 30, 20, 10)


@pytest.fixture(autouse=True)
def time_to_end_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run wait for its agent as long as a busy machine needs."""
    monkeypatch.setattr(execution, "INTERRUPTED_TIMEOUT_S", 30.0)


def notes(machine: Machine) -> list[dict[str, Any]]:
    """Return the record that Codex has written of the only conversation."""
    records = (machine.home / ".codex" / "sessions").rglob("rollout-*.jsonl")
    lines = [line for record in records for line in record.read_text().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines of Codex's output."""
    lines: list[bytes] = []
    receive = AppServerChannel.receive

    def noted(channel: AppServerChannel, line: bytes) -> Iterable[Delivery]:
        lines.append(line)
        return receive(channel, line)

    monkeypatch.setattr(AppServerChannel, "receive", noted)
    return lines


def counted(heard: list[bytes]) -> Usage | None:
    """Return the tokens that Codex reported until its first turn ended.

    It gives a turn that is interrupted a tenth of a second to tell them. On a busy machine it writes them down and
    tells them to nobody.
    """
    usage = None
    for line in heard:
        match json.loads(line):
            case {"method": "thread/tokenUsage/updated", "params": {"tokenUsage": {"total": total}}}:
                names = ("inputTokens", "outputTokens", "cachedInputTokens", "reasoningOutputTokens")
                usage = Usage(*(total[name] for name in names))
            case {"method": "turn/completed"}:
                break
            case _:
                pass
    return usage


def is_asked_for_a_tool(machine: Machine) -> bool:
    """Whether the model's answer with the call is over. The call is told before, the tokens with the tool's end."""
    return any(note["type"] == "token_usage_record" for note in notes(machine))


async def cancelled_and_gone_on(machine: Machine, warm: bool) -> tuple[RunResult, str]:
    asked = RunRequest(prompt=AT_WORK, backend="codex", approval_mode="none", sandbox_mode="full", warm=warm)
    async with LocalRuns(machine.settings, MemoryStore(), machine.env, BACKENDS, keeps_warm=True) as runs:
        async with runs.run(machine.completed(asked)) as run:
            async for logged in run.log.follow():
                if isinstance(logged.event, ToolCall):
                    await until(lambda: is_asked_for_a_tool(machine))
                    await runs.cancel(run.id)
            first, session = await run.log.result(), run.session_id
        later = replace(asked, prompt=f"then warm={warm} [[words=1]]", session_id=session)
        async with runs.run(machine.completed(later)) as run:
            await run.log.result()
    return first, json.dumps(machine.requests(f"then warm={warm}")[-1])


@pytest.mark.parametrize("warm", [False, True])
async def test_cancelled_codex_turn_reports_usage_and_is_recorded(
    machine: Machine, warm: bool, heard: list[bytes]
) -> None:
    result, sent = await cancelled_and_gone_on(machine, warm)
    assert isinstance(result.ending, RunFailed)
    assert result.ending.code == "cancelled"
    assert result.usage == counted(heard)
    assert result.usage in (None, ONE_REQUEST)
    assert "turn_aborted" in sent


@pytest.mark.parametrize("warm", [False, True])
async def test_cancelled_codex_sends_no_model_request_after_its_tool_ends(
    machine: Machine, warm: bool, heard: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def kill_tools_late(*which: Any) -> None:
        kill_tools(*which)
        time.sleep(0.5)
        asked.append(len(machine.requests("x [[")))

    monkeypatch.setattr("clinvk.runtime.process.spawn.kill_tools", kill_tools_late)
    result, _ = await cancelled_and_gone_on(machine, warm)
    assert asked[0] == 1
    assert result.usage == counted(heard)
    assert result.usage in (None, ONE_REQUEST)


def goes_on(process: Process) -> None:
    """Do not suspend the process."""


@pytest.mark.parametrize("warm", [False, True])
async def test_codex_turn_that_finishes_while_being_cancelled_reports_usage(
    machine: Machine, warm: bool, heard: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_tools_late(*which: Any) -> None:
        kill_tools(*which)
        wait_until(lambda: any(note["payload"].get("type") == "task_complete" for note in notes(machine)))

    monkeypatch.setattr("clinvk.runtime.process.spawn.kill_tools", kill_tools_late)
    monkeypatch.setattr(Process, "suspend", goes_on)
    result, _ = await cancelled_and_gone_on(machine, warm)
    assert result.usage == counted(heard) == ONE_REQUEST + ONE_REQUEST
