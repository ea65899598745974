"""Token buckets in the memory of one process. Limits over all instances: `store.redis.quotas`."""

from __future__ import annotations

import math

from cachetools import LRUCache

from twin_sio.clock import monotonic


class Bucket:
    """A token bucket: `rate` a second on average, `burst` at once."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate  # tokens a second
        self._burst = burst  # tokens at most, and the most that can be owed
        self._tokens = burst  # negative: spent without being there, see `owed_s`
        self._at = monotonic()  # when `_tokens` was counted last

    def take(self) -> int | None:
        """None: one is taken. Otherwise nothing is, and the ms until one could be."""
        wait_ms = self.wait_ms()
        if wait_ms:
            return wait_ms
        self._tokens -= 1
        return None

    def spend(self, amount: float) -> None:
        """Take it even where it is not there; the debt is at most one burst."""
        self.wait_ms()
        self._tokens = max(-self._burst, self._tokens - amount)

    def wait_ms(self) -> int:
        """The ms until one could be taken; 0: now."""
        now = monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        return max(0, math.ceil((1 - self._tokens) / self._rate * 1000))

    def owed_s(self) -> float:
        """The seconds until what was spent without being there is paid back."""
        return -self._tokens / self._rate if self._tokens < 0 else 0.0


class BucketCache:
    """A bucket for each key, of the `most` keys that were used last."""

    def __init__(self, most: int = 50_000) -> None:
        # A key that is forgotten begins with a full bucket: with so many keys none of them matters.
        self._buckets: LRUCache[str, Bucket] = LRUCache(most)

    def of(self, key: str, rate: float, burst: float) -> Bucket:
        """The bucket of this key, made where there is none."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(rate, burst)
        return bucket
