"""Observers of the server: a log line for each finished run, metrics, traces. Disabled observers are not imported."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.api.http.response import headers_of
from clinvk.api.observe.live import LiveEvents
from clinvk.backends.base import Backend
from clinvk.config.model import Settings
from clinvk.runtime.local import RunObserver
from clinvk.runtime.run.task import RunTask
from clinvk.types.errors import extra_required
from clinvk.types.events import RunFailed, Usage
from clinvk.types.interaction import Interaction

if TYPE_CHECKING:
    from clinvk.api.observe.metrics import Metrics
    from clinvk.api.observe.tracing import Tracing

logger = logging.getLogger(__name__)

# Words such as "token" and "key" would trigger a search for secrets in each line: see redaction.py.
_LINE = (
    "run %(run_id)s of %(backend)s: %(outcome)s after %(duration_ms)d ms, %(input_tokens)d in, %(output_tokens)d out"
)
_ANSWER_LINE = "interaction %(interaction_id)s of run %(run_id)s: %(outcome)s"


user_agent: ContextVar[str | None] = ContextVar("user_agent", default=None)
"""The User-Agent of the request that a run belongs to; None for a prompt of the command line."""


def with_user_agent(app: ASGIApp) -> ASGIApp:
    """Set `user_agent` for the requests of an application."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        user_agent.set(headers_of(scope).get("user-agent", ""))
        await app(scope, receive, send)

    return call


def run_log(has_prompts: bool) -> RunObserver:
    """Return an observer that logs each run at the end: the prompt only with `has_prompts`, the answer never."""
    return lambda run: partial(_log_run, run, has_prompts)


def _log_run(run: RunTask, has_prompts: bool) -> None:
    ending = run.log.ending
    if ending is None or not logger.isEnabledFor(logging.INFO):
        return
    request, usage = run.request, ending.usage or Usage()
    ended_at = run.ended_at or run.created_at
    fields: dict[str, object] = {
        "run_id": run.id,
        "backend": request.backend,
        "outcome": ending.code if isinstance(ending, RunFailed) else "finished",
        "duration_ms": round((ended_at - run.created_at) * 1000),
        "queued_ms": _ms(run.created_at, run.started_at),
        "first_word_ms": _ms(run.created_at, run.log.first_text_at),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": ending.cost_usd,
        "model": run.log.model or request.model,
        "session_id": run.session_id,
        "parent_id": request.part.run_id if request.part else None,
        "key": request.key_name or None,
        "prompt": request.prompt if has_prompts else None,
    }
    _log(f"{_LINE}, prompt %(prompt)r" if has_prompts else _LINE, fields)


def _ms(since: float, at: float | None) -> int | None:
    return None if at is None else round((at - since) * 1000)


def _log_interaction(interaction: Interaction) -> None:
    """Log who answered what, without the question and the reason, which may be private."""
    fields = {
        "interaction_id": interaction.id,
        "run_id": interaction.run_id,
        "backend": interaction.backend,
        "outcome": interaction.outcome,
        "session_id": interaction.session_id,
        "tool": interaction.tool or None,
        "answered_by": interaction.answered_by,
    }
    _log(f"{_ANSWER_LINE} by %(answered_by)s" if interaction.answered_by else _ANSWER_LINE, fields)


def _log(line: str, fields: Mapping[str, object]) -> None:
    logger.info(line, {name: value for name, value in fields.items() if value is not None})


class View(NamedTuple):
    """The view of a server on a terminal: shows each run and each question of an agent, and formats the log."""

    show_run: RunObserver
    show_question: Callable[[Interaction], None]
    formatter: logging.Formatter


class Observers(NamedTuple):
    """The observers of runs, the live events, and metrics and tracing if enabled.

    With a `view` they read `user_agent`.
    """

    observers: tuple[RunObserver, ...]
    live: LiveEvents
    metrics: "Metrics | None" = None
    tracing: "Tracing | None" = None
    view: View | None = None

    def on_interaction(self, interaction: Interaction) -> None:
        """Publish an interaction that was requested or resolved; log and count the outcome."""
        self.live.publish_interaction(interaction)
        if interaction.status == "pending":
            if self.view:
                self.view.show_question(interaction)
            return
        _log_interaction(interaction)
        if self.metrics:
            self.metrics.count_interaction(interaction)


@asynccontextmanager
async def observe(
    settings: Settings, registry: Mapping[str, Backend], view: View | None = None
) -> AsyncGenerator[Observers]:
    """Enable the observers of the settings inside the context. On exit, send the remaining traces.

    A `view` takes the place of the log of runs.

    Raises:
        ConfigError: tracing is enabled, but OpenTelemetry is not installed.
    """
    metrics = tracing = None
    observers: list[RunObserver] = [view.show_run if view else run_log(settings.log.prompts)]
    if settings.server.metrics_enabled:
        from clinvk.api.observe.metrics import Metrics

        metrics = Metrics()
        observers.append(metrics.observe)
    if settings.tracing.enabled:
        tracing = await asyncio.to_thread(_tracing, registry)
        observers.append(tracing.observe)
    try:
        yield Observers(tuple(observers), LiveEvents(), metrics, tracing, view)
    finally:
        if tracing:
            await tracing.close()


def _tracing(registry: Mapping[str, Backend]) -> "Tracing":
    """Return the tracing. Blocks, as the search for plug-ins in the registry may be the first."""
    with extra_required("otel", "tracing.enabled"):
        from clinvk.api.observe.tracing import Tracing

    return Tracing({name: backend.vendor for name, backend in registry.items()})
