"""The real CLIs within limits of the machine."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from agents.machine import Machine
from clinvk.config.model import AgentSettings
from clinvk.types.request import RunRequest

AMPLE = AgentSettings(max_memory_mb=2048, max_cpu_secs=600, max_open_files=1024)


@pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
async def test_agent_runs_within_ample_limits_and_its_tools_inherit_them(machine: Machine, backend: str) -> None:
    told = machine.project / "told"
    request = RunRequest(
        prompt=f'[[tool=shell cmd="cat /proc/self/limits > {told}" words=2]]',
        backend=backend,
        workdir=str(machine.project),
        approval_mode="none",
        sandbox_mode="full",
    )
    async with machine.runs(replace(machine.settings, agents=AMPLE)) as runs, runs.run(request) as run:
        assert (await run.log.result()).error is None
    assert limits(told) == {"Max data size": str(2048 * 1024**2), "Max cpu time": "600", "Max open files": "1024"}


def limits(file: Path) -> dict[str, str]:
    """Return the soft limits that a process wrote to a file."""
    wanted = ("Max data size", "Max cpu time", "Max open files")
    lines = file.read_text().splitlines()
    return {name: line.removeprefix(name).split()[0] for name in wanted for line in lines if line.startswith(name)}
