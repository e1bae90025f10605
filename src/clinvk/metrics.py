"""What Prometheus is told. This module brings in its client, so that it is imported where metrics are asked for only.

All labels are of few values: no model, key, path or session is one. `packaging/grafana-dashboard.json` shows them.
"""

from collections.abc import Callable, Mapping

import msgspec
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from clinvk import __version__
from clinvk.events import Ending, RunFailed, RunFinished, Usage

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_QUICK_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_WAITING_S = (0.01, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_WORKING_S = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What is so at the moment: requests and runs under way, the limits, and what is kept.

    `sessions` is None where the store cannot be used.
    """

    requests: int
    running: Mapping[str, int]
    queued: Mapping[str, int]
    slots: int
    queue_slots: int
    sessions: int | None
    store_bytes: int


class Metrics:
    """Everything that is counted. `generate` may be called from another thread than the rest."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        disable_created_metrics()
        ProcessCollector(registry=registry)
        Info("clinvk_build", "The version of clinvk.", registry=registry).info({"version": __version__})
        self._requests = Counter(
            "clinvk_http_requests",
            "Answered requests by method, template of the path, and status (gone: the client left before).",
            ("method", "route", "status"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            "clinvk_http_request_duration_seconds",
            "From a request to the end of its answer, a stream's too.",
            ("method", "route"),
            buckets=_WORKING_S,
            registry=registry,
        )
        self._active = Gauge("clinvk_http_requests_active", "Requests under way.", registry=registry)
        self._runs = Counter(
            "clinvk_runs",
            "Ended runs by backend and outcome: finished, or the code of the error.",
            ("backend", "outcome"),
            registry=registry,
        )
        self._run_seconds = Histogram(
            "clinvk_run_duration_seconds",
            "From the agent's start to its end.",
            ("backend",),
            buckets=_WORKING_S,
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "clinvk_run_queue_seconds",
            "How long runs waited until their agent was started.",
            ("backend",),
            buckets=_WAITING_S,
            registry=registry,
        )
        self._first_word_seconds = Histogram(
            "clinvk_time_to_first_token_seconds",
            "From the request for a run, queue included, to the first piece of its answer or thinking.",
            ("backend",),
            buckets=_WAITING_S,
            registry=registry,
        )
        self._tokens = Counter(
            "clinvk_tokens",
            "Tokens of ended runs, each in one type: input (not cached), cached, output (not reasoning), reasoning.",
            ("backend", "type"),
            registry=registry,
        )
        self._cost = Counter(
            "clinvk_cost_usd", "What agents say that ended runs cost, in US dollars.", ("backend",), registry=registry
        )
        self._running = Gauge("clinvk_runs_running", "Runs that hold a slot.", ("backend",), registry=registry)
        self._queued = Gauge("clinvk_runs_queued", "Runs that wait for a slot.", ("backend",), registry=registry)
        self._slots = Gauge("clinvk_slots", "Runs that may go at once.", registry=registry)
        self._queue_slots = Gauge("clinvk_queue_slots", "Runs that may wait.", registry=registry)
        self._store_up = Gauge("clinvk_store_up", "1 where sessions can be kept, else 0.", registry=registry)
        self._sessions = Gauge("clinvk_store_sessions", "Sessions that are kept.", registry=registry)
        self._store_bytes = Gauge("clinvk_store_bytes", "The database with its journal.", registry=registry)
        self._commit_seconds = Histogram(
            "clinvk_store_write_seconds",
            "How long transactions that write took.",
            buckets=_QUICK_S,
            registry=registry,
        )

    def requests_by(self, template: Callable[[str], str]) -> Callable[[str, str, int | None, float], None]:
        """Give what counts a request, by its method, the template of its path, its status, and its seconds."""
        return lambda method, path, status, seconds: self.count_request(method, template(path), status, seconds)

    def count_request(self, method: str, route: str, status: int | None, seconds: float) -> None:
        """Count an answered request; None as `status` is a client that left before."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, "gone" if status is None else str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def count_run(self, backend: str, ending: Ending) -> None:
        """Count a run that has ended, and what it used."""
        self._runs.labels(backend, _outcome(ending)).inc()
        if usage := ending.usage:
            for type_, tokens in _parts(usage):
                if tokens > 0:
                    self._tokens.labels(backend, type_).inc(tokens)
        if ending.cost_usd and ending.cost_usd > 0:
            self._cost.labels(backend).inc(ending.cost_usd)

    def time_run(self, backend: str, queued_s: float, first_word_s: float | None, seconds: float) -> None:
        """Take down how long a run waited, took to its first word (None: it said none), and went."""
        self._queue_seconds.labels(backend).observe(queued_s)
        self._run_seconds.labels(backend).observe(seconds)
        if first_word_s is not None:
            self._first_word_seconds.labels(backend).observe(first_word_s)

    def time_commit(self, seconds: float) -> None:
        """Take down how long a transaction took. From any thread."""
        self._commit_seconds.observe(seconds)

    def generate(self, standing: Standing) -> bytes:
        """Give all of it in the text format of Prometheus."""
        self._active.set(standing.requests)
        for gauge, by_backend in ((self._running, standing.running), (self._queued, standing.queued)):
            for backend, count in by_backend.items():
                gauge.labels(backend).set(count)
        self._slots.set(standing.slots)
        self._queue_slots.set(standing.queue_slots)
        self._store_up.set(standing.sessions is not None)
        if standing.sessions is not None:
            self._sessions.set(standing.sessions)
        self._store_bytes.set(standing.store_bytes)
        return generate_latest(self._registry)


def _outcome(ending: Ending) -> str:
    match ending:
        case RunFinished():
            return "finished"
        case RunFailed(code=code):
            return code


def _parts(usage: Usage) -> tuple[tuple[str, int], ...]:
    return (
        ("input", usage.input_tokens - usage.cached_tokens),
        ("cached", usage.cached_tokens),
        ("output", usage.output_tokens - usage.reasoning_tokens),
        ("reasoning", usage.reasoning_tokens),
    )
