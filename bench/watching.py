"""What it costs to watch the server: prompts with metrics and a log of each request and run, beside none of it."""

from bench.clients import PROMPT_PATH, prompt_body, timed
from bench.load import Ask, Times
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, serving
from bench.spawning import Pace, paced, paces
from bench.workplace import Workplace

_CLIENTS = 16
_PROMPTS = 1000
_SHARE = 0.95
_WATCHED = "server: {metrics_enabled: true}\nlog: {format: json, requests: true}\n"


def watching(place: Workplace) -> list[Figure]:
    """Count prompts a second and their CPU time, with both on and with both off, by two servers in turn."""
    count = place.some(_PROMPTS)
    with serving(place, "{}\n") as plain, serving(place, _WATCHED) as watched:
        off, on = interleaved(place.rounds, lambda: _pace(place, plain, count), lambda: _pace(place, watched, count))
    budget = Budget("ratio", _SHARE)
    return paces(f"prompts, watched, {_CLIENTS} at once", on, "unwatched", off, budget)


def _pace(place: Workplace, server: Server, count: int) -> Pace:
    return paced(lambda: server.cpu_s, lambda: _prompts(place, server, count))


def _prompts(place: Workplace, server: Server, count: int) -> Times:
    body = prompt_body(place, "hello")
    ask = Ask(port=server.port, path=PROMPT_PATH, body=body, clients=_CLIENTS, count=count, expected='"exit_code":0')
    return timed(ask)
