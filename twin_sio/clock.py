"""The only source of time and of fresh ids, so that tests can hold both still."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
NewId = Callable[[], str]


def now() -> datetime:
    """The wall clock: aware, UTC, cut to milliseconds (what BSON and the wire keep)."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def monotonic() -> float:
    """Seconds on a clock that never steps back; for durations and deadlines only."""
    return time.monotonic()


def new_id() -> str:
    """A fresh id, unique everywhere, that fits every id field of the protocol."""
    return uuid.uuid4().hex


def iso(at: datetime) -> str:
    """`at` as the wire writes it: UTC, milliseconds, `Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
