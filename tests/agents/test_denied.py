"""Denied tools of the real Claude Code are reported in the same run."""

import re

import pytest

from agents.machine import Machine, clinvk
from clinvk.types.events import Progress, RunFinished
from clinvk.types.request import RunRequest

DENIED = "1 action was denied: Write: {}"
HOW = "approval_mode and sandbox_mode say what is allowed"


@pytest.mark.parametrize("way", ["alone", "kept"], indirect=True)
async def test_turn_reports_only_its_own_denied_tools(machine: Machine) -> None:
    path = machine.project / "no.txt"
    denied = DENIED.format(path)
    session: str | None = None
    async with machine.runs() as runs:
        for prompt, told in ((f"[[tool=write path={path} content=x say=Done.]]", [denied]), ("[[words=1]]", [])):
            request = machine.completed(RunRequest(prompt=prompt, backend="claude", session_id=session, warm=True))
            async with runs.run(request) as run:
                *events, ending = [logged.event async for logged in run.log.follow()]
                session = run.session_id
            assert isinstance(ending, RunFinished)
            assert [event.message for event in events if isinstance(event, Progress)] == told
            assert not told or events[-1] == Progress("denied", denied, advice=HOW)
    assert not path.exists()


def test_script_gets_denied_tools_on_stderr_and_exit_code_0(machine: Machine) -> None:
    prompt = f"[[tool=write path={machine.project / 'no.txt'} content=x say=Done.]]"
    done = clinvk(machine, "--new", "-o", "text", "--no-stdin", prompt)
    assert (done.returncode, done.stdout) == (0, "Done.\n")
    hint = r'clinvk resume [0-9a-f]{8} --approval-mode ask "go on"'
    where = re.escape(str(machine.project))
    assert re.fullmatch(f"clinvk: denied: Write: {where}/no.txt\nclinvk: to be asked: {hint}\n", done.stderr)
