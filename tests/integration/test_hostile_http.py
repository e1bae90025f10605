"""Requests that no honest client sends, to the head and body of HTTP: each is refused, and nothing else happens.

No answer is a 5xx, no connection hangs, no agent is started, and the server answers as before. Half of the cases are
written down; the others are drawn from `SEED`, which a failure names with the bytes that were sent.
"""

import asyncio
import json
import random
import re
from collections.abc import Iterator

import pytest

from clinvk.api.access.keys import ApiKeys
from clinvk.store.memory import MemoryStore
from polling import until
from scripted import Scripted
from scripted.steps import claude_says
from serving import LiveServer, serving

pytestmark = pytest.mark.slow

SEED = 20261125
AT_ONCE = 40
TIMEOUT_S = 30
MAX_BODY = 200_000

HOST = b"host: localhost\r\n"
JSON = b"content-type: application/json\r\n"
POST = b"POST /api/v1/prompt HTTP/1.1\r\n" + HOST
VALID = json.dumps({"backend": "claude", "prompt": "this must never run"}).encode()
SMUGGLED = POST + JSON + b"content-length: %d\r\n\r\n" % len(VALID) + VALID
STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")

PATHS = ("/api/v1/prompt", "/openai/v1/chat/completions", "/openai/v1/responses", "/anthropic/v1/messages")


def get(path: bytes, headers: bytes = HOST) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + headers + b"\r\n"


