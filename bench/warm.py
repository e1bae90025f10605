"""What it is worth to keep the processes of the real agent CLIs: beside the same CLI, started for each prompt."""

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from bench.agents import CLIS, agents
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, serving
from bench.workplace import BenchBroken, Workplace

_FIRST_TOKEN = {"claude": 0.15, "codex": 0.5, "gemini": 0.06}
_PACE = {"claude": 1.0, "codex": 3.0, "gemini": 10.0}
_LATER_TURN_MS = 60
_CLIENTS = 8
_READY_WITHIN_S = 60
_CONFIG = "warm: {kept_backends: [claude, codex, gemini]}\n"
_MODEL = {"claude": "sonnet", "codex": "gpt-5.5", "gemini": "gemini-2.5-flash"}
"""Gemini CLI would ask another model which to take."""


class _Event(msgspec.Struct):
    type: str = ""
    session_id: str | None = None


class Told(NamedTuple):
    """When the first piece of an answer came, and the session that it is in."""

    first_ms: float
    session: str | None


def warm(place: Workplace) -> list[Figure]:
    """Time the first token and later turns, and count prompts, kept and started."""
    figures: list[Figure] = []
    for cli in CLIS:
        with agents(place) as machine, serving(machine, _CONFIG) as server:
            figures += _of(cli, machine, server)
    return figures


def _of(cli: str, place: Workplace, server: Server) -> list[Figure]:
    session = _ask(server, place, cli, warm=True).session
    kept, cold, later = interleaved(
        place.rounds,
        lambda: _ready(server, place, cli),
        lambda: _ask(server, place, cli, warm=False).first_ms,
        lambda: _ask(server, place, cli, warm=True, session=session).first_ms,
    )
    fast, slow = interleaved(
        max(1, place.rounds // 2),
        lambda: _pace(server, place, cli, warm=True),
        lambda: _pace(server, place, cli, warm=False),
    )
    started = f"{cli} started for it"

    def figure(name: str, unit: str, ours: list[float], peer: list[float], budget: Budget) -> Figure:
        return Figure(name=f"{name}, {cli} kept", unit=unit, ours=ours, peer_name=started, peer=peer, budget=budget)

    return [
        figure("first token", "ms", kept, cold, Budget("share", _FIRST_TOKEN[cli])),
        figure("later turn, first token", "ms", later, cold, Budget("at most", _LATER_TURN_MS)),
        figure(f"prompts, {_CLIENTS} at once", "/s", fast, slow, Budget("ratio", _PACE[cli])),
    ]


def _ready(server: Server, place: Workplace, cli: str) -> float:
    """Wait until a process is ready, then ask."""
    until = time.monotonic() + _READY_WITHIN_S
    while not _health(server).get("ready"):
        if time.monotonic() > until:
            raise BenchBroken(f"no process of {cli} is ready")
        time.sleep(0.05)
    time.sleep(1.0)  # at rest: a spare that has just come up is still at work
    return _ask(server, place, cli, warm=True).first_ms


def _health(server: Server) -> dict[str, int]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/health")
    told = msgspec.json.decode(connection.getresponse().read(), type=dict[str, object])
    connection.close()
    return msgspec.convert(told.get("warm") or {}, dict[str, int])


def _ask(server: Server, place: Workplace, cli: str, *, warm: bool, session: str | None = None) -> Told:
    body = {"prompt": "hello [[words=20]]", "output_format": "stream-json", "warm": warm, "model": _MODEL[cli]}
    body |= {"session_id": session} if session else {"backend": cli, "workdir": str(place.root)}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    began, first, last = time.perf_counter(), 0.0, _Event()
    connection.request("POST", "/api/v1/prompt", msgspec.json.encode(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    said = b""
    while line := answer.readline():
        said = line
        event = msgspec.json.decode(line, type=_Event)
        session = event.session_id or session
        first = first or (time.perf_counter() - began if b"word1" in line else 0.0)
        last = event
    connection.close()
    if not first:
        raise BenchBroken(f"{cli} did not answer: {last.type} {said[:300]!r}")
    return Told(first * 1000, session)


def _pace(server: Server, place: Workplace, cli: str, *, warm: bool) -> float:
    """Give prompts a second, several clients at once."""
    count = max(_CLIENTS, round((200 if warm and cli != "claude" else 24) * place.scale))

    def one(_: int) -> None:
        _ask(server, place, cli, warm=warm)

    began = time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as clients:
        list(clients.map(one, range(count)))
    return count / (time.perf_counter() - began)
