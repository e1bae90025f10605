"""The cost of a gateway as a function of the nodes behind it: real NATS, nodes without agents (nodes.py)."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from bench.clients import PROMPT_PATH, prompt_body, timed
from bench.cluster import running_gateway
from bench.load import Ask, TimeStreams
from bench.processes import module
from bench.report import Budget, Figure
from bench.rounds import interleaved
from bench.server import Server
from bench.streaming import INTERVAL_US
from bench.workplace import Workplace

_NODES = (1, 2, 4, 8, 16, 20)
_PROMPTS = 200
_STREAMS, _PIECES = 8, 200
_FLAT = 1.5
"""With more nodes fewer pieces arrive together, so each costs a little more."""


class _Cost(NamedTuple):
    """The CPU time of the gateway for each prompt or piece, and the median of their latencies."""

    cpu_ms: float
    p50_ms: float


def cluster_cost(place: Workplace) -> list[Figure]:
    """Measure prompts and pieces through one gateway for each number of nodes, in alternating rounds."""
    with ExitStack() as stack:
        gateways = [
            stack.enter_context(running_gateway(place, [module("nodes", str(nodes))], nodes)) for nodes in _NODES
        ]
        prompts = interleaved(place.rounds, *(lambda server=server: _prompts(place, server) for server in gateways))
        pieces = interleaved(place.rounds, *(lambda server=server: _pieces(place, server) for server in gateways))
    return [
        *_figures("CPU time of a gateway per prompt", [[cost.cpu_ms for cost in each] for each in prompts]),
        *_figures("CPU time of a gateway per piece", [[cost.cpu_ms for cost in each] for each in pieces]),
        *_figures("a prompt without the agent, p50", [[cost.p50_ms for cost in each] for each in prompts]),
        *_figures("a piece, p50", [[cost.p50_ms for cost in each] for each in pieces]),
    ]


def _prompts(place: Workplace, server: Server) -> _Cost:
    body, count = prompt_body(place, "hello"), place.some(_PROMPTS)
    return _cost(server, Ask(port=server.port, path=PROMPT_PATH, body=body, count=count, expected='"exit_code":0'))


def _pieces(place: Workplace, server: Server) -> _Cost:
    body = prompt_body(place, f"stream {place.some(_PIECES)} {INTERVAL_US}", stream=True)
    return _cost(server, TimeStreams(port=server.port, path=PROMPT_PATH, body=body, streams=_STREAMS, enough='"done"'))


def _cost(server: Server, job: Ask | TimeStreams) -> _Cost:
    before = server.cpu_s
    times = timed(job)
    return _Cost((server.cpu_s - before) / times.count * 1000, times.p50_ms)


def _figures(name: str, values: Sequence[list[float]]) -> list[Figure]:
    """Return a figure for each number of nodes; the budget applies to the largest."""
    return [
        Figure(
            name=name,
            nodes=nodes,
            unit="ms",
            ours=ours,
            peer_name="one node",
            peer=values[0],
            budget=Budget("share", _FLAT) if nodes == _NODES[-1] else None,
        )
        for nodes, ours in zip(_NODES, values, strict=True)
    ]
