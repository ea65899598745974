"""What costs more the more a user has: computed once for all who ask at the same time, and again only after a while."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from twin_sio.clock import monotonic

T = TypeVar("T")
_SMALL = 500  # what is no larger is made anew for whoever asks
_TIMES = 20  # what it cost, for so long it is given again: a user takes no more than a twentieth of a core
_MOST_S = 30.0
_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    stamp: str | None
    made: T
    good_until: float
    size: int


class SharedResults(Generic[T]):
    """`make(user_id)`, for the users seen last; what is given again was made under the same stamp."""

    def __init__(self, make: Callable[[str], Awaitable[T]], size: Callable[[T], int], most: int = 50_000) -> None:
        """`most`: the sum of the sizes that are held."""
        self._make = make
        self._size = size
        self._left = most
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()
        self._making: dict[str, asyncio.Task[T]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def get(self, user_id: str, stamp: str | None) -> T:
        """What stands under `stamp`; where it is large, at most half a minute old."""
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
            self._keep(user_id, stamp, made, cost)
        return made

    def _keep(self, user_id: str, stamp: str | None, made: T, cost_s: float) -> None:
        self._drop(user_id)
        size = self._size(made)
        if size <= _SMALL:
            return
        entry = _Entry(stamp, made, monotonic() + min(_MOST_S, _TIMES * cost_s), size)
        self._entries[user_id] = entry
        self._left -= entry.size
        while self._left < 0:
            self._drop(next(iter(self._entries)))

    def _ended(self, user_id: str, task: asyncio.Task[T]) -> None:
        if self._making.get(user_id) is task:
            del self._making[user_id]
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it where no caller waits

    def _drop(self, user_id: str) -> None:
        entry = self._entries.pop(user_id, None)
        if entry is not None:
            self._left += entry.size

    def forget(self, user_id: str) -> None:
        """Make it anew for whoever asks from now on, and hold nothing of this user."""
        self._making.pop(user_id, None)
        self._drop(user_id)
