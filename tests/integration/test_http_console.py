"""The files of the console."""

from pathlib import Path

import pytest

from clinvk.api import console
from scripted import Scripted
from serving import serving

ASSETS = Path(console.__file__).parent / "assets"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}
FILES = [path.relative_to(ASSETS).as_posix() for path in ASSETS.rglob("*") if path.suffix in TYPES]
POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "manifest-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
}


async def test_console_files_are_served_with_a_strict_policy(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        for name in FILES:
            answer = await server.client.get(f"/console/{name}")
            assert (answer.status_code, answer.content) == (200, (ASSETS / name).read_bytes()), name
            assert answer.headers["content-type"] == TYPES[Path(name).suffix]
            assert set(answer.headers["content-security-policy"].split("; ")) == POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
        index = await server.client.get("/")
    assert index.content == (ASSETS / "index.html").read_bytes()
    assert set(index.headers["content-security-policy"].split("; ")) == POLICY


async def test_console_is_compressed_for_clients_that_accept_gzip(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        compressed = await server.client.get("/", headers={"accept-encoding": "gzip, br"})
        plain = await server.client.get("/", headers={"accept-encoding": "identity"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert compressed.content == plain.content
    assert compressed.headers["vary"] == plain.headers["vary"] == "accept-encoding"


async def test_unchanged_console_file_is_not_sent_again(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        first = await server.client.get("/")
        again = await server.client.get("/", headers={"if-none-match": first.headers["etag"]})
        other = await server.client.get("/", headers={"if-none-match": '"other"'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert first.headers["cache-control"] == again.headers["cache-control"] == "no-cache"
    assert other.content == first.content


@pytest.mark.parametrize("name", ["nothing.js", "../files.py", "..%2ffiles.py", "%2e%2e/files.py", ".", "vendor"])
async def test_only_packaged_console_files_are_served(scripted: Scripted, name: str) -> None:
    async with serving(scripted.env) as server:
        reader, writer = await server.raw(f"GET /console/{name} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 404 ")
        writer.close()


async def test_console_files_are_not_served_when_the_console_is_off(scripted: Scripted) -> None:
    async with serving(scripted.env, console=False) as server:
        file = await server.client.get("/console/index.html")
        root = await server.client.get("/")
        docs = await server.client.get("/docs")
    assert file.status_code == 404
    assert root.content == docs.content


def test_console_files_link_relatively() -> None:
    """A link that begins with a slash would leave the path prefix of a proxy."""
    index = (ASSETS / "index.html").read_text()
    for attribute in ("href", "src"):
        assert f'{attribute}="/' not in index
        assert f'{attribute}="http' not in index
