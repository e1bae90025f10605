"""A real NATS server."""

import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from network import reserved_port

_READY = b"Server is ready"
_START_TIMEOUT_S = 20


class NatsServer:
    """A NATS server inside the context. The port stays reserved for the server while the server is not running."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._stack = ExitStack()
        self.port = self._stack.enter_context(reserved_port())
        self.url = f"nats://127.0.0.1:{self.port}"
        self._log = folder / "nats.log"
        self._arguments: Sequence[str] = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._stack.close()

    def start(self) -> None:
        """Start the server, and wait until it is ready."""
        program = Path(sys.executable).with_name("nats-server")
        with self._log.open("wb") as log:
            argv = [program, "-a", "127.0.0.1", "-p", str(self.port), *self._arguments]
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, env={})
        deadline = time.monotonic() + _START_TIMEOUT_S
        while _READY not in self._log.read_bytes():
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.01)

    def connect(self) -> socket.socket:
        """Return a connection to the server."""
        return socket.create_connection(("127.0.0.1", self.port))

    def kill(self) -> None:
        """Kill the server."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
