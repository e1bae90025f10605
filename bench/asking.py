"""Prompts of a bench for the real agents, with one connection each, and the server's warm processes."""

import http.client
import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from bench.server import Server
from bench.workplace import BenchBroken

MODELS = {
    "claude": ("sonnet", "haiku"),
    "codex": ("gpt-5.5", "gpt-6-luna"),
    "gemini": ("gemini-2.5-flash", "gemini-2.5-pro"),
}
"""Gemini CLI would ask another model which to take, were none named."""

_PATIENCE_S = 120
_FIRST_WORD = b"word1"


class _Failure(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    session_id: str | None = None
    content: _Failure | None = None


class Told(NamedTuple):
    """The course of a prompt: the time of the first piece, the session, and the failure's code and message."""

    first_ms: float
    session: str | None
    failure: str = ""
    why: str = ""


class Kept(msgspec.Struct, frozen=True):
    """The warm processes in `/health`."""

    processes: int = 0
    ready: int = 0
    runs: int = 0
    hits: int = 0


class _Health(msgspec.Struct):
    warm: Kept = Kept()


def ask(server: Server, body: Mapping[str, object], leaves: bool = False) -> Told:
    """Send a prompt and read its stream to the end, or to its first word if its client `leaves`."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE_S)
    began, first_ms, event, session = time.perf_counter(), 0.0, _Event(), None
    data = msgspec.json.encode({**body, "output_format": "stream-json"})
    try:
        connection.request("POST", "/api/v1/prompt", data, {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            return Told(0, None, str(answer.status), answer.read().decode(errors="replace"))
        while line := answer.readline():
            if not first_ms and _FIRST_WORD in line:
                first_ms = (time.perf_counter() - began) * 1000
            event = msgspec.json.decode(line, type=_Event)
            session = event.session_id or session
            if leaves and first_ms:
                return Told(first_ms, session)
    finally:
        connection.close()
    if event.type == "done":
        return Told(first_ms, session)
    failure = event.content or _Failure()
    return Told(first_ms, session, failure.code or "no ending", failure.message)


def asked(server: Server, body: Mapping[str, object]) -> Told:
    """Send a prompt that must succeed.

    Raises:
        BenchBroken: it does not.
    """
    told = ask(server, body)
    if told.failure or not told.first_ms:
        raise BenchBroken(f"{body} failed: {told.failure or 'it gave no word'} {told.why[:300]}")
    return told


def kept(server: Server) -> Kept:
    """Return the warm processes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", "/health")
        return msgspec.json.decode(connection.getresponse().read(), type=_Health).warm
    finally:
        connection.close()
