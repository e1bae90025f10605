"""The application of a server: the router, and the layers around the router."""

from starlette.types import ASGIApp

from clinvk.api.access.auth import AuthMiddleware
from clinvk.api.access.hosts import CorsMiddleware
from clinvk.api.endpoints.services import Services
from clinvk.api.http.middleware import RequestMiddleware
from clinvk.api.observe.observers import with_user_agent
from clinvk.api.openapi.endpoint_table import ENDPOINTS, METRICS_PATH
from clinvk.api.server.router import Router


def create_app(services: Services) -> RequestMiddleware:
    """Return the application of a server."""
    metrics, tracing = services.observers.metrics, services.observers.tracing
    router = Router([each for each in ENDPOINTS if metrics or each.route.path != METRICS_PATH], services)
    app: ASGIApp = CorsMiddleware(AuthMiddleware(router, services.access), services.settings.server)
    if tracing:
        app = tracing.traced(app, router.template_of)
    if services.observers.names_clients:
        app = with_user_agent(app)
    return RequestMiddleware(app, services.state, metrics.requests_by(router.template_of) if metrics else None)
