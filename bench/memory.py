"""The memory of an idle server, and of a stream without events."""

import time

from bench.clients import PROMPT_PATH, holding, prompt_body
from bench.load import HoldStreams
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, bare, serving
from bench.workplace import Workplace

_IDLE_MB = 40
_STREAM_KB = 25
_WARM_UP = 20
_STREAMS = 200
_SETTLE_S = 0.3
_CONFIG = "server: {max_concurrent_runs: 1000, max_concurrent_per_backend: 1000}\n"


def memory(place: Workplace) -> list[Figure]:
    """Measure the resident memory of a server, against a minimal uvicorn."""
    peer, ours = interleaved(place.rounds, lambda: _bare_kb(place), lambda: _clinvk_kb(place))

    def figure(name: str, unit: str, bound: float, ours: list[float], peer: list[float]) -> Figure:
        budget = Budget("at most", bound)
        return Figure(name=name, unit=unit, ours=ours, peer_name="bare uvicorn", peer=peer, budget=budget)

    return [
        figure("server, idle", "MB", _IDLE_MB, [idle / 1024 for idle, _ in ours], [idle / 1024 for idle, _ in peer]),
        figure("an idle stream", "KB", _STREAM_KB, [stream for _, stream in ours], [stream for _, stream in peer]),
    ]


def _bare_kb(place: Workplace) -> tuple[float, float]:
    with bare(place) as server:
        return _settled_kb(server), _per_stream_kb(place, server, "/idle", None, "{}")


def _clinvk_kb(place: Workplace) -> tuple[float, float]:
    body = prompt_body(place, "idle", stream=True)
    with serving(place, _CONFIG) as server:
        return _settled_kb(server), _per_stream_kb(place, server, PROMPT_PATH, body, '"init"')


def _per_stream_kb(place: Workplace, server: Server, path: str, body: str | None, enough: str) -> float:
    """Return the memory of a stream, without the one-time cost of the first few."""
    count = place.some(_STREAMS)

    def job(streams: int) -> HoldStreams:
        return HoldStreams(port=server.port, path=path, body=body, streams=streams, enough=enough)

    with holding(place, job(_WARM_UP)):
        before = _settled_kb(server)
        with holding(place, job(count)):
            return (_settled_kb(server) - before) / count


def _settled_kb(server: Server) -> float:
    time.sleep(_SETTLE_S)
    return server.resident_kb
