"""Places for each user's answers: so many at once, the rest waits in order and asks the store for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class UserSlots:
    """At most `most` at once for each user, first come first served. Holds nothing of users who have none."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._users: dict[str, _Slots] = {}

    @asynccontextmanager
    async def place(self, user_id: str) -> AsyncIterator[asyncio.Event]:
        """Wait for one of the user's places and hold it. Yields an event: another of the user's places was given back
        since it was cleared last."""
        places = self._users.setdefault(user_id, _Slots(self._most))
        places.users += 1
        try:
            async with places.free:
                yield places.given_back
        finally:
            places.given_back.set()
            places.users -= 1
            if not places.users:
                del self._users[user_id]

    def are_taken(self, user_id: str) -> bool:
        """Whether who comes now has to wait: for a place, or until another has found room for itself."""
        places = self._users.get(user_id)
        return places is not None and (places.free.locked() or places.asking.locked())

    @asynccontextmanager
    async def asking(self, user_id: str) -> AsyncIterator[None]:
        """One at a time for each user, of those who hold a place."""
        async with self._users[user_id].asking:
            yield


class _Slots:
    """What one user has: `free` counts the places, `asking` lets one ask the store, `users` counts who is here."""

    def __init__(self, most: int) -> None:
        self.free = asyncio.Semaphore(most)
        self.asking = asyncio.Lock()
        self.given_back = asyncio.Event()
        self.users = 0
