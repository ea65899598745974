"""The transactional outbox of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

from motor.motor_asyncio import AsyncIOMotorClientSession, AsyncIOMotorCollection
from pymongo import ASCENDING

from twin_sio.clock import Clock
from twin_sio.domain import Profile
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.ids import Ids
from twin_sio.store.mongo.client import RESERVED_FOR, Database, Doc, stored
from twin_sio.store.mongo.documents import trait_of
from twin_sio.store.mongo.fence import Fence
from twin_sio.store.mongo.queries import upsert
from twin_sio.store.ports import Projection


class MongoOutbox:
    """`Outbox`: a document per version; an erasure that is to be carried out stands in `graph_erasures`."""

    def __init__(
        self, db: Database, clock: Clock, sealer: FieldCipher | None = None, fence: Fence | None = None
    ) -> None:
        self.clock = clock
        self._ids = fence.ids if fence is not None else Ids()
        self._sealer = sealer or FieldCipher()
        self._entries: AsyncIOMotorCollection[Doc] = db["outbox"]
        self._erasures: AsyncIOMotorCollection[Doc] = db["graph_erasures"]

    async def add(self, before: Profile, session: AsyncIOMotorClientSession, epoch: int = 0) -> None:
        """The version that comes after `before`'s, with its traits."""
        at = self.clock()
        traits = self._sealer.seal([asdict(trait) for trait in before.traits])
        key = {"user_id": before.user_id, "version": before.version + 1}
        entry = {**key, "at": at, "traits": traits, "due_at": at, "tries": 0, "epoch": epoch}
        await self._entries.insert_one(entry, session=session)

    @stored
    async def due(self, limit: int) -> Sequence[str]:
        due = {"$lte": self.clock()}
        erased = await self._erasures.find({"due_at": due}, {"who": 1}).limit(limit).to_list(limit)
        gone = [user_id for doc in erased if (user_id := self._ids.shown(doc["who"])) is not None]
        behind = await self._entries.find({"due_at": due}, {"user_id": 1}).sort("due_at").limit(limit).to_list(limit)
        return list(dict.fromkeys(gone + [doc["user_id"] for doc in behind]))

    @stored
    async def take(self, user_id: str) -> Projection | None:
        now = self.clock()
        oldest = await self._oldest(user_id)
        if oldest is None or oldest["due_at"] > now:
            return None
        free = {"_id": oldest["_id"], "due_at": oldest["due_at"]}
        held = {"$set": {"due_at": now + RESERVED_FOR}}
        if not (await self._entries.update_one(free, held)).modified_count:
            return None
        traits = tuple(map(trait_of, self._sealer.open(oldest["traits"])))
        return Projection(user_id, oldest["version"], oldest["at"], traits)

    async def _oldest(self, user_id: str) -> Doc | None:
        order = [("at", ASCENDING), ("version", ASCENDING)]  # versions begin anew after an erasure
        return await self._entries.find_one({"user_id": user_id}, sort=order)

    @stored
    async def done(self, projection: Projection) -> bool:
        key = {"user_id": projection.user_id, "version": projection.version, "at": projection.at}
        return (await self._entries.delete_one(key)).deleted_count == 1

    @stored
    async def postpone(self, user_id: str, first_s: float, most_s: float) -> None:
        now = self.clock()
        oldest = await self._oldest(user_id)
        if oldest is not None:
            wait = timedelta(seconds=min(most_s, first_s * 2 ** min(oldest["tries"], 20)))
            change = {"$set": {"due_at": now + wait}, "$inc": {"tries": 1}}
            await self._entries.update_one({"_id": oldest["_id"]}, change)
        waiting = {"_id": self._ids.user(user_id), "due_at": {"$lte": now}}
        await self._erasures.update_one(waiting, {"$set": {"due_at": now + timedelta(seconds=first_s)}})

    @stored
    async def length(self) -> int:
        return await self._entries.estimated_document_count()

    @stored
    async def erase(self, user_id: str, at: datetime) -> None:
        await self._entries.delete_many({"user_id": user_id, "at": {"$lte": at}})
        due = {"who": self._ids.hide(user_id), "erased_at": at, "due_at": at, "looked": False}
        await upsert(self._erasures, {"_id": self._ids.user(user_id)}, {"$set": due})

    @stored
    async def is_erasing(self, user_id: str) -> bool:
        pending = {"_id": self._ids.user(user_id), "looked": False}
        return await self._erasures.find_one(pending, {"_id": 1}) is not None

    @stored
    async def erasure(self, user_id: str) -> datetime | None:
        found = await self._erasures.find_one({"_id": self._ids.user(user_id), "due_at": {"$lte": self.clock()}})
        return found["erased_at"] if found else None

    @stored
    async def erased(self, user_id: str, at: datetime) -> None:
        same = {"_id": self._ids.user(user_id), "erased_at": at}
        once_more = {"$set": {"due_at": self.clock() + RESERVED_FOR, "looked": True}}
        if not (await self._erasures.delete_one({**same, "looked": True})).deleted_count:
            await self._erasures.update_one(same, once_more)
