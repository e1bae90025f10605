"""The routes, and what they need."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, get_args

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.api.access.auth import Doors, Gate
from clinvk.api.access.cors import Cors
from clinvk.api.access.key_policy import Grants
from clinvk.api.endpoints.health import Inventory, Status
from clinvk.api.endpoints.models import Counting, Models
from clinvk.api.endpoints.prompts import RunEndpoint, SpelledOut
from clinvk.api.endpoints.responses import Responses
from clinvk.api.endpoints.runs import RunRecords, UsageRecords, Viewers
from clinvk.api.endpoints.sessions import Sessions
from clinvk.api.http import paths
from clinvk.api.http.middleware import Front
from clinvk.api.http.paths import Templates
from clinvk.api.http.response import ClientGone, broken, path_of, refusal
from clinvk.api.observe.observers import Watching
from clinvk.api.openapi.docs import Docs
from clinvk.backends.base import Backend
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import ServerSettings, Settings
from clinvk.dialects.dialect import Dialect, MethodNotAllowed, NoSuchPath
from clinvk.dialects.openai.completions import OpenAICompletions
from clinvk.dialects.openai.responses import OpenAIResponses
from clinvk.runtime.runs import Runs
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import ClinvkError, exhausted
from clinvk.types.orchestration import Kind

if TYPE_CHECKING:
    from clinvk.orchestrate.live import Orchestrations

_METRICS = "/metrics"
_BASES = "the base URL of OpenAI's clients ends in /openai/v1, that of Anthropic's in /anthropic"


def create_app(
    settings: Settings,
    environ: Mapping[str, str],
    runs: Runs,
    store: SessionStore,
    orchestrations: Callable[[], "Orchestrations"],
    inventory: Inventory,
    doors: Doors,
    grants: Grants,
    watching: Watching,
    registry: Mapping[str, Backend] = BACKENDS,
) -> Front:
    """Put the application together; runs, store and inventory stay their owner's to open and close."""
    stopping = asyncio.Event()
    docs = Docs()
    status = Status(runs, store, inventory, grants, doors.warning)
    sessions = Sessions(store, settings.server, grants, registry)
    records = RunRecords(runs, store, orchestrations, registry)
    viewers = Viewers(runs, store, settings.server, stopping, lambda run_id: bool(orchestrations().live(run_id)))
    models = Models(inventory, grants, registry)

    def run(dialect: Dialect, spelled_out: SpelledOut | None = None) -> RunEndpoint:
        return RunEndpoint(dialect, runs, store, settings, environ, grants, registry, spelled_out=spelled_out)

    responses = Responses(runs, store, viewers)
    prompts = run(paths.REST)

    def batch(kind: Kind) -> ASGIApp:
        from clinvk.api.endpoints.batch import BatchEndpoint

        return BatchEndpoint(kind, prompts, orchestrations(), environ, registry)

    routes = [
        Route("/api/v1/prompt", prompts, methods=["POST"]),
        *(Route(f"/api/v1/{kind}", Later(partial(batch, kind)), methods=["POST"]) for kind in get_args(Kind)),
        Route("/api/v1/sessions", sessions.all),
        Route("/api/v1/sessions/{id}", sessions.one, methods=["GET", "PATCH", "DELETE"]),
        Route("/api/v1/sessions/{id}/messages", sessions.messages),
        Route("/api/v1/sessions/{id}/fork", sessions.fork, methods=["POST"]),
        Route("/api/v1/runs", records.all),
        Route("/api/v1/runs/{id}", records.one),
        Route("/api/v1/runs/{id}/events", viewers, methods=["GET"]),
        Route("/api/v1/runs/{id}/cancel", records.cancel, methods=["POST"]),
        Route("/api/v1/usage", UsageRecords(store, registry).all),
        Route("/api/v1/backends", status.backends),
        *_openai(run, run(OpenAIResponses(), responses.spelled_out), models, responses),
        *_anthropic(run, models, settings.server),
        Route("/v1/models", models.any_all),
        Route("/v1/models/{id:path}", models.any_one),
        Route("/health", status.health),
        Route("/health/live", status.live),
        Route("/health/ready", status.ready),
        Route("/openapi.json", docs.openapi),
        *(Route(path, docs.page) for path in ("/", "/docs")),
        Route("/docs/{name}", docs.asset),
    ]
    if metrics := watching.metrics:
        from clinvk.api.observe.metrics import Exposition

        routes.append(Route(_METRICS, Exposition(metrics, runs, store, lambda: front.active).show))
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _misdirected,
            ClinvkError: _refused,
            ClientGone: _left,
            OSError: _failed,
            Exception: _broken,
        },
    )
    app.router.redirect_slashes = False
    templates = Templates(routes)
    inner: ASGIApp = Cors(Gate(Shortcut(app), doors), settings.server)
    if watching.tracing:
        inner = watching.tracing.traced(inner, templates)
    answered = watching.metrics.requests_by(templates.of) if watching.metrics else None
    front = Front(inner, stopping, answered)
    return front


