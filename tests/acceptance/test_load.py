"""A server under load: many clients at once, and many requests of all kinds one after the other."""

import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

from acceptance.server import Server
from scripted import Scripted

CONNECTIONS = 100


def test_a_low_soft_limit_of_open_files_turns_no_client_away(scripted: Scripted) -> None:
    """The usual one, 1024, is less than the prompts that may wait."""
    with Server(scripted, open_files=64) as server, ExitStack() as opened:
        where = urlsplit(server.up().url)
        address = (where.hostname, where.port)
        clients = [opened.enter_context(socket.create_connection(address, timeout=15)) for _ in range(CONNECTIONS)]
        for client in clients:
            client.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert {client.recv(12) for client in clients} == {b"HTTP/1.1 200"}
