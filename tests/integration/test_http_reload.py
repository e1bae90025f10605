"""SIGHUP: keys, limits and log level are renewed while the server serves, or nothing is."""

import os
import pty
import re
import select
import signal
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from acceptance.command import Clinvk, until
from acceptance.server import Server
from scripted import Scripted
from scripted.steps import claude_says, wait_for

OLD, NEW = {"authorization": "Bearer old-key"}, {"authorization": "Bearer new-key"}


class Reloaded:
    """A server whose settings file and gopass entry a test changes."""

    def __init__(self, agent: Scripted, **server: object) -> None:
        self._config = agent.folder / ".clinvk" / "config.yaml"
        self._entry = agent.folder / "entry"
        self._config.parent.mkdir()
        gopass = agent.folder / "gopass"
        gopass.write_text(f'#!/bin/sh\nexec cat "{self._entry}"\n')
        gopass.chmod(0o755)
        self.settings(False, max_concurrent_runs=1, **server)
        self.keys("old-key")
        self.server = Server(agent)

    def settings(self, verbose: bool = False, **server: object) -> None:
        lines = [f"  {key}: {value}" for key, value in server.items()]
        self._config.write_text("\n".join([f"unified_flags: {{verbose: {str(verbose).lower()}}}", "server:", *lines]))

    def keys(self, text: str) -> None:
        self._entry.write_text(text)

    def status(self, headers: dict[str, str]) -> int:
        return self.server.client.get("/api/v1/sessions", headers=headers).status_code

    def reload(self) -> str:
        """Send the signal. Return the log lines about the reload."""
        before = len(self.server.said)
        self.server.process.send_signal(signal.SIGHUP)
        until(lambda: "reloaded" in self.server.said[before:])
        return self.server.said[before:]


@pytest.fixture
def reloaded(scripted: Scripted) -> Generator[Reloaded]:
    reloaded = Reloaded(scripted, api_keys_gopass_path="entry")
    with reloaded.server as server:
        server.ready()
        yield reloaded


def test_sighup_replaces_the_keys(reloaded: Reloaded) -> None:
    assert (reloaded.status(OLD), reloaded.status(NEW)) == (200, 401)
    reloaded.keys("new-key")
    reloaded.reload()
    assert (reloaded.status(OLD), reloaded.status(NEW)) == (401, 200)


def test_sighup_with_the_first_keys_locks_an_open_server(scripted: Scripted) -> None:
    reloaded = Reloaded(scripted)
    with reloaded.server as server:
        server.ready()
        assert reloaded.status({}) == 200
        reloaded.settings(api_keys_gopass_path="entry")
        reloaded.reload()
        assert (reloaded.status({}), reloaded.status(OLD)) == (401, 200)


def test_sighup_applies_the_log_level(reloaded: Reloaded) -> None:
    reloaded.status(OLD)
    assert "GET /api/v1/sessions" not in reloaded.server.said
    reloaded.settings(verbose=True, api_keys_gopass_path="entry")
    reloaded.reload()
    reloaded.status(OLD)
    until(lambda: "GET /api/v1/sessions 200" in reloaded.server.said)


def test_sighup_applies_request_limits_and_reports_that_the_rest_needs_a_restart(reloaded: Reloaded) -> None:
    assert [reloaded.status(OLD) for _ in range(3)] == [200, 200, 200]
    reloaded.settings(api_keys_gopass_path="entry", rate_limit_enabled="true", rate_limit_rps=1, rate_limit_burst=1)
    assert "reloaded keys, limits and log level; other settings wait for a restart" in reloaded.reload()
    until(lambda: reloaded.status(OLD) == 429)


def test_sighup_raises_the_run_limit_and_starts_queued_runs(
    reloaded: Reloaded, scripted: Scripted, tmp_path: Path
) -> None:
    scripted.play([wait_for(tmp_path / "go"), *claude_says("x")])
    for _ in range(2):
        body = {"backend": "claude", "prompt": "hi", "detach": True}
        reloaded.server.client.post("/api/v1/prompt", json=body, headers={**OLD, "prefer": "respond-async"})
    until(lambda: len(scripted.calls()) == 1)
    reloaded.settings(api_keys_gopass_path="entry", max_concurrent_runs=2)
    reloaded.reload()
    until(lambda: len(scripted.calls()) == 2)
    (tmp_path / "go").touch()
    assert reloaded.server.stop() == 0


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"api_keys_gopass_path": "entry", "max_concurent_runs": 2}, "new-key", "max_concurent_runs"),
        ({"api_keys_gopass_path": "entry"}, "", "has no key in it"),
        ({"api_keys_gopass_path": '""'}, "new-key", "the new settings have no API key"),
    ],
    ids=["mistyped", "no key in the entry", "no entry"],
)
def test_failed_reload_changes_nothing(reloaded: Reloaded, settings: dict[str, object], key: str, message: str) -> None:
    reloaded.settings(verbose=True, **settings)
    reloaded.keys(key)
    log_lines = reloaded.reload()
    assert "settings not reloaded" in log_lines
    assert message in log_lines
    assert (reloaded.status(OLD), reloaded.status(NEW)) == (200, 401)
    assert "GET /api/v1/sessions" not in reloaded.server.said


class Terminal:
    """A server in a terminal of its own, as in a window that can be closed."""

    def __init__(self, agent: Scripted) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execve(
                Clinvk.command, [Clinvk.command, "serve", "--port", "0"], {**agent.env, "HOME": str(agent.folder)}
            )
        self.said = ""

    def read(self, wanted: str) -> str:
        """Read until the text has arrived."""
        while wanted not in self.said:
            assert select.select([self._fd], [], [], 15)[0], self.said
            self.said += os.read(self._fd, 65536).decode()
        return self.said

    def close(self) -> None:
        """Hang up."""
        os.close(self._fd)

    def ended(self) -> int | None:
        """Return the status once the server has exited."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def test_server_in_a_terminal_reloads_on_sighup_and_stops_when_the_terminal_closes(scripted: Scripted) -> None:
    terminal = Terminal(scripted)
    found = re.search(r"(http://[\d.:]+)", terminal.read("needed"))
    assert found
    os.kill(terminal.pid, signal.SIGHUP)
    terminal.read("reloaded")
    assert httpx.get(f"{found[1]}/health", timeout=30).status_code == 200
    terminal.close()
    codes: list[int] = []
    until(lambda: (code := terminal.ended()) is not None and (codes.append(code) or True))
    assert codes == [0]


def test_server_started_with_sighup_ignored_ignores_it(scripted: Scripted) -> None:
    """As under `nohup`."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = Server(scripted)
    finally:
        signal.signal(signal.SIGHUP, previous)
    with server:
        server.ready().process.send_signal(signal.SIGHUP)
        assert server.client.get("/health").status_code == 200
        assert server.stop() == 0
        assert "reload" not in server.said
