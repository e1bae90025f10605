"""Start times: a server's first answer, a version, an agent's start, `/health`."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from bench.clients import timed
from bench.load import Ask, now_ns
from bench.processes import clinvk, run
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, bare, serving
from bench.workplace import BenchBroken, Workplace

_SERVE_MS = 250
_VERSION_MS = 10
_HELP_MS = 30
_LOOK_MS = 70
_SERVED_MS = 60
_SPAWN_MS = 110
_HEALTH_MS = 1


def startup(place: Workplace) -> list[Figure]:
    """Time starts, against a bare Python, `import asyncio` and a minimal uvicorn."""
    commands: dict[str, tuple[float | None, Callable[[], float]]] = {
        "clinvk version": (_VERSION_MS, lambda: _run_ms(place, clinvk("version"))),
        "clinvk --help": (_HELP_MS, lambda: _run_ms(place, clinvk("--help"))),
        "clinvk config get": (_LOOK_MS, lambda: _run_ms(place, clinvk("config", "get", "server.port"))),
        "clinvk sessions list": (_LOOK_MS, lambda: _run_ms(place, clinvk("sessions", "list"))),
        "command line to its agent's start": (_SPAWN_MS, lambda: _spawn_ms(place, "--no-server")),
        "the same through a server": (_SERVED_MS, lambda: _spawn_ms(place)),
        "a whole prompt through a server": (None, lambda: _run_ms(place, _prompt(place))),
    }
    with serving(place):
        empty, served, python, asyncio, *times = interleaved(
            place.rounds * 4,
            lambda: _up_ms(lambda: bare(place)),
            lambda: _up_ms(lambda: serving(place)),
            lambda: _run_ms(place, [sys.executable, "-c", "pass"]),
            lambda: _run_ms(place, [sys.executable, "-c", "import asyncio"]),
            *(measure for _, measure in commands.values()),
        )

    def figure(name: str, budget: Budget | None, ours: list[float], peer_name: str, peer: list[float]) -> Figure:
        return Figure(name=name, unit="ms", ours=ours, peer_name=peer_name, peer=peer, budget=budget)

    figures = [figure("serve to first /health", Budget("at most", _SERVE_MS), served, "bare uvicorn", empty)]
    for (name, (most, _)), ours in zip(commands.items(), times, strict=True):
        figures.append(figure(name, Budget("added", most) if most else None, ours, "bare Python", python))
        figures.append(figure(name, None, ours, "import asyncio", asyncio))
    return figures


def health(place: Workplace) -> list[Figure]:
    """Time /health on a kept-alive connection, against a minimal uvicorn."""
    with serving(place) as server, bare(place) as peer:
        theirs, ours = interleaved(
            place.rounds, lambda: _health_ms(place, peer, "ok"), lambda: _health_ms(place, server, '"status"')
        )
    budget = Budget("at most", _HEALTH_MS)
    return [Figure(name="/health, p50", unit="ms", ours=ours, peer_name="bare uvicorn", peer=theirs, budget=budget)]


def _health_ms(place: Workplace, server: Server, expected: str) -> float:
    job = Ask(port=server.port, path="/health", count=place.some(1000), expected=expected)
    return timed(job).p50_ms


def _up_ms(server: Callable[[], AbstractContextManager[Server]]) -> float:
    with server() as up:
        return up.up_after_s * 1000


def _run_ms(place: Workplace, command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=place.env, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return (time.perf_counter() - began) * 1000


def _spawn_ms(place: Workplace, *flags: str) -> float:
    """Return the time from the start of the command line to the first instruction of its agent."""
    command = _prompt(place, *flags)
    before = now_ns()
    said = run(command, place.env)
    if found := re.search(r"began=(\d+)", said):
        return (int(found[1]) - before) / 1e6
    raise BenchBroken(f"the agent's answer did not come: {said!r}")


def _prompt(place: Workplace, *flags: str) -> list[str]:
    return clinvk(
        "--backend", "claude", "--output-format", "text", "--workdir", str(place.root), "--new", *flags, "began"
    )
