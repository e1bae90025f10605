"""The routes, and what they need."""

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clinvk.api.docs import Docs
from clinvk.api.inventory import Inventory
from clinvk.api.meta import Status
from clinvk.api.middleware import Front
from clinvk.api.runs import RunEndpoint
from clinvk.backends import BACKENDS
from clinvk.backends.base import Backend
from clinvk.config import Settings
from clinvk.dialects.base import MethodNotAllowed, NoSuchPath
from clinvk.dialects.rest import Rest
from clinvk.errors import ClinvkError
from clinvk.runtime.runs import Runs
from clinvk.store import SessionStore


def create_app(
    settings: Settings,
    environ: Mapping[str, str],
    runs: Runs,
    store: SessionStore,
    inventory: Inventory,
    registry: Mapping[str, Backend] = BACKENDS,
) -> Front:
    """Put the application together; runs, store and inventory stay their owner's to open and close."""
    rest = Rest()
    docs = Docs()
    status = Status(store, inventory)
    prompt = RunEndpoint(rest, runs, settings, environ, registry)
    routes = [
        Route("/api/v1/prompt", prompt, methods=["POST"]),
        Route("/api/v1/backends", status.backends),
        Route("/health", status.health),
        Route("/health/live", status.live),
        Route("/health/ready", status.ready),
        Route("/openapi.json", docs.openapi),
        Route("/docs", docs.page),
        Route("/docs/{name}", docs.asset),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _misdirected, Exception: _broken})
    app.router.redirect_slashes = False
    return Front(app)


def _misdirected(request: Request, error: Exception) -> Response:
    """Answer a path or method that is not served."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return _problem(request, MethodNotAllowed(f"{where}: the methods of this path are {allowed}"), error.headers)
    return _problem(request, NoSuchPath(f"{where}: there is nothing here; GET /docs lists what there is"))


def _broken(request: Request, _: Exception) -> Response:
    """Answer a request that an error inside clinvk ended; the error itself goes on to the server's log."""
    return _problem(request, ClinvkError("clinvk itself failed; its log has the details under this request id"))


def _problem(request: Request, error: ClinvkError, headers: Mapping[str, str] | None = None) -> Response:
    status, body = Rest().error(error, request.state.request_id)
    return Response(body, status, dict(headers or {}), media_type=Rest.error_type)
