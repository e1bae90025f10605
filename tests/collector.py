"""A collector of OpenTelemetry traces on loopback: OTLP over HTTP, which keeps the spans that come."""

import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Value = str | int | float | bool | list[str]


class Collector:
    """A collector of OpenTelemetry: its address, and the received requests."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resource: dict[str, Value] = {}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep the received request."""
        for group in request.resource_spans:
            self.resource = attributes_of(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += scope.spans

    def named(self, name: str) -> Span:
        """Return the only span with this name."""
        (span,) = [span for span in self.spans if span.name == name]
        return span

    @contextmanager
    def running(self) -> Generator["Collector"]:
        """Listen inside this context."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Value]:
    """Return attributes by name."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Value:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "bool_value":
            return value.bool_value
        case "array_value":
            return [item.string_value for item in value.array_value.values]
        case other:
            raise AssertionError(f"an attribute is {other}")