class Later:
    """An endpoint that is made for its first request: what runs several agents takes a megabyte, and few ask for it."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make = make

    @cached_property
    def endpoint(self) -> ASGIApp:
        """The endpoint itself."""
        return self._make()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        await self.endpoint(scope, receive, send)


class Shortcut:
    """Leads what runs a prompt past the router, whose layers cost a short one a twentieth of its time."""

    def __init__(self, app: Starlette) -> None:
        self.app = app
        self._endpoints = {
            route.path: route.endpoint
            for route in app.routes
            if isinstance(route, Route) and isinstance(route.endpoint, RunEndpoint)
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request on."""
        endpoint = self._endpoints.get(scope["path"]) if scope["method"] == "POST" else None
        return (endpoint or self.app)(scope, receive, send)


def _openai(
    run: Callable[[Dialect], RunEndpoint], responding: RunEndpoint, models: Models, responses: Responses
) -> Iterator[Route]:
    runs = {
        "/chat/completions": run(paths.OPENAI),
        "/completions": run(OpenAICompletions()),
        "/responses": responding,
    }
    for base in ("/openai/v1", "/v1"):
        yield from (Route(base + path, endpoint, methods=["POST"]) for path, endpoint in runs.items())
        yield Route(f"{base}/responses/{{id}}", responses.one)
        yield Route(f"{base}/responses/{{id}}/cancel", responses.cancel, methods=["POST"])
    yield Route("/openai/v1/models", models.openai_all)
    yield Route("/openai/v1/models/{id:path}", models.openai_one)


def _anthropic(run: Callable[[Dialect], RunEndpoint], models: Models, settings: ServerSettings) -> Iterator[Route]:
    messages, counting = run(paths.ANTHROPIC), Counting(paths.ANTHROPIC, settings)
    for base in ("/anthropic/v1", "/v1"):
        yield Route(f"{base}/messages", messages, methods=["POST"])
        yield Route(f"{base}/messages/count_tokens", counting.estimate, methods=["POST"])
    yield Route("/anthropic/v1/models", models.anthropic_all)
    yield Route("/anthropic/v1/models/{id:path}", models.anthropic_one)


async def _misdirected(request: Request, error: Exception) -> Response:
    """Answer a path or method that is not served."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {path_of(request.scope)}"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return _refusal(request, MethodNotAllowed(f"{where}: the methods of this path are {allowed}"), error.headers)
    hint = _BASES if request.state.dialect.is_model_api else "GET /docs lists what there is"
    if request.scope["path"] == _METRICS:
        hint = "metrics are kept with the setting server.metrics_enabled"
    return _refusal(request, NoSuchPath(f"{where}: there is nothing here; {hint}"))


async def _refused(request: Request, error: Exception) -> Response:
    """Answer a request that cannot be served."""
    assert isinstance(error, ClinvkError)
    return _refusal(request, error)


async def _left(_: Request, __: Exception) -> Response:
    """Answer nobody: the client has gone."""
    return Response(status_code=400)


async def _failed(request: Request, error: Exception) -> Response:
    """Answer a request for which no file could be opened, even that of a module; any other error goes to `_broken`."""
    if lack := exhausted(error):
        return _refusal(request, lack)
    raise error


async def _broken(request: Request, _: Exception) -> Response:
    """Answer a request that an error inside clinvk ended; the error itself goes on to the server's log."""
    return _refusal(request, broken(), {"x-should-retry": "false"} if request.state.dialect.is_model_api else None)


def _refusal(request: Request, error: ClinvkError, headers: Mapping[str, str] | None = None) -> Response:
    dialect: Dialect = request.state.dialect
    status, body, retry = refusal(error, dialect, request.scope)
    more = {name.decode(): value.decode() for name, value in retry}
    return Response(body, status, {**more, **(headers or {})}, media_type=dialect.error_type)
