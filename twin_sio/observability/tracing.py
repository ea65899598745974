"""Where the time went, for whoever has set an exporter (`otel.py`); without one a span costs next to nothing.

A trace begins only where `parent` is given: at a client's event, at a turn, at a job. A span without one is part of
what is under way, and where nothing is under way it is none. Spans carry ids and counts, never anybody's words.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

Field = str | int | float


class Span(Protocol):
    """Something that is under way; its failure is noted by the exception's name alone."""

    def set(self, **fields: Field) -> None:
        """Note ids and counts that are known only now."""
        ...


class Tracer(Protocol):
    """Makes spans; one for a whole process, as with logs."""

    def span(self, name: str, parent: str | None, fields: dict[str, Field]) -> AbstractContextManager[Span]:
        """See `tracing.span`."""
        ...

    def current_traceparent(self) -> str:
        """See `tracing.here`."""
        ...


class _Nothing:
    """The span of those who set no exporter."""

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
    """Have this process's spans made by `tracer`; None: by nobody."""
    global _tracer
    _tracer = tracer


def span(name: str, *, parent: str | None = None, **fields: Field) -> AbstractContextManager[Span]:
    """What the block does, within what is under way. With `parent`, a `here` of any process (or "": nobody's), it
    goes on with that trace or begins one."""
    return NOTHING if _tracer is None else _tracer.span(name, parent, fields)


def current_traceparent() -> str:
    """The point that has been reached, as a W3C `traceparent`; empty where nothing is traced."""
    return "" if _tracer is None else _tracer.current_traceparent()
