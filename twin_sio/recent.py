"""An answer that is good for a moment: whoever asks meanwhile gets it, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from twin_sio.clock import monotonic

T = TypeVar("T")
_GOOD_S = 0.05


class Recent(Generic[T]):
    """Makes an answer at most twenty times a second, and once for all who wait for it."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._made: tuple[float, T] | None = None

    async def __call__(self) -> T:
        asked_at = monotonic()
        async with self._lock:
            if self._made is None or self._made[0] < asked_at - _GOOD_S:
                made = await self._make()
                self._made = (monotonic(), made)
            return self._made[1]
