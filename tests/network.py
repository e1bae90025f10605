"""A network between a process and a server, which a test can freeze, in one direction or both, and cut; free ports."""

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Literal, Self

Loss = Literal["both directions", "to server", "from server", "cut"]
"""What a test does to a network: freeze one direction or both, or cut the network."""


@contextmanager
def reserved_port() -> Generator[int]:
    """Yield a port of the loopback that only a server of this test binds: nothing listens on it, or is given it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


class Network:
    """A proxy on a port of its own, inside the context.

    A frozen direction passes nothing on, and loses nothing, as if packets were sent again later. A cut network loses
    its connections with what is under way, and accepts none.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._to_server, self._from_server = threading.Event(), threading.Event()
        self._is_cut = False
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.heal()
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        accepting, *forwarding = self._threads
        self._close(self._listener)
        accepting.join()
        self._close(*self._sockets)
        for thread in forwarding:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def fail(self, loss: Loss) -> None:
        """Freeze or cut the network."""
        if loss in ("both directions", "to server"):
            self._to_server.clear()
        if loss in ("both directions", "from server"):
            self._from_server.clear()
        if loss == "cut":
            self._is_cut = True
            self._close(*self._sockets[1:])

    def heal(self) -> None:
        """Pass everything on again."""
        self._is_cut = False
        self._to_server.set()
        self._from_server.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                try:
                    server = self._connect()
                except OSError:
                    self._close(client)
                    continue
                self._sockets.append(server)
                if self._is_cut:
                    self._close(client, server)
                    continue
                self._start(lambda ends=(client, server): self._forward(*ends, self._to_server))
                self._start(lambda ends=(server, client): self._forward(*ends, self._from_server))

    def _forward(self, source: socket.socket, target: socket.socket, flow: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                flow.wait()
                target.sendall(data)
        self._close(source, target)

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target)
        self._threads.append(thread)
        thread.start()

    @staticmethod
    def _close(*sockets: socket.socket) -> None:
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
