"""Servers of a bench: started on a free port, waited for, and ended."""

import socket
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.processes import clinvk, last_words, module, running
from bench.workplace import BenchBroken, Workplace

_UP_TIMEOUT_S = 20.0
_ASK_INTERVAL_S = 0.001


class Server(msgspec.Struct, frozen=True):
    """A running server: its port, its process, the time from its start to its first answer, and its log."""

    port: int
    pid: int
    up_after_s: float
    log: Path

    @property
    def resident_kb(self) -> float:
        """Its resident memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return float(line.split()[1])
        raise BenchBroken(f"no memory figure of process {self.pid}")

    @property
    def cpu_s(self) -> float:
        """The CPU time so far."""
        return time.clock_gettime(~self.pid << 3 | 2)  # the process's CPU clock: clock_getcpuclockid(3)


@contextmanager
def serving(place: Workplace, config: str = "{}\n") -> Generator[Server]:
    """Run `clinvk serve` with this configuration file."""
    path = place.write("config.yaml", config)
    port = free_port()
    with _up(place, clinvk("serve", "--config", str(path), "--port", str(port)), port) as server:
        yield server


@contextmanager
def bare(place: Workplace) -> Generator[Server]:
    """Run a minimal uvicorn, see bare.py."""
    port = free_port()
    with _up(place, module("bare", str(port), str(place.child)), port) as server:
        yield server


@contextmanager
def _up(place: Workplace, command: Sequence[str], port: int) -> Generator[Server]:
    log = place.root / f"server-{port}.log"
    began = time.perf_counter()
    with running(command, place.env, log) as process:
        while not _answers(port):
            if process.poll() is not None or time.perf_counter() > began + _UP_TIMEOUT_S:
                raise BenchBroken(f"{command} did not answer: {last_words(log.read_text())}")
            time.sleep(_ASK_INTERVAL_S)
        yield Server(port, process.pid, time.perf_counter() - began, log)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
