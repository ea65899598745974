"""Host context, and what a connect needs to know."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import orjson
from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import DESCENDING
from pymongo.read_concern import ReadConcern

from twin_sio.clock import Clock
from twin_sio.domain import Json
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.ids import Ids
from twin_sio.store.mongo.client import Database, Doc, stored
from twin_sio.store.mongo.fence import Fence, fenced
from twin_sio.store.mongo.queries import upsert, user_document
from twin_sio.store.ports import ConnectSnapshot

_CONTEXTS_MAX = 50  # of a user
_ERASING_MAX_MS = 900_000  # after which users are let in again though no process has finished the erasure


class MongoContexts:
    """`Contexts`: one document a session, expired by the database. Kept as JSON text: hosts name fields `$x`, `a.b`."""

    def __init__(
        self, db: Database, clock: Clock, ttl_s: int, sealer: FieldCipher | None = None, fence: Fence | None = None
    ) -> None:
        self._fence = fence
        self._sealer = sealer or FieldCipher()
        self._contexts: AsyncIOMotorCollection[Doc] = db["contexts"]
        self._clock = clock
        self._ttl = timedelta(seconds=ttl_s)  # since it was written last

    @stored
    async def get(self, user_id: str, session_id: str) -> Json:
        # The database removes what has expired within a minute, not at once: it is asked for, too.
        query = {"user_id": user_id, "session_id": session_id, "expires_at": {"$gt": self._clock()}}
        found = await self._contexts.find_one(query)
        return self._loaded(found["context"]) if found else {}

    @stored
    async def put(self, user_id: str, session_id: str, context: Json, epoch: int = 0) -> datetime:
        at = self._clock()
        expires_at = at + self._ttl
        change = {
            "$set": {
                "context": self._sealer.seal(orjson.dumps(context).decode()),
                "updated_at": at,
                "expires_at": expires_at,
                "epoch": epoch,
            }
        }
        # What was written after an erasure is never replaced by what comes late from before it.
        mine = {"user_id": user_id, "session_id": session_id, "epoch": {"$not": {"$gt": epoch}}}
        with fenced(self._fence, user_id, epoch):
            if await upsert(self._contexts, mine, change):
                await self._forget_oldest(user_id)
        return expires_at

    async def _forget_oldest(self, user_id: str) -> None:
        """A user may have as many sessions as they like; contexts are kept of the newest."""
        order = [("updated_at", DESCENDING)]
        async for doc in self._contexts.find({"user_id": user_id}, {"_id": 1}).sort(order).skip(_CONTEXTS_MAX):
            await self._contexts.delete_one({"_id": doc["_id"]})

    @stored
    async def newest(self, user_id: str) -> Json | None:
        query = {"user_id": user_id, "expires_at": {"$gt": self._clock()}}
        found = await self._contexts.find_one(query, sort=[("updated_at", DESCENDING)])
        return self._loaded(found["context"]) if found else None

    def _loaded(self, stored: Any) -> Json:
        loaded: Json = orjson.loads(self._sealer.open(stored))
        return loaded


class MongoConnectSnapshots:
    """`ConnectSnapshots` by one aggregation: a trip through the driver costs a connection more than what it reads."""

    def __init__(self, db: Database, fence: Fence | None = None) -> None:
        # What a client is told that it has missed must not be rolled back after a failover.
        self._events = db["events"].with_options(read_concern=ReadConcern("majority"))
        self._ids = fence.ids if fence is not None else Ids()

    @stored
    async def of(self, user_id: str) -> ConnectSnapshot:
        mine = {"$match": {"_id": user_id}}
        named = {"$match": {"_id": user_document(self._ids, user_id)}}
        newest = {name: {"$max": f"${name}"} for name in ("floor", "epoch", "erasing")}
        is_erasing = {"$gt": ["$erasing", {"$subtract": ["$$NOW", _ERASING_MAX_MS]}]}
        kept = [{"$group": {"_id": None, **newest}}, {"$set": {"erasing": is_erasing}}]
        owed = {"$match": {"user_id": user_id, "unfinished": True}}
        pipeline: list[Doc] = [
            {"$match": {"user_id": user_id}},
            {"$sort": {"seq": DESCENDING}},
            {"$limit": 1},
            {"$project": {"_id": 0, "seq": 1}},
            {"$unionWith": {"coll": "users", "pipeline": [named, *kept]}},
            {"$unionWith": {"coll": "profiles", "pipeline": [mine, {"$project": {"_id": 0, "version": 1}}]}},
            {"$unionWith": {"coll": "turns", "pipeline": [owed, {"$limit": 1}, {"$project": {"unfinished": 1}}]}},
        ]
        found: dict[str, Any] = {}
        for doc in await self._events.aggregate(pipeline).to_list(None):
            found.update(doc)
        # Retention or an erasure may have removed all events: the floor tells how far they went.
        head = found["seq"] if "seq" in found else found.get("floor") or 0
        return ConnectSnapshot(
            head,
            found.get("version", 0),
            "unfinished" in found,
            found.get("epoch") or 0,
            is_erasing=found.get("erasing", False),
        )
