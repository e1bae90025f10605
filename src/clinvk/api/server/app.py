"""The application of a server: the router, and the layers around the router.

The router maps path and method to a handler, and an exception to an error response in the wire format of the path.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial

from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinvk.api.access.auth import AuthMiddleware
from clinvk.api.access.hosts import CorsMiddleware
from clinvk.api.console.files import CONSOLE_PATH
from clinvk.api.endpoints.services import Owner, Services
from clinvk.api.http.middleware import UNKNOWN, RequestMiddleware
from clinvk.api.http.response import NO_RETRY, ClientDisconnected, internal_error, no_such_path, path_of, send_error
from clinvk.api.mcp.in_process_rest import InProcessRest
from clinvk.api.observe.observers import with_user_agent
from clinvk.api.openapi.endpoint import Endpoint, Route
from clinvk.api.openapi.endpoint_table import ENDPOINTS, METRICS_PATH
from clinvk.api.openapi.model_endpoints import not_offered
from clinvk.types.errors import ClinvkError, MethodNotAllowed, NoSuchPath, exhausted

MCP_PATH = "/mcp"
ACP_PATHS = ("/acp", "/api/v1/acp")
"""Browsers send the cookie of a login below `/api/v1` only, and cannot send a key with a WebSocket."""

Guard = Callable[[ASGIApp], ASGIApp]
"""Makes the layer that identifies the client of each request."""

Wrap = Callable[[Owner, ASGIApp], ASGIApp]
"""Returns the application for an endpoint: its own, or one that passes the requests to nodes."""


class Router:
    """The endpoints of one server, as an ASGI application.

    `routes` maps path templates and methods to routes. The application of a route is made for the first request, so
    rarely used parts are created late; `wrap` may put another application in its place.
    """

    def __init__(self, endpoints: Iterable[Endpoint], services: Services, wrap: Wrap | None = None) -> None:
        self.routes: dict[str, dict[str, Route]] = {}
        for route, _ in endpoints:
            for path in route.paths:
                self.routes.setdefault(path, {})[route.method] = route
        self._fixed = {path for path in self.routes if "{" not in path}
        self._patterns = [
            (re.compile(compile_path(path)[0].pattern, re.DOTALL), path) for path in self.routes if "{" in path
        ]
        self._services = services
        self._wrap = wrap
        self._apps: dict[tuple[str, str], ASGIApp] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. An unexpected error is answered, and raised again for the server's log."""
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._serve(scope, receive, send_and_note)
        except ClientDisconnected:
            if not has_started:
                await Response(status_code=400)(scope, receive, send)
        except Exception as exc:
            expected = exc if isinstance(exc, ClinvkError) else exhausted(exc)
            if not has_started:
                headers = [NO_RETRY] if not expected and scope["state"]["dialect"].is_model_api else []
                await send_error(expected or internal_error(), scope, send, headers)
            if has_started or not expected:
                raise

    def template_of(self, path: str) -> str:
        """Return the template of a path, such as `/api/v1/runs/{id}`, or `UNKNOWN`."""
        return self._match(path)[0]

    def _match(self, path: str) -> tuple[str, dict[str, str]]:
        if path in self._fixed:
            return path, {}
        for pattern, template in self._patterns:
            if found := pattern.fullmatch(path):
                return template, found.groupdict()
        return UNKNOWN, {}

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        template, scope["path_params"] = self._match(scope["path"])
        methods = self.routes.get(template, {})
        method: str = "GET" if scope["method"] == "HEAD" else scope["method"]
        reason = "" if method in methods else not_offered(f"{method} {path_of(scope)}")
        if reason and template not in self._fixed:
            raise NoSuchPath(reason)
        if not methods:
            raise no_such_path(scope)
        if method not in methods:
            allowed = ", ".join((*methods, *(("HEAD",) if "GET" in methods else ())))
            where = f"{scope['method']} {path_of(scope)}"
            error = MethodNotAllowed(reason or f"{where}: use {' or '.join(methods)}")
            await send_error(error, scope, send, [(b"allow", allowed.encode())])
            return
        if (app := self._apps.get((template, method))) is None:
            route = methods[method]
            app = route.app(self._services)
            app = self._apps[template, method] = self._wrap(route.owner, app) if self._wrap else app
        await app(scope, receive, send)


def _mcp(rest: InProcessRest, _: Services) -> ASGIApp:
    from clinvk.api.mcp.endpoint import McpEndpoint  # imports that only a client of MCP needs

    return McpEndpoint(rest)


def _acp(services: Services) -> ASGIApp:
    from clinvk.api.endpoints.editors import serve_acp  # imports that only an editor needs

    return partial(serve_acp, services)


def create_app(services: Services, guard: Guard | None = None, wrap: Wrap | None = None) -> RequestMiddleware:
    """Return the application of a server. `guard` takes the place of keys, hosts and CORS."""
    metrics, tracing = services.observers.metrics, services.observers.tracing
    is_on = {METRICS_PATH: metrics is not None, CONSOLE_PATH: services.settings.server.console}
    rest = InProcessRest(Router(ENDPOINTS, services, wrap), services)
    acp = (Endpoint(Route("GET", path, _acp)) for path in ACP_PATHS)
    endpoints = (*ENDPOINTS, Endpoint(Route("POST", MCP_PATH, partial(_mcp, rest))), *acp)
    router = Router([each for each in endpoints if is_on.get(each.route.path, True)], services, wrap)
    guard = guard or (lambda app: CorsMiddleware(AuthMiddleware(app, services.access), services.settings.server))
    app = guard(router)
    if tracing:
        app = tracing.traced(app, router.template_of)
    if services.observers.view:
        app = with_user_agent(app)
    return RequestMiddleware(app, services.state, metrics.requests_by(router.template_of) if metrics else None)
