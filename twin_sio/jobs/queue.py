"""The job queue: what is enqueued, under which ids, and how a job is stored in Redis. Jobs carry ids only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import orjson
from arq.connections import ArqRedis
from arq.constants import job_key_prefix, retry_key_prefix
from redis.asyncio import Redis

from twin_sio.clock import Clock
from twin_sio.observability.tracing import current_traceparent, span
from twin_sio.redis_connection import HASH_TAG, REDIS_ERRORS

QUEUE = f"{HASH_TAG}:jobs"
"""The sorted set of job ids, by the time at which they are due."""
_OF_A_USER = f"{HASH_TAG}:user:"


def packed(job: Mapping[str, Any]) -> bytes:
    """A job as Redis stores it: JSON, not arq's pickle, because reading a pickle would run the code of anybody who can
    write to Redis."""
    return orjson.dumps(job, default=lambda value: type(value).__name__)


def unpacked(data: bytes) -> dict[str, Any]:
    """The reverse of `packed`; raises `ValueError` for anything else. arq then drops the job, which may be one that an
    earlier version has pickled: the sweep finds what it was to do."""
    try:
        job = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise ValueError("No job.") from None
    match job:
        # As arq writes it: tries, function, arguments, named arguments, time of enqueueing.
        case {"t": int() | None, "f": str(), "a": [*args], "k": {**named}, "et": int()} if all(
            isinstance(one, str) for one in (*args, *named.values())
        ):
            return {**job, "a": tuple(args)}
    raise ValueError("No job.")


SERIALIZERS: Mapping[str, Any] = {"job_serializer": packed, "job_deserializer": unpacked}


class Queue:
    """Enqueues jobs. The sweep finds in the turns what could not be enqueued."""

    def __init__(self, redis: Redis, clock: Clock, healthy: Callable[[], bool], name: Callable[[str], str]) -> None:
        """`name` replaces a user's id in Redis (`store.ids.Ids.redis`)."""
        self._name = name  # of a user, in the ids of their jobs
        self._redis = ArqRedis(redis.connection_pool, default_queue_name=QUEUE, **SERIALIZERS)
        self._clock = clock
        self._healthy = healthy

    async def learn(self, user_id: str, turn_id: str) -> None:
        """Learn from the exchange, once, however often this is asked."""
        await self._enqueue("learn", user_id, turn_id)

    async def correct(self, user_id: str, message_id: str) -> None:
        """Learn from the correction in a feedback, once, however often this is asked."""
        await self._enqueue("correct", user_id, message_id)

    async def remember(self, user_id: str, turn_id: str) -> None:
        """Bring the memory of the turn's conversation up to date."""
        await self._enqueue("remember", user_id, turn_id)

    async def project(self, user_id: str) -> None:
        """Bring the user's graph up to date; not enqueued again while such a job waits or runs."""
        await self._enqueue("project", user_id)

    async def _enqueue(self, job: str, user_id: str, *about: str) -> None:
        if not self._healthy():  # a hung Redis must not hold up the next answer
            return
        with suppress(*REDIS_ERRORS):
            # By what it is about: while one waits or runs, arq takes no second one.
            job_id = ":".join((f"{self._prefix(user_id)}{job}", *about))
            trace: dict[str, Any] = {"trace": parent} if (parent := current_traceparent()) else {}
            with span(f"enqueue {job}"):
                await self._redis.enqueue_job(job, user_id, *about, _job_id=job_id, **trace)

    async def erase(self, user_id: str) -> int:
        """Take the user's jobs out of the queue; how many there were. Redis away: they find nothing when they run."""
        count = 0
        with suppress(*REDIS_ERRORS):
            # Scans the queue alone: the other keys in Redis may be far more.
            async for job_id, _ in self._redis.zscan_iter(QUEUE, match=f"{self._prefix(user_id)}*", count=1000):
                count += await self._redis.zrem(QUEUE, job_id)
                name = job_id.decode()
                await self._redis.delete(f"{job_key_prefix}{name}", f"{retry_key_prefix}{name}")
        return count

    def _prefix(self, user_id: str) -> str:
        # Hashed, so that no user's id is the beginning of another's, or a pattern. With the hash tag, because arq reads
        # several jobs in one command.
        return f"{_OF_A_USER}{self._name(user_id)}:"

    async def lag_s(self) -> float:
        """The seconds that the oldest due job has waited; 0 where none waits or Redis is away."""
        with suppress(*REDIS_ERRORS):
            oldest = await self._redis.zrange(QUEUE, 0, 0, withscores=True)
            if oldest:
                return max(0.0, self._clock().timestamp() - float(oldest[0][1]) / 1000)
        return 0.0


def user_of(job_id: str) -> str | None:
    """The name in Redis of the user whose job this is; None for a job that is no user's."""
    return job_id[len(_OF_A_USER) :].partition(":")[0] if job_id.startswith(_OF_A_USER) else None
