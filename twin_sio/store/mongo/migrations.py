"""`Migrations` over MongoDB."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pymongo.errors import DuplicateKeyError

from twin_sio.domain import EVIDENCE_VERSION, Trait
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.ids import KEYED
from twin_sio.store.mongo.client import Database, stored
from twin_sio.store.mongo.documents import piece_of
from twin_sio.store.mongo.fence import Doc, Fence, fenced
from twin_sio.store.mongo.outbox import MongoOutbox
from twin_sio.store.ports import StoredProfile


class MongoMigrations:
    """Every step is an insertion under the new name and a deletion under the old one: both may be done again."""

    def __init__(self, db: Database, sealer: FieldCipher, fence: Fence, outbox: MongoOutbox | None = None) -> None:
        """`outbox`: there is a graph, which is made anew under the new ids."""
        self._db = db
        self._sealer = sealer
        self._fence = fence
        self._ids = fence.ids
        self._outbox = outbox

    @stored
    async def name_users(self, limit: int) -> int:
        users = self._db["users"]
        found = await users.find({"_id": {"$type": "string"}}).limit(limit).to_list(limit)
        for doc in found:
            user_id = doc["_id"]
            change: Doc = {"$max": {"floor": int(doc.get("floor", 0))}}
            with contextlib.suppress(DuplicateKeyError):
                await users.update_one({"_id": self._ids.user(user_id)}, change, upsert=True)
            if self._outbox is not None and "graph_erased_at" in doc:
                await self._outbox.erase(user_id, doc["graph_erased_at"])
            await users.delete_one(doc)  # as it was read: an instance of before may have raised the floor since
        return len(found)

    @stored
    async def name_evidence(self, limit: int) -> int:
        if not self._ids.are_keyed:
            return 0
        evidence = self._db["evidence"]
        found = await evidence.find({"_id": {"$lt": KEYED}}).limit(limit).to_list(limit)
        for doc in found:
            piece = piece_of(self._sealer.open(doc["piece"]))
            name = self._ids.evidence(piece.user_id, piece.evidence_id)
            with fenced(self._fence, piece.user_id, doc.get("epoch", 0)):
                # The old one is the one that an erasure removes: the new one comes only while that is there.
                with contextlib.suppress(DuplicateKeyError):
                    await evidence.insert_one({**doc, "_id": name})
                if not (await evidence.delete_one({"_id": doc["_id"]})).deleted_count:
                    await evidence.delete_one({"_id": name, "epoch": doc.get("epoch")})
        return len(found)

    @stored
    async def profiles_to_rename(self, limit: int) -> Sequence[str]:
        if not self._ids.are_keyed:
            return []
        found = self._db["profiles"].find({"keyed": {"$ne": True}}, {"_id": 1}).limit(limit)
        return [doc["_id"] async for doc in found]

    @stored
    async def rename_traits(self, user_id: str, profile: StoredProfile, traits: Sequence[Trait]) -> None:
        same: dict[str, Any] = {"_id": user_id, "version": profile.profile.version, "stamp": profile.revision}
        named = {"traits": self._sealer.seal([asdict(trait) for trait in traits]), "keyed": True}
        if not (await self._db["profiles"].update_one(same, {"$set": named})).modified_count:
            return  # written meanwhile: by this version, then it is done, or by an earlier one, then it is found again
        if self._outbox is not None:
            await self._outbox.erase(user_id, self._outbox.clock())

    @stored
    async def profiles_to_score(self, limit: int) -> Sequence[str]:
        found = self._db["profiles"].find({"reading": {"$ne": EVIDENCE_VERSION}}, {"_id": 1}).limit(limit)
        return [doc["_id"] async for doc in found]
