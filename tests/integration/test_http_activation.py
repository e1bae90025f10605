"""Sockets that a service manager such as systemd passes, and the notifications to the service manager."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from acceptance.command import Clinvk, until
from scripted import Scripted
from scripted.steps import claude_says, wait_for

ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
if sys.argv[2] == "mine":
    os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[3], sys.argv[3:])
"""


@contextmanager
def activated(
    agent: Scripted, sock: socket.socket, *, mine: bool = True, **env: str
) -> Generator["subprocess.Popen[str]"]:
    """Start a server as a service manager does that holds `sock`."""
    given = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "clinvk.socket", "LISTEN_PID": "1", **env}
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            ACTIVATE,
            str(sock.fileno()),
            "mine" if mine else "",
            Clinvk.command,
            "serve",
            "-p",
            "0",
        ],
        env={**agent.env, **given},
        cwd=agent.folder,
        pass_fds=[sock.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def listener() -> Generator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def url(sock: socket.socket) -> str:
    return f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_server_uses_the_passed_socket_and_hides_it_from_agents(scripted: Scripted, listener: socket.socket) -> None:
    scripted.play(claude_says("x"))
    with activated(scripted, listener, NOTIFY_SOCKET=str(scripted.folder / "nobody")) as process:
        answer = httpx.post(f"{url(listener)}/api/v1/prompt", json={"backend": "claude", "prompt": "hi"}, timeout=30)
        assert answer.json()["output"] == "x"
        assert process.stdout
        assert process.stdout.readline().endswith(f"listens on {url(listener)}\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not [name for name in scripted.calls()[0].env if name.startswith(("LISTEN_", "NOTIFY_"))]


def test_sockets_for_another_process_are_ignored(scripted: Scripted, listener: socket.socket) -> None:
    with activated(scripted, listener, mine=False) as process:
        assert process.stdout
        assert url(listener) not in process.stdout.readline()


@pytest.mark.parametrize("kind", ["of a path", "not listening"])
def test_unusable_socket_exits_with_code_3(scripted: Scripted, tmp_path: Path, kind: str) -> None:
    with socket.socket(socket.AF_UNIX if kind == "of a path" else socket.AF_INET) as sock:
        if kind == "of a path":
            sock.bind(str(tmp_path / "s"))
            sock.listen()
        with activated(scripted, sock) as process:
            _, output = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "file descriptor 3 of the service manager is no TCP socket that listens" in output


def test_invalid_listen_fds_exits_with_code_3(scripted: Scripted, listener: socket.socket) -> None:
    with activated(scripted, listener, LISTEN_FDS="two") as process:
        _, output = process.communicate(timeout=30)
    assert (process.returncode, output) == (3, "clinvk: LISTEN_FDS is 'two', not a number of sockets\n")


class Clients:
    """Sends requests in a loop, over new connections or over a kept-alive one."""

    def __init__(self, url: str) -> None:
        self._enough = threading.Event()
        self.seen: list[int | Exception] = []
        self._threads = [threading.Thread(target=self._ask, args=(url, keep)) for keep in (0, 5)]

    def _ask(self, url: str, keep: int) -> None:
        limits = httpx.Limits(max_keepalive_connections=keep)
        with httpx.Client(base_url=url, limits=limits, timeout=30) as client:
            while not self._enough.is_set():
                try:
                    self.seen.append(client.get("/api/v1/runs").status_code)
                except httpx.HTTPError as exc:
                    self.seen.append(exc)

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(30)


def test_restart_loses_no_request_and_finishes_active_runs(
    scripted: Scripted, listener: socket.socket, tmp_path: Path
) -> None:
    says = claude_says("one", "two")
    scripted.play([*says[:4], wait_for(tmp_path / "go"), *says[4:]])
    answers: list[httpx.Response] = []
    body = {"backend": "claude", "prompt": "hi"}
    prompt = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{url(listener)}/api/v1/prompt", json=body, timeout=30))
    )
    with activated(scripted, listener) as first, Clients(url(listener)) as clients:
        prompt.start()
        until(lambda: bool(scripted.calls()) and len(clients.seen) > 50)
        first.send_signal(signal.SIGTERM)
        waiting = httpx.Client(timeout=30)
        late = threading.Thread(target=lambda: answers.append(waiting.get(f"{url(listener)}/health")))
        late.start()
        (tmp_path / "go").touch()
        assert first.wait(30) == 0
        with activated(scripted, listener) as second:
            late.join(30)
            at = len(clients.seen)
            until(lambda: len(clients.seen) > at + 50)
            clients.__exit__()
            second.send_signal(signal.SIGTERM)
            assert second.wait(30) == 0
        waiting.close()
    prompt.join(30)
    assert set(clients.seen) == {200}
    assert sorted(answer.status_code for answer in answers) == [200, 200]
    assert [answer.json()["output"] for answer in answers if "output" in answer.json()] == ["onetwo"]


def test_service_manager_is_notified_of_the_server_state(scripted: Scripted, listener: socket.socket) -> None:
    messages: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(scripted.folder / "notify"))
        manager.settimeout(30)
        with activated(scripted, listener, NOTIFY_SOCKET=str(scripted.folder / "notify")) as process:
            messages.append(manager.recv(4096).decode())
            process.send_signal(signal.SIGHUP)
            messages += [manager.recv(4096).decode() for _ in range(2)]
            process.send_signal(signal.SIGTERM)
            messages.append(manager.recv(4096).decode())
            assert process.wait(30) == 0
    ready, reloading, reloaded, stopping = messages
    assert ready.startswith("READY=1\nSTATUS=clinvk ")
    assert ready.endswith(f"listens on {url(listener)}")
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert (reloaded, stopping.partition("\n")[0]) == ("READY=1", "STOPPING=1")
