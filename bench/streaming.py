"""What clinvk adds to each line of a stream, from the agent's write to the client's read."""

from bench.clients import PROMPT_PATH, prompt_body, timed
from bench.load import TimePipes, TimeStreams
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, serving
from bench.workplace import BenchBroken, Workplace

_STREAMS = (1, 16)
_INTERVAL_US = 5000
_ADDED_P50_MS = 0.1
_ADDED_P99_MS = 2.0


def streaming(place: Workplace) -> list[Figure]:
    """Time lines over HTTP, against the same child read from its pipe."""
    with serving(place) as server:
        return [figure for streams in _STREAMS for figure in _streaming(place, server, streams)]


def _streaming(place: Workplace, server: Server, streams: int) -> list[Figure]:
    lines = place.some(300)
    prompt = f"stream {lines} {_INTERVAL_US}"
    body = prompt_body(place, prompt, stream=True)
    peer, ours = interleaved(
        place.rounds,
        lambda: timed(TimePipes(child=str(place.child), prompt=prompt, streams=streams)),
        lambda: timed(TimeStreams(port=server.port, path=PROMPT_PATH, body=body, streams=streams)),
    )
    for times in ours + peer:
        if times.count != lines * streams:
            raise BenchBroken(f"{times.count} lines came of {lines * streams}")

    def figure(name: str, bound: float | None, ours: list[float], peer: list[float]) -> Figure:
        return Figure(
            name=f"a line, {streams} at once, {name}",
            unit="ms",
            ours=ours,
            peer_name="pipe read directly",
            peer=peer,
            budget=None if bound is None else Budget("added", bound),
        )

    return [
        figure("p50", _ADDED_P50_MS, [times.p50_ms for times in ours], [times.p50_ms for times in peer]),
        figure("p99", _ADDED_P99_MS, [times.p99_ms for times in ours], [times.p99_ms for times in peer]),
    ]
