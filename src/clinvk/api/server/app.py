"""The application of a server: handlers, router, and the layers around the router."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from clinvk.api.access.auth import Doors, Gate
from clinvk.api.access.cors import Cors
from clinvk.api.access.key_policy import Grants
from clinvk.api.access.workdirs import Workdirs
from clinvk.api.endpoints.health import Inventory, Status
from clinvk.api.endpoints.models import Counting, Models
from clinvk.api.endpoints.prompts import RunEndpoint, SpelledOut
from clinvk.api.endpoints.responses import Responses
from clinvk.api.endpoints.runs import RunRecords, UsageRecords, Viewers
from clinvk.api.endpoints.sessions import Sessions
from clinvk.api.http import paths
from clinvk.api.http.middleware import Front
from clinvk.api.observe.observers import Watching
from clinvk.api.openapi.docs import Docs
from clinvk.api.openapi.endpoint import Handlers
from clinvk.api.openapi.endpoint_table import ENDPOINTS, METRICS_PATH
from clinvk.api.server.router import Router
from clinvk.backends.base import Backend
from clinvk.config.model import Settings
from clinvk.dialects.dialect import Dialect
from clinvk.dialects.openai.completions import OpenAICompletions
from clinvk.dialects.openai.responses import OpenAIResponses
from clinvk.runtime.runs import Runs
from clinvk.store.protocol import SessionStore
from clinvk.types.orchestration import Kind

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
    workdirs: Workdirs,
    watching: Watching,
    registry: Mapping[str, Backend],
) -> Front:
    """Return the application; the caller opens and closes runs, store and inventory."""
    stopping = asyncio.Event()

    def is_here(run_id: str) -> bool:
        return bool(orchestrations().live(run_id))

    viewers = Viewers(runs, store, settings.server, stopping, is_here)
    responses = Responses(runs, store, viewers)

    def run(dialect: Dialect, spelled_out: SpelledOut | None = None) -> RunEndpoint:
        return RunEndpoint(dialect, runs, store, settings, workdirs, grants, registry, spelled_out=spelled_out)

    prompts = run(paths.REST)

    def batch(kind: Kind) -> ASGIApp:
        from clinvk.api.endpoints.batch import BatchEndpoint  # imported late: a megabyte that few servers need

        return BatchEndpoint(kind, prompts, orchestrations(), environ, registry)

    if watching.metrics:
        from clinvk.api.observe.metrics import Exposition

        metrics = Exposition(watching.metrics, runs, store, lambda: front.active).show
    else:
        metrics = None
    handlers = Handlers(
        prompts=prompts,
        batch=batch,
        sessions=Sessions(store, settings.server, grants, registry),
        runs=RunRecords(runs, store, orchestrations, registry),
        events=viewers,
        usage=UsageRecords(store, registry),
        chat=run(paths.OPENAI),
        completions=run(OpenAICompletions()),
        new_response=run(OpenAIResponses(), responses.spelled_out),
        responses=responses,
        messages=run(paths.ANTHROPIC),
        counting=Counting(paths.ANTHROPIC, settings.server),
        models=Models(inventory, grants, registry),
        status=Status(runs, store, inventory, grants, doors.warning),
        docs=Docs(registry),
        metrics=metrics,
    )
    router = Router([each for each in ENDPOINTS if metrics or each.route.path != METRICS_PATH], handlers)
    app: ASGIApp = Cors(Gate(router, doors), settings.server)
    if watching.tracing:
        app = watching.tracing.traced(app, router.template_of)
    front = Front(app, stopping, watching.metrics.requests_by(router.template_of) if watching.metrics else None)
    return front
