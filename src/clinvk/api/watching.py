"""How those who operate the server watch it: the log, metrics, traces. What is off is not imported."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from clinvk import backends
from clinvk.api.journal import Journal
from clinvk.backends.base import Backend
from clinvk.config import Settings
from clinvk.errors import ConfigError
from clinvk.runtime.watching import Watch

if TYPE_CHECKING:
    from clinvk.api.tracing import Tracing
    from clinvk.metrics import Metrics


class Watching(NamedTuple):
    """What is told of runs (`watches`), and metrics and traces, where they are on."""

    watches: tuple[Watch, ...]
    metrics: "Metrics | None" = None
    tracing: "Tracing | None" = None

    @property
    def committed(self) -> Callable[[float], None] | None:
        """What is told how long each transaction of the store took."""
        return self.metrics.time_commit if self.metrics else None


@asynccontextmanager
async def watched(settings: Settings, registry: Mapping[str, Backend] = backends.BACKENDS) -> AsyncGenerator[Watching]:
    """Watch as the settings have it, inside this context. Leaving it sends the traces that are left.

    Raises:
        ConfigError: what traces need is not installed.
    """
    metrics = tracing = None
    watches: list[Watch] = [Journal(settings.log.prompts).watch]
    if settings.server.metrics_enabled:
        from clinvk.api.metrics import counting
        from clinvk.metrics import Metrics

        metrics = Metrics()
        watches.append(counting(metrics))
    if settings.tracing.enabled:
        tracing = await asyncio.to_thread(_tracing, {name: backend.vendor for name, backend in registry.items()})
        watches.append(tracing.watch)
    try:
        yield Watching(tuple(watches), metrics, tracing)
    finally:
        if tracing:
            await tracing.close()


def _tracing(vendors: Mapping[str, str]) -> "Tracing":
    try:
        from clinvk.api.tracing import Tracing
    except ModuleNotFoundError as exc:
        if not (exc.name or "").startswith("opentelemetry"):
            raise
        raise ConfigError(
            "tracing.enabled is true, but OpenTelemetry is not installed; `pip install 'clinvk[otel]'` brings it"
        ) from exc
    return Tracing(vendors)
