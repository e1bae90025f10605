"""`clinvk serve` as a user starts it, in a process that a test may kill."""

import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import pytest

from acceptance.command import TIMEOUT_S, Clinvk, until
from scripted import Scripted

in_both_ways = pytest.mark.parametrize("served", [False, True], ids=["here", "served"], indirect=True)
"""Runs a test without a server and while a server of the same home is running."""

_LISTENS = re.compile(r"listens on (http://127\.0\.0\.1:\d+)|clinvk \S+ is node ")


class Server:
    """A server on a free port, with the agent's home; it is killed at the end if it is still running.

    The server may not be ready on entry: `ready` waits. `open_files` is the soft limit of open files.
    """

    def __init__(
        self,
        agent: Scripted,
        env: Mapping[str, str] | None = None,
        open_files: int | None = None,
        arguments: Sequence[str] = ("serve", "--port", "0"),
    ) -> None:
        self._env = {**agent.env, **(env or {})}
        self._log = tempfile.NamedTemporaryFile(prefix="server-", suffix=".log", dir=agent.folder)  # noqa: SIM115
        self._client: httpx.Client | None = None
        limited = ("/bin/sh", "-c", f'ulimit -S -n {open_files} && exec "$0" "$@"') if open_files else ()
        self.process = subprocess.Popen(
            [*limited, Clinvk.command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=agent.folder,
            env=self._env,
        )

    @property
    def said(self) -> str:
        """The output so far."""
        return Path(self._log.name).read_text()

    def ready(self) -> Self:
        """Wait until the server answers."""
        until(lambda: bool(_LISTENS.search(self.said)) or self.process.poll() is not None)
        assert _LISTENS.search(self.said), self.said
        return self

    @property
    def url(self) -> str:
        """Where it serves."""
        found = _LISTENS.search(self.said)
        assert found
        return found[1]

    @property
    def client(self) -> httpx.Client:
        """Return a client of the server."""
        if not self._client:
            self._client = httpx.Client(base_url=self.url, timeout=TIMEOUT_S)
        return self._client

    def prompt(self, prompt: str, backend: str = "claude", **fields: object) -> httpx.Response:
        """Send a prompt."""
        return self.client.post("/api/v1/prompt", json={"backend": backend, "prompt": prompt, **fields})

    def detached(self, prompt: str, backend: str = "claude", **fields: object) -> dict[str, str]:
        """Start a run in the background; return its `run_id` and `session_id`."""
        response = self.client.post(
            "/api/v1/prompt",
            json={"backend": backend, "prompt": prompt, "detach": True, **fields},
            headers={"prefer": "respond-async"},
        )
        assert response.status_code == 202, response.text
        return response.json()

    def kill(self) -> None:
        """Kill the server as `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as a service manager does; give the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        if self._client:
            self._client.close()
        self.kill()
        said = self.said
        self._log.close()
        if kind is None:
            assert "Traceback" not in said, said
