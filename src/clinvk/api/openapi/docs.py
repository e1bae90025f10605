"""The OpenAPI document and the page that shows it; the page asks no other host for anything."""

from functools import cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_ASSETS = Path(__file__).parent / "assets"
_MEDIA_TYPES = {"docs.html": "text/html", "docs.css": "text/css", "docs.js": "text/javascript"}
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Docs:
    """The endpoints. The page's files are read when this is made, the document is put together when it is asked for."""

    def __init__(self) -> None:
        self._files = {name: (_ASSETS / name).read_bytes() for name in _MEDIA_TYPES}

    async def openapi(self, _: Request) -> Response:
        """Answer `GET /openapi.json`."""
        return Response(_document(), headers=_HEADERS, media_type="application/json")

    async def page(self, _: Request) -> Response:
        """Answer `GET /docs`, and `GET /` of who opens the address that the server has printed."""
        return self._file("docs.html")

    async def asset(self, request: Request) -> Response:
        """Answer `GET /docs/docs.css` and the like."""
        name: str = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(404)
        return self._file(name)

    def _file(self, name: str) -> Response:
        return Response(self._files[name], headers=_HEADERS, media_type=_MEDIA_TYPES[name])


@cache
def _document() -> bytes:
    from clinvk.api.openapi.document import document  # a twentieth of the start, for what few ask for

    return document()
