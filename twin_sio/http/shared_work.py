"""One result for all callers that arrive while an earlier one is being computed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedWork(Generic[T]):
    """Computes one result at a time. It starts after the call, so it is never older than the call.

    All callers that arrive during a computation share the next one.
    """

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._begun = 0
        self._made: tuple[int, T] | None = None  # with the number under which it was begun

    async def __call__(self) -> T:
        asked = self._begun
        async with self._lock:
            if self._made is None or self._made[0] <= asked:
                self._begun += 1
                number = self._begun
                self._made = (number, await self._make())
            return self._made[1]
