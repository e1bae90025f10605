"""The application of a server: handlers, router, and the layers around the router."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from clinvk.api.access.auth import Access, AuthMiddleware
from clinvk.api.access.hosts import CorsMiddleware
from clinvk.api.access.key_policy import KeyPolicy
from clinvk.api.access.workdirs import WorkdirPolicy
from clinvk.api.endpoints.health import BackendInventory, HealthEndpoints
from clinvk.api.endpoints.models import ModelEndpoints, TokenCountEndpoint
from clinvk.api.endpoints.prompts import ExpandReferences, PromptEndpoint
from clinvk.api.endpoints.responses import ResponseEndpoints
from clinvk.api.endpoints.runs import RunEndpoints, RunEventsEndpoint, UsageEndpoint
from clinvk.api.endpoints.sessions import SessionEndpoints
from clinvk.api.http.middleware import ANTHROPIC, OPENAI, REST, RequestMiddleware
from clinvk.api.observe.observers import Observers, with_user_agent
from clinvk.api.openapi.docs import DocsEndpoints
from clinvk.api.openapi.endpoint import Handlers
from clinvk.api.openapi.endpoint_table import ENDPOINTS, METRICS_PATH
from clinvk.api.server.router import Router
from clinvk.backends.base import Backend
from clinvk.config.model import Settings
from clinvk.dialects.dialect import Dialect
from clinvk.dialects.openai.completions import OpenAICompletions
from clinvk.dialects.openai.responses import OpenAIResponses
from clinvk.runtime.local import LocalRuns
from clinvk.store.protocol import SessionStore
from clinvk.types.orchestration import Kind

if TYPE_CHECKING:
    from clinvk.orchestrate.live import Orchestrations


def create_app(
    settings: Settings,
    environ: Mapping[str, str],
    runs: LocalRuns,
    store: SessionStore,
    orchestrations: Callable[[], "Orchestrations"],
    inventory: BackendInventory,
    access: Access,
    key_policy: KeyPolicy,
    workdirs: WorkdirPolicy,
    observers: Observers,
    registry: Mapping[str, Backend],
) -> RequestMiddleware:
    """Return the application; the caller opens and closes runs, store and inventory."""
    stopping = asyncio.Event()

    def is_here(run_id: str) -> bool:
        return bool(orchestrations().live(run_id))

    viewers = RunEventsEndpoint(runs, store, settings.server, stopping, is_here)
    responses = ResponseEndpoints(runs, store, viewers)

    def run(dialect: Dialect, expand_references: ExpandReferences | None = None) -> PromptEndpoint:
        return PromptEndpoint(
            dialect, runs, store, settings, workdirs, key_policy, registry, expand_references=expand_references
        )

    prompts = run(REST)

    def batch(kind: Kind) -> ASGIApp:
        from clinvk.api.endpoints.batch import BatchEndpoint  # imported late: a megabyte that few servers need

        return BatchEndpoint(kind, prompts, orchestrations(), environ, registry)

    if observers.metrics:
        from clinvk.api.observe.metrics import MetricsEndpoint

        metrics = MetricsEndpoint(observers.metrics, runs, store, lambda: outermost.active).metrics
    else:
        metrics = None
    handlers = Handlers(
        prompts=prompts,
        batch=batch,
        events=viewers,
        chat=run(OPENAI),
        completions=run(OpenAICompletions()),
        new_response=run(OpenAIResponses(), responses.expand_references),
        messages=run(ANTHROPIC),
        metrics=metrics,
        objects=(
            SessionEndpoints(store, settings.server, key_policy, registry),
            RunEndpoints(runs, store, orchestrations, registry),
            UsageEndpoint(store, registry),
            responses,
            TokenCountEndpoint(ANTHROPIC, settings.server),
            ModelEndpoints(inventory, key_policy, registry),
            HealthEndpoints(runs, store, inventory, key_policy, access.warning),
            DocsEndpoints(registry),
        ),
    )
    router = Router([each for each in ENDPOINTS if metrics or each.route.path != METRICS_PATH], handlers)
    app: ASGIApp = CorsMiddleware(AuthMiddleware(router, access), settings.server)
    if observers.tracing:
        app = observers.tracing.traced(app, router.template_of)
    if observers.names_clients:
        app = with_user_agent(app)
    outermost = RequestMiddleware(
        app, stopping, observers.metrics.requests_by(router.template_of) if observers.metrics else None
    )
    return outermost
