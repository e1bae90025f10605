"""How many runs this machine can carry at once."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from clinvk.config.model import ServerSettings
from clinvk.runtime.process.resource_limits import own_cgroup
from clinvk.types.errors import ConfigError

_MIB = 1024 * 1024
MIN_RUNS = 16
_RUN_MB = 512
_RUNS_PER_CORE = 8
"""Agents mostly wait for their model, so one core carries several agents."""


class Capacity(NamedTuple):
    """The number of runs at once, and its reason."""

    runs: int
    reason: str


def capacity(server: ServerSettings) -> Capacity:
    """Return `server.max_concurrent_runs`, or if unset the capacity of the machine."""
    if server.max_concurrent_runs is not None:
        return Capacity(server.max_concurrent_runs, "set by server.max_concurrent_runs")
    return of_machine(_cores(), _memory_bytes() // _MIB)


def of_machine(cores: int, memory_mb: int) -> Capacity:
    """Return the capacity of a machine with the given cores and memory."""
    by_cores, by_memory = cores * _RUNS_PER_CORE, memory_mb // _RUN_MB
    count = f"{cores} core{'' if cores == 1 else 's'}"
    machine = f"{count} ({_RUNS_PER_CORE} runs each), {memory_mb:,} MB of memory ({_RUN_MB} MB per run)"
    if (runs := min(by_cores, by_memory)) < MIN_RUNS:
        return Capacity(MIN_RUNS, f"the minimum; this machine has {machine}")
    return Capacity(runs, machine)


def _memory_bytes() -> int:
    """Return the memory of the machine, or the memory limit of the process's cgroup if smaller."""
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min((own, *(limit for (limit,) in _cgroup_limits("memory.max"))))


def _cores() -> int:
    """Return the cores available to the process, or the CPU quota of the process's cgroup if smaller."""
    own = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min((own, *(math.ceil(quota / period) for quota, period in _cgroup_limits("cpu.max"))))


def _cgroup_limits(name: str) -> Iterator[list[int]]:
    """Yield the numbers in the file `name` of the process's cgroup and its ancestors, except for unlimited ones."""
    with suppress(ConfigError):
        own = Path(own_cgroup())
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError):  # "max" is no limit
                yield [int(number) for number in (folder / name).read_text().split()]
