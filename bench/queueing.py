"""Far more prompts at once than there are slots: how long until all are answered, and how the server is meanwhile."""

import http.client
import time
from concurrent.futures import Future, ThreadPoolExecutor
from statistics import quantiles

from bench.clients import PROMPT_PATH, prompt_body, timed
from bench.load import Ask, Times
from bench.report import Budget, Figure
from bench.server import Server, serving
from bench.workplace import BenchBroken, Workplace

_PROMPTS = 1000
_PROMPT_S = 2
_SLOTS = 16
_OVER_IDEAL = 1.2
_LIVE_P99_MS = 50
_ASK_INTERVAL_S = 0.01
_AT_REST = 200


def queueing(place: Workplace) -> list[Figure]:
    """Send prompts of two seconds all at once to a server with 16 slots, and look at it."""
    count = place.some(_PROMPTS)
    with serving(place, f"server: {{max_concurrent_runs: {_SLOTS}}}\n") as server:
        resting = [_live_ms(server) for _ in range(_AT_REST)]
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(timed, _job(place, server, count))
            busy = _live_until(sent, server)
        seconds = sent.result().seconds
    ideal_s = -(-count // _SLOTS) * _PROMPT_S

    def live(name: str, part: int, budget: Budget | None = None) -> Figure:
        ours, peer = (quantiles(values, n=100)[part - 1] for values in (busy, resting))
        return Figure(name=name, unit="ms", ours=[ours], peer_name="at rest", peer=[peer], budget=budget)

    return [
        Figure(
            name=f"{count} prompts of {_PROMPT_S} s at once, {_SLOTS} slots",
            unit="s",
            ours=[seconds],
            peer_name="the ideal",
            peer=[ideal_s],
            budget=Budget("share", _OVER_IDEAL),
        ),
        live("/health/live meanwhile, p50", 50),
        live("/health/live meanwhile, p99", 99, Budget("at most", _LIVE_P99_MS)),
    ]


def _job(place: Workplace, server: Server, count: int) -> Ask:
    body = prompt_body(place, f"stream 1 {_PROMPT_S * 1_000_000}")
    return Ask(
        port=server.port,
        path=PROMPT_PATH,
        body=body,
        clients=count,
        count=count,
        expected='"exit_code":0',
        within_s=count * _PROMPT_S,
    )


def _live_until(sent: Future[Times], server: Server) -> list[float]:
    """Time `/health/live` again and again until the prompts are answered."""
    taken: list[float] = []
    while not sent.done():
        taken.append(_live_ms(server))
        time.sleep(_ASK_INTERVAL_S)
    return taken


def _live_ms(server: Server) -> float:
    """Time one answer on a new connection, like a service manager's check."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/health/live")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 200:
        raise BenchBroken(f"/health/live was answered with {answer.status}")
    return (time.perf_counter() - began) * 1000
