"""The number of runs that a machine can carry, and the memory of a waiting run."""

import os
import sys
from pathlib import Path

import pytest

from clinvk.config.model import ServerSettings
from clinvk.runtime.occupancy import held_bytes, queue_limits
from clinvk.runtime.process import resource_limits
from clinvk.runtime.process.resource_limits import Capacity, capacity, capacity_of_machine
from clinvk.types.request import Image, RunRequest

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("cores", "memory_mb", "runs"),
    [
        (1, 512, 16),
        (2, 5_599, 16),
        (2, 12_000, 34),
        (2, 24_000, 64),
        (4, 16_384, 46),
        (64, 16_384, 46),
        (1, 262_144, 32),
    ],
)
def test_capacity_follows_available_memory_between_16_and_32_a_core(cores: int, memory_mb: int, runs: int) -> None:
    found = capacity_of_machine(cores, memory_mb)
    assert found.runs == runs
    assert f"{cores} core" in found.reason
    assert f"{memory_mb:,} MB" in found.reason
    assert ("the minimum" in found.reason) == (memory_mb < 5_600)


def test_configured_capacity_overrides_the_machine() -> None:
    configured = capacity(ServerSettings(max_concurrent_runs=400))
    assert configured == Capacity(400, "set by server.max_concurrent_runs", configured.cores)
    assert capacity(ServerSettings()).runs >= 16


def test_capacity_counts_the_memory_that_is_left_in_the_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that caches files is left."""
    own = tmp_path / "a" / "b"
    own.mkdir(parents=True)
    for folder, limit, used, cached in ((own, "max", 0, 0), (own.parent, 10_000 * MIB, 4_000 * MIB, 1_000 * MIB)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")
    monkeypatch.setattr(resource_limits, "own_cgroup", lambda: str(own))
    assert "7,000 MB of memory available" in capacity(ServerSettings()).reason


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
