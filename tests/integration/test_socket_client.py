"""A command's run in a server that stops reading, with a server that is only a socket."""

import asyncio
import socket
import time

import pytest

from clinvk.remote import socket_client
from clinvk.remote.connection import Connection
from clinvk.remote.messages import Begun, Events
from clinvk.remote.socket_client import run_over
from clinvk.types.errors import TimedOut
from clinvk.types.events import Logged, RunFailed, RunStarted, TextDelta
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts
from polling import until

LARGE = "x" * 5_000_000
"""More than a socket takes that nobody reads."""


async def begin(request: RunRequest, said: list[str]) -> None:
    """Begin a run through an unread socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        connection = Connection(*await asyncio.open_unix_connection(sock=ours))
        try:
            async with run_over(connection, request, b"", said.append):
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


async def test_time_limit_applies_once_a_paused_reader_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the reader is behind, the server waits too, and then it hangs."""
    request = RunRequest(prompt="hi", backend="claude", workdir="/", timeout_s=30)
    ours, theirs = socket.socketpair()
    connection = Connection(*await asyncio.open_unix_connection(sock=ours))
    server = Connection(*await asyncio.open_unix_connection(sock=theirs))
    try:
        server.send(Begun("1", RunFacts(run_id="1", backend="claude", state="running")))
        for number, event in enumerate((RunStarted(), *(TextDelta("x" * 100_000) for _ in range(60))), 1):
            server.send(Events("1", [Logged(number, 0, event)]))
        async with asyncio.timeout(30), run_over(connection, request, b"", lambda _: None) as run:
            await until(lambda: run.log.count == 61)
            assert run.log.is_ahead
            monkeypatch.setattr(socket_client, "_LATER_S", -29.9)
            events = [logged.event async for logged in run.log.follow()]
    finally:
        connection.close()
        server.close()
    assert len(events) == 62
    assert isinstance(failure := events[-1], RunFailed)
    assert failure.message == "the server does not answer, and the 30 s are over"
