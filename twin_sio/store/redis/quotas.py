"""Quotas in Redis through the `limits` library, with a token bucket per instance for the time that Redis is away."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter
from redis.asyncio import Redis

from twin_sio.clock import Clock
from twin_sio.rate_limit import Bucket, BucketCache
from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS
from twin_sio.store.ports import Quota

T = TypeVar("T")
_PREFIX = f"{HASH_TAG}:quota"
_TIMEOUT_S = 0.5  # then this instance counts for itself; a message must not wait for its quota


class RedisQuotas:
    """`Quotas`: moving windows for what is counted one by one, fixed ones for amounts. Keys do not reveal users."""

    def __init__(
        self, url: str, redis: Redis, clock: Clock, healthy: Callable[[], bool], name: Callable[[str], str]
    ) -> None:
        """`name` replaces a user's id or an address in Redis (`Ids.redis`)."""
        self._name = name
        pool: Any = redis.connection_pool
        storage = RedisStorage(f"async+{url}", implementation="redispy", key_prefix=_PREFIX, connection_pool=pool)
        # Exact, but with an entry for each hit: for events.
        self._moving = MovingWindowRateLimiter(storage)
        # One counter: for tokens, which are spent by the thousand.
        self._fixed = FixedWindowRateLimiter(storage)
        self._clock = clock
        self._healthy = healthy
        self._local = BucketCache()  # for the time that Redis is away; each instance then counts alone

    async def take(self, quota: Quota, of: str) -> int | None:
        if not quota.amount:
            return None
        try:
            return await self._asked(lambda: self._take(quota, of))
        except REDIS_ERRORS:
            return self._here(quota, of).take()

    async def spend(self, quota: Quota, of: str, amount: int) -> None:
        if not quota.amount or amount <= 0:
            return
        try:
            await self._asked(lambda: self._fixed.hit(_item(quota), quota.name, self._name(of), cost=amount))
        except REDIS_ERRORS:
            self._here(quota, of).spend(amount)

    async def retry_after_ms(self, quota: Quota, of: str) -> int | None:
        if not quota.amount:
            return None
        try:
            return await self._asked(lambda: self._overspent(quota, of))
        except REDIS_ERRORS:
            return self._here(quota, of).wait_ms() or None

    async def _asked(self, question: Callable[[], Awaitable[T]]) -> T:
        """The reply of Redis; raises one of `REDIS_ERRORS` soon where there is none."""
        # Known to be away: without asking, so that nobody waits for the timeout at each message.
        if not self._healthy():
            raise TimeoutError
        async with asyncio.timeout(_TIMEOUT_S):
            return await question()

    def _here(self, quota: Quota, of: str) -> Bucket:
        return self._local.of(f"{quota.name}:{of}", quota.amount / quota.per_s, quota.amount)

    async def _take(self, quota: Quota, of: str) -> int | None:
        item, key = _item(quota), self._name(of)
        if await self._moving.hit(item, quota.name, key):
            return None
        stats = await self._moving.get_window_stats(item, quota.name, key)
        return self._ms_until(stats.reset_time)

    async def _overspent(self, quota: Quota, of: str) -> int | None:
        item, key = _item(quota), self._name(of)
        if await self._fixed.test(item, quota.name, key):
            return None
        stats = await self._fixed.get_window_stats(item, quota.name, key)
        return self._ms_until(stats.reset_time)

    def _ms_until(self, at: float) -> int:
        return max(1, math.ceil((at - self._clock().timestamp()) * 1000))


def _item(quota: Quota) -> RateLimitItemPerSecond:
    return RateLimitItemPerSecond(quota.amount, quota.per_s)
