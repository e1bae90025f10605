"""How many runs this machine can carry at once, and how much memory a run holds that waits."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from clinvk.config import ServerSettings
from clinvk.errors import ConfigError
from clinvk.request import RunRequest
from clinvk.runtime.bounds import own_cgroup
from clinvk.runtime.slots import QueueLimits

LEAST_RUNS = 16
_RUN_MB = 512
_RUNS_PER_CORE = 8
"""Agents wait for their model most of the time, so that a core carries several."""

_MIB = 1024 * 1024
_VALUE_BYTES = 100
"""What a value of JSON takes in memory besides its text."""


class Capacity(NamedTuple):
    """How many runs go at once, and why."""

    runs: int
    reason: str


def capacity(server: ServerSettings) -> Capacity:
    """Return `server.max_concurrent_runs`, or what this machine can carry if it is not set."""
    if server.max_concurrent_runs is not None:
        return Capacity(server.max_concurrent_runs, "set by server.max_concurrent_runs")
    return of_machine(os.cpu_count() or 1, _memory_bytes() // _MIB)


def of_machine(cores: int, memory_mb: int) -> Capacity:
    """Return what a machine with so many cores and so much memory can carry."""
    by_cores, by_memory = cores * _RUNS_PER_CORE, memory_mb // _RUN_MB
    machine = f"{cores} cores with {_RUNS_PER_CORE} runs each, {memory_mb:,} MB of memory with {_RUN_MB} for each run"
    if (runs := min(by_cores, by_memory)) < LEAST_RUNS:
        return Capacity(LEAST_RUNS, f"the least, though this machine has {machine}")
    return Capacity(runs, f"this machine has {machine}")


def queue_limits(server: ServerSettings) -> QueueLimits:
    """Return the limits on runs that the settings ask for."""
    return QueueLimits(
        total=capacity(server).runs,
        per_backend=server.max_concurrent_per_backend,
        queued=server.max_queued_runs,
        queued_bytes=server.max_queued_mb * _MIB,
    )


def held_bytes(request: RunRequest) -> int:
    """Estimate the memory that a run holds while it waits; its options are held by the request and by its record."""
    options = msgspec.json.encode(
        (request.metadata, request.output_schema, request.answer_as, request.extra, request.system_prompt)
    )
    values = sum(map(options.count, (b",", b"[", b"{")))
    # A text that is not ASCII is held with its UTF-8 form, which the store makes of it.
    prompt = sys.getsizeof(request.prompt) * (1 if request.prompt.isascii() else 2)
    return prompt + sum(len(image.data) for image in request.images) + 2 * (len(options) + values * _VALUE_BYTES)


def _memory_bytes() -> int:
    """Return the memory of the machine, or that of this process's cgroup where that is less."""
    return min((os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_cgroup_limits()))


def _cgroup_limits() -> Iterator[int]:
    with suppress(ConfigError):
        own = Path(own_cgroup())
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError):  # "max" is no limit
                yield int((folder / "memory.max").read_text())
