"""Files with the deepest JSON that can be decoded are run, or refused as invalid."""

import pytest

from acceptance.command import Clinvk
from nesting import deepest
from scripted.steps import claude_says

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize(("command", "parts"), [("parallel", "tasks"), ("chain", "steps")])
def test_deeply_nested_file_runs_or_is_rejected_cleanly(clinvk: Clinvk, command: str, parts: str) -> None:
    clinvk.agent.play(claude_says("{}"))
    most = deepest()
    read, unread = most - 24, most + 64  # up to Python 3.11 the command can read more than a test
    while unread - read > 1:
        depth = (read + unread) // 2
        metadata = f'{{"a":{"[" * depth}{"]" * depth}}}'
        file = f'{{"{parts}":[{{"backend":"claude","prompt":"hi","metadata":{metadata}}}]}}'
        done = clinvk.run(command, "--json", stdin=file.encode())
        assert (done.returncode, "nested too deeply" in done.stderr) in ((0, False), (2, True)), (depth, done.stderr)
        if "1:1: is nested too deeply" in done.stderr:
            unread = depth
        else:
            read = depth
