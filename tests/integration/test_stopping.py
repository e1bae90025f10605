"""Agents that stop slowly."""

import os
from pathlib import Path

import pytest

from clinvk.config.model import Settings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run import execution
from clinvk.store.memory import MemoryStore
from clinvk.types.events import RunFailed
from clinvk.types.request import RunRequest
from integration.pool_server import gone
from polling import until
from shell_backend import TEXT, Shell

ENV = {"PATH": os.environ["PATH"]}


def local_runs() -> LocalRuns:
    return LocalRuns(Settings(), MemoryStore(), ENV, {"shell": Shell()})


async def test_cancel_ends_the_tools_and_the_waiting_agent_stops_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "STOP_GRACE_S", 600.0)
    tool = f"setsid sleep 300 >/dev/null 2>&1 &\necho $! > {tmp_path}/tool\n"
    script = f"trap '' TERM\n{tool}{TEXT}wait\necho by itself > {tmp_path}/stopped\n"
    async with local_runs() as runs:
        run = await runs.start(RunRequest(prompt=script, backend="shell"))
        await until(lambda: (tmp_path / "tool").exists() and (tmp_path / "tool").read_text())
        await runs.cancel(run.id)
        assert gone(int((tmp_path / "tool").read_text()))
        assert (tmp_path / "stopped").exists()
        assert isinstance((await run.log.result()).ending, RunFailed)
