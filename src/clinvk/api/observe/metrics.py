"""`GET /metrics` for Prometheus. Imported only if metrics are enabled: the client library is large.

All labels have few values: no model, key, path or session is one. `packaging/grafana-dashboard.json` shows them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from clinvk import __version__
from clinvk.runtime.occupancy import Occupancy
from clinvk.runtime.pool.pool import WarmStats
from clinvk.runtime.run.task import RunTask
from clinvk.types.events import Ending, RunFailed
from clinvk.types.interaction import Interaction

disable_created_metrics()  # a second series for each counter

_BACKEND = ("backend",)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_COMMIT_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_WAIT_BOUNDS_S = (0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_DURATION_BOUNDS_S = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


class Gauges(NamedTuple):
    """The current values: requests and runs under way, limits, stored sessions, and notifications.

    `notifications` are counted by target and outcome.
    `sessions` is None if the store cannot be used; `warm` is None if no agent processes are kept warm.
    """

    requests: int
    occupancy: Occupancy
    parked_runs: int
    waiting_runs: int
    sessions: int | None
    store_bytes: int
    warm: WarmStats | None
    notifications: Mapping[tuple[str, str], int] = {}


class Metrics:
    """All counters. `generate` may run on another thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(ProcessCollector(registry=None))
        counter, histogram = partial(Counter, registry=self._registry), partial(Histogram, registry=self._registry)
        self._requests = counter(
            "clinvk_http_requests",
            "Finished requests. status: gone if the client left before the response.",
            ("method", "route", "status"),
        )
        self._request_seconds = histogram(
            "clinvk_http_request_duration_seconds",
            "From request to end of response.",
            ("method", "route"),
            buckets=_DURATION_BOUNDS_S,
        )
        self._runs = counter("clinvk_runs", "Ended runs. outcome: finished or an error code.", ("backend", "outcome"))
        self._interactions = counter(
            "clinvk_interactions",
            "Resolved interactions. outcome: the choice of the answer, expired or withdrawn.",
            ("backend", "outcome"),
        )
        self._run_seconds = histogram(
            "clinvk_run_duration_seconds",
            "From the start of the agent to its end.",
            _BACKEND,
            buckets=_DURATION_BOUNDS_S,
        )
        self._queue_seconds = histogram(
            "clinvk_run_queue_seconds", "How long runs waited for a slot.", _BACKEND, buckets=_WAIT_BOUNDS_S
        )
        self._first_word_seconds = histogram(
            "clinvk_time_to_first_token_seconds",
            "From the request for a run, including the queue, to the first text or thinking.",
            _BACKEND,
            buckets=_WAIT_BOUNDS_S,
        )
        self._tokens = counter(
            "clinvk_tokens",
            "Tokens of ended runs. type: input (not cached), cached, output (without reasoning) or reasoning.",
            ("backend", "type"),
        )
        self._cost_usd = counter("clinvk_cost_usd", "The cost in US dollars that agents reported.", _BACKEND)
        self._commit_seconds = histogram(
            "clinvk_store_write_seconds", "How long transactions that write took.", buckets=_COMMIT_BOUNDS_S
        )

    def requests_by(self, template: Callable[[str], str]) -> Callable[[str, str, int | None, float], None]:
        """Return a callback that counts a request by method, path template, status and duration in seconds."""
        return lambda method, path, status, seconds: self.count_request(method, template(path), status, seconds)

    def count_request(self, method: str, route: str, status: int | None, seconds: float) -> None:
        """Count a finished request; `status` is None if the client disconnected before the response."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, "gone" if status is None else str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def observe(self, run: RunTask) -> Callable[[], None]:
        """Return the callback for the end of a run."""
        return partial(self._count, run)

    def _count(self, run: RunTask) -> None:
        if not (ending := run.log.ending):
            return
        backend, first = run.request.backend, run.log.first_text_at
        self.count_run(backend, ending)
        if run.started_at is not None:
            first_word_s = None if first is None else first - run.created_at
            seconds = (run.ended_at or run.started_at) - run.started_at
            self.time_run(backend, run.started_at - run.created_at, first_word_s, seconds)

    def count_run(self, backend: str, ending: Ending) -> None:
        """Count a finished run with the usage."""
        self._runs.labels(backend, ending.code if isinstance(ending, RunFailed) else "finished").inc()
        if usage := ending.usage:
            self._tokens.labels(backend, "input").inc(max(0, usage.input_tokens - usage.cached_tokens))
            self._tokens.labels(backend, "cached").inc(usage.cached_tokens)
            self._tokens.labels(backend, "output").inc(max(0, usage.output_tokens - usage.reasoning_tokens))
            self._tokens.labels(backend, "reasoning").inc(usage.reasoning_tokens)
        if ending.cost_usd and ending.cost_usd > 0:
            self._cost_usd.labels(backend).inc(ending.cost_usd)

    def count_interaction(self, interaction: Interaction) -> None:
        """Count a resolved interaction."""
        self._interactions.labels(interaction.backend, interaction.outcome).inc()

    def time_run(self, backend: str, queued_s: float, first_word_s: float | None, seconds: float) -> None:
        """Record the durations of a run: in the queue, until the first word (None without output), and in total."""
        self._queue_seconds.labels(backend).observe(queued_s)
        self._run_seconds.labels(backend).observe(seconds)
        if first_word_s is not None:
            self._first_word_seconds.labels(backend).observe(first_word_s)

    def time_commit(self, seconds: float) -> None:
        """Record the duration of a transaction."""
        self._commit_seconds.observe(seconds)

    def generate(self, gauges: Gauges) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry) + generate_latest(_Snapshot([*_gauge_families(gauges)]))


class _Snapshot(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _gauge_families(gauges: Gauges) -> Iterator[Metric]:
    occupancy = gauges.occupancy
    info = InfoMetricFamily("clinvk_build", "The version of clinvk.")
    info.add_metric((), {"version": __version__})
    yield info
    yield _gauge("clinvk_http_requests_active", "Requests under way.", gauges.requests)
    yield _gauge("clinvk_runs_running", "Runs that hold a slot.", occupancy.running)
    yield _gauge("clinvk_runs_queued", "Runs that wait for a slot.", occupancy.queued)
    yield _gauge("clinvk_slots", "The maximum of runs at once.", occupancy.slots)
    yield _gauge("clinvk_queue_slots", "The maximum of waiting runs.", occupancy.queue_slots)
    yield _gauge("clinvk_parked_runs", "Runs that wait for the outputs of their clients' tools.", gauges.parked_runs)
    yield _gauge("clinvk_runs_waiting", "Runs that wait for the answer to an interaction.", gauges.waiting_runs)
    yield _gauge("clinvk_store_up", "1 if sessions can be stored, else 0.", int(gauges.sessions is not None))
    if gauges.sessions is not None:
        yield _gauge("clinvk_store_sessions", "Stored sessions.", gauges.sessions)
    yield _gauge("clinvk_store_bytes", "The size of the database with its journal.", gauges.store_bytes)
    notifications = CounterMetricFamily(
        "clinvk_notifications", "Notifications. outcome: sent, failed or dropped.", labels=("target", "outcome")
    )
    for labels, count in gauges.notifications.items():
        notifications.add_metric(labels, count)
    yield notifications
    if not (warm := gauges.warm):
        return
    for name, description, field, make in _WARM:
        values = {backend: getattr(stats, field) for backend, stats in warm.backends.items()}
        yield _by_backend(make(name, description, labels=_BACKEND), values)
    one_shot = {backend: int(backend in warm.one_shot) for backend in warm.backends}
    yield _gauge("clinvk_warm_one_shot", "1 if the CLI cannot be kept warm, else 0.", one_shot)
    yield _gauge("clinvk_warm_slots", "The maximum of warm processes.", warm.slots)
    if warm.memory_limit_bytes:
        yield _gauge(
            "clinvk_warm_memory_limit_bytes", "The memory limit of all warm processes.", warm.memory_limit_bytes
        )


_WARM = (
    ("clinvk_warm_processes", "Warm agent processes.", "processes", GaugeMetricFamily),
    ("clinvk_warm_ready", "Warm processes that are ready for a new session.", "ready", GaugeMetricFamily),
    ("clinvk_warm_runs", "Runs in warm processes.", "runs", GaugeMetricFamily),
    ("clinvk_warm_memory_bytes", "Memory of warm processes and their children.", "memory_bytes", GaugeMetricFamily),
    ("clinvk_warm_hits", "Runs that found a warm process.", "hits", CounterMetricFamily),
    ("clinvk_warm_misses", "Runs that found no warm process.", "misses", CounterMetricFamily),
)


def _gauge(name: str, description: str, value: float | Mapping[str, int]) -> Metric:
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(name, description, value)
    return _by_backend(GaugeMetricFamily(name, description, labels=_BACKEND), value)


def _by_backend(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, int]) -> Metric:
    for backend, value in values.items():
        family.add_metric((backend,), value)
    return family
