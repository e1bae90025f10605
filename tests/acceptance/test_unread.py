"""Commands that are interrupted while their stderr is full and unread."""

import json
import os
import signal
import time

import pytest

from acceptance.command import Clinvk, until
from acceptance.test_interrupted import BEGUN, full_pipe
from scripted.steps import hang, stderr, touch


@pytest.mark.first(3)
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("command", [["hello"], ["parallel", "-f", "t.json"], ["chain", "-f", "t.json"]], ids=" ".join)
def test_repeated_ctrl_c_exits_with_7(clinvk: Clinvk, command: list[str], times: int) -> None:
    clinvk.agent.play([*BEGUN, stderr("boom\n"), touch(clinvk.folder / "up"), hang()])
    (clinvk.folder / "t.json").write_text(json.dumps([{"backend": "claude", "prompt": "one"}]))
    reading, writing = full_pipe()
    try:
        with clinvk.started(*command, stderr=writing) as process:
            if command[0] == "chain":
                os.read(reading, 65536)  # it tells its id before it begins
            until((clinvk.folder / "up").exists)
            fill(writing)
            for _ in range(times):
                process.send_signal(signal.SIGINT)
                time.sleep(0.3)  # two signals at once would be one
            until(lambda: process.poll() is not None)
            assert process.returncode == 7
        assert clinvk.agent.alive() == []
    finally:
        os.close(reading)
        os.close(writing)


def fill(pipe: int) -> None:
    """Fill a pipe."""
    os.set_blocking(pipe, False)
    try:
        while True:
            os.write(pipe, b"\n")
    except BlockingIOError:
        os.set_blocking(pipe, True)
