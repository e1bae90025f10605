"""What it is worth to keep the processes of the real agent CLIs: beside the same CLI, started for each prompt."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from bench.agents import CLIS, agents
from bench.asking import MODELS, asked, kept
from bench.mixed import mixed
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, serving
from bench.workplace import BenchBroken, Workplace

_FIRST_TOKEN = {"claude": 0.15, "codex": 0.5, "gemini": 0.06}
_PACE = {"claude": 1.0, "codex": 3.0, "gemini": 10.0}
_LATER_TURN_MS = 60
_CLIENTS = 8
_FEW, _MANY = 24, 200
_READY_WITHIN_S = 60
_RESTS_S = 1.0
"""A process that has just come up is still at work, and so is one that has just been spoken to."""

_CONFIG = "warm: {kept_backends: [claude, codex, gemini]}\n"


def warm(place: Workplace) -> list[Figure]:
    """Time the first token and later turns, and count prompts, kept and started; then look at the memory of many."""
    figures: list[Figure] = []
    for cli in CLIS:
        with agents(place) as machine, serving(machine, _CONFIG) as server:
            figures += _of(cli, machine, server)
    return figures + mixed(place)


def _of(cli: str, place: Workplace, server: Server) -> list[Figure]:
    body = {"backend": cli, "workdir": str(place.root), "model": MODELS[cli][0], "prompt": "hello [[words=20]]"}
    session = asked(server, body).session
    turn = {**body, "session_id": session}
    first, cold, later = interleaved(
        2 * place.rounds,
        lambda: _ready(server, cli) or asked(server, body).first_ms,
        lambda: asked(server, {**body, "warm": False}).first_ms,
        lambda: _rested() or asked(server, turn).first_ms,
    )
    fast, slow = interleaved(
        place.rounds,
        lambda: _pace(server, body, place.some(_FEW if cli == "claude" else _MANY)),
        lambda: _pace(server, {**body, "warm": False}, place.some(_FEW)),
    )

    def figure(name: str, unit: str, ours: list[float], peer: list[float], budget: Budget) -> Figure:
        started = f"{cli} started for it"
        return Figure(name=f"{name}, {cli} kept", unit=unit, ours=ours, peer_name=started, peer=peer, budget=budget)

    return [
        figure("first token", "ms", first, cold, Budget("share", _FIRST_TOKEN[cli])),
        figure("later turn, first token", "ms", later, cold, Budget("at most", _LATER_TURN_MS)),
        figure(f"prompts, {_CLIENTS} at once", "/s", fast, slow, Budget("ratio", _PACE[cli])),
    ]


def _ready(server: Server, cli: str) -> None:
    """Wait until a process is ready and at rest."""
    until = time.monotonic() + _READY_WITHIN_S
    while not kept(server).ready:
        if time.monotonic() > until:
            raise BenchBroken(f"no process of {cli} is ready")
        time.sleep(0.05)
    _rested()


def _rested() -> None:
    time.sleep(_RESTS_S)


def _pace(server: Server, body: Mapping[str, object], count: int) -> float:
    """Give prompts a second, several clients at once."""
    began = time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as clients:
        for run in [clients.submit(asked, server, body) for _ in range(count)]:
            run.result()
    return count / (time.perf_counter() - began)