def post(body: bytes, path: str = "/api/v1/prompt", headers: bytes = JSON) -> bytes:
    head = b"POST " + path.encode() + b" HTTP/1.1\r\n" + HOST + headers
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def smuggling() -> Iterator[bytes]:
    """A body of ambiguous length that contains a whole request."""
    lengths = [
        *("+4", "-1", "0x4", "4,4", "4, 5", "4 4", "4\x0b", "٤", "", "4.0", "1e1", "99999999999999999999", "4;"),
        '"4"',
    ]
    for length in lengths:
        yield POST + JSON + b"content-length: " + length.encode() + b"\r\n\r\nnull" + SMUGGLED
    for first, second in (("4", "5"), ("5", "4"), ("0", "4"), ("4", "")):
        yield POST + JSON + f"content-length: {first}\r\ncontent-length: {second}\r\n\r\nnull".encode() + SMUGGLED
    codings = [
        *("chunked", "Chunked", "chunked, identity", "identity, chunked", "gzip, chunked", "xchunked"),
        *("chunked\x0b", " chunked"),
    ]
    for coding in codings:
        coding_header = f"transfer-encoding: {coding}\r\n".encode()
        yield POST + JSON + coding_header + b"content-length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED
        yield POST + JSON + b"content-length: 4\r\n" + coding_header + b"\r\n0\r\n\r\n" + SMUGGLED
    for coding in (
        *("identity", "gzip", "xchunked", "chunked, chunked", "chunked, gzip", "", ",", "chunked;q=1"),
        "\x00chunked",
    ):
        yield POST + JSON + f"transfer-encoding: {coding}\r\n\r\n0\r\n\r\n".encode() + SMUGGLED
    for line in (b"content-length : 4", b" content-length: 4", b"\tcontent-length: 4", b"content-length\t: 4"):
        yield POST + JSON + line + b"\r\n\r\nnull" + SMUGGLED
    for size in (b"+4", b"-1", b"0x4", b"4 4", b"g", b"", b"ffffffffffffffff", b"10000000000000004", b"4\n", b"\x004"):
        yield POST + JSON + b"transfer-encoding: chunked\r\n\r\n" + size + b"\r\nnull\r\n0\r\n\r\n" + SMUGGLED
    for end in (b"", b"\n", b"\r", b"xx", b"\r\r\n", b"\x00\x00"):
        yield POST + JSON + b"transfer-encoding: chunked\r\n\r\n4\r\nnull" + end + b"0\r\n\r\n" + SMUGGLED
    yield POST + JSON + b"transfer-encoding: chunked\r\n\r\n4;" + b"x" * 100_000 + b"\r\nnull\r\n0\r\n\r\n"
    yield b"POST /api/v1/prompt HTTP/1.0\r\n" + HOST + JSON + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED
    yield get(b"/health/live", HOST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n") + b"0\r\n\r\n" + SMUGGLED
    yield get(b"/health/live HTTP/1.1\r\nx: " + SMUGGLED.replace(b"\r\n", b"\n"))


def heads(draw: random.Random) -> Iterator[bytes]:
    """First lines and headers."""
    for line in (
        *(b"GET", b"GET /", b"GET / HTTP/0.9", b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET / HTTP/11"),
        *(b"GET / http/1.1", b"GET / HTTP/1.1 x", b"GET  /  HTTP/1.1", b"get / HTTP/1.1", b"G\x00T / HTTP/1.1"),
        *(b"TRACE / HTTP/1.1", b"CONNECT localhost:22 HTTP/1.1", b"CONNECT / HTTP/1.1", b"OPTIONS * HTTP/1.1"),
        *(b"PRI * HTTP/2.0\r\n\r\nSM", b"GET http://evil.example/health HTTP/1.1"),
        *(b"GET http://localhost HTTP/1.1", b"GET //evil.example/ HTTP/1.1", b"GET /health\x00 HTTP/1.1"),
        *(b"GET /health\t HTTP/1.1", b"GET /\xff\xfe HTTP/1.1", b"GET \\..\\..\\etc HTTP/1.1"),
        *(b"A" * 5000 + b" / HTTP/1.1", b"SEARCH / HTTP/1.1", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        *(b"SSH-2.0-OpenSSH_9.9", b"EHLO localhost", b"\x00" * 500),
    ):
        yield line + b"\r\n" + HOST + b"\r\n"
    for line in (
        *(b"host: localhost", b"host: evil.example", b"host:", b"host: localhost\x00", b": empty", b"no colon"),
        *(b"a b: c", b"a\x00b: c", b"a(b): c", b"\xc3\xa4: c", b"x: \x00", b"x: a\rb", b"x: a\nSet-Cookie: b"),
        *(b"x: \x7f\x80\xff", b"x: folded\r\n line", b"x-request-id: a\tb", b"x-request-id: " + b"a" * 1000),
        *(b"x-request-id: \xff", b"expect: nonsense"),
        b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: x\r\nsec-websocket-version: 13",
        b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__",
        *(b"connection: close, close, keep-alive, \x01", b"range: bytes=0-,5-,9-99999999999999999999"),
        *(b"if-none-match: *", b"accept: " + b"*/*," * 5000, b"accept-encoding: gzip;q=nan, br;q=-1"),
        *(b"authorization: Bearer", b"authorization: Bearer \xff\xfe", b"authorization: " + b"a" * 30_000),
        *(b"authorization: Basic \x01\x02", b"x-api-key: \xff", b"origin: \xff"),
        b"origin: null\r\naccess-control-request-method: \xff",
        b"origin: http://localhost\r\naccess-control-request-headers: a\x01b",
        b"x-forwarded-for: \xff, ::::, 999.1.1.1, [::1, " + b"1.1.1.1," * 3000,
        *(b'forwarded: for="[\xff", for=;;;, "', b"x-forwarded-proto: javascript"),
        *(b"x-http-method-override: DELETE", b"cookie: " + b"a=b; " * 10_000, b"trailer: host\r\nte: trailers"),
        b"x: y\r\n" * 9000,
    ):
        yield get(b"/api/v1/sessions", HOST + line + b"\r\n")
        yield b"OPTIONS /api/v1/prompt HTTP/1.1\r\n" + HOST + line + b"\r\n\r\n"
    whole = get(b"/api/v1/sessions", HOST + b"accept: */*\r\nuser-agent: a\r\nauthorization: Bearer x\r\n")
    for _ in range(120):
        yield mutated(whole, draw)
    for _ in range(30):
        yield draw.randbytes(draw.randrange(1, 3000)) + b"\r\n\r\n"


def targets(draw: random.Random) -> Iterator[bytes]:
    """Paths and queries."""
    places = [
        *(b"/", b"/docs/", b"/api/v1/sessions/", b"/api/v1/runs/", b"/v1/models/", b"/openai/v1/responses/"),
        b"/health/",
    ]
    tricks = [
        *(b"..%2f..%2fetc%2fpasswd", b"%2e%2e/%2e%2e/etc/passwd", b"..;/..;/", b"....//....//", b"%c0%ae%c0%ae/"),
        *(b"%00", b"a%00.js", b"%", b"%zz", b"%ff%fe", b"%0d%0aset-cookie:%20a=b", b"%e2%80%ae", b"%ed%a0%80"),
        *(b"~root", b"C:%5cwindows", b"a" * 9000, b"/" * 9000, b"'%20or%201=1--", b"%25%32%65"),
    ]
    for place in places:
        for trick in tricks:
            yield get(place + trick)
    for query in (
        *(b"limit=-1", b"limit=NaN", b"limit=1e9", b"limit=" + b"9" * 5000, b"limit=%00", b"limit[]=1"),
        *(b"limit=1&limit=2", b"offset=99999999999999999999", b"status=%ff", b"q=%ed%a0%80", b"q=" + b"%25" * 3000),
        *(b"&" * 5000, b"=" * 5000, b"a=b;c=d", b"after=%C2%B2"),
    ):
        yield get(b"/api/v1/sessions?" + query)
        yield get(b"/api/v1/runs?" + query)
        yield get(b"/api/v1/runs/" + b"0" * 32 + b"/events?" + query, HOST + b"last-event-id: \xb2\r\n")
    for _ in range(60):
        noise = bytes(draw.choice(b"/.%?#&=;:@!$'()*+,[]\\~ab09") for _ in range(draw.randrange(1, 60)))
        yield get(draw.choice(places) + noise)


def bodies(draw: random.Random) -> Iterator[bytes]:
    """Bodies that are not JSON, not of the API, or not text."""
    text = '{"backend": "nope", "model": "", "prompt": "häß\u4e2d"}'
    for encoding in ("utf-16", "utf-16-be", "utf-32", "utf-7", "latin-1"):
        yield from each(text.encode(encoding, "replace"))
    yield from each(b"\xef\xbb\xbf" + text.encode())
    broken = [
        *(b"", b" ", b"\x00", b"null", b"[]", b'"text"', b"0", b"NaN", b"Infinity", b"{", b"{}", b"{{}}"),
        *(b"[" * 100_000, b'{"a":' * 30_000, b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        b'{"metadata": ' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}",
        b'{"output_schema": ' + b'{"not":' * 5_000 + b"{}" + b"}" * 5_000 + b', "backend": "nope", "prompt": "x"}',
        *(b'{"prompt": "\xff\xfe", "backend": "nope"}', b'{"prompt": "\xed\xa0\x80", "backend": "nope"}'),
        *(b'{"prompt": "\\ud800", "backend": "nope"}', b'{"prompt": "\\u0000", "backend": "nope\\u0000"}'),
        *(b'{"prompt": "\\x", "backend": "nope"}', b'{"prompt": "a", "prompt": 1, "backend": "nope"}'),
        b'{"backend": "nope", "prompt": "x", "max_turns": ' + b"9" * 6000 + b"}",
        b'{"backend": "nope", "prompt": "x", "timeout_secs": 1e999}',
        b'{"backend": "nope", "prompt": "x", "timeout_secs": -0.0}',
        b'{"model": {"a": 1}, "messages": 7, "max_tokens": "x", "input": false}',
        b'{"model": "x", "max_tokens": 1, "messages": [{"role": "\\u0000", "content": [[[]]]}], "input": [[[]]]}',
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        *(b"\x1f\x8b\x08\x00" + b"\x00" * 1000, b"PK\x03\x04", b'{"prompt": "' + b"\\u0041" * 20_000),
        b'{"' + b"k" * 100_000 + b'": 1}',
        b"{" + b",".join(b'"k%d": 1' % number for number in range(10_000)) + b"}",
        b"x" * (MAX_BODY + 1),
    ]
    for body in broken:
        yield from each(body)
    for kind in (
        b"",
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"\xff",
        b"json",
    ):
        yield post(VALID, headers=b"content-type: " + kind + b"\r\n")
    yield post(VALID, headers=b"")
    yield post(VALID, headers=JSON + b"content-type: text/plain\r\n")
    yield post(VALID, headers=JSON + b"origin: https://evil.example\r\n")
    yield post(VALID, headers=JSON + b"content-encoding: gzip\r\n")[:-1]
    yield POST + JSON + b"content-length: 1000000000000000000\r\n\r\n{"
    yield POST + JSON + b"transfer-encoding: chunked\r\n\r\n" + b"8000\r\n%b\r\n" % (b"x" * 0x8000) * 10
    yield POST + JSON + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\n{\r\n" * 5000
    yield POST + JSON + b"expect: 100-continue\r\ncontent-length: 10\r\n\r\n"
    yield POST + JSON + b"content-length: 100\r\n\r\n" + VALID[:20]
    valid = b'{"backend": "nope", "prompt": "hello", "max_turns": 3, "extra": ["--x"], "metadata": {"a": [1, null]}}'
    for _ in range(150):
        yield post(mutated(valid, draw), "/api/v1/prompt")
    strict = (
        b'{"model": "x", "messagez": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], '
        b'"max_tokens": "x"}'
    )
    for _ in range(100):
        yield post(mutated(strict, draw), draw.choice(PATHS[1:]))


def each(body: bytes) -> Iterator[bytes]:
    yield from (post(body, path) for path in PATHS)


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Replace, insert or remove a few bytes."""
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(changed))
        match draw.randrange(4):
            case 0:
                changed[at] = draw.randrange(256)
            case 1:
                changed[at:at] = draw.randbytes(draw.randrange(1, 4))
            case 2:
                del changed[at : at + draw.randrange(1, 8)]
            case _:
                changed[at:at] = changed[at : at + draw.randrange(1, 40)]
    return bytes(changed)


GROUPS = {
    "smuggling": lambda: [*smuggling()],
    "heads": lambda: [*heads(random.Random(SEED))],
    "targets": lambda: [*targets(random.Random(SEED))],
    "bodies": lambda: [*bodies(random.Random(SEED))],
}


async def answer_to(server: LiveServer, data: bytes) -> bytes | None:
    """Send a case. Return the response up to the end of the connection, or None if the connection stays open."""
    got = bytearray()
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(data)
            while piece := await reader.read(65536):
                got += piece
    except ConnectionError:
        pass
    except TimeoutError:
        return None
    finally:
        if writer:
            writer.close()
    return bytes(got)


async def wrong_with(server: LiveServer, data: bytes, places: asyncio.Semaphore) -> str | None:
    async with places:
        received = await answer_to(server, data)
    if received is None:
        return f"hangs: {data[:300]!r} … ({len(data)} bytes)"
    bad = [int(status) for status in STATUS.findall(received) if int(status) >= 500]
    return f"{bad}: {data[:300]!r} … ({len(data)} bytes) got {received[:500]!r}" if bad else None


@pytest.mark.timeout(180)
@pytest.mark.parametrize("keys", [None, ApiKeys(["k"])], ids=["open", "with keys"])
@pytest.mark.parametrize("group", GROUPS)
async def test_malformed_requests_break_nothing(scripted: Scripted, group: str, keys: ApiKeys | None) -> None:
    scripted.play(claude_says("x"))
    cases = GROUPS[group]()
    async with serving(
        scripted.env,
        store=MemoryStore(),
        keys=keys,
        read_timeout_secs=1,
        idle_timeout_secs=1,
        max_request_body_bytes=MAX_BODY,
        trusted_proxies=("127.0.0.1",),
    ) as server:
        places = asyncio.Semaphore(AT_ONCE)
        found = await asyncio.gather(*(wrong_with(server, case, places) for case in cases))
        wrong = [error for error in found if error]
        assert not wrong, f"seed {SEED}, {len(wrong)} of {len(cases)}:\n" + "\n".join(wrong[:10])
        await until(lambda: not server.state.active_requests)
        assert (await server.client.get("/health/live")).status_code == 200
    assert scripted.calls() == []
