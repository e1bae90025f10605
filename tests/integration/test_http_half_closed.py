"""Clients that close their sending side after the request get the answer, unless they left."""

import asyncio
import json
import socket
import sys
from pathlib import Path

import pytest

from clinvk.api.http import http1
from polling import until
from scripted import Scripted
from scripted.steps import claude_says, hang, spawn, wait_for
from serving import serving

MESSAGES = [{"role": "user", "content": "hi"}]
REQUESTS: dict[str, dict[str, object]] = {
    "/api/v1/prompt": {"backend": "claude", "prompt": "hi"},
    "/openai/v1/chat/completions": {"model": "claude", "messages": MESSAGES},
    "/openai/v1/responses": {"model": "claude", "input": "hi"},
    "/anthropic/v1/messages": {"model": "claude", "max_tokens": 100, "messages": MESSAGES},
}
EVERY_REQUEST = pytest.mark.parametrize(
    ("path", "stream"), [(path, stream) for path in REQUESTS for stream in (False, True)]
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux alone says who has a socket")


def request(path: str, stream: bool) -> bytes:
    fields = {"output_format": "stream-json"} if path == "/api/v1/prompt" else {"stream": True}
    body = json.dumps({**REQUESTS[path], **(fields if stream else {})}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@EVERY_REQUEST
async def test_half_closed_client_gets_its_answer(scripted: Scripted, tmp_path: Path, path: str, stream: bool) -> None:
    says = claude_says("the answer")
    scripted.play([*says[:3], wait_for(tmp_path / "go"), *says[3:]])
    async with serving(scripted.env) as server:
        reader, writer = await server.raw(request(path, stream))
        writer.write_eof()
        await until(scripted.calls)
        await asyncio.sleep(0.3)  # it is looked at, and found to wait
        (tmp_path / "go").touch()
        async with asyncio.timeout(30):
            answer = await reader.read()  # to the end: the connection is closed
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"the answer" in answer


async def test_half_closed_remote_client_gets_one_interim_response(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    monkeypatch.setattr(http1, "is_socket_closed", looks.append)
    says = claude_says("the answer")
    scripted.play([*says[:3], wait_for(tmp_path / "go"), *says[3:]])
    async with serving(scripted.env) as server:
        reader, writer = await server.raw(request("/api/v1/prompt", stream=False))
        writer.write_eof()
        await until(lambda: len(looks) > 3)
        (tmp_path / "go").touch()
        async with asyncio.timeout(30):
            answer = await reader.read()
        writer.close()
    assert answer.count(b"100 Continue") == 1
    assert b"the answer" in answer


@EVERY_REQUEST
async def test_half_closed_client_that_disconnects_ends_the_agent(scripted: Scripted, path: str, stream: bool) -> None:
    scripted.play([*claude_says("x")[:4], spawn("setsid"), hang()])
    async with serving(scripted.env) as server:
        _, writer = await server.raw(request(path, stream))
        writer.write_eof()
        await until(scripted.grandchildren)
        writer.close()
        await until(lambda: not scripted.alive())


async def test_pipelined_requests_of_a_half_closed_client_are_all_answered(scripted: Scripted) -> None:
    scripted.play(claude_says("hi"))
    one = request("/api/v1/prompt", stream=False)
    async with serving(scripted.env) as server:
        reader, writer = await server.raw(one + one)
        writer.write_eof()
        async with asyncio.timeout(30):
            assert (await reader.read()).count(b"HTTP/1.1 200") == 2
        writer.close()


async def test_half_closed_client_with_an_incomplete_request_is_disconnected(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        reader, writer = await server.raw(request("/api/v1/prompt", stream=False)[:-1])
        writer.write_eof()
        async with asyncio.timeout(30):
            assert await reader.read() == b""
        writer.close()
    assert scripted.calls() == []


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_closed_client_is_distinguished_from_a_half_closed_one(host: str, family: int) -> None:
    with socket.create_server((host, 0), family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
        with server:
            client.shutdown(socket.SHUT_WR)
            assert http1.is_socket_closed(server) is False
            client.close()
            assert http1.is_socket_closed(server) is True


class Remote(socket.socket):
    """A connection with the addresses of a client on another machine."""

    def getpeername(self) -> tuple[str, int]:
        return "192.0.2.1", 1


def test_closed_remote_client_is_detected_by_its_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        accepted, _ = listener.accept()
        with Remote(fileno=accepted.detach()) as server:
            client.close()
            assert http1.is_socket_closed(server) is None
            server.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert http1.is_socket_closed(server) is True
