"""The number of runs that a machine can carry, and the memory of a waiting run."""

import os
import sys

import pytest

from clinvk.config.model import ServerSettings
from clinvk.runtime.occupancy import held_bytes, queue_limits
from clinvk.runtime.process.resource_limits import Capacity, capacity, capacity_of_machine
from clinvk.types.request import Image, RunRequest


@pytest.mark.parametrize(
    ("cores", "memory_mb", "runs"),
    [(1, 512, 16), (2, 24_000, 16), (4, 16_384, 32), (64, 16_384, 32), (16, 262_144, 128)],
)
def test_capacity_follows_cores_and_memory_with_a_minimum_of_16(cores: int, memory_mb: int, runs: int) -> None:
    found = capacity_of_machine(cores, memory_mb)
    assert found.runs == runs
    assert f"{cores} core" in found.reason
    assert f"{memory_mb:,} MB" in found.reason
    assert ("the minimum" in found.reason) == (cores == 1)


def test_configured_capacity_overrides_the_machine() -> None:
    assert capacity(ServerSettings(max_concurrent_runs=400)) == Capacity(400, "set by server.max_concurrent_runs")
    assert capacity(ServerSettings()).runs >= 16


@pytest.mark.skipif(sys.platform != "linux", reason="macOS cannot bind a process to cores")
def test_capacity_counts_only_cores_in_the_affinity_mask() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert "1 core (" in capacity(ServerSettings()).reason
    finally:
        os.sched_setaffinity(0, allowed)


def test_backends_have_no_limit_by_default() -> None:
    assert queue_limits(ServerSettings(), 400).per_backend == 0
    assert queue_limits(ServerSettings(max_concurrent_per_backend=3), 400).per_backend == 3


@pytest.mark.parametrize("prompt", ["a" * 1_000_000, "a" * 1_000_000 + "\N{GRINNING FACE}"])
def test_held_bytes_counts_the_memory_of_a_prompt(prompt: str) -> None:
    assert sys.getsizeof(prompt) <= held_bytes(RunRequest(prompt=prompt)) < 3 * sys.getsizeof(prompt)


def test_held_bytes_counts_images_and_metadata() -> None:
    plain = RunRequest(prompt="hi")
    assert held_bytes(RunRequest(prompt="hi", images=(Image("image/png", b"x" * 5000),))) >= held_bytes(plain) + 5000
    nested = RunRequest(prompt="hi", metadata={"a": [[] for _ in range(1000)]})
    assert held_bytes(nested) > 100_000
    assert held_bytes(plain) < 5_000
