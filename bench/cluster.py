"""The cost of a cluster: a gateway with two workers, against a server that runs the agents itself."""

import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import msgspec
from msgspec.structs import replace

from bench.clients import PROMPT_PATH, holding, prompt_body, timed
from bench.load import Ask, HoldStreams, Times, TimeStreams
from bench.processes import clinvk, module, running
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server, free_port, serving
from bench.streaming import INTERVAL_US
from bench.workplace import BenchBroken, Workplace

_PROMPTS = 200
_PIECES = 300
_ADDED_PROMPT_MS = 1.5
_ADDED_PIECE_MS = 0.4
_PIECE_US = 250.0
"""4,000 pieces a second."""
_STREAMS = 16
_NODES = 20
_WAITING = 2000
_FLAT = 1.1
_WARM_UPS = 3
_SETTLE_S = 2
_START_TIMEOUT_S = 20


def cluster(place: Workplace) -> list[Figure]:
    """Time prompts and pieces through a gateway, and measure its memory with many nodes and waiting runs."""
    workers = [clinvk("worker", "--node", node) for node in ("one", "two")]
    nodes = [module("nodes", str(_NODES))]
    with serving(place) as direct, running_gateway(place, workers, len(workers)) as gateway:
        figures = [_prompts(place, direct, gateway), *_pieces(place, direct, gateway)]
    with running_gateway(place, nodes, _NODES) as gateway:
        return [*figures, _memory(place, gateway)]


def _prompts(place: Workplace, direct: Server, gateway: Server) -> Figure:
    body, count = prompt_body(place, "hello"), place.some(_PROMPTS)

    def prompts(server: Server) -> float:
        return timed(Ask(port=server.port, path=PROMPT_PATH, body=body, count=count, expected='"exit_code":0')).p50_ms

    alone, through = interleaved(place.rounds, lambda: prompts(direct), lambda: prompts(gateway))
    return _figure("a prompt through a gateway, p50", "ms", through, alone, Budget("added", _ADDED_PROMPT_MS))


def _pieces(place: Workplace, direct: Server, gateway: Server) -> list[Figure]:
    def pieces(server: Server, interval_us: int, streams: int) -> Times:
        body = prompt_body(place, f"stream {place.some(_PIECES)} {interval_us}", stream=True)
        return timed(TimeStreams(port=server.port, path=PROMPT_PATH, body=body, streams=streams, enough='"done"'))

    def p50_ms(server: Server) -> float:
        return pieces(server, INTERVAL_US, 1).p50_ms

    def each_us(server: Server) -> float:
        times = pieces(server, 0, _STREAMS)
        return times.seconds / times.count * 1e6

    alone, through = interleaved(place.rounds, lambda: p50_ms(direct), lambda: p50_ms(gateway))
    fast, fast_through = interleaved(place.rounds, lambda: each_us(direct), lambda: each_us(gateway))
    name = f"a piece at full speed, {_STREAMS} at once"
    return [
        _figure("a piece through a gateway, p50", "ms", through, alone, Budget("added", _ADDED_PIECE_MS)),
        _figure(name, "µs", fast_through, fast, Budget("at most", _PIECE_US)),
    ]


def _memory(place: Workplace, gateway: Server) -> Figure:
    """Hold waiting streams several times: after a warm-up the gateway needs no more memory."""
    count, body = place.some(_WAITING), prompt_body(place, "wait", stream=True)
    job = HoldStreams(port=gateway.port, path=PROMPT_PATH, body=body, streams=count, enough="waiting")

    def held_mb() -> float:
        with holding(place, job):
            resident_mb = gateway.resident_kb / 1024
        time.sleep(_SETTLE_S)
        return resident_mb

    for _ in range(_WARM_UPS):
        held_mb()
    first, *later = [held_mb() for _ in range(place.rounds + 1)]
    name = f"memory of a gateway, {count} waiting runs on {_NODES} nodes"
    return _figure(name, "MB", later, [first] * len(later), Budget("share", _FLAT), "the first time")


def _figure(
    name: str, unit: str, ours: list[float], peer: list[float], budget: Budget, peer_name: str = "one server"
) -> Figure:
    return Figure(name=name, unit=unit, ours=ours, peer_name=peer_name, peer=peer, budget=budget)


@contextmanager
def running_gateway(place: Workplace, workers: Sequence[Sequence[str]], nodes: int) -> Generator[Server]:
    """Run a NATS server, workers, which get its URL as the last argument, and a gateway that knows all nodes."""
    place = replace(place, env={**place.env, "CLINVK_CLUSTER_SECRET": "bench"})
    port = free_port()
    broker = [str(Path(sys.executable).with_name("nats-server")), "-a", "127.0.0.1", "-p", str(port)]
    url = f"nats://127.0.0.1:{port}"
    with ExitStack() as stack:
        stack.enter_context(running(broker, {}, place.root / "nats.log"))
        time.sleep(1)
        gateway = stack.enter_context(serving(place, f"cluster: {{url: '{url}'}}\n"))
        for number, worker in enumerate(workers):
            command = [*worker, "--cluster", url]
            stack.enter_context(running(command, place.env, place.root / f"worker-{number}.log"))
        deadline = time.monotonic() + _START_TIMEOUT_S
        while _nodes(gateway) < nodes:
            if time.monotonic() > deadline:
                raise BenchBroken(f"{_nodes(gateway)} of {nodes} nodes came")
            time.sleep(0.1)
        yield gateway


def _nodes(gateway: Server) -> int:
    with urlopen(f"http://127.0.0.1:{gateway.port}/api/v1/nodes") as response:
        return len(msgspec.json.decode(response.read())["nodes"])
