"""What is made of a profile for every prompt, kept while the profile stays as it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from twin_sio.domain import Profile
from twin_sio.store import Profiles

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[T]):
    stamp: str
    made: T
    size: int


class CachedProfiles(Generic[T]):
    """`make` of a user's profile. Never older than the store: every hit is checked against the profile's stamp, so that
    no instance has to hear of a change. Holds `traits_max` traits at most, the users seen last."""

    def __init__(self, profiles: Profiles, make: Callable[[Profile], T], traits_max: int = 50_000) -> None:
        self._profiles = profiles
        self._make = make
        self._left = traits_max
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    async def get(self, user_id: str) -> T:
        """Made of the profile as it stands. Raises `StorageUnavailable`."""
        entry = self._entries.get(user_id)
        if entry is not None and entry.stamp == await self._profiles.stamp(user_id):
            self.hits += 1
            if user_id in self._entries:
                self._entries.move_to_end(user_id)
            return entry.made
        self.misses += 1
        stored = await self._profiles.get(user_id)
        made = self._make(stored.profile)
        self._keep(user_id, stored.stamp, made, 1 + len(stored.profile.traits))
        return made

    def _keep(self, user_id: str, stamp: str | None, made: T, size: int) -> None:
        self.forget(user_id)
        if stamp is None:
            return
        self._entries[user_id] = _Entry(stamp, made, size)
        self._left -= size
        while self._left < 0:
            self.forget(next(iter(self._entries)))

    def forget(self, user_id: str) -> None:
        """Keep nothing of this user in memory."""
        entry = self._entries.pop(user_id, None)
        if entry is not None:
            self._left += entry.size
