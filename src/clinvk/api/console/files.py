"""The files of the console and of the docs page as ASGI applications.

The files contain only relative links, so the console works behind a proxy with a path prefix.
"""

import asyncio
import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from clinvk.api.http.response import headers_of, no_such_path

CONSOLE_PATH = "/console/{name:path}"

_FOLDER = Path(__file__).parent / "assets"
_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".webmanifest": "application/manifest+json",
}
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}


class _File(NamedTuple):
    body: bytes
    gzipped: bytes
    headers: Mapping[str, str]
    media_type: str


@cache
def _files() -> Mapping[str, _File]:
    """Return all files that may be requested, by name. Blocks."""
    paths = (path for path in _FOLDER.rglob("*") if path.suffix in _MEDIA_TYPES)
    return {path.relative_to(_FOLDER).as_posix(): _read(path) for path in paths}


def _read(path: Path) -> _File:
    body = path.read_bytes()
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    scope = {"service-worker-allowed": "../"} if path.name == "sw.js" else {}
    headers = {**_HEADERS, **scope, "etag": etag}
    return _File(body, gzip.compress(body, mtime=0), headers, _MEDIA_TYPES[path.suffix])


async def console(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the file that the path names: the index at `/`. Raises `NoSuchPath`."""
    await send_file(scope["path_params"].get("name", "index.html"), scope, receive, send)


async def send_file(name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a file.

    Raises:
        NoSuchPath: there is no such file.
    """
    file = (await asyncio.to_thread(_files)).get(name)
    if file is None:
        raise no_such_path(scope)
    request = headers_of(scope)
    if request.get("if-none-match") == file.headers["etag"]:
        response = Response(status_code=304, headers=file.headers)
    elif "gzip" in request.get("accept-encoding", ""):
        response = Response(file.gzipped, 200, {**file.headers, "content-encoding": "gzip"}, file.media_type)
    else:
        response = Response(file.body, 200, file.headers, file.media_type)
    await response(scope, receive, send)
