"""Results that cost more the more data a user has: computed once for concurrent callers, and again after a while."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cachetools import LRUCache

from twin_sio.clock import monotonic

T = TypeVar("T")
_SMALL = 50  # a result of this size or less is computed for each call
_REUSE_FACTOR = 20  # a result is reused for 20 times as long as it took: a user takes a twentieth of a core at most
_REUSE_MAX_S = 30.0  # however long it took
_CONCURRENCY = 2  # computed at once: they share the cores with the event loop


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    stamp: str | None
    made: T
    good_until: float
    size: int


class SharedResults(Generic[T]):
    """`make(user_id)`, for the users seen last; a result is reused only under the same `stamp`."""

    def __init__(self, make: Callable[[str], Awaitable[T]], size: Callable[[T], int], most: int = 50_000) -> None:
        """`most`: the sum of the sizes of the results in memory."""
        self._make = make
        self._size = size
        # By user, the last result. Its size is what `size` says of it.
        self._entries: LRUCache[str, _Entry[T]] = LRUCache(most, getsizeof=lambda entry: entry.size)
        # By user, what is being computed: later callers wait for the same.
        self._making: dict[str, asyncio.Task[T]] = {}
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    async def get(self, user_id: str, stamp: str | None) -> T:
        """The result under `stamp`; where it is large, at most half a minute old."""
        entry = self._entries.get(user_id)
        if entry is not None and entry.stamp == stamp and monotonic() < entry.good_until:
            return entry.made
        task = self._making.get(user_id)
        if task is None:
            task = self._making[user_id] = asyncio.create_task(self._made(user_id, stamp))
            task.add_done_callback(lambda ended: self._ended(user_id, ended))
        return await asyncio.shield(task)

    async def _made(self, user_id: str, stamp: str | None) -> T:
        async with self._slots:
            began = monotonic()
            made = await self._make(user_id)
            cost = monotonic() - began
        if self._making.get(user_id) is asyncio.current_task():
            self._store(user_id, stamp, made, cost)
        return made

    def _store(self, user_id: str, stamp: str | None, made: T, cost_s: float) -> None:
        self._entries.pop(user_id, None)
        size = self._size(made)
        if size <= _SMALL:
            return
        good_until = monotonic() + min(_REUSE_MAX_S, _REUSE_FACTOR * cost_s)
        with contextlib.suppress(ValueError):  # larger than all that is held
            self._entries[user_id] = _Entry(stamp, made, good_until, size)

    def _ended(self, user_id: str, task: asyncio.Task[T]) -> None:
        if self._making.get(user_id) is task:
            del self._making[user_id]
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it where no caller waits

    def forget(self, user_id: str) -> None:
        """Compute it again for later callers, and remove this user from memory."""
        self._making.pop(user_id, None)
        self._entries.pop(user_id, None)
