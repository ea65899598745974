"""Spans for OpenTelemetry (`otel`). Without an exporter a span costs 0.3 µs.

A trace begins only where `parent` is given: at a client's event, at a turn, at a job. A span without one belongs to the
current trace, and where there is none it is not recorded. Spans have ids and counts, never a user's text.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

Field = str | int | float


class Span(Protocol):
    """An operation. An exception is recorded by its type alone."""

    def set(self, **fields: Field) -> None:
        """Add ids and counts that are known only now."""
        ...


class Tracer(Protocol):
    """Makes spans; one for a whole process, as with logs."""

    def span(self, name: str, parent: str | None, fields: dict[str, Field]) -> AbstractContextManager[Span]:
        """See `tracing.span`."""
        ...

    def current_traceparent(self) -> str:
        """See `tracing.current_traceparent`."""
        ...


class _Nothing:
    """The span while there is no exporter."""

    __slots__ = ()

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def set(self, **fields: Field) -> None:
        pass


NOTHING = _Nothing()
_tracer: Tracer | None = None


def use(tracer: Tracer | None) -> None:
    """Record this process's spans by `tracer`; None: record none."""
    global _tracer
    _tracer = tracer


def span(name: str, *, parent: str | None = None, **fields: Field) -> AbstractContextManager[Span]:
    """A span around the block, within the current trace. `parent`, the `current_traceparent` of any process, continues
    that trace; "" begins a new one."""
    return NOTHING if _tracer is None else _tracer.span(name, parent, fields)


def current_traceparent() -> str:
    """The current span as a W3C `traceparent`; empty where nothing is traced."""
    return "" if _tracer is None else _tracer.current_traceparent()
