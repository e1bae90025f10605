"""`clinvk serve` with unread stdout or stderr, and with clients that send garbage."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress

import httpx
import pytest

from acceptance.command import TIMEOUT_S, Clinvk, until
from acceptance.test_interrupted import full_pipe
from network import reserved_port

REQUESTS = 3_000
"""Their log lines are more than a pipe and the queue before it hold."""


@contextmanager
def served(
    clinvk: Clinvk, stdout: int = subprocess.DEVNULL, stderr: int = subprocess.DEVNULL, close_fds: str = ""
) -> Generator[tuple["subprocess.Popen[bytes]", httpx.Client]]:
    """Start a server that logs every request as JSON, and wait until it answers."""
    env = {"CLINVK_LOG__REQUESTS": "true", "CLINVK_LOG__FORMAT": "json", "CLINVK_LOG__LEVEL": "debug"}
    with (
        reserved_port() as port,
        clinvk.started(
            "serve", "--port", str(port), stdout=stdout, stderr=stderr, env=env, close_fds=close_fds
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client,
    ):
        until(lambda: is_up(client))
        yield process, client


def is_up(client: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return client.get("/health/live").status_code == 200
    return False


def stop(process: "subprocess.Popen[bytes]") -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(TIMEOUT_S)


@pytest.mark.parametrize("is_stdout", [True, False], ids=["stdout", "stderr"])
def test_server_starts_answers_and_stops_while_nobody_reads_its_output(clinvk: Clinvk, is_stdout: bool) -> None:
    reading, writing = full_pipe()
    try:
        streams = (writing, subprocess.DEVNULL) if is_stdout else (subprocess.DEVNULL, writing)
        with served(clinvk, *streams) as (process, client):
            for _ in range(100):
                assert client.get("/api/v1/backends").status_code == 200
            assert stop(process) == 0
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", "0<&- >&- 2>&-"])
def test_server_runs_with_closed_standard_streams(clinvk: Clinvk, closed: str) -> None:
    with served(clinvk, close_fds=closed) as (process, client):
        assert client.post("/api/v1/prompt", json={"backend": "claude", "prompt": "hello"}).status_code == 200
        assert stop(process) == 0


@pytest.mark.slow
def test_log_counts_the_lines_that_were_dropped_while_nobody_read_it(clinvk: Clinvk) -> None:
    reading, writing = full_pipe()
    with open(reading, "rb") as log, served(clinvk, stderr=writing) as (process, client):
        os.close(writing)
        for _ in range(REQUESTS):
            client.get("/api/v1/" + "x" * 4_000)
        lines = (json.loads(line) for line in log if line.startswith(b"{"))
        dropped = next(line for line in lines if "dropped" in line["message"])
        count = int(dropped["message"].split()[1])
        assert (dropped["level"], 0 < count < REQUESTS) == ("error", True)
        client.get("/api/v1/runs")
        assert any(line.get("path") == "/api/v1/runs" for line in lines)
        assert stop(process) == 0


@pytest.mark.parametrize("is_full", [False, True], ids=["reader gone", "disk full"])
def test_sigterm_exits_with_0_when_stderr_is_unwritable(clinvk: Clinvk, is_full: bool) -> None:
    reading, writing = (None, os.open("/dev/full", os.O_WRONLY)) if is_full else os.pipe()
    with served(clinvk, stderr=writing) as (process, client):
        os.close(writing)
        if reading is not None:
            os.close(reading)
        for _ in range(10):
            assert client.get("/api/v1/backends").status_code == 200
        assert stop(process) == 0


def test_garbage_requests_do_not_fill_the_log(clinvk: Clinvk) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as log, served(clinvk, stderr=writing) as (process, client):
        os.close(writing)
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", client.base_url.port or 0), TIMEOUT_S) as sock:
                sock.sendall(b"\x16\x03\x01 garbage\r\n\r\n")
                while sock.recv(4096):
                    pass
        assert stop(process) == 0
        told = [line for line in log if b"Invalid HTTP request" in line]
    assert len(told) == 1
