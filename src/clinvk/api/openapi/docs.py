"""The handlers for the OpenAPI document and the docs page. The page loads no files from other hosts."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from clinvk.api.http.response import no_such_path
from clinvk.backends.base import Backend

_ASSETS = Path(__file__).parent / "assets"
_MEDIA_TYPES = {"docs.html": "text/html", "docs.css": "text/css", "docs.js": "text/javascript"}
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class DocsEndpoints:
    """The endpoints. The page's files are read at the start, the document is made for the first request."""

    def __init__(self, registry: Mapping[str, Backend]) -> None:
        self._registry = registry
        self._files = {name: (_ASSETS / name).read_bytes() for name in _MEDIA_TYPES}

    async def openapi(self, _: Request) -> Response:
        """Get this document."""
        return Response(self._document, headers=_HEADERS, media_type="application/json")

    async def page(self, _: Request) -> Response:
        """Show this document as a page."""
        return self._file("docs.html")

    async def asset(self, request: Request) -> Response:
        """Answer `GET /docs/docs.css` and the like."""
        name: str = request.path_params["name"]
        if name not in self._files:
            raise no_such_path(request.scope)
        return self._file(name)

    def _file(self, name: str) -> Response:
        return Response(self._files[name], headers=_HEADERS, media_type=_MEDIA_TYPES[name])

    @cached_property
    def _document(self) -> bytes:
        from clinvk.api.openapi.document import document  # imported late: a twentieth of the server's start

        return document(self._registry)
