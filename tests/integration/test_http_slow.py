"""Clients that never finish are disconnected, without an effect on other clients.

Each limit is a second here. What is held against it is that the connection ends, not when.
"""

import asyncio
import json
import socket
from collections.abc import Iterable
from contextlib import suppress

import psutil
import pytest

import records
from clinvk.api.http.http1 import MAX_HEAD_BYTES
from clinvk.store.memory import MemoryStore
from polling import until
from scripted import Scripted
from scripted.steps import claude_says, hang, pause
from serving import LiveServer, serving

pytestmark = pytest.mark.slow

HEAD = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n"
LIST = b"GET /api/v1/sessions?limit=1000 HTTP/1.1\r\nhost: localhost\r\n"
PROMPT = json.dumps({"backend": "claude", "prompt": "hi", "output_format": "stream-json"}).encode()
TIMEOUT_S = 30


async def drip(writer: asyncio.StreamWriter, pieces: Iterable[bytes]) -> None:
    """Send pieces, one every tenth of a second, until the other end has had enough."""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.1)
    except ConnectionError:
        pass


async def answer_to(server: LiveServer, pieces: Iterable[bytes], at_once: bytes = b"") -> bytes:
    """Drip pieces into a connection. Return everything received until the end of the connection.

    Also what came before a piece that nobody took any more: a stream would lose it.
    """
    received, loop = b"", asyncio.get_running_loop()

    async def send() -> None:
        with suppress(ConnectionError):
            for piece in pieces:
                await loop.sock_sendall(sock, piece)
                await asyncio.sleep(0.1)

    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", server.port))
        await loop.sock_sendall(sock, at_once)
        dripping = asyncio.create_task(send())
        with suppress(ConnectionError):
            async with asyncio.timeout(TIMEOUT_S):
                while data := await loop.sock_recv(sock, 65536):
                    received += data
        dripping.cancel()
        await asyncio.wait([dripping])
    return received


def endlessly(piece: bytes) -> Iterable[bytes]:
    return iter(lambda: piece, b"")


DRIPS = [
    ("a head, a byte at a time", b"", [bytes([byte]) for byte in HEAD] + [b"x: y\r\n"] * 1000),
    ("a line of a head at a time", HEAD, endlessly(b"x-a: b\r\n")),
    ("empty lines before a head", b"", endlessly(b"\r\n")),
    ("a first line without an end", b"GET /", endlessly(b"a")),
    ("half a head, then nothing", HEAD, ()),
    ("a second head after an answer", HEAD + b"\r\n" + HEAD, endlessly(b"x-a: b\r\n")),
]


@pytest.mark.parametrize(("at_once", "pieces"), [drip[1:] for drip in DRIPS], ids=[drip[0] for drip in DRIPS])
async def test_incomplete_head_times_out_and_closes_the_connection(
    scripted: Scripted, at_once: bytes, pieces: Iterable[bytes]
) -> None:
    async with serving(scripted.env, store=MemoryStore(), read_timeout_secs=1) as server:
        received = await answer_to(server, pieces, at_once)
    assert received.rpartition(b"HTTP/1.1 ")[2].startswith(b"408 ")


async def test_connection_without_a_request_is_closed(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), idle_timeout_secs=1) as server:
        assert await answer_to(server, ()) == b""
        assert (await answer_to(server, (), HEAD + b"\r\n")).startswith(b"HTTP/1.1 200 ")


LARGE = [
    ("one long line", [HEAD + b"x: " + b"a" * MAX_HEAD_BYTES]),
    ("many lines", [HEAD + b"x: y\r\n" * MAX_HEAD_BYTES]),
    ("a long path", [b"GET /" + b"a" * MAX_HEAD_BYTES]),
    ("in pieces", [HEAD, *[b"x: " + b"a" * 4000 + b"\r\n"] * 20]),
    ("whole, with its end", [HEAD + b"x: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n"]),
]


@pytest.mark.parametrize("pieces", [pieces for _, pieces in LARGE], ids=[name for name, _ in LARGE])
async def test_oversized_head_is_refused_before_it_is_complete(scripted: Scripted, pieces: list[bytes]) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        received = await answer_to(server, pieces[1:], pieces[0])
        assert (await server.client.get("/health/live")).status_code == 200
    assert (
        received.startswith(b"HTTP/1.1 431 ") or received == b""
    )  # what is not read when a connection ends may take it along


async def test_endless_head_pipelined_behind_an_active_run_ends_both(scripted: Scripted) -> None:
    scripted.play([hang()])
    head = b"POST /api/v1/prompt HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    async with serving(scripted.env, store=MemoryStore()) as server:
        _, writer = await server.raw(head + b"content-length: %d\r\n\r\n" % len(PROMPT) + PROMPT)
        await until(scripted.calls)
        await drip(writer, [HEAD, *[b"x: " + b"a" * 8000 + b"\r\n"] * 20])
        await until(lambda: not server.runs.busy)
        writer.close()


async def test_client_that_reads_slowly_gets_the_whole_answer(scripted: Scripted) -> None:
    request = LIST + b"connection: close\r\n\r\n"
    async with serving(scripted.env, store=await full(), write_timeout_secs=4) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.1", server.port))
            await loop.sock_sendall(sock, request)
            took, size, pauses = 0, 1, 0
            while size:
                size = len(await loop.sock_recv(sock, 1_000_000))
                took += size
                if took >= (pauses + 1) * 3_000_000:
                    pauses += 1
                    await asyncio.sleep(1.5)
    assert took > SESSIONS * LONG
    assert pauses >= 3


def connections(server: LiveServer) -> list[object]:
    """Return the connections of the server, except those of the test's client."""
    found = psutil.Process().net_connections("tcp")
    return [one for one in found if one.laddr and one.laddr.port == server.port and one.status == "ESTABLISHED"]


SESSIONS = 160
LONG = 60_000


async def full() -> MemoryStore:
    """Return a store whose list of sessions is longer than the buffers of a connection."""
    store = MemoryStore()
    for number in range(SESSIONS):
        await store.create(records.session(id=f"{number:032x}", working_dir="/" + "d" * LONG))
    return store


async def test_active_stream_outlasts_every_timeout(scripted: Scripted) -> None:
    first, *rest = claude_says("a", "b")
    scripted.play([first, pause(2.5), *rest])
    async with serving(
        scripted.env, store=MemoryStore(), read_timeout_secs=1, write_timeout_secs=1, idle_timeout_secs=1
    ) as server:
        response = await server.prompt(output_format="stream-json")
    assert json.loads(response.text.splitlines()[-1])["type"] == "done"
