"""`Migrations` over MongoDB."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pymongo.errors import DuplicateKeyError

from twin_sio.domain import Trait
from twin_sio.store.encryption import FieldCipher
from twin_sio.store.ids import KEYED
from twin_sio.store.mongo.client import Database, Doc, stored
from twin_sio.store.mongo.documents import piece_of
from twin_sio.store.mongo.fence import Fence, fenced
from twin_sio.store.mongo.outbox import MongoOutbox
from twin_sio.store.mongo.queries import not_postponed, postpone
from twin_sio.store.ports import SCORING_VERSION, MigrationStep, StoredProfile

_COLLECTIONS: Mapping[MigrationStep, str] = {
    "name_user": "users",
    "name_evidence": "evidence",
    "rename_traits": "profiles",
    "rescore": "profiles",
}
_WITHOUT_BACKOFF = {"postponed": 0}


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
    async def users_to_name(self, limit: int) -> Sequence[str]:
        query = {"_id": {"$type": "string"}, **not_postponed("name_user")}
        return [doc["_id"] async for doc in self._db["users"].find(query, {"_id": 1}).limit(limit)]

    @stored
    async def name_user(self, user_id: str) -> None:
        users = self._db["users"]
        doc = await users.find_one({"_id": user_id}, _WITHOUT_BACKOFF)
        if doc is None:
            return
        change: Doc = {"$max": {"floor": int(doc.get("floor", 0))}}
        with contextlib.suppress(DuplicateKeyError):
            await users.update_one({"_id": self._ids.user(user_id)}, change, upsert=True)
        if self._outbox is not None and "graph_erased_at" in doc:
            await self._outbox.erase(user_id, doc["graph_erased_at"])
        await users.delete_one(doc)  # as it was read: an instance of before may have raised the floor since

    @stored
    async def evidence_to_name(self, limit: int) -> Sequence[tuple[str, str]]:
        if not self._ids.are_keyed:
            return []
        query = {"_id": {"$lt": KEYED}, **not_postponed("name_evidence")}
        found = self._db["evidence"].find(query, {"user_id": 1}).limit(limit)
        return [(str(doc.get("user_id")), doc["_id"]) async for doc in found]

    @stored
    async def name_evidence(self, name: str) -> None:
        evidence = self._db["evidence"]
        doc = await evidence.find_one({"_id": name}, _WITHOUT_BACKOFF)
        if doc is None:
            return
        piece = piece_of(self._sealer.open(doc["piece"]))
        keyed = self._ids.evidence(piece.user_id, piece.evidence_id)
        with fenced(self._fence, piece.user_id, doc.get("epoch", 0)):
            # The old one is the one that an erasure removes: the new one comes only while that is there.
            with contextlib.suppress(DuplicateKeyError):
                await evidence.insert_one({**doc, "_id": keyed})
            if not (await evidence.delete_one({"_id": name})).deleted_count:
                await evidence.delete_one({"_id": keyed, "epoch": doc.get("epoch")})

    @stored
    async def profiles_to_rename(self, limit: int) -> Sequence[str]:
        if not self._ids.are_keyed:
            return []
        return await self._profiles({"keyed": {"$ne": True}}, "rename_traits", limit)

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
        return await self._profiles({"reading": {"$ne": SCORING_VERSION}}, "rescore", limit)

    async def _profiles(self, query: Doc, step: MigrationStep, limit: int) -> Sequence[str]:
        found = self._db["profiles"].find({**query, **not_postponed(step)}, {"_id": 1}).limit(limit)
        return [doc["_id"] async for doc in found]

    @stored
    async def postpone(self, step: MigrationStep, name: str) -> None:
        await postpone(self._db[_COLLECTIONS[step]], name, step)
