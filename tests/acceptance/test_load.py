"""A server under load: many clients at once, and many requests of all kinds one after the other."""

import json
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from acceptance.command import until
from acceptance.server import Server
from scripted import Scripted
from scripted.steps import claude_says, hang, spawn, wait_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONNECTIONS = 100


def test_low_soft_limit_of_open_files_rejects_no_client(scripted: Scripted) -> None:
    """The usual limit of 1024 is lower than the number of prompts that may wait."""
    with Server(scripted, open_files=64) as server, ExitStack() as opened:
        where = urlsplit(server.ready().url)
        address = (where.hostname, where.port)
        clients = [opened.enter_context(socket.create_connection(address, timeout=30)) for _ in range(CONNECTIONS)]
        for client in clients:
            client.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert {client.recv(12) for client in clients} == {b"HTTP/1.1 200"}


@pytest.mark.skipif(sys.platform != "linux", reason="the limits of another process can be set on Linux only")
def test_agents_inherit_the_original_limit_of_open_files(scripted: Scripted) -> None:
    go = scripted.folder / "go"
    scripted.play([*claude_says("x")[:4], wait_for(go), spawn("setsid"), hang()])

    def limits() -> set[int]:
        found: set[int] = set()
        for pid in scripted.alive():
            with suppress(psutil.NoSuchProcess):  # it only told its version
                found.add(psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)[0])
        return found

    with Server(scripted, open_files=64) as server:
        server.ready().detached("hi")
        until(lambda: limits() == {64})
        go.touch()
        until(lambda: len(scripted.grandchildren()) == 1)
        until(lambda: limits() == {64})
        soft, hard = psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert soft > 64
    assert soft != hard, "an agent that has raised its own to the hard one could not be told from one that has not"


@pytest.mark.timeout(180)
def test_hundreds_of_mixed_requests_leak_no_files_or_tasks(tmp_path: Path) -> None:
    """Clients and agents that behave well and badly are sent by bench/soak.py, which fails for what is left of them."""
    told = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench", "--only", "soak", "--quick", "--scale", "0.03", "--json", str(told)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown = {
        name: figure["ours"][-1] - figure["peer"][-1]
        for figure in json.loads(told.read_text())
        if (name := figure["name"].partition(" after")[0]) in ("open files", "tasks")
    }
    assert set(grown) == {"open files", "tasks"}
    assert max(grown.values()) <= 0, done.stdout
