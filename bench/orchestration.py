"""The cost of many tasks in one request: the time over the ideal, and the memory of waiting tasks."""

import http.client
import time
from collections.abc import Generator
from contextlib import contextmanager

import msgspec

from bench.report import Budget, Figure
from bench.server import Server, serving
from bench.workplace import BenchBroken, Workplace

_SLOTS = 4
_TASKS = 100
_TASK_MS = (10, 500)
_OVER_IDEAL = 1.2
_MANY = 10_000
_WAITING_KB = 2.0
_SETTLE_S = 3.0
_WARM_UP = 20
_PATIENCE_S = 600
_CONFIG = f"server: {{max_concurrent_runs: {_SLOTS}, max_concurrent_per_backend: {_SLOTS}}}\n"


class _Answer(msgspec.Struct):
    total_tasks: int
    completed: int


def orchestration(place: Workplace) -> list[Figure]:
    """Run tasks of a known length, and many of no length; look at the server while many wait."""
    rounds = range(place.rounds)
    with serving(place, _CONFIG) as server:
        _seconds(place, server, "hello", _WARM_UP)
        over = [_over_ideal(place, server, task_ms, len(rounds)) for task_ms in _TASK_MS]
        many = place.some(_MANY)
        finished = [_seconds(place, server, "hello", many) for _ in rounds]
        singly = [_seconds(place, server, "hello", _TASKS) / _TASKS * many for _ in rounds]
    waiting: list[float] = []
    for _ in rounds:
        with serving(place, _CONFIG) as server:
            _seconds(place, server, "hello", _WARM_UP)
            waiting.append(_waiting_kb(place, server, many))
    return [
        *over,
        Figure(
            name=f"{many} tasks, {_SLOTS} at once",
            unit="s",
            ours=finished,
            peer_name=f"{_TASKS} tasks, scaled",
            peer=singly,
        ),
        Figure(
            name="a task that waits, beside its text",
            unit="KB",
            ours=waiting,
            peer_name="its limit",
            peer=[_WAITING_KB] * len(waiting),
            budget=Budget("at most", _WAITING_KB),
        ),
    ]


def _over_ideal(place: Workplace, server: Server, task_ms: int, rounds: int) -> Figure:
    """Say how many times the ideal it took: tasks ÷ slots times the time of a task."""
    count = max(_SLOTS, place.some(_TASKS) // _SLOTS * _SLOTS)
    ideal_s = count / _SLOTS * task_ms / 1000
    taken = [_seconds(place, server, f"stream 1 {task_ms * 1000}", count) / ideal_s for _ in range(rounds)]
    return Figure(
        name=f"{count} tasks of {task_ms} ms, {_SLOTS} at once",
        unit="x",
        ours=taken,
        peer_name="the ideal",
        peer=[1.0] * rounds,
        budget=Budget("at most", _OVER_IDEAL),
    )


def _seconds(place: Workplace, server: Server, prompt: str, count: int) -> float:
    """Run tasks to their end; return the seconds."""
    began = time.perf_counter()
    with _sent(server, _body(place, prompt, count)) as connection:
        told = msgspec.json.decode(connection.getresponse().read(), type=_Answer)
    if told.completed != count:
        raise BenchBroken(f"of {count} tasks {told.completed} succeeded")
    return time.perf_counter() - began


def _waiting_kb(place: Workplace, server: Server, count: int) -> float:
    """Return the memory of a waiting task, without its text."""
    body = _body(place, "idle", count)
    before = server.resident_kb
    with _sent(server, body):
        time.sleep(_SETTLE_S)
        taken = server.resident_kb - before
    return (taken - len(body) / 1024) / count


def _body(place: Workplace, prompt: str, count: int) -> bytes:
    task = {"backend": "claude", "prompt": prompt, "workdir": str(place.root), "warm": False}
    return msgspec.json.encode({"tasks": [task] * count, "max_parallel": _SLOTS})


@contextmanager
def _sent(server: Server, body: bytes) -> Generator[http.client.HTTPConnection]:
    """Send tasks; the exit of the context ends unfinished ones."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE_S)
    try:
        connection.request("POST", "/api/v1/parallel", body, {"content-type": "application/json"})
        yield connection
    finally:
        connection.close()
