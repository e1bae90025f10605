"""Tokens of a Codex run whose process was ended before it told how the turn did."""

import msgspec

from clinvk.backends.base import Host
from clinvk.backends.codex import Codex
from clinvk.types.events import RunFailed, Usage
from clinvk.types.request import RunRequest


def line(**message: object) -> bytes:
    return msgspec.json.encode(message)


def counted(total: int, last: int) -> bytes:
    tokens = {"total": {"inputTokens": total, "outputTokens": 9}, "last": {"inputTokens": last, "outputTokens": 9}}
    return line(method="thread/tokenUsage/updated", params={"threadId": "t", "tokenUsage": tokens})


def ending_of_a_process_killed_after(*lines: bytes) -> RunFailed:
    request = RunRequest(prompt="hello", backend="codex", workdir="/p")
    channel = Codex().channel(Codex().launch(request, None, Host()), Host())
    channel.start("r", request, None)
    turn = {"id": "u", "status": "inProgress"}
    opened = (line(id=0, result={}), line(id=1, result={"thread": {"id": "t"}, "model": "m"}))
    begun = (line(id=2, result={"turn": turn}), line(method="turn/started", params={"threadId": "t", "turn": turn}))
    for each in (*opened, *begun, *lines):
        list(channel.receive(each))
    ((_, ending),) = (delivery for delivery in channel.closed(143, b"") if not isinstance(delivery, bytes))
    assert isinstance(ending, RunFailed)
    return ending


def test_killed_process_keeps_the_reported_usage() -> None:
    assert ending_of_a_process_killed_after(counted(total=57, last=57)).usage == Usage(57, 9)


def test_killed_process_without_reported_usage_has_none() -> None:
    assert ending_of_a_process_killed_after().usage is None
