"""How much one user may ask for at once, on this instance."""

from __future__ import annotations

import math
from collections import OrderedDict

from twin_sio.clock import monotonic
from twin_sio.errors import RateLimited


class Bucket:
    """A token bucket: `rate` a second on average, `burst` at once."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = monotonic()

    def take(self) -> None:
        """Take one; raises `RateLimited` with the time until there is one."""
        now = monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            raise RateLimited(retry_after_ms=math.ceil((1 - self._tokens) / self._rate * 1000))
        self._tokens -= 1


class Limits:
    """Messages a minute and user; remembers the users seen last."""

    def __init__(self, messages_per_minute: int, users_max: int = 50_000) -> None:
        self._per_minute = messages_per_minute
        self._users_max = users_max
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    async def message(self, user_id: str) -> None:
        """Count one message; raises `RateLimited`."""
        bucket = self._buckets.pop(user_id, None) or Bucket(self._per_minute / 60, self._per_minute)
        self._buckets[user_id] = bucket
        if len(self._buckets) > self._users_max:
            self._buckets.popitem(last=False)
        bucket.take()
