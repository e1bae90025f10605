"""A command's run in a server that stops reading, with a server that is only a socket."""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from clinvk.remote.frames import Connection
from clinvk.remote.remote_runs import RemoteRuns
from clinvk.types.errors import TimedOut
from clinvk.types.request import RunRequest

LARGE = "x" * 5_000_000
"""More than a socket takes that nobody reads."""


@asynccontextmanager
async def unread(said: list[str]) -> AsyncGenerator[RemoteRuns]:
    """Runs through a socket that nobody reads."""
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(*await asyncio.open_unix_connection(sock=ours))
        try:
            yield RemoteRuns(connection, {}, True, said.append)
        finally:
            connection.close()


async def begin(runs: RemoteRuns, request: RunRequest) -> None:
    async with runs.run(request):
        pytest.fail("it has begun")


@pytest.mark.parametrize("prompt", ["hi", LARGE], ids=["short", "long"])
async def test_ctrl_c_also_ends_the_wait_for_a_run_to_begin(prompt: str) -> None:
    said: list[str] = []
    async with unread(said) as runs:
        task = asyncio.create_task(begin(runs, RunRequest(prompt=prompt, backend="claude", workdir="/")))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(0.1)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert time.monotonic() - began < 14
    assert said == ["the server does not tell whether its agent is gone"]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["hi", LARGE], ids=["short", "long"])
async def test_time_limit_applies_to_a_run_that_does_not_begin(prompt: str) -> None:
    said: list[str] = []
    request = RunRequest(prompt=prompt, backend="claude", workdir="/", timeout_s=0.5)
    async with unread(said) as runs:
        with pytest.raises(TimedOut, match=r"the server does not answer, and the 0.5 s are over"):
            await begin(runs, request)
    assert said == ["the server does not tell whether its agent is gone"]
