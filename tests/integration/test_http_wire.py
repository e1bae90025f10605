"""Input that passes the HTTP parser: pipelined requests, and trailers after chunked bodies."""

import asyncio
import json

import pytest

from clinvk.api.access.keys import ApiKeys
from clinvk.api.http.http1 import MAX_HEAD_BYTES
from clinvk.store.memory import MemoryStore
from polling import until
from scripted import Scripted
from scripted.steps import claude_says, hang, pause
from serving import serving

PROMPT = json.dumps({"backend": "claude", "prompt": "hi"}).encode()
HEAD = b"POST /api/v1/prompt HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
POST = HEAD + b"content-length: %d\r\n\r\n" % len(PROMPT) + PROMPT
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n"
CLOSE = b"connection: close\r\n\r\n"
TIMEOUT_S = 30


async def insisted(writer: asyncio.StreamWriter, piece: bytes, size: int) -> None:
    """Send a piece again and again."""
    for _ in range(size // len(piece)):
        writer.write(piece)
        await asyncio.wait_for(writer.drain(), TIMEOUT_S)
        await asyncio.sleep(0)


SPLITS = pytest.mark.parametrize("at", [len(POST), len(POST) - 5, len(POST) + 20, len(POST) + len(LIVE), None])
"""Where the packets end of which two requests come in: None is one packet for both."""


async def sent(writer: asyncio.StreamWriter, data: bytes, at: int | None) -> None:
    writer.write(data[:at])
    if at is not None:
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(data[at:])
    await writer.drain()


@SPLITS
async def test_client_disconnect_with_a_pipelined_request_ends_its_agent(scripted: Scripted, at: int | None) -> None:
    scripted.play([hang()])
    async with serving(scripted.env, store=MemoryStore()) as server:
        _, writer = await server.raw(b"")
        await sent(writer, POST + LIVE + b"\r\n", at)
        await until(scripted.calls)
        writer.close()
        await until(lambda: not server.runs.busy)


async def test_many_pipelined_requests_are_not_mistaken_for_one_large_head(scripted: Scripted) -> None:
    scripted.play(claude_says("told"))
    count = MAX_HEAD_BYTES // len(LIVE) + 100
    async with serving(scripted.env, store=MemoryStore()) as server:
        reader, writer = await server.raw(b"")
        for _ in range(count):
            writer.write(LIVE + b"\r\n")
            assert b"ok" in await asyncio.wait_for(reader.readuntil(b"}"), TIMEOUT_S)
        writer.write(POST[: -len(PROMPT)])
        await asyncio.sleep(0.2)
        writer.write(PROMPT)
        assert (await asyncio.wait_for(reader.readline(), TIMEOUT_S)).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_white_space_around_the_value_of_a_header_is_not_part_of_the_value(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore()) as server:
        reader, writer = await server.raw(LIVE + b"x-request-id: \t mine \t \r\n" + CLOSE)
        received = await asyncio.wait_for(reader.read(), TIMEOUT_S)
        writer.close()
    assert b"\r\nx-request-id: mine\r\n" in received


@SPLITS
async def test_pipelined_requests_are_answered_in_order(scripted: Scripted, at: int | None) -> None:
    scripted.play(claude_says("first"))
    async with serving(scripted.env, store=MemoryStore()) as server:
        reader, writer = await server.raw(b"")
        await sent(writer, POST + LIVE + b"\r\n" + LIVE + CLOSE, at)
        received = await asyncio.wait_for(reader.read(), TIMEOUT_S)
        writer.close()
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.index(b"first") < received.index(b'{"status":"ok"}')


async def test_large_body_may_arrive_before_the_previous_request_is_answered(scripted: Scripted) -> None:
    scripted.play(claude_says("told"))
    prompt = json.dumps({"backend": "claude", "prompt": "x" * 300_000}).encode()
    large = HEAD + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(prompt) + prompt
    async with serving(scripted.env, store=MemoryStore()) as server:
        reader, writer = await server.raw(POST + large)
        received = await asyncio.wait_for(reader.read(), TIMEOUT_S)
        writer.close()
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert len(scripted.calls()) == 2


async def test_upgrade_header_on_a_pipelined_request_does_not_lose_its_body(scripted: Scripted) -> None:
    scripted.play([pause(0.5), *claude_says("told")])
    offer = HEAD + b"upgrade: h2c\r\nconnection: upgrade\r\ncontent-length: %d\r\n\r\n" % len(PROMPT) + PROMPT
    async with serving(scripted.env, store=MemoryStore()) as server:
        reader, writer = await server.raw(POST)
        await until(scripted.calls)
        writer.write(offer)
        await until(lambda: len(scripted.calls()) == 2)
        assert b"told" in await asyncio.wait_for(reader.readuntil(b"told"), TIMEOUT_S)
        writer.close()


TRAILERS = [
    ("many lines", b"2\r\n{}\r\n0\r\n", b"x: b\r\n" * 1000),
    ("a line without an end", b"2\r\n{}\r\n0\r\nx: ", b"b" * 6000),
    ("a chunk's own words", b"2\r\n{}\r\n1;x=", b"b" * 6000),
]


@pytest.mark.parametrize(("begin", "piece"), [case[1:] for case in TRAILERS], ids=[case[0] for case in TRAILERS])
@pytest.mark.parametrize("keys", [None, ApiKeys(["k"])], ids=["read", "refused"])
async def test_endless_data_after_a_body_closes_the_connection(
    scripted: Scripted, begin: bytes, piece: bytes, keys: ApiKeys | None
) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=keys) as server:
        _, writer = await server.raw(CHUNKED + begin)
        with pytest.raises(ConnectionError):
            await insisted(writer, piece, 100 * MAX_HEAD_BYTES)
        writer.close()
        assert (await server.client.get("/health/live")).status_code == 200


async def test_trailer_is_not_treated_as_a_header(scripted: Scripted) -> None:
    async with serving(scripted.env, store=MemoryStore(), keys=ApiKeys(["k"])) as server:
        body = b"%x\r\n%b\r\n0\r\nx-api-key: k\r\n\r\n" % (len(PROMPT), PROMPT)
        reader, writer = await server.raw(CHUNKED + body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()


@pytest.mark.parametrize(("encoding", "is_compressed"), [("gzip, br", True), ("br", False), ("", False)])
async def test_large_json_is_compressed_for_clients_that_accept_it(
    scripted: Scripted, encoding: str, is_compressed: bool
) -> None:
    scripted.play(claude_says("hello " * 1000))
    async with serving(scripted.env, store=MemoryStore()) as server:
        run = (await server.prompt()).json()["run_id"]
        server.client.headers["accept-encoding"] = encoding
        small = await server.client.get("/api/v1/me")
        large = await server.client.get(f"/api/v1/runs/{run}")
    assert "content-encoding" not in small.headers
    assert (large.headers.get("content-encoding") == "gzip") is is_compressed
    assert large.json()["output"].startswith("hello")
    assert len(large.content) > int(large.headers["content-length"]) * (3 if is_compressed else 0.9)
