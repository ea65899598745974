"""The only source of time and of fresh ids, so that tests can hold both still."""

from __future__ import annotations

import secrets
import time
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
    return secrets.token_hex(16)


def iso(at: datetime) -> str:
    """`at` as the wire writes it: UTC, milliseconds, `Z`."""
    utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    return utc.isoformat("T", "milliseconds")[:23] + "Z"
