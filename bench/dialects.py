"""The overhead of the OpenAI and Anthropic APIs for each piece of an answer, and for the first."""

from functools import partial
from typing import NamedTuple

import msgspec

from bench.clients import timed
from bench.load import TimePipes, Times, TimeStreams
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, serving
from bench.streaming import ADDED_P50_MS, ADDED_P99_MS
from bench.workplace import BenchBroken, Workplace

_STREAMS = 16
_INTERVAL_US = 5000
_FIRST_MS = 5.0


class _Api(NamedTuple):
    """One API: its path, and the marks of pieces and of the end of a stream."""

    name: str
    path: str
    field: str
    piece: str
    enough: str


_APIS = (
    _Api("chat", "/openai/v1/chat/completions", "messages", '"delta":{"content"', "[DONE]"),
    _Api("responses", "/openai/v1/responses", "input", "output_text.delta", '"total_tokens":'),
    _Api("messages", "/anthropic/v1/messages", "messages", '"text_delta"', "message_stop"),
)


def dialects(place: Workplace) -> list[Figure]:
    """Time pieces and first pieces by each API, against the same child read from its pipe."""
    with serving(place, f"server:\n  default_workdir: {place.root}\n") as server:
        return [
            *_figures(place, server, "a piece", place.some(300), _STREAMS),
            *_figures(place, server, "the first piece", 1, 4),
        ]


def _figures(place: Workplace, server: Server, what: str, lines: int, streams: int) -> list[Figure]:
    prompt = f"stream {lines} {_INTERVAL_US}"

    def by_pipe() -> Times:
        return timed(TimePipes(child=str(place.child), env=place.env, prompt=prompt, streams=streams))

    def by(api: _Api) -> Times:
        said = prompt if api.field == "input" else [{"role": "user", "content": prompt}]
        body = msgspec.json.encode({"model": "claude", "stream": True, api.field: said}).decode()
        return timed(
            TimeStreams(port=server.port, path=api.path, body=body, streams=streams, enough=api.enough, piece=api.piece)
        )

    pipe, *ours = interleaved(place.rounds, by_pipe, *(partial(by, api) for api in _APIS))
    for times in [*pipe, *(times for rounds in ours for times in rounds)]:
        if times.count != lines * streams:
            raise BenchBroken(f"{times.count} pieces came of {lines * streams}")
    figures: list[Figure] = []
    for api, rounds in zip(_APIS, ours, strict=True):
        name = f"{what} by {api.name}, {streams} at once"
        p50 = Budget("at most", _FIRST_MS) if lines == 1 else Budget("added", ADDED_P50_MS)
        p99 = None if lines == 1 else Budget("added", ADDED_P99_MS)
        figures += [
            _figure(f"{name}, p50", [t.p50_ms for t in rounds], [t.p50_ms for t in pipe], p50),
            _figure(f"{name}, p99", [t.p99_ms for t in rounds], [t.p99_ms for t in pipe], p99),
        ]
    return figures


def _figure(name: str, ours: list[float], peer: list[float], budget: Budget | None) -> Figure:
    return Figure(name=name, unit="ms", ours=ours, peer_name="pipe read directly", peer=peer, budget=budget)
