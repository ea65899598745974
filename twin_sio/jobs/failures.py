"""Which jobs fail again and again: those are given up, so that they hold up no others and are never tried for ever."""

from __future__ import annotations

import re
from contextlib import suppress

from redis.asyncio import Redis

from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS

_TWICE = 2
_KEPT_S = 86_400  # for as long as the sweep looks for what was not done


class JobFailures:
    """Counts, in Redis and for a day, how often a job failed for a reason, or began and never ended. Where Redis
    is away, or was emptied, it begins anew."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def begin(self, job_id: str) -> bool:
        """Count a beginning; false where two have taken their worker with them."""
        return await self._count(_key(job_id, "begun")) <= _TWICE

    async def end(self, job_id: str) -> None:
        """It came to an end, good or bad."""
        with suppress(*REDIS_ERRORS):
            await self._redis.delete(_key(job_id, "begun"))

    async def again(self, job_id: str, code: str) -> bool:
        """Count a failure; whether it is the second one of this code."""
        return await self._count(_key(job_id, re.sub(r"\W", "", code))) >= _TWICE

    async def _count(self, key: str) -> int:
        try:
            pipe = self._redis.pipeline(transaction=True)  # no key without its end
            pipe.incr(key)
            pipe.expire(key, _KEPT_S)
            return int((await pipe.execute())[0])
        except REDIS_ERRORS:
            return 1


def _key(job_id: str, what: str) -> str:
    return f"{HASH_TAG}:failures:{what}:{job_id}"
