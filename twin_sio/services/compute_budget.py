"""A CPU quota for each user of an instance, so that it is shared fairly: one thing at a time, and a share of a core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import thread_time
from typing import TypeVar

from twin_sio.errors import RateLimited
from twin_sio.rate_limit import Bucket, BucketCache
from twin_sio.services.user_slots import UserSlots

T = TypeVar("T")

_MS_A_SECOND = 100.0  # a tenth of a core
_MS_AT_ONCE = 3_000.0


class ComputeBudget:
    """Counts the time of a core that was computed for each user, here or by the database. What is computed in threads
    shares the interpreter with the event loop: who has much computed, over any number of connections, waits. Time that
    passes while something else has the core is nobody's."""

    def __init__(self) -> None:
        self._turns = UserSlots(1)
        self._buckets = BucketCache()

    @asynccontextmanager
    async def turn(self, user_id: str) -> AsyncIterator[None]:
        """Wait until nothing else is computed for the user. Raises `RateLimited` where they have had too much."""
        async with self._turns.place(user_id):
            if wait_ms := self._of(user_id).wait_ms():
                raise RateLimited(retry_after_ms=wait_ms)
            yield

    async def compute(self, user_id: str, work: Callable[[], T]) -> T:
        """Do `work` in a thread, and count the time that it took."""
        made, seconds = await asyncio.to_thread(_timed, work)
        self.spend(user_id, seconds)
        return made

    def spend(self, user_id: str, seconds: float) -> None:
        """So long was computed for the user."""
        self._of(user_id).spend(seconds * 1000)

    def _of(self, user_id: str) -> Bucket:
        return self._buckets.of(user_id, _MS_A_SECOND, _MS_AT_ONCE)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    began = thread_time()
    made = work()
    return made, thread_time() - began
