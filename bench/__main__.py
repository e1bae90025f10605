"""`python -m bench`: measure, and print the table."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.client_tools import client_tools
from bench.cluster import cluster
from bench.cluster_cost import cluster_cost
from bench.console import console
from bench.dialects import dialects
from bench.failures import failures
from bench.memory import memory
from bench.orchestration import orchestration
from bench.persisting import persisted
from bench.plot import svg
from bench.queueing import queueing
from bench.report import Figure, table
from bench.soak import soak
from bench.spawning import overhead, prompts
from bench.startup import health, startup
from bench.store import store
from bench.streaming import streaming
from bench.warm import warm
from bench.watching import watching
from bench.workplace import BenchBroken, Workplace, workplace

_GROUPS: dict[str, Callable[[Workplace], list[Figure]]] = {
    "overhead": overhead,
    "prompts": prompts,
    "persisted": persisted,
    "store": store,
    "streaming": streaming,
    "dialects": dialects,
    "watching": watching,
    "queue": queueing,
    "memory": memory,
    "orchestration": orchestration,
    "startup": startup,
    "health": health,
    "warm": warm,
    "client_tools": client_tools,
    "cluster": cluster,
    "failures": failures,
    "cluster_cost": cluster_cost,
    "console": console,
    "soak": soak,
}


def main() -> int:
    """Run the selected groups; return 1 if a group broke, or is over its budget under --strict."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    figures: list[Figure] = []
    broken = False
    scale = arguments.scale or (0.2 if arguments.quick else 1.0)
    with workplace(2 if arguments.quick else 5, scale) as place:
        for name in arguments.only or _GROUPS:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                figures += _GROUPS[name](place)
            except BenchBroken as exc:
                broken = True
                print(f"{name} broke: {exc}", file=sys.stderr)
    print(table(figures))
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    if arguments.svg:
        arguments.svg.write_text(svg(figures))
    return int(broken or (arguments.strict and any(figure.kept is False for figure in figures)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure clinvk beside its limits and peers.")
    parser.add_argument("--only", action="append", choices=_GROUPS, help="this group only; may be repeated")
    parser.add_argument("--quick", action="store_true", help="fewer rounds of less work: a look, no figures to keep")
    parser.add_argument("--scale", type=float, metavar="SHARE", help="this share of the work; a quick look is 0.2")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a figure is over its budget")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round of every figure there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the figures of cluster_cost there")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
