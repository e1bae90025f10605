"""A command's run in a server that stops reading, with a server that is only a socket."""

import asyncio
import socket
import time

import pytest

from clinvk.remote.connection import Connection
from clinvk.remote.remote_runs import AttachedRun
from clinvk.types.errors import TimedOut
from clinvk.types.request import RunRequest

LARGE = "x" * 5_000_000
"""More than a socket takes that nobody reads."""


async def begin(request: RunRequest, said: list[str]) -> None:
    """Begin a run through an unread socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(*await asyncio.open_unix_connection(sock=ours))
        try:
            async with AttachedRun(connection, request, {}, said.append):
                pytest.fail("it has begun")
        finally:
            connection.close()


@pytest.mark.parametrize("prompt", ["hi", LARGE], ids=["short", "long"])
async def test_ctrl_c_also_ends_the_wait_for_a_run_to_begin(prompt: str) -> None:
    said: list[str] = []
    task = asyncio.create_task(begin(RunRequest(prompt=prompt, backend="claude", workdir="/"), said))
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
    with pytest.raises(TimedOut, match=r"the server does not answer, and the 0.5 s are over"):
        await begin(request, said)
    assert said == ["the server does not tell whether its agent is gone"]
