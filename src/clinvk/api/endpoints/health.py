"""The endpoints that report health, metrics, and the agent CLIs."""

import asyncio
import logging
import re
import time
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from clinvk import __version__
from clinvk.api.endpoints.inventory import BackendInfo, NodeInfo
from clinvk.api.endpoints.services import Services
from clinvk.api.http.middleware import ServerState
from clinvk.api.http.response import document
from clinvk.types.errors import ClinvkError

logger = logging.getLogger(__name__)

_DAMAGE = "Some sessions or runs cannot be read: the database is damaged. `clinvk doctor` says how to repair it."
_LEADING_PATH = re.compile(r"/.*?: ")
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class BackendList(msgspec.Struct, frozen=True):
    """All backends that requests with this key may run."""

    backends: list[BackendInfo]


class NodeList(msgspec.Struct, frozen=True):
    """The machines of the cluster, by name; empty without a cluster."""

    nodes: list[NodeInfo]


class BackendHealth(msgspec.Struct, frozen=True):
    """Whether a backend can be used."""

    name: str
    available: bool


class StoreHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether sessions can be kept."""

    available: bool
    session_count: int
    error: str | None = None


class KeptHealth(msgspec.Struct, frozen=True):
    """The agent processes of a backend that are up for prompts to come."""

    processes: int
    ready: Annotated[int, Meta(description="Processes that can take a prompt without a session at once.")]
    runs: Annotated[int, Meta(description="Active runs.")]
    hits: Annotated[int, Meta(description="Runs that used a warm process, since the server started.")]
    misses: Annotated[int, Meta(description="Runs that needed a new process.")]
    memory_mb: Annotated[int, Meta(description="As measured a few seconds ago.")]


class WarmHealth(KeptHealth, frozen=True):
    """The agent processes that are up for prompts to come: all, and by backend."""

    backends: Annotated[dict[str, KeptHealth], Meta(description="Backends whose processes may stay warm.")]
    one_shot: Annotated[tuple[str, ...], Meta(description="Backends whose long-lived processes fail at present.")]


class CapacityHealth(msgspec.Struct, frozen=True):
    """How many runs go at once."""

    max_concurrent_runs: int
    reason: Annotated[str, Meta(description="The setting, or the machine's resources.")]


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of the server.

    It is ok; degraded (no backend is available, or some sessions cannot be read); unhealthy (sessions cannot be kept).
    """

    status: Literal["ok", "degraded", "unhealthy"]
    version: Annotated[str, Meta(description="Of clinvk.")]
    uptime: Annotated[str, Meta(description="For people.", examples=["2h5m12s"])]
    uptime_ms: int
    backends: list[BackendHealth]
    session_store: StoreHealth
    capacity: CapacityHealth
    parked_runs: Annotated[int, Meta(description="Runs that wait for the outputs of their clients' tools.")]
    warm: Annotated[WarmHealth | None, Meta(description="Absent where no agent processes are kept.")] = None
    warnings: Annotated[
        list[str], Meta(description="Warnings for the operator, e.g. that no API key is required.")
    ] = []


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


async def list_backends(services: Services, request: Request) -> BackendList:
    """List the agent CLIs."""
    return BackendList(services.backends(request))


async def list_nodes(services: Services, _: Request) -> NodeList:
    """List the machines of the cluster that run agents."""
    return NodeList(services.cluster.nodes() if services.cluster else [])


async def health(services: Services, _: Request) -> Response:
    """Report the state of the server."""
    report = await _report(services)
    return document(report, 503 if report.status == "unhealthy" else 200)


async def ready(services: Services, _: Request) -> Response:
    """Report whether prompts should be sent here."""
    report = await _report(services)
    can_run = any(backend.available for backend in report.backends)
    return document(report, 200 if report.session_store.available and can_run else 503)


async def live(_: Services, __: Request) -> Alive:
    """Report that the process answers."""
    return Alive()


async def metrics(services: Services, _: Request) -> Response:
    """Return metrics in Prometheus text format. Available only with `server.metrics_enabled`."""
    from clinvk.api.observe.metrics import Gauges  # imported late: few servers have metrics

    store, runs, counters = services.store, services.runs, services.observers.metrics
    assert counters, "the route exists only with metrics"
    try:
        sessions = await store.count()
    except (ClinvkError, OSError):
        sessions = None
    gauges = Gauges(
        services.state.active_requests,
        runs.occupancy,
        services.parked_runs.count,
        len(runs.interactions.waiting_runs),
        sessions,
        await store.size(),
        runs.warm_stats,
        dict(runs.notifier.counts) if runs.notifier else {},
    )
    text = await asyncio.to_thread(counters.generate, gauges)  # takes milliseconds, and streams continue meanwhile
    return Response(text, media_type=_METRICS_TYPE, headers={"cache-control": "no-store"})


async def _report(services: Services) -> Health:
    runs = services.runs
    backends = [BackendHealth(info.name, info.available) for info in services.inventory.backends()]
    store = await _store_health(services)
    damage = services.store.damage
    any_backend = any(backend.available for backend in backends)
    uptime_s = time.monotonic() - services.state.started_at
    return Health(
        status="unhealthy" if not store.available else "ok" if any_backend and not damage else "degraded",
        version=__version__,
        uptime=_format_uptime(int(uptime_s)),
        uptime_ms=int(uptime_s * 1000),
        backends=backends,
        session_store=store,
        capacity=CapacityHealth(runs.capacity.runs, runs.capacity.reason),
        parked_runs=services.parked_runs.count,
        warm=msgspec.convert(runs.warm_stats, WarmHealth | None, from_attributes=True),
        warnings=[text for text in (services.access.warning(), damage and _DAMAGE) if text],
    )


async def _store_health(services: Services) -> StoreHealth:
    """Check the store. Health needs no key, so the path of the store, which names the user, is logged only."""
    try:
        count = await services.store.count()
    except (ClinvkError, OSError) as exc:
        _log_once(services.state, "unhealthy", str(exc))
        message = exc.message if isinstance(exc, ClinvkError) else exc.strerror or type(exc).__name__
        return StoreHealth(available=False, session_count=0, error=_without_path(message))
    _log_once(services.state, "degraded", services.store.damage)
    return StoreHealth(available=True, session_count=count)


def _log_once(state: ServerState, status: str, error: str) -> None:
    """Log an error of the store unless it is the last logged error."""
    if error and error != state.store_error:
        logger.warning("%s: %s", status, error)
    state.store_error = error


def _without_path(message: str) -> str:
    """Return a message of the store without the path at its beginning."""
    path = _LEADING_PATH.match(message)
    return message[path.end() :] if path else message


def _format_uptime(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    shown = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{shown}{seconds}s"
