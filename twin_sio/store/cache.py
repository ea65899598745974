"""In memory, for every prompt: what is made of a profile until the profile changes, and decrypted vectors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from cachetools import LRUCache

from twin_sio.clock import Clock, now
from twin_sio.domain import Profile
from twin_sio.store.ports import Memories, MessageVector, Profiles, StoredProfile

T = TypeVar("T")
_ON_THE_LOOP = 200  # traits of which something is made on the event loop; of more in a thread
_OVERLAP = 64  # messages that may have got their vector since the newest did


async def _nothing(_: str) -> None:
    return


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    stamp: str
    made: T
    size: int
    good_until: datetime | None


class CachedProfiles(Generic[T]):
    """`make` of a user's profile. Never older than the store: every hit is checked against the profile's revision, so
    that no instance needs to be notified of a change. Holds `traits_max` traits at most, of the users seen last."""

    def __init__(
        self,
        profiles: Profiles,
        make: Callable[[Profile], T],
        traits_max: int = 50_000,
        clock: Clock = now,
        refresh: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        """`refresh(user_id)` computes a profile again without its expired evidence."""
        self._clock = clock
        self._refresh = refresh or _nothing
        self._profiles = profiles
        self._make = make
        self._entries: LRUCache[str, _Entry[T]] = LRUCache(traits_max, getsizeof=lambda entry: entry.size)
        self.hits = 0
        self.misses = 0

    async def get(self, user_id: str) -> T:
        """What is made of the present profile. Raises `StorageUnavailable`."""
        entry = self._entries.get(user_id)
        is_good = entry is not None and not self._is_outdated(entry.good_until)
        if entry is not None and is_good and entry.stamp == await self._profiles.revision(user_id):
            self.hits += 1
            return entry.made
        self.misses += 1
        stored = await self._profiles.get(user_id)
        if self._is_outdated(stored.good_until):
            await self._refresh(user_id)
            stored = await self._profiles.get(user_id)
        many = len(stored.profile.traits) > _ON_THE_LOOP
        made = await asyncio.to_thread(self._make, stored.profile) if many else self._make(stored.profile)
        self._keep(user_id, stored, made)
        return made

    def _is_outdated(self, good_until: datetime | None) -> bool:
        return good_until is not None and self._clock() >= good_until

    def _keep(self, user_id: str, stored: StoredProfile, made: T) -> None:
        self.forget(user_id)
        if stored.revision is None:
            return
        size = 1 + len(stored.profile.traits)
        with contextlib.suppress(ValueError):  # larger than the whole cache
            self._entries[user_id] = _Entry(stored.revision, made, size, stored.good_until)

    def forget(self, user_id: str) -> None:
        """Remove this user from memory."""
        self._entries.pop(user_id, None)


class CachedVectors:
    """The vectors of each user's `newest` messages, decrypted once; after that only newer ones are read.

    A message may have been deleted while its vector is still here: who finds a vector must look up its message. Holds
    `vectors_max` vectors at most (half a KiB each for the local model), of the users seen last.
    """

    def __init__(self, memories: Memories, model: str, newest: int, vectors_max: int = 100_000) -> None:
        self._memories = memories
        self._model = model
        self._newest = newest
        self._entries: LRUCache[str, Sequence[MessageVector]] = LRUCache(vectors_max, getsizeof=len)
        # Reads under way, by user: later callers share it.
        self._reading: dict[str, asyncio.Task[Sequence[MessageVector]]] = {}

    @property
    def held(self) -> int:
        """How many vectors are in memory."""
        return int(self._entries.currsize)

    async def get(self, user_id: str) -> Sequence[MessageVector]:
        """Newest first. If the caller is cancelled, the read still fills the cache. Raises `StorageUnavailable`."""
        task = self._reading.get(user_id)
        if task is None:
            task = self._reading[user_id] = asyncio.create_task(self._read(user_id))
            task.add_done_callback(lambda ended: self._end(user_id, ended))
        return await asyncio.shield(task)

    async def _read(self, user_id: str) -> Sequence[MessageVector]:
        known = self._entries.get(user_id, ())
        after = max(0, known[0].seq - _OVERLAP) if known else 0
        fresh = await self._memories.vectors(user_id, self._model, self._newest, after=after)
        return (*fresh, *(vector for vector in known if vector.seq <= after))[: self._newest]

    def _end(self, user_id: str, ended: asyncio.Task[Sequence[MessageVector]]) -> None:
        failed = ended.cancelled() or ended.exception() is not None
        if self._reading.get(user_id) is not ended:  # forgotten meanwhile
            return
        self.forget(user_id)
        if failed or not ended.result():
            return
        with contextlib.suppress(ValueError):  # larger than the whole cache
            self._entries[user_id] = ended.result()

    def forget(self, user_id: str) -> None:
        """Remove this user from memory."""
        self._reading.pop(user_id, None)
        self._entries.pop(user_id, None)
