"""A receiver of notifications on loopback, which keeps what comes."""

import ssl
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self


class Received(NamedTuple):
    """A request; the names of the headers are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """Answers each request with the next of `statuses`, the last one for all further requests; 0 never answers."""

    def __init__(self, *statuses: int) -> None:
        self.received: list[Received] = []
        self._statuses = list(statuses or (204,))
        self._closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body))
                receiver.answer(self)

            def do_GET(self) -> None:
                receiver.received.append(Received(f"GET {self.path}", {}, b""))
                receiver.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speak TLS."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Send the next status, a redirect with an address of this server."""
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        if not status:
            self._closing.wait()
            return
        handler.send_response(status)
        if 300 <= status < 400:
            handler.send_header("location", f"{self.url}/elsewhere")
        handler.send_header("content-length", "0")
        handler.end_headers()

    @contextmanager
    def running(self) -> Generator[Self]:
        """Listen inside this context."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._closing.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def wait_for(self, count: int, within_s: float = 20) -> list[Received]:
        """Wait until `count` requests have come, and return them; for tests without an event loop."""
        deadline = time.monotonic() + within_s
        while len(self.received) < count:
            assert time.monotonic() < deadline, f"{len(self.received)} of {count} came"
            time.sleep(0.01)
        return self.received
