"""The applications for the OpenAPI document and the docs page. The page loads no files from other hosts."""

from pathlib import Path

from starlette.responses import Response

from clinvk.api.endpoints.services import Services

_ASSETS = Path(__file__).parent / "assets"
_MEDIA_TYPES = {"docs.html": "text/html", "docs.css": "text/css", "docs.js": "text/javascript"}
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def openapi_document(services: Services) -> Response:
    """Return the OpenAPI document as an ASGI application."""
    from clinvk.api.openapi.document import document  # imported late: a twentieth of the server's start

    return Response(document(services.registry), headers=_HEADERS, media_type="application/json")


def docs_file(name: str, _: Services) -> Response:
    """Return a file of the docs page as an ASGI application."""
    return Response((_ASSETS / name).read_bytes(), headers=_HEADERS, media_type=_MEDIA_TYPES[name])
