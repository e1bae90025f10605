"""How many runs a machine carries at once, and what a waiting run holds."""

import os
import sys

import pytest

from clinvk.config.model import ServerSettings
from clinvk.runtime.slots import Capacity, capacity, held_bytes, of_machine, queue_limits
from clinvk.types.request import Image, RunRequest


@pytest.mark.parametrize(
    ("cores", "memory_mb", "runs"),
    [(1, 512, 16), (2, 24_000, 16), (4, 16_384, 32), (64, 16_384, 32), (16, 262_144, 128)],
)
def test_a_machine_carries_what_its_cores_and_its_memory_allow_and_at_least_16(
    cores: int, memory_mb: int, runs: int
) -> None:
    found = of_machine(cores, memory_mb)
    assert found.runs == runs
    assert f"{cores} core" in found.reason
    assert f"{memory_mb:,} MB" in found.reason
    assert ("the least" in found.reason) == (cores == 1)


def test_a_setting_beats_the_machine() -> None:
    assert capacity(ServerSettings(max_concurrent_runs=400)) == Capacity(400, "set by server.max_concurrent_runs")
    assert capacity(ServerSettings()).runs >= 16


@pytest.mark.skipif(sys.platform != "linux", reason="macOS cannot bind a process to cores")
def test_only_cores_that_the_process_may_use_count() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert "1 cores with" in capacity(ServerSettings()).reason
    finally:
        os.sched_setaffinity(0, allowed)


def test_no_backend_is_limited_unless_it_is_set() -> None:
    assert queue_limits(ServerSettings(), 400).per_backend == 0
    assert queue_limits(ServerSettings(max_concurrent_per_backend=3), 400).per_backend == 3


@pytest.mark.parametrize("prompt", ["a" * 1_000_000, "a" * 1_000_000 + "\N{GRINNING FACE}"])
def test_a_prompt_counts_as_what_it_takes_in_memory(prompt: str) -> None:
    assert sys.getsizeof(prompt) <= held_bytes(RunRequest(prompt=prompt)) < 3 * sys.getsizeof(prompt)


def test_images_and_options_count_too() -> None:
    plain = RunRequest(prompt="hi")
    assert held_bytes(RunRequest(prompt="hi", images=(Image("image/png", b"x" * 5000),))) >= held_bytes(plain) + 5000
    nested = RunRequest(prompt="hi", metadata={"a": [[] for _ in range(1000)]})
    assert held_bytes(nested) > 100_000
    assert held_bytes(plain) < 5_000
