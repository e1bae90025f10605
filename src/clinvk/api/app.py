"""The routes, and what they need."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, get_args

from clinvk.api import surfaces
from clinvk.api.asgi import ASGIApp, Receive, Scope, Send
from clinvk.api.cors import Cors
from clinvk.api.counting import Counting
from clinvk.api.docs import Docs
from clinvk.api.doors import Doors
from clinvk.api.gate import Gate
from clinvk.api.grants import Grants
from clinvk.api.inventory import Inventory
from clinvk.api.meta import Status
from clinvk.api.middleware import Front
from clinvk.api.models import Models
from clinvk.api.records import RunRecords
from clinvk.api.responses import Responses
from clinvk.api.routing import Route, Router, answering
from clinvk.api.runs import RunEndpoint
from clinvk.api.sessions import Sessions
from clinvk.api.templates import Templates
from clinvk.api.usage import UsageRecords
from clinvk.api.viewers import Viewers
from clinvk.api.watching import Watching
from clinvk.backends import BACKENDS
from clinvk.backends.base import Backend
from clinvk.config import ServerSettings, Settings
from clinvk.dialects.base import Dialect
from clinvk.dialects.openai_completions import OpenAICompletions
from clinvk.dialects.openai_responses import OpenAIResponses
from clinvk.plan import Kind
from clinvk.runtime.runs import Runs
from clinvk.store import SessionStore

if TYPE_CHECKING:
    from clinvk.orchestrate.live import Orchestrations


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
    sessions = Sessions(store, settings.server, registry)
    records = RunRecords(runs, store, orchestrations, registry)
    viewers = Viewers(runs, store, settings.server, stopping)
    models = Models(inventory, grants, registry)

    def run(dialect: Dialect) -> RunEndpoint:
        return RunEndpoint(dialect, runs, store, settings, environ, grants, registry)

    prompts = run(surfaces.REST)

    def batch(kind: Kind) -> ASGIApp:
        from clinvk.api.batch import BatchEndpoint

        return BatchEndpoint(kind, prompts, orchestrations(), environ, registry)

    routes = [
        Route("/api/v1/prompt", prompts, "POST"),
        *(Route(f"/api/v1/{kind}", Later(partial(batch, kind)), "POST") for kind in get_args(Kind)),
        answering("/api/v1/sessions", sessions.all),
        answering("/api/v1/sessions/{id}", sessions.one, "GET", "PATCH", "DELETE"),
        answering("/api/v1/sessions/{id}/messages", sessions.messages),
        answering("/api/v1/sessions/{id}/fork", sessions.fork, "POST"),
        answering("/api/v1/runs", records.all),
        answering("/api/v1/runs/{id}", records.one),
        Route("/api/v1/runs/{id}/events", viewers, "GET"),
        answering("/api/v1/runs/{id}/cancel", records.cancel, "POST"),
        answering("/api/v1/usage", UsageRecords(store, registry).all),
        answering("/api/v1/backends", status.backends),
        *_openai(run, models, Responses(runs, store, viewers)),
        *_anthropic(run, models, settings.server),
        answering("/v1/models", models.any_all),
        answering("/v1/models/{id:path}", models.any_one),
        answering("/health", status.health),
        answering("/health/live", status.live),
        answering("/health/ready", status.ready),
        answering("/openapi.json", docs.openapi),
        answering("/docs", docs.page),
        answering("/docs/{name}", docs.asset),
    ]
    if metrics := watching.metrics:
        from clinvk.api.metrics import Exposition

        routes.append(answering("/metrics", Exposition(metrics, runs, store, lambda: front.active).show))
    templates = Templates(routes)
    inner: ASGIApp = Cors(Gate(Router(routes), doors), settings.server)
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


def _openai(run: Callable[[Dialect], RunEndpoint], models: Models, responses: Responses) -> Iterator[Route]:
    runs = {
        "/chat/completions": run(surfaces.OPENAI),
        "/completions": run(OpenAICompletions()),
        "/responses": run(OpenAIResponses()),
    }
    for base in ("/openai/v1", "/v1"):
        yield from (Route(base + path, endpoint, "POST") for path, endpoint in runs.items())
        yield answering(f"{base}/responses/{{id}}", responses.one)
        yield answering(f"{base}/responses/{{id}}/cancel", responses.cancel, "POST")
    yield answering("/openai/v1/models", models.openai_all)
    yield answering("/openai/v1/models/{id:path}", models.openai_one)


def _anthropic(run: Callable[[Dialect], RunEndpoint], models: Models, settings: ServerSettings) -> Iterator[Route]:
    messages, counting = run(surfaces.ANTHROPIC), Counting(surfaces.ANTHROPIC, settings)
    for base in ("/anthropic/v1", "/v1"):
        yield Route(f"{base}/messages", messages, "POST")
        yield answering(f"{base}/messages/count_tokens", counting.estimate, "POST")
    yield answering("/anthropic/v1/models", models.anthropic_all)
    yield answering("/anthropic/v1/models/{id:path}", models.anthropic_one)
