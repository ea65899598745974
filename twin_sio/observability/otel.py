"""Traces by OpenTelemetry (extra `otel`), sent over OTLP/HTTP; the standard `OTEL_...` variables hold for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from twin_sio.observability.tracing import NOTHING, Field, Span

_PROPAGATOR = TraceContextTextMapPropagator()


class OtlpTracer:
    """Sends spans to a collector, in the background; what it does not take is dropped."""

    def __init__(self, endpoint: str, role: str) -> None:
        names = {"service.name": f"twin-sio-{role}", "service.version": version("twin-sio")}
        self._provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("twin_sio")

    def close(self) -> None:
        """Send what is left, for some seconds at most."""
        self._provider.shutdown()

    def span(self, name: str, parent: str | None, fields: dict[str, Field]) -> AbstractContextManager[Span]:
        if parent is None and not trace.get_current_span().is_recording():
            return NOTHING
        return self._span(name, parent, fields)

    @contextmanager
    def _span(self, name: str, parent: str | None, fields: dict[str, Field]) -> Iterator[Span]:
        context = None if parent is None else _PROPAGATOR.extract({"traceparent": parent})
        with self._tracer.start_as_current_span(
            name, context, attributes=_named(fields), record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield _Open(span)
            except Exception as error:
                # Its name alone: the text of an exception may hold a user's.
                span.set_status(trace.StatusCode.ERROR, type(error).__name__)
                raise

    def current_traceparent(self) -> str:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get("traceparent", "")


class _Open:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, **fields: Field) -> None:
        self._span.set_attributes(_named(fields))


def _named(fields: dict[str, Field]) -> dict[str, Field]:
    return {f"twin.{name}": value for name, value in fields.items()}
