"""Traces: request spans with child spans for agent runs, which have child spans for tool calls.

Names follow OpenTelemetry's conventions for HTTP and for generative AI (`invoke_agent`, `execute_tool`):
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-agent-spans/ and …/http/http-spans/. Spans have no prompts,
answers or tool inputs. This module imports OpenTelemetry, so import the module only if tracing is enabled.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from functools import partial

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clinvk import __version__, logs
from clinvk.api.http.middleware import UNKNOWN
from clinvk.api.http.response import headers_of
from clinvk.runtime.run.task import RunTask
from clinvk.types.events import Ending, RunFailed, RunFinished, ToolCall, ToolResult
from clinvk.types.request import trace_context

Value = str | int | float | bool | list[str]
Attributes = Mapping[str, Value | None]

_UNTRACED = ("/health", "/metrics")
_FLUSH_TIMEOUT_S = 3.0


class Tracing:
    """Creates spans, and sends the spans as the `OTEL_EXPORTER_OTLP_*` variables say."""

    def __init__(self, vendors: Mapping[str, str]) -> None:
        """`vendors` maps each backend to the vendor of its models."""
        self._vendors = vendors
        named = OTELResourceDetector().detect().attributes.get("service.name", "clinvk")
        resource = Resource.create({"service.name": named, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("clinvk", __version__)
        self._propagator = TraceContextTextMapPropagator()

    async def close(self) -> None:
        """Send the remaining spans within a few seconds; OpenTelemetry would retry for half a minute."""
        shutdown = threading.Thread(target=self._provider.shutdown, daemon=True)
        shutdown.start()
        await asyncio.to_thread(shutdown.join, _FLUSH_TIMEOUT_S)

    def traced(self, app: ASGIApp, template_of: Callable[[str], str]) -> ASGIApp:
        """Return an application that traces each request as a span, below the `traceparent` of the request."""
        return partial(self._respond, app, template_of)

    async def _respond(
        self, app: ASGIApp, template_of: Callable[[str], str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["path"].startswith(_UNTRACED):
            await app(scope, receive, send)
            return
        route = template_of(scope["path"])
        headers = headers_of(scope)
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._tracer.start_as_current_span(
            scope["method"] if route == UNKNOWN else f"{scope['method']} {route}",
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes=_present(_request_attributes(scope, headers, route)),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            logs.add_fields(trace_id=trace.format_trace_id(span.get_span_context().trace_id))
            try:
                await app(scope, receive, send_and_note)
            finally:
                span.set_attributes(_present(_response_attributes(status, scope)))
                if status >= 500 or not status:
                    span.set_attribute("error.type", str(status) if status else "client_gone")
                    span.set_status(StatusCode.ERROR)

    def observe(self, run: RunTask) -> Callable[[], None]:
        """Start the span of a run, below the span of the caller or of the current request.

        The agent of the run continues the trace. Return a callback to end the span.
        """
        span = self._tracer.start_span(
            f"invoke_agent {run.request.backend}",
            context=self._parent_of(run),
            kind=SpanKind.INTERNAL,
            start_time=_ns(run.created_at),
            attributes=_present(_run_attributes(run, self._vendors[run.request.backend])),
        )
        carrier = dict[str, str]()
        self._propagator.inject(carrier, trace.set_span_in_context(span))
        run.trace = trace_context(carrier)
        return partial(self._end_run, span, run)

    def _parent_of(self, run: RunTask) -> Context | None:
        """Return the context of the caller if it has another trace than the current request; None is the current."""
        caller = self._propagator.extract(run.request.trace)
        ids = {trace.get_current_span(context).get_span_context().trace_id for context in (caller, None)}
        return caller if run.request.trace and len(ids) > 1 else None

    def _end_run(self, span: Span, run: RunTask) -> None:
        if span.is_recording():
            for name, at in (("agent started", run.started_at), ("first word", run.log.first_text_at)):
                if at is not None:
                    span.add_event(name, timestamp=_ns(at))
            self._trace_tools(span, run)
            if ending := run.log.ending:
                span.set_attributes(_present(_ending_attributes(run, ending)))
                if isinstance(ending, RunFailed):
                    span.set_status(StatusCode.ERROR)
        span.end(_ns(run.ended_at) if run.ended_at else None)

    def _trace_tools(self, span: Span, run: RunTask) -> None:
        logged = run.log.since(0)
        ends = {entry.event.id: (entry.event, entry.at) for entry in logged if isinstance(entry.event, ToolResult)}
        context = trace.set_span_in_context(span)
        for at, call in ((entry.at, entry.event) for entry in logged if isinstance(entry.event, ToolCall)):
            result, ended_at = ends.get(call.id, (None, run.ended_at or at))
            tool = self._tracer.start_span(
                f"execute_tool {call.name}",
                context=context,
                kind=SpanKind.INTERNAL,
                start_time=_ns(at),
                attributes={
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.tool.name": call.name,
                    "gen_ai.tool.call.id": call.id,
                    "gen_ai.tool.type": "function" if call.for_client else "extension",
                },
            )
            if result and result.is_error:
                tool.set_attribute("error.type", "tool_error")
                tool.set_status(StatusCode.ERROR)
            tool.end(_ns(ended_at))


def _request_attributes(scope: Scope, headers: Mapping[str, str], route: str) -> Attributes:
    return {
        "http.request.method": scope["method"],
        "url.path": scope["path"],
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
        "clinvk.request.id": scope["state"]["request_id"],
        "http.route": None if route == UNKNOWN else route,
        "client.address": scope["client"][0] if scope["client"] else None,
        "user_agent.original": headers.get("user-agent") or None,
    }


def _response_attributes(status: int, scope: Scope) -> Attributes:
    key_name: str | None = scope["state"].get("key_name")
    return {"http.response.status_code": status or None, "clinvk.key.name": key_name or None}


def _run_attributes(run: RunTask, vendor: str) -> Attributes:
    request = run.request
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": vendor,
        "gen_ai.agent.name": request.backend,
        "clinvk.run.id": run.id,
        "gen_ai.request.model": request.model,
        "gen_ai.conversation.id": run.session_id,
        "clinvk.run.parent_id": request.part.run_id if request.part else None,
        "clinvk.key.name": request.key_name or None,
    }


def _ending_attributes(run: RunTask, ending: Ending) -> Attributes:
    usage, first = ending.usage, run.log.first_text_at
    return {
        "gen_ai.usage.input_tokens": usage and usage.input_tokens,
        "gen_ai.usage.output_tokens": usage and usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage and usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage and usage.reasoning_tokens,
        "clinvk.cost_usd": ending.cost_usd,
        "gen_ai.response.time_to_first_chunk": None if first is None else first - run.created_at,
        "gen_ai.response.model": run.log.model or None,
        "gen_ai.response.finish_reasons": [ending.stop_reason] if isinstance(ending, RunFinished) else None,
        "error.type": ending.code if isinstance(ending, RunFailed) else None,
    }


def _present(attributes: Attributes) -> dict[str, Value]:
    """Return the attributes that have a value."""
    return {name: value for name, value in attributes.items() if value is not None}


def _ns(at: float) -> int:
    return int(at * 1e9)
