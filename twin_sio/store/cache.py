"""In memory, for every prompt: what is made of a profile until the profile changes, and indexes of messages."""

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
from twin_sio.store.line_index import LineIndex
from twin_sio.store.ports import Memories, Profiles, StoredLine, StoredProfile

T = TypeVar("T")
_ON_THE_LOOP = 200  # traits of which something is made on the event loop; of more in a thread
_PAGE = 500  # messages that are read and indexed at once: some 30 ms in a thread
_BUILDS_AT_ONCE = 2  # more would only share the cores


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
        # By user. Its size is in traits, which differ a thousandfold between users.
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
        # Evidence has grown too old since the profile was scored: it no longer says what is true today.
        if self._is_outdated(stored.good_until):
            await self._refresh(user_id)
            stored = await self._profiles.get(user_id)
        # A large one takes too long for the loop, which streams answers; a small one is made before a thread starts.
        many = len(stored.profile.traits) > _ON_THE_LOOP
        made = await asyncio.to_thread(self._make, stored.profile) if many else self._make(stored.profile)
        self._store(user_id, stored, made)
        return made

    def _is_outdated(self, good_until: datetime | None) -> bool:
        return good_until is not None and self._clock() >= good_until

    def _store(self, user_id: str, stored: StoredProfile, made: T) -> None:
        self.forget(user_id)
        if stored.revision is None:
            return
        size = 1 + len(stored.profile.traits)
        with contextlib.suppress(ValueError):  # larger than the whole cache
            self._entries[user_id] = _Entry(stored.revision, made, size, stored.good_until)

    def forget(self, user_id: str) -> None:
        """Remove this user from memory."""
        self._entries.pop(user_id, None)


@dataclass(frozen=True, slots=True)
class _Indexed:
    index: LineIndex
    size: int


class LineIndexes:
    """The search index of each user's messages: made of the store when it is first asked for, and brought up to date
    whenever it is asked for again, so that another instance's messages are found as well.

    A message may have been deleted while the index still has it: who finds one must look it up in the store. Of a user
    the newest `lines_max` messages are held, fewer where they take more than `user_bytes_max`; of all users
    `bytes_max`, of those seen last.
    """

    def __init__(
        self,
        memories: Memories,
        model: str | None,
        floor: float,
        *,
        lines_max: int = 50_000,
        user_bytes_max: int = 96 * 2**20,
        bytes_max: int = 384 * 2**20,
    ) -> None:
        """`model` is the embedder's, None without one; `floor` the cosine from which on a message is related."""
        self._memories = memories
        self._model = model
        # Without an embedder nothing is near anything: words alone are looked for.
        self._floor = floor if model is not None else None
        self._lines_max = lines_max
        self._user_bytes_max = user_bytes_max
        # By user, those that nobody waits for any more. Its size is in bytes.
        self._entries: LRUCache[str, _Indexed] = LRUCache(bytes_max, getsizeof=lambda entry: entry.size)
        # Updates under way, by user, and what they fill: later callers share them.
        self._updating: dict[str, tuple[LineIndex, asyncio.Task[None]]] = {}
        # Of indexes that are made from nothing: each holds a thread, and pages of messages, for a while.
        self._building = asyncio.Semaphore(_BUILDS_AT_ONCE)

    @property
    def held_bytes(self) -> int:
        """The memory that all of them take, about."""
        return int(self._entries.currsize)

    async def get(self, user_id: str, patience_s: float) -> tuple[LineIndex, bool]:
        """The user's index, and whether it is up to date: if not, it is as far as it has come in that time, the newest
        messages first. An update that is late goes on. Raises `StorageUnavailable`."""
        index, task = self._updating.get(user_id) or self._update(user_id)
        done, _ = await asyncio.wait([task], timeout=patience_s)
        if done and not task.cancelled():
            task.result()
        return index, bool(done)

    def _update(self, user_id: str) -> tuple[LineIndex, asyncio.Task[None]]:
        entry = self._entries.get(user_id)
        index = entry.index if entry is not None else LineIndex(self._floor)
        task = asyncio.create_task(self._fill(user_id, index))
        self._updating[user_id] = index, task
        task.add_done_callback(lambda ended: self._end(user_id, index, ended))
        return index, task

    async def _fill(self, user_id: str, index: LineIndex) -> None:
        oldest, lines = await asyncio.gather(self._memories.oldest(user_id), self._page(user_id, index.complete_to))
        if index.count and (not oldest or index.oldest < oldest):  # erased, or kept no longer
            await asyncio.to_thread(index.remove_before, oldest or index.newest + 1)
        # As a rule a few messages have been added since: they do not wait for those that are being built.
        if len(lines) < _PAGE:
            await self._add(index, lines)
            return
        async with self._building:
            after, added = index.complete_to, 0
            while lines:
                await self._add(index, lines)
                added += len(lines)
                if added >= self._lines_max or index.bytes > self._user_bytes_max:
                    return
                # From the newest backwards: who asks meanwhile finds what was said last.
                lines = await self._page(user_id, after, before=lines[-1].seq) if len(lines) == _PAGE else ()

    async def _page(self, user_id: str, after: int, before: int | None = None) -> Sequence[StoredLine]:
        return await self._memories.lines(user_id, self._model, _PAGE, after=after, before=before)

    async def _add(self, index: LineIndex, lines: Sequence[StoredLine]) -> None:
        if lines:
            await asyncio.to_thread(index.add, lines)
        if index.count > self._lines_max + _PAGE:
            await asyncio.to_thread(lambda: index.remove_before(index.oldest_of(self._lines_max)))

    def _end(self, user_id: str, index: LineIndex, ended: asyncio.Task[None]) -> None:
        failed = ended.cancelled() or ended.exception() is not None
        updating = self._updating.get(user_id)
        if updating is None or updating[1] is not ended:  # forgotten meanwhile
            return
        self.forget(user_id)
        if not failed and index.count:  # after a failure there may be a gap in it
            with contextlib.suppress(ValueError):  # larger than the whole cache
                self._entries[user_id] = _Indexed(index, index.bytes)

    def forget(self, user_id: str) -> None:
        """Remove this user from memory."""
        self._updating.pop(user_id, None)
        self._entries.pop(user_id, None)
