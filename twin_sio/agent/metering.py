"""The model tokens and calls of background jobs, counted for their user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Meter:
    """The tokens of background calls, read and written."""

    tokens: int = 0


_meter: ContextVar[Meter | None] = ContextVar("meter", default=None)  # of the caller


@contextmanager
def metered() -> Iterator[Meter]:
    """Counts what is taken of models in the background within."""
    meter = Meter()
    token = _meter.set(meter)
    try:
        yield meter
    finally:
        _meter.reset(token)


def count_tokens(reported: Mapping[str, int], characters: int) -> None:
    """Add to the running meter: what the endpoint reported, else a token for every four characters."""
    if (meter := _meter.get()) is not None:
        meter.tokens += sum(reported.values()) or -(-characters // 4)
