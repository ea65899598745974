"""Finds jobs that fail again and again, so that they are given up instead of being tried for ever."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress

from redis.asyncio import Redis

from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS

_TWICE = 2
_TTL_S = 86_400  # as long as the sweep looks for work that was not done


class JobFailures:
    """Counts in Redis, for a day, how often a job failed for the same reason, or began and never ended. The
    counts start again where Redis is away, or was emptied."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def begin(self, job_id: str) -> bool:
        """Count a start; false where the workers of two earlier ones have died."""
        return await self._count(_key(job_id, "begun")) <= _TWICE

    async def end(self, job_id: str) -> None:
        """The job has ended, with or without success."""
        with suppress(*REDIS_ERRORS):
            await self._redis.delete(_key(job_id, "begun"))

    async def again(self, job_id: str, code: str) -> bool:
        """Count a failure; whether it is the second one of this code."""
        await self._count(_key(job_id, "failed"))
        return await self._count(_key(job_id, re.sub(r"\W", "", code))) >= _TWICE

    async def has_failed(self, job_id: str) -> bool:
        """Whether it failed before, for whatever reason."""
        with suppress(*REDIS_ERRORS):
            return bool(await self._redis.exists(_key(job_id, "failed")))
        return False

    async def _count(self, key: str) -> int:
        try:
            pipe = self._redis.pipeline(transaction=True)  # no key without its expiry
            pipe.incr(key)
            pipe.expire(key, _TTL_S)
            return int((await pipe.execute())[0])
        except REDIS_ERRORS:
            return 1


def _key(job_id: str, what: str) -> str:
    return f"{HASH_TAG}:failures:{what}:{hashlib.sha256(job_id.encode()).hexdigest()}"  # outlives what the id is of
