"""The cost of a prompt over a direct start of its agent, and the prompts per second."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import local
from bench.clients import PROMPT_PATH, prompt_body, timed
from bench.load import Ask, Times
from bench.processes import module, run
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, serving
from bench.workplace import Workplace

_PROMPT = "hello"
_CLIENTS = (1, 16, 64)
_ADDED_MS = 0.4
_SHARE_OF_LIMIT = 0.6


class Pace(NamedTuple):
    """Prompts a second, and the CPU time per prompt in the process that runs the agent."""

    rate: float
    cpu_ms: float


def overhead(place: Workplace) -> list[Figure]:
    """Time single prompts, against the same child started, read to its end and waited for."""
    count = place.some(200)
    prompt = place.write("prompt", _PROMPT)
    with serving(place) as server:
        spawned, opened, in_process, over_http = interleaved(
            place.rounds,
            lambda: _median_ms(lambda: _posix_spawn(place, prompt), count),
            lambda: _median_ms(lambda: _popen(place), count),
            lambda: local.prompts(place, 1, count).p50_ms,
            lambda: _over_http(place, server, 1, count).p50_ms,
        )

    def figure(way: str, ours: list[float], peer_name: str, peer: list[float], budget: Budget | None = None) -> Figure:
        return Figure(name=f"a prompt, {way}, p50", unit="ms", ours=ours, peer_name=peer_name, peer=peer, budget=budget)

    return [
        figure("LocalRuns", in_process, "os.posix_spawn", spawned, Budget("added", _ADDED_MS)),
        figure("LocalRuns", in_process, "subprocess.run", opened),
        figure("HTTP", over_http, "os.posix_spawn", spawned),
    ]


def prompts(place: Workplace) -> list[Figure]:
    """Count prompts a second, against the children a second that the machine can start at all."""
    prompt = place.write("prompt", _PROMPT)
    with serving(place) as server:
        return [figure for clients in _CLIENTS for figure in _prompts(place, server, prompt, clients)]


def _prompts(place: Workplace, server: Server, prompt: Path, clients: int) -> list[Figure]:
    count = place.some(1500 if clients > 1 else 500)
    limit, in_process, over_http = interleaved(
        place.rounds,
        lambda: _limit(place, prompt, count, clients),
        lambda: paced(time.process_time, lambda: local.prompts(place, clients, count)),
        lambda: paced(lambda: server.cpu_s, lambda: _over_http(place, server, clients, count)),
    )

    peer_name = "posix_spawn in C" if place.limit else "os.posix_spawn"
    budget = Budget("ratio", _SHARE_OF_LIMIT) if clients > 1 else None
    ways = {"LocalRuns": in_process, "HTTP": over_http}
    return [
        figure
        for way, ours in ways.items()
        for figure in paces(f"prompts, {way}, {clients} at once", ours, peer_name, limit, budget)
    ]


def paces(name: str, ours: list[Pace], peer_name: str, peer: list[Pace], budget: Budget | None) -> list[Figure]:
    """Return two figures of paces, that of the rate and that of the CPU time; the budget is the rate's."""
    return [
        Figure(
            name=name,
            unit="/s",
            ours=[pace.rate for pace in ours],
            peer_name=peer_name,
            peer=[pace.rate for pace in peer],
            budget=budget,
        ),
        Figure(
            name=f"{name}, own CPU of each",
            unit="ms",
            ours=[pace.cpu_ms for pace in ours],
            peer_name=peer_name,
            peer=[pace.cpu_ms for pace in peer],
        ),
    ]


def paced(cpu_s: Callable[[], float], prompts: Callable[[], Times]) -> Pace:
    """Run prompts; `cpu_s` tells the CPU time that the process which runs the agents has taken so far."""
    before = cpu_s()
    times = prompts()
    return Pace(times.count / times.seconds, (cpu_s() - before) / times.count * 1000)


def _limit(place: Workplace, prompt: Path, count: int, clients: int) -> Pace:
    arguments = (str(place.child), str(prompt), str(count), str(clients))
    said = run([str(place.limit), *arguments] if place.limit else module("limit", *arguments), place.env)
    seconds, cpu_s = map(float, said.split())
    return Pace(count / seconds, cpu_s / count * 1000)


def _over_http(place: Workplace, server: Server, clients: int, count: int) -> Times:
    body = prompt_body(place, _PROMPT)
    return timed(
        Ask(port=server.port, path=PROMPT_PATH, body=body, clients=clients, count=count, expected='"exit_code":0')
    )


def _median_ms(once: Callable[[], None], count: int) -> float:
    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        once()
        times.append((time.perf_counter() - began) * 1000)
    return median(times)


def _posix_spawn(place: Workplace, prompt: Path) -> None:
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_OPEN, 0, str(prompt), os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, writing, 1)]
    pid = os.posix_spawn(place.child, [place.child], place.env, file_actions=actions)
    os.close(writing)
    while os.read(reading, 65536):
        pass
    os.close(reading)
    os.waitpid(pid, 0)


def _popen(place: Workplace) -> None:
    subprocess.run([place.child], input=_PROMPT.encode(), stdout=subprocess.PIPE, env=place.env, check=True)
