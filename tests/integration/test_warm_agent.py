"""The output of a warm process reaches the runs it belongs to."""

from pathlib import Path

import pytest

from clinvk.runtime.run import execution
from clinvk.types.events import TextDelta, Usage
from clinvk.types.request import RunRequest
from integration.pool_server import Server, request
from integration.test_warm_set import ready
from lasting_backend import Lasting
from polling import until


@pytest.mark.parametrize("capacity", [1, 8])
async def test_each_line_is_read_once_with_its_events(tmp_path: Path, capacity: int) -> None:
    received: list[tuple[bytes, int]] = []

    def receive() -> None:
        received.extend((line, len([*delivered])) for line, delivered in handle.read())

    async with ready(Lasting(tmp_path, capacity)) as (_, agent):
        handle = agent.admit("one", receive)
        handle.begin(RunRequest(prompt="tick 3", backend="lasting"), None)
        await until(lambda: handle.is_over)
    assert [count for _, count in received] == [1] * 5


@pytest.mark.parametrize("capacity", [1, 8])
async def test_run_cancelled_while_streaming_reports_usage(
    tmp_path: Path, capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "INTERRUPTED_TIMEOUT_S", 5.0)
    async with Server(Lasting(tmp_path, capacity)) as server, server.runs.run(request("flood 20")) as run:
        async for logged in run.log.follow():
            if isinstance(logged.event, TextDelta):
                break
        await server.runs.cancel(run.id)
        assert run.log.ending
        assert run.log.ending.usage == Usage(output_tokens=1)
