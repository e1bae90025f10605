"""The cost of observability: metrics, and a log of each request and run, against a server without them."""

import http.client
import threading
from collections.abc import Generator
from contextlib import contextmanager

from bench.clients import PROMPT_PATH, prompt_body, timed
from bench.load import Ask, Times, TimeStreams
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, serving
from bench.spawning import Pace, paced, paces
from bench.streaming import ADDED_P50_MS, ADDED_P99_MS, INTERVAL_US
from bench.workplace import BenchBroken, Workplace

_CLIENTS = 16
_PROMPTS = 1000
_LINES = 300
_SHARE = 0.95
_READ_INTERVAL_S = 1.0
_WATCHED = "server: {metrics_enabled: true}\nlog: {format: json, requests: true}\n"


def watching(place: Workplace) -> list[Figure]:
    """Count prompts a second and their CPU time, and time lines, with and without observability."""
    count = place.some(_PROMPTS)
    with serving(place, "{}\n") as plain, serving(place, _WATCHED) as watched, _read(watched):
        off, on = interleaved(place.rounds, lambda: _pace(place, plain, count), lambda: _pace(place, watched, count))
        unseen, seen = interleaved(place.rounds, lambda: _lines(place, plain), lambda: _lines(place, watched))
    name, peer_name = f"watched, {_CLIENTS} at once", "unwatched"
    return [
        *paces(f"prompts, {name}", on, peer_name, off, Budget("ratio", _SHARE)),
        Figure(
            name=f"a line, {name}, p50",
            unit="ms",
            ours=[times.p50_ms for times in seen],
            peer_name=peer_name,
            peer=[times.p50_ms for times in unseen],
            budget=Budget("added", ADDED_P50_MS),
        ),
        Figure(
            name=f"a line, {name}, p99",
            unit="ms",
            ours=[times.p99_ms for times in seen],
            peer_name=peer_name,
            peer=[times.p99_ms for times in unseen],
            budget=Budget("added", ADDED_P99_MS),
        ),
    ]


def _pace(place: Workplace, server: Server, count: int) -> Pace:
    return paced(lambda: server.cpu_s, lambda: _prompts(place, server, count))


def _prompts(place: Workplace, server: Server, count: int) -> Times:
    body = prompt_body(place, "hello")
    ask = Ask(port=server.port, path=PROMPT_PATH, body=body, clients=_CLIENTS, count=count, expected='"exit_code":0')
    return timed(ask)


def _lines(place: Workplace, server: Server) -> Times:
    body = prompt_body(place, f"stream {place.some(_LINES)} {INTERVAL_US}", stream=True)
    return timed(TimeStreams(port=server.port, path=PROMPT_PATH, body=body, streams=_CLIENTS, enough='"done"'))


@contextmanager
def _read(server: Server) -> Generator[None]:
    """Read the metrics meanwhile, more often than Prometheus would."""
    left, failures = threading.Event(), list[str]()

    def read() -> None:
        while not left.wait(_READ_INTERVAL_S):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            if answer.status != 200 or b"clinvk_runs_total" not in answer.read():
                failures.append(f"/metrics was answered with {answer.status}")
            connection.close()

    reading = threading.Thread(target=read)
    reading.start()
    try:
        yield
    finally:
        left.set()
        reading.join()
    if failures:
        raise BenchBroken(failures[0])
