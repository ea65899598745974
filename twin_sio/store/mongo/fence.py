"""The fence of an erasure: a number per user, the epoch, that grows with each erasure and stands in every document.

Whatever is of an earlier epoch than its user's is erased. No clock of a server takes part. A write takes its epoch from
where it began (a connection, a turn, an event), so that it belongs to before or after an erasure however late it comes:
- what is known to be of before is not written at all;
- whatever is written is looked at once more, within 50 ms, in one query for all that was written meanwhile: where the
  user's epoch has grown since, all of the earlier ones is removed again. An append pays nothing for that;
- what a process wrote that died in those 50 ms is removed when the worker carries the erasure out again (`LOOKS_S`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from pymongo import DESCENDING
from pymongo.errors import PyMongoError

from twin_sio.errors import TooLate
from twin_sio.store.ids import Ids
from twin_sio.store.mongo.client import Database, Doc

LOOKS_S = (60, 600)
"""An erasure is carried out again after so many seconds each: concurrent writers have ended by then."""

PERSONAL: Mapping[str, str] = {
    "turn": "turns",
    "run_entry": "run_entries",
    "host_tools": "host_tools",
    "event": "events",
    "context": "contexts",
    "evidence": "evidence",
    "profile": "profiles",
    "conversation": "conversations",
    "statistics": "statistics",
    "projection": "outbox",
}
"""The collections with personal data, by the kind in an export. Turns first, so that a running answer can no longer be
settled."""

_LOOK_S = 0.05  # between a write and the look after it
_AWAY_S = 0.5  # before another try, where the store is away
_LAST_LOOK_S = 1.0  # at the end of the process
_REMOVED_AT_ONCE = 1_000  # documents by one command: no account is so large that one would run out of time
_KNOWN_MAX = 10_000  # users that were erased last


def earlier(epoch: int) -> Doc:
    """What is of an epoch before this one; documents of before there were epochs have none."""
    return {"$not": {"$gte": epoch}}


def owner(collection: str, user_id: str) -> Doc:
    """Whose a document is."""
    return {"_id": user_id} if collection == "profiles" else {"user_id": user_id}


class Fence:
    """Sees to it that nothing outlasts the erasure that it came before."""

    def __init__(self, db: Database, ids: Ids, on_risen: Callable[[str, int], None] = lambda *_: None) -> None:
        """`on_risen(user_id, epoch)` is called once for each erasure that this process comes to know of."""
        self.ids = ids
        self._on_risen = on_risen
        self._db = db
        self._users = db["users"]
        self._written: dict[str, int] = {}  # the earliest epoch that was written of each user since the last look
        self._known: OrderedDict[str, int] = OrderedDict()  # epochs above 0, of the users that were erased last
        self._looking: asyncio.Task[None] | None = None

    def names(self, user_id: str) -> Doc:
        """The user's documents in `users`: the one that is named by its hash, and one of before there were hashes."""
        return {"$in": [self.ids.user(user_id), user_id]}

    def refuse_late(self, user_id: str, epoch: int) -> None:
        """Raises `TooLate` where the user is known to have been erased since `epoch`."""
        if self._known and self._known.get(user_id, 0) > epoch:
            raise TooLate

    def wrote(self, user_id: str, epoch: int) -> None:
        """Something of the user was written, or may have been: it will be looked at."""
        self._written[user_id] = min(epoch, self._written.get(user_id, epoch))
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    def rise(self, user_id: str, epoch: int) -> None:
        """The user's epoch is known to be this one, or a later one."""
        if epoch <= self._known.get(user_id, 0):
            return
        self._known[user_id] = epoch
        self._known.move_to_end(user_id)
        while len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)
        self._on_risen(user_id, epoch)

    async def epoch(self, user_id: str) -> int:
        """How often the user was erased."""
        return (await self.epochs([user_id])).get(user_id, 0)

    async def epochs(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        """The same of many; of those that were never erased nothing."""
        named = {self.ids.user(user_id): user_id for user_id in user_ids}
        found = self._users.find({"_id": {"$in": list(named)}, "epoch": {"$gt": 0}}, {"epoch": 1})
        return {named[doc["_id"]]: doc["epoch"] async for doc in found}

    async def remove(self, user_id: str, epoch: int) -> Mapping[str, int]:
        """Remove all of the user that is of before this epoch; counts per collection. Seqs are never used again."""
        events = {"user_id": user_id, "epoch": earlier(epoch)}
        newest = await self._db["events"].find_one(events, {"seq": 1}, sort=[("seq", DESCENDING)])
        if newest is not None:
            floor = {"$max": {"floor": newest["seq"]}}
            await self._users.update_one({"_id": self.ids.user(user_id)}, floor, upsert=True)
        counts = {}
        for name in PERSONAL.values():
            late = {**owner(name, user_id), "epoch": earlier(epoch)}
            counts[name] = await self._remove_all(name, late)
        return counts

    async def _remove_all(self, name: str, late: Doc) -> int:
        collection, count = self._db[name], 0
        while True:
            found = await collection.find(late, {"_id": 1}).limit(_REMOVED_AT_ONCE).to_list(_REMOVED_AT_ONCE)
            if found:
                # The epoch once more: a name may have been given again since, to what stays.
                named = {"_id": {"$in": [doc["_id"] for doc in found]}, "epoch": late["epoch"]}
                count += (await collection.delete_many(named)).deleted_count
            if len(found) < _REMOVED_AT_ONCE:
                return count

    async def close(self) -> None:
        """Look at what was written last; a store that is away is not waited for."""
        if self._looking is not None and not self._looking.done():
            await asyncio.wait([self._looking], timeout=_LAST_LOOK_S)
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        while self._written:
            await asyncio.sleep(_LOOK_S)
            written, self._written = self._written, {}
            try:
                await self._look_at(written)
            except PyMongoError:
                for user_id, epoch in written.items():
                    self._written[user_id] = min(epoch, self._written.get(user_id, epoch))
                await asyncio.sleep(_AWAY_S)

    async def _look_at(self, written: Mapping[str, int]) -> None:
        for user_id, epoch in (await self.epochs(list(written))).items():
            if epoch > written[user_id]:
                self.rise(user_id, epoch)
                await self.remove(user_id, epoch)


@contextlib.contextmanager
def fenced(fence: Fence | None, user_id: str, epoch: int) -> Iterator[None]:
    """Around a write of the user's: refused where it is known to be late, looked at afterwards."""
    if fence is None:
        yield
        return
    fence.refuse_late(user_id, epoch)
    try:
        yield
    finally:
        fence.wrote(user_id, epoch)
