"""The overhead of clinvk for each line of a stream, from the agent's write to the client's read."""

from bench.clients import PROMPT_PATH, prompt_body, timed
from bench.load import TimePipes, Times, TimeStreams
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, bare, serving
from bench.workplace import BenchBroken, Workplace

_STREAMS = (1, 16)
INTERVAL_US = 5000
ADDED_P50_MS = 0.1
ADDED_P99_MS = 2.0


def streaming(place: Workplace) -> list[Figure]:
    """Time lines over HTTP, against the same child read from its pipe and relayed by a minimal server."""
    with serving(place) as server, bare(place) as relay:
        return [figure for streams in _STREAMS for figure in _streaming(place, server, relay, streams)]


def _streaming(place: Workplace, server: Server, relay: Server, streams: int) -> list[Figure]:
    lines = place.some(300)
    prompt = f"stream {lines} {INTERVAL_US}"
    body = prompt_body(place, prompt, stream=True)

    def over_http(server: Server, path: str, body: str, last: str) -> Times:
        return timed(TimeStreams(port=server.port, path=path, body=body, streams=streams, enough=last))

    pipe, relayed, ours = interleaved(
        place.rounds,
        lambda: timed(TimePipes(child=str(place.child), env=place.env, prompt=prompt, streams=streams)),
        lambda: over_http(relay, "/relay", prompt, '"result"'),
        lambda: over_http(server, PROMPT_PATH, body, '"done"'),
    )
    for times in pipe + relayed + ours:
        if times.count != lines * streams:
            raise BenchBroken(f"{times.count} lines came of {lines * streams}")

    def figures(peer_name: str, peer: list[Times], *bounds: float) -> list[Figure]:
        p50, p99 = [Budget("added", bound) for bound in bounds] or (None, None)
        name = f"a line, {streams} at once"
        return [
            _figure(f"{name}, p50", [t.p50_ms for t in ours], peer_name, [t.p50_ms for t in peer], p50),
            _figure(f"{name}, p99", [t.p99_ms for t in ours], peer_name, [t.p99_ms for t in peer], p99),
        ]

    return figures("pipe read directly", pipe, ADDED_P50_MS, ADDED_P99_MS) + figures("bare uvicorn", relayed)


def _figure(name: str, ours: list[float], peer_name: str, peer: list[float], budget: Budget | None) -> Figure:
    return Figure(name=name, unit="ms", ours=ours, peer_name=peer_name, peer=peer, budget=budget)
